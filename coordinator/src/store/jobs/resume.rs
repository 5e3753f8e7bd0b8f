//! Queues a paused job again.

use cakes_proto::ids::JobId;
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use crate::core::etag::AsSeen;
use crate::core::explain::Cost;
use crate::core::job::{JobEvent, transition};
use crate::store::error::{Error, failed};
use crate::store::etag;
use crate::store::exchange::refuse_imported_job;
use crate::store::job_row::{self, Move};

/// Queues a paused job; a job whose worker has not stopped yet goes on there. A limit of its
/// device-seconds replaces the one that it had.
///
/// # Errors
/// There is no such job, it has changed since it was seen, it has ended or is being
/// cancelled, or it has taken all that it may.
#[instrument(skip_all, fields(job = %seen.id), err(level = "debug"))]
pub async fn resume(
    pool: &PgPool,
    seen: AsSeen<JobId>,
    cost_limit_device_s: Option<i64>,
) -> Result<(), Error> {
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
    limit(&mut transaction, seen.id, cost_limit_device_s).await?;
    if moved.next == job.state {
        return transaction.commit().await.map_err(failed("commit a limit"));
    }
    let change =
        Move { kind: "job_resumed", moved: &moved, reason: Some(""), counters: job.counters, avoid: None };
    job_row::apply(&mut transaction, &job, change).await?;
    transaction.commit().await.map_err(failed("commit a resumption"))
}

/// Writes down a new limit, and refuses a job that has taken all that it may.
async fn limit(connection: &mut PgConnection, id: JobId, limit_device_s: Option<i64>) -> Result<(), Error> {
    let row = sqlx::query!(
        r#"update job set cost_limit_device_s = coalesce($2, cost_limit_device_s) where id = $1
           returning cost_limit_device_s, spent_device_s(job) as "spent_device_s!""#,
        id.0,
        limit_device_s
    )
    .fetch_one(connection)
    .await
    .map_err(failed("limit what a job may take"))?;
    match row.cost_limit_device_s {
        Some(limit) if row.spent_device_s >= limit => Err(Error::Refused(format!(
            "job {id} has taken {}; resume it with a higher limit (`cakes job resume --cost-limit HOURS`)",
            Cost { taken_device_s: row.spent_device_s, limit_device_s: limit }
        ))),
        _ => Ok(()),
    }
}
