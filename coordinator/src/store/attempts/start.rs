//! Turns an offer into a full lease.

use cakes_proto::ids::LeaseToken;
use sqlx::PgPool;
use tracing::instrument;

use crate::core::job::{JobEvent, transition};
use crate::core::lease::Policy;
use crate::store::error::{Error, failed};
use crate::store::fence::{self, Life};
use crate::store::job_row::{self, Move};

/// Records that the trainer runs. A repetition changes nothing.
///
/// # Errors
/// The offer has expired.
#[instrument(skip_all, fields(job = %token.job, epoch = token.epoch), err(level = "debug"))]
pub async fn start(pool: &PgPool, policy: &Policy, token: LeaseToken) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin a start"))?;
    let job = job_row::lock(&mut transaction, token.job).await?;
    let attempt = fence::live_attempt(&mut transaction, token).await?;
    if attempt.life == Life::Running {
        return Ok(());
    }
    sqlx::query!(
        "update attempt set state = 'running', start_time = clock_timestamp()
         where job_id = $1 and epoch = $2",
        token.job.0,
        token.epoch
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("start an attempt"))?;
    sqlx::query!(
        "update attempt_lease set deadline = clock_timestamp() + make_interval(secs => $2) where job_id = $1",
        token.job.0,
        policy.lease_ttl.as_secs_f64()
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("extend a lease"))?;
    let moved = transition(job.state, &JobEvent::Start)?;
    let change =
        Move { kind: "job_started", moved: &moved, reason: None, counters: job.counters, avoid: None };
    job_row::apply(&mut transaction, &job, change).await?;
    transaction.commit().await.map_err(failed("commit a start"))
}
