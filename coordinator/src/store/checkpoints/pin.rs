//! Keeps checkpoints at a person's wish.

use cakes_proto::ids::JobId;
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use crate::store::error::{Error, failed};
use crate::store::exchange::refuse_imported_job;
use crate::store::job_row;

/// Keeps the newest checkpoint of a step until it is unpinned.
///
/// # Errors
/// The job has no checkpoint of that step, or has given it up.
#[instrument(skip(pool), fields(job = %id), err(level = "debug"))]
pub async fn pin(pool: &PgPool, id: JobId, step: i64) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to pin a checkpoint"))?;
    refuse_imported_job(&mut transaction, id).await?;
    job_row::lock(&mut transaction, id).await?;
    // S11: under the lock of whoever condemns.
    let pinned = sqlx::query!(
        "update checkpoint set pinned = true
         where job_id = $1 and step = $2 and condemn_time is null and epoch = (
             select max(epoch) from checkpoint where job_id = $1 and step = $2 and condemn_time is null)",
        id.0,
        step
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("pin a checkpoint"))?;
    if pinned.rows_affected() == 0 {
        return Err(missing(&mut transaction, id, step).await?);
    }
    transaction.commit().await.map_err(failed("commit a pinned checkpoint"))
}

/// Takes a pin away; what nothing else keeps is condemned soon.
///
/// # Errors
/// The job has no checkpoint of that step, or has given it up.
#[instrument(skip(pool), fields(job = %id), err(level = "debug"))]
pub async fn unpin(pool: &PgPool, id: JobId, step: i64) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to unpin a checkpoint"))?;
    refuse_imported_job(&mut transaction, id).await?;
    job_row::lock(&mut transaction, id).await?;
    let unpinned = sqlx::query!(
        "update checkpoint set pinned = false, settled = false
         where job_id = $1 and step = $2 and condemn_time is null",
        id.0,
        step
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("unpin a checkpoint"))?;
    if unpinned.rows_affected() == 0 {
        return Err(missing(&mut transaction, id, step).await?);
    }
    transaction.commit().await.map_err(failed("commit an unpinned checkpoint"))
}

/// Why there is nothing to pin.
async fn missing(connection: &mut PgConnection, id: JobId, step: i64) -> Result<Error, Error> {
    let reason = sqlx::query_scalar!(
        r#"select condemn_reason as "reason!" from checkpoint
           where job_id = $1 and step = $2 and condemn_reason is not null
           order by epoch desc limit 1"#,
        id.0,
        step
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("look for a checkpoint"))?;
    Ok(match reason {
        Some(reason) => Error::Refused(format!(
            "the checkpoint of step {step} was given up ({reason}); `cakes job checkpoints` lists those that are kept"
        )),
        None => Error::NotFound { kind: "checkpoint", id: format!("step {step} of job {id}") },
    })
}
