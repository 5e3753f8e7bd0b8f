//! Attempts at a job.

use cakes_proto::ids::{JobId, LeaseToken, WorkerId};
use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::{corrupt, failed};
use crate::store::Error;

/// One attempt as people see it.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    pub epoch: i64,
    pub worker: String,
    /// Where it has several slots: the leader's first.
    pub slots: Vec<String>,
    pub resume_step: i64,
    pub last_step: i64,
    /// "offered", "running", or how it ended, with its failure's message.
    pub outcome: String,
    pub grant_time: DateTime<Utc>,
    pub end_time: Option<DateTime<Utc>>,
}

/// Attempts at a job, oldest first.
///
/// # Errors
/// The database fails.
pub async fn of_job(pool: &PgPool, job: JobId) -> Result<Vec<AttemptRecord>, Error> {
    sqlx::query_as!(
        AttemptRecord,
        r#"select epoch, worker_id as worker, resume_step, last_step,
               case when member_count > 1 then array(
                   select member.worker_id || ' ' || member.device from attempt_member member
                   where member.job_id = attempt.job_id and member.epoch = attempt.epoch
                   order by member.member
               ) else '{}' end as "slots!",
               coalesce(end_reason, state) || case when message = '' then '' else ': ' || message end
                   as "outcome!",
               grant_time, end_time
           from attempt where job_id = $1 order by epoch"#,
        job.0
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read the attempts at a job"))
}

/// The worker that a lease was granted to, or a member's part of it, whether it lives or has ended.
///
/// # Errors
/// The database fails.
pub async fn worker_of(pool: &PgPool, token: LeaseToken) -> Result<Option<WorkerId>, Error> {
    let worker = sqlx::query_scalar!(
        r#"select case when $4::smallint = 0 then attempt.worker_id else (
               select member.worker_id from attempt_member member
               where member.job_id = attempt.job_id and member.epoch = attempt.epoch and member.member = $4
           ) end as worker_id
           from attempt where job_id = $1 and epoch = $2 and nonce = $3"#,
        token.job.0,
        token.epoch,
        &token.nonce.0[..],
        token.member
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("look whose lease it is"))?;
    let parsed = |worker: String| {
        worker.parse().map_err(|error| corrupt(format!("an attempt at job {}", token.job), &error))
    };
    worker.flatten().map(parsed).transpose()
}
