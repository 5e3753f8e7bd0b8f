//! Which checkpoints are kept, and what of the store belongs to whom.
//!
//! A checkpoint is condemned under the lock of its job, which grants, commits,
//! completions and retries take too: whichever comes first, what they name is kept. Its
//! objects are deleted only when that is committed. The row stays for ever.

mod condemn;
mod condemned;
mod facts;
mod pin;
mod prefixes;

pub use condemn::{Review, review};
pub use condemned::{Condemned, condemned, mark_deleted};
pub use pin::{pin, unpin};
pub use prefixes::{Prefixes, prefixes};

pub(super) use facts::of_jobs;
