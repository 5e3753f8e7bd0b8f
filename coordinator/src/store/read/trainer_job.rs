//! What the trainer of a job was told, to tell another the same.

use cakes_proto::ids::JobId;
use sqlx::PgPool;
use uuid::Uuid;

use super::failed;
use crate::store::Error;

/// A job as a trainer reads it, and where it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainerJobRecord {
    /// The file of `cakes-trainer run`.
    pub job: String,
    /// The supernet whose weights it starts from.
    pub supernet_job: Option<Uuid>,
    /// Of the last attempt.
    pub worker: Option<String>,
    /// Version of that worker's daemon, as it is now.
    pub worker_version: Option<String>,
    /// Device of the result.
    pub device: Option<String>,
}

/// # Errors
/// There is no such job, or the database fails.
pub async fn of_job(pool: &PgPool, id: JobId) -> Result<TrainerJobRecord, Error> {
    let found = sqlx::query_as!(
        TrainerJobRecord,
        r#"select jsonb_pretty(job.trainer_job) as "job!", job.supernet_job_id as supernet_job,
               attempt.worker_id as "worker?", worker.version as "worker_version?",
               result.device as "device?"
           from job
           left join attempt on attempt.job_id = job.id and attempt.epoch = job.epoch
           left join worker on worker.id = attempt.worker_id
           left join result on result.job_id = job.id
           where job.id = $1"#,
        id.0
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("read what a trainer was told"))?;
    found.ok_or_else(|| Error::NotFound { kind: "job", id: id.to_string() })
}
