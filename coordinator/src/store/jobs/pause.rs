//! Takes a job off its device, or out of the queue.

use cakes_proto::ids::JobId;
use sqlx::PgPool;
use tracing::instrument;

use super::act;
use crate::core::etag::AsSeen;
use crate::core::job::{JobEvent, transition};
use crate::store::error::{Error, failed};
use crate::store::job_row::{self, Move};

/// Pauses a job. If a worker has it, the worker saves a checkpoint first.
///
/// # Errors
/// There is no such job, it has changed since it was seen, or it has ended or is being cancelled.
#[instrument(skip_all, fields(job = %seen.id), err(level = "debug"))]
pub async fn pause(pool: &PgPool, seen: AsSeen<JobId>) -> Result<(), Error> {
    act(pool, seen, &JobEvent::Pause, "job_paused", Some("")).await
}

/// Pauses a job that has taken all that it may, unless it has gone on since its `epoch` or
/// has ended.
pub(in crate::store) async fn pause_spent(pool: &PgPool, id: JobId, epoch: i64) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to pause a job"))?;
    let job = job_row::lock(&mut transaction, id).await?;
    let Ok(moved) = transition(job.state, &JobEvent::Pause) else { return Ok(()) };
    if job.epoch != epoch || moved.next == job.state {
        return Ok(());
    }
    let reason = Some("it has taken the device-hours that it may");
    let change = Move { kind: "job_paused", moved: &moved, reason, counters: job.counters, avoid: None };
    job_row::apply(&mut transaction, &job, change).await?;
    transaction.commit().await.map_err(failed("commit a pause"))
}
