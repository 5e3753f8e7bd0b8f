//! Takes a job off its device, or out of the queue.

use cakes_proto::ids::JobId;
use sqlx::PgPool;
use tracing::instrument;

use super::act;
use crate::core::etag::AsSeen;
use crate::core::job::JobEvent;
use crate::store::error::Error;

/// Pauses a job. If a worker has it, the worker saves a checkpoint first.
///
/// # Errors
/// There is no such job, it has changed since it was seen, or it has ended or is being cancelled.
#[instrument(skip_all, fields(job = %seen.id), err(level = "debug"))]
pub async fn pause(pool: &PgPool, seen: AsSeen<JobId>) -> Result<(), Error> {
    act(pool, seen, &JobEvent::Pause, "job_paused", None).await
}
