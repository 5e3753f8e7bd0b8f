//! Where the weights of a job are.

use cakes_proto::ids::JobId;
use sqlx::PgPool;

use super::failed;
use crate::store::Error;
use crate::store::exchange::refuse_imported_job;

/// A committed checkpoint as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRecord {
    pub step: i64,
    pub key: String,
    pub manifest_sha256: String,
    pub bytes: i64,
    /// Whether the job's result was measured with it.
    pub is_result: bool,
}

/// The checkpoint of a job's result, else the one of its newest attempt with most steps.
///
/// # Errors
/// There is no such job or it has no checkpoint, its weights are elsewhere, or the database
/// fails.
pub async fn of_job(pool: &PgPool, id: JobId) -> Result<CheckpointRecord, Error> {
    let mut connection = pool.acquire().await.map_err(failed("find the checkpoint of a job"))?;
    refuse_imported_job(&mut connection, id).await?;
    let found = sqlx::query_as!(
        CheckpointRecord,
        r#"select checkpoint.step, checkpoint.key, checkpoint.manifest_sha256, checkpoint.bytes,
               result.job_id is not null as "is_result!"
           from checkpoint
           left join result on result.job_id = checkpoint.job_id
               and result.checkpoint_epoch = checkpoint.epoch
               and result.checkpoint_step = checkpoint.step
           where checkpoint.job_id = $1
           order by result.job_id is not null desc, checkpoint.epoch desc, checkpoint.step desc
           limit 1"#,
        id.0
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("find the checkpoint of a job"))?;
    found.ok_or_else(|| Error::NotFound { kind: "committed checkpoint of job", id: id.to_string() })
}
