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
    /// "offered", "running", or how the attempt ended; "left" of a slot that it let go and lives on.
    pub outcome: String,
    pub grant_time: DateTime<Utc>,
    pub end_time: Option<DateTime<Utc>>,
}

/// Slots that attempts had between two times, the newest attempts first.
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
        r#"select slot.job_id as "job!", job.search_id as search, job.label, job.kind, slot.epoch as "epoch!",
               slot.worker_id as "worker!", slot.device as "device!",
               coalesce(slot.end_reason, case when slot.end_time is null then slot.state else 'left' end)
                   as "outcome!",
               slot.grant_time as "grant_time!", slot.end_time
           from attempt_slot slot join job on job.id = slot.job_id
           -- No slot outlives its attempt; that is told without a look at the slots.
           where slot.grant_time < $2 and (slot.attempt_end_time is null or slot.attempt_end_time > $1)
               and (slot.end_time is null or slot.end_time > $1)
           order by slot.grant_time desc limit $3"#,
        from,
        to,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read what devices ran"))
}
