//! Queues a paused job again.

use cakes_proto::ids::JobId;
use sqlx::PgPool;
use tracing::instrument;

use crate::core::etag::AsSeen;
use crate::core::job::{JobEvent, transition};
use crate::store::error::{Error, failed};
use crate::store::etag;
use crate::store::exchange::refuse_imported_job;
use crate::store::job_row::{self, Move};

/// Queues a paused job; a job whose worker has not stopped yet goes on there.
///
/// # Errors
/// There is no such job, it has changed since it was seen, or it has ended or is being cancelled.
#[instrument(skip_all, fields(job = %seen.id), err(level = "debug"))]
pub async fn resume(pool: &PgPool, seen: AsSeen<JobId>) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to resume a job"))?;
    refuse_imported_job(&mut transaction, seen.id).await?;
    let job = job_row::lock(&mut transaction, seen.id).await?;
    etag::check_job(&mut transaction, seen).await?;
    let started = sqlx::query_scalar!(
        r#"select exists (select from attempt where job_id = $1 and state = 'running') as "started!""#,
        seen.id.0
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(failed("look for a live attempt"))?;
    let moved = transition(job.state, &JobEvent::Resume { started })?;
    if moved.next == job.state {
        return Ok(());
    }
    let change =
        Move { kind: "job_resumed", moved: &moved, reason: None, counters: job.counters, avoid: None };
    job_row::apply(&mut transaction, &job, change).await?;
    transaction.commit().await.map_err(failed("commit a resumption"))
}
