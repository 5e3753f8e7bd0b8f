//! What people want of jobs. Each call writes the intent and returns; workers
//! learn of it with their next report.

mod cancel;
mod enqueue;
mod label;
mod pause;
mod resume;
mod retry;
mod submit_retrain;

pub use cancel::cancel;
pub use label::label;
pub use pause::pause;
pub use resume::resume;
pub use retry::retry;
pub use submit_retrain::{Retrain, submit_retrain};

pub(super) use cancel::cancel_locked;
pub(super) use enqueue::{NewJob, enqueue};
pub(super) use pause::pause_spent;

use cakes_proto::ids::JobId;
use sqlx::PgPool;

use super::error::{Error, failed};
use super::etag;
use super::exchange::refuse_imported_job;
use super::job_row::{self, Move};
use crate::core::etag::AsSeen;
use crate::core::job::{JobEvent, transition};

/// Locks a job, moves it, commits. A move to where it is changes nothing.
async fn act(
    pool: &PgPool,
    seen: AsSeen<JobId>,
    event: &JobEvent,
    kind: &'static str,
    reason: Option<&str>,
) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to change a job"))?;
    refuse_imported_job(&mut transaction, seen.id).await?;
    let job = job_row::lock(&mut transaction, seen.id).await?;
    etag::check_job(&mut transaction, seen).await?;
    let moved = transition(job.state, event)?;
    if moved.next == job.state {
        return Ok(());
    }
    let change = Move { kind, moved: &moved, reason, counters: job.counters, avoid: None };
    job_row::apply(&mut transaction, &job, change).await?;
    transaction.commit().await.map_err(failed("commit a change of a job"))
}
