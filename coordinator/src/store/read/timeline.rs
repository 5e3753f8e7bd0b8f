//! Which device ran what and when.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::types::Uuid;

use super::failed;
use crate::store::Error;

/// A span of a device.
#[derive(Clone, Debug)]
pub struct Span {
    pub job: Uuid,
    pub search: Option<Uuid>,
    pub label: String,
    pub kind: String,
    pub epoch: i64,
    pub worker: String,
    pub device: String,
    /// "offered", "running", or how it ended.
    pub outcome: String,
    pub grant_time: DateTime<Utc>,
    pub end_time: Option<DateTime<Utc>>,
}

/// Attempts that lived between two times, the newest first.
///
/// # Errors
/// The database fails.
pub async fn spans(
    pool: &PgPool,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Span>, Error> {
    sqlx::query_as!(
        Span,
        r#"select attempt.job_id as job, job.search_id as search, job.label, job.kind, attempt.epoch,
               slot.worker_id as "worker!", slot.device as "device!",
               coalesce(attempt.end_reason, attempt.state) as "outcome!",
               attempt.grant_time, attempt.end_time
           from attempt join job on job.id = attempt.job_id
           cross join lateral (
               select attempt.worker_id, attempt.device
               union all
               select member.worker_id, member.device from attempt_member member
               where attempt.member_count > 1 and member.job_id = attempt.job_id
                   and member.epoch = attempt.epoch and member.member > 0
           ) slot
           where not attempt.imported and attempt.grant_time < $2 and (attempt.end_time is null or attempt.end_time > $1)
           order by attempt.grant_time desc limit $3"#,
        from,
        to,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read what devices ran"))
}
