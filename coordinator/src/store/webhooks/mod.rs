//! Webhooks: who is told of what, and what is still to be told.
//!
//! ```text
//!  transaction of a change ─► outbox: one row per webhook that wants it
//!  deliver_webhooks ─► claim (skip locked) ─► request ─► settle ─► … ─► prune
//! ```

mod add;
mod claim;
mod outbox;
mod ping;
mod prune;
mod remove;
mod settle;

pub use add::{NewWebhook, add};
pub use claim::{Claim, Claimed, claim};
pub use ping::ping;
pub use prune::prune;
pub use remove::remove;
pub use settle::settle;

pub(super) use outbox::{Happening, record};
