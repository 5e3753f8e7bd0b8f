//! A worker that speaks the whole protocol and trains nothing.
//!
//! Its calls go over real connections to a real coordinator. Like a real worker
//! it repeats a call whose outcome is unknown; unlike one it keeps nothing on
//! disk. What it is told goes to a [`Recorder`], answer by answer.

mod noop;
mod record;
mod refusal;
mod request;
mod servers;
mod worker;

pub use noop::NoOp;
pub use record::{Call, Fact, Kind, Recorder, Told, Transcript};
pub use refusal::Refusal;
pub use request::Request;
pub use servers::{Servers, connect};
pub use worker::{Attempt, FakeWorker, step_report};
