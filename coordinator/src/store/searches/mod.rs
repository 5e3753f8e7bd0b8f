//! Searches: submitted, planned, cancelled, read once more.

mod advance;
mod cancel;
mod derive;
mod front;
mod label;
mod snapshot;
mod submit;

pub use advance::{advance, open};
pub use cancel::cancel;
pub use derive::{Wish, derive, preview};
pub use label::label;
pub use submit::{Terms, submit};

pub(super) use snapshot::read_spec;
