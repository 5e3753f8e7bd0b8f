//! What workers write: grants, reports and ends of attempts.

mod acquire;
mod commit_checkpoint;
mod complete;
mod curve_rows;
mod end;
mod environment_rows;
mod expire;
mod fail;
pub mod gang;
mod grant_rows;
mod move_on;
mod quotas;
mod reconcile;
mod repeated;
mod report;
mod report_rows;
mod start;
mod together;
mod turn;
mod turn_rows;

pub(super) use acquire::nonce_from;
pub use acquire::{Acquisition, Grant, Wait, acquire};
pub use commit_checkpoint::{Saved, commit_checkpoint};
pub use complete::{Completion, Outcome, complete};
pub use expire::{clock, expire_leases, extend_leases};
pub use fail::fail;
pub use move_on::move_together;
pub use reconcile::reconcile;
pub use report::{
    DataContent, Entry, Environment, Progress, Receipt, Report, Validated, report, report_together,
};
pub use start::start;
pub use together::Answers;
pub(super) use together::Locks;
pub use turn::{Deed, Turn, Turned, turn};

use cakes_proto::ids::LeaseToken;

/// A committed checkpoint, or one that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRef {
    /// Key of its folder in the artifact store.
    pub key: String,
    /// Optimizer steps done in it.
    pub step: i64,
    /// SHA-256 of its manifest, 64 hexadecimal digits.
    pub manifest_sha256: String,
}

/// Where an attempt alone may write in the artifact store. A zombie and its
/// successor have different ones.
pub fn artifact_prefix(token: LeaseToken) -> String {
    format!("{}/{}-{}", token.job, token.epoch, token.nonce.tag())
}
