//! Where the weights of a job are, and which checkpoints it has.

use cakes_proto::ids::JobId;
use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::failed;
use crate::core::retention::{Fate, Policy, Reason, fates};
use crate::store::Error;
use crate::store::checkpoints::of_jobs;
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
           where checkpoint.job_id = $1 and checkpoint.condemn_time is null
           order by result.job_id is not null desc, checkpoint.epoch desc, checkpoint.step desc
           limit 1"#,
        id.0
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("find the checkpoint of a job"))?;
    found.ok_or_else(|| Error::NotFound { kind: "committed checkpoint of job", id: id.to_string() })
}

/// A checkpoint, kept or given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointEntry {
    pub epoch: i64,
    pub step: i64,
    pub key: String,
    pub bytes: i64,
    pub commit_time: DateTime<Utc>,
    pub is_pinned: bool,
    /// Why it is kept; empty for one that is condemned or soon will be.
    pub kept_because: Vec<Reason>,
    pub condemn_reason: Option<String>,
    pub condemn_time: Option<DateTime<Utc>>,
    pub delete_time: Option<DateTime<Utc>>,
}

struct Row {
    epoch: i64,
    step: i64,
    key: String,
    bytes: i64,
    commit_time: DateTime<Utc>,
    pinned: bool,
    condemn_reason: Option<String>,
    condemn_time: Option<DateTime<Utc>>,
    delete_time: Option<DateTime<Utc>>,
}

/// Checkpoints of a job, the farthest first; those that are given up too.
///
/// # Errors
/// There is no such job, or the database fails.
pub async fn list(pool: &PgPool, id: JobId, policy: Policy) -> Result<Vec<CheckpointEntry>, Error> {
    super::jobs::revision(pool, id).await?;
    // One picture of both: what was condemned in between would be neither.
    let begin = pool.begin_with("begin isolation level repeatable read, read only");
    let mut transaction = begin.await.map_err(failed("begin to list checkpoints"))?;
    refuse_imported_job(&mut transaction, id).await?;
    let rows = sqlx::query_as!(
        Row,
        "select epoch, step, key, bytes, commit_time, pinned, condemn_reason, condemn_time, delete_time
         from checkpoint where job_id = $1 order by step desc, epoch desc",
        id.0
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed("list checkpoints"))?;
    let facts = of_jobs(&mut transaction, &[id.0]).await?.remove(&id.0).unwrap_or_default().facts;
    let judged = facts.checkpoints.iter().zip(fates(&facts, policy));
    let judged: Vec<((i64, i64), Fate)> =
        judged.map(|(checkpoint, fate)| ((checkpoint.epoch, checkpoint.step), fate)).collect();
    let entry = |row: Row| {
        let fate = judged.iter().find(|(key, _)| *key == (row.epoch, row.step)).map(|(_, fate)| fate);
        CheckpointEntry {
            kept_because: match fate {
                Some(Fate::Kept(reasons)) => reasons.clone(),
                _ => Vec::new(),
            },
            epoch: row.epoch,
            step: row.step,
            key: row.key,
            bytes: row.bytes,
            commit_time: row.commit_time,
            is_pinned: row.pinned,
            condemn_reason: row.condemn_reason,
            condemn_time: row.condemn_time,
            delete_time: row.delete_time,
        }
    };
    Ok(rows.into_iter().map(entry).collect())
}
