//! Attempts on several slots; [`crate::core::gang`] decides who sits where.
//!
//! ```text
//!  a kept slot asks ─► its wish ─► all wishes fresh, all slots free, within quotas?
//!                                    └─► attempt, members, leases ─► commit
//!  the others ask again ─► each collects its part
//! ```
//!
//! What the leader says is said as of any attempt. The calls of the others are here: they renew
//! their own leases and write nothing else. They go with the attempt, or behind its last step. Locks
//! are taken in one order: the lease of a member before its row, so whoever ends an attempt removes
//! leases first.

mod form;
mod leave;
mod member;
mod parts;
mod renew;
mod start;
mod tell;
mod wishes;

pub(super) use form::{Formed, form, write};
pub(super) use member::speaks_for;
pub(super) use parts::{Collected, collect, seat};
pub use renew::{Renewal, renew};
pub use start::start;
pub use tell::tell;
pub(super) use wishes::{Slot, is_kept_together, note};
