//! Cancels a job.

use cakes_proto::ids::JobId;
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use crate::core::etag::AsSeen;
use crate::core::job::{JobEvent, JobState, transition};
use crate::store::error::{Error, failed};
use crate::store::etag;
use crate::store::exchange::refuse_imported_job;
use crate::store::job_row::{self, JobRow, Move};
use crate::store::text::storable;

/// Longest stored reason, in bytes.
const REASON_BYTES_MAX: usize = 1000;

/// Cancels a job that has not ended. If a worker has it, it is cancelling until
/// the worker has stopped or its lease has run out; no result is taken any more.
///
/// # Errors
/// There is no such job, it has changed since it was seen, or it has succeeded or failed.
#[instrument(skip_all, fields(job = %seen.id), err(level = "debug"))]
pub async fn cancel(pool: &PgPool, seen: AsSeen<JobId>, reason: &str) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to cancel a job"))?;
    refuse_imported_job(&mut transaction, seen.id).await?;
    let job = job_row::lock(&mut transaction, seen.id).await?;
    etag::check_job(&mut transaction, seen).await?;
    cancel_locked(&mut transaction, &job, reason).await?;
    transaction.commit().await.map_err(failed("commit a cancellation"))
}

/// Cancels a locked job.
pub(in crate::store) async fn cancel_locked(
    connection: &mut PgConnection,
    job: &JobRow,
    reason: &str,
) -> Result<(), Error> {
    let moved = transition(job.state, &JobEvent::Cancel)?;
    if moved.next == job.state {
        return Ok(());
    }
    let kind = if moved.next == JobState::Cancelled { "job_cancelled" } else { "job_cancelling" };
    let reason = storable(reason, REASON_BYTES_MAX);
    let change = Move { kind, moved: &moved, reason: Some(&reason), counters: job.counters, avoid: None };
    job_row::apply(connection, job, change).await
}
