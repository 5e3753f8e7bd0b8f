//! Takes jobs from workers that fell silent.

use std::time::Duration;

use cakes_proto::ids::{JobId, LeaseToken};
use sqlx::PgPool;
use tracing::instrument;
use uuid::Uuid;

use super::acquire::nonce_from;
use super::end::{BadEnd, end_badly};
use super::gang;
use crate::core::job::EndReason;
use crate::core::lease::Policy;
use crate::core::retry::FailureClass;
use crate::store::error::{Error, failed};
use crate::store::fence::{self, Life};
use crate::store::job_row;

/// Leases that one sweep takes at the most.
const SWEEP_LIMIT: i64 = 200;

/// The database's clock, as time since 1970.
///
/// # Errors
/// The database does not answer.
pub async fn clock(pool: &PgPool) -> Result<Duration, Error> {
    let seconds =
        sqlx::query_scalar!(r#"select extract(epoch from clock_timestamp())::float8 as "seconds!""#)
            .fetch_one(pool)
            .await
            .map_err(failed("ask the database for the time"))?;
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Ends attempts of which a lease has run out; how many. Each is a transaction of
/// its own, in which the deadline is looked at once more.
///
/// # Errors
/// The database fails; attempts that were ended before stay so.
#[instrument(skip_all, err(level = "debug"))]
pub async fn expire_leases(pool: &PgPool, policy: &Policy) -> Result<usize, Error> {
    let expired = sqlx::query!(
        "select lease.job_id, lease.epoch, lease.member, attempt.nonce
         from attempt_lease lease join attempt using (job_id, epoch)
         where lease.deadline <= clock_timestamp() order by lease.deadline limit $1",
        SWEEP_LIMIT
    )
    .fetch_all(pool)
    .await
    .map_err(failed("look for expired leases"))?;
    let mut ended = 0;
    for row in expired {
        let nonce = nonce_from(&row.nonce)?;
        let token = LeaseToken { job: JobId(row.job_id), epoch: row.epoch, nonce, member: row.member };
        ended += usize::from(expire(pool, policy, token).await?);
    }
    Ok(ended)
}

/// Ends one attempt if the lease of this member has run out and nobody renewed it meanwhile; whether
/// it did.
async fn expire(pool: &PgPool, policy: &Policy, token: LeaseToken) -> Result<bool, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin an expiry"))?;
    let job = job_row::lock(&mut transaction, token.job).await?;
    let attempt = fence::attempt(&mut transaction, token).await?;
    // S15: again under the lock; a renewal may have come since the lease was read.
    let still_expired = sqlx::query_scalar!(
        r#"select deadline <= clock_timestamp() as "expired!" from attempt_lease
           where job_id = $1 and epoch = $2 and member = $3 for update"#,
        token.job.0,
        token.epoch,
        token.member
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(failed("look at a lease again"))?;
    // An attempt that has ended, and a member that has left, have no lease.
    if still_expired != Some(true) {
        return Ok(false);
    }
    let class = FailureClass::Lost;
    let Some(attempt) = gang::speaks_for(&mut transaction, token, attempt, class).await? else {
        transaction.commit().await.map_err(failed("commit an expiry"))?;
        let (epoch, member) = (token.epoch, token.member);
        tracing::warn!(job = %token.job, epoch, member, "a member was lost behind the last step");
        return Ok(false);
    };
    let (end, what) = match attempt.life == Life::Offered {
        true => (EndReason::OfferExpired, "did not start it in time"),
        false => (EndReason::LeaseExpired, "was not heard of for too long"),
    };
    let message = format!("worker {} {what}", attempt.worker);
    let bad = BadEnd { end, class, message: &message };
    end_badly(&mut transaction, policy, &job, token, &attempt, &bad).await?;
    transaction.commit().await.map_err(failed("commit an expiry"))?;
    tracing::warn!(job = %token.job, epoch = token.epoch, worker = %attempt.worker, %end, "took a job back");
    Ok(true)
}

/// Gives every live attempt a full term from now, unless it has longer.
///
/// # Errors
/// The database fails.
#[instrument(skip_all, err(level = "debug"))]
pub async fn extend_leases(pool: &PgPool, policy: &Policy) -> Result<u64, Error> {
    let ids: Vec<Uuid> = sqlx::query_scalar!("select distinct job_id from attempt_lease order by job_id")
        .fetch_all(pool)
        .await
        .map_err(failed("list leases"))?;
    let mut extended = 0;
    for id in ids {
        extended += sqlx::query!(
            "update attempt_lease set deadline = clock_timestamp() + make_interval(secs => $2)
             where job_id = $1 and deadline < clock_timestamp() + make_interval(secs => $2)",
            id,
            policy.lease_ttl.as_secs_f64()
        )
        .execute(pool)
        .await
        .map_err(failed("extend a lease"))?
        .rows_affected();
    }
    Ok(extended)
}
