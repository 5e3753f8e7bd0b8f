//! A member that does not lead has begun.

use cakes_proto::ids::LeaseToken;
use sqlx::PgPool;
use tracing::instrument;

use crate::core::gang::{MemberEvent, MemberState, transition};
use crate::core::lease::Policy;
use crate::store::error::{Error, failed};
use crate::store::fence;

/// Turns the offer of a member into a full lease; where the ranks meet, as soon as the leader
/// has told. A repetition renews the lease.
///
/// # Errors
/// The attempt has ended, or has no such member.
#[instrument(skip_all, fields(job = %token.job, epoch = token.epoch, member = token.member), err(level = "debug"))]
pub async fn start(pool: &PgPool, policy: &Policy, token: LeaseToken) -> Result<Option<String>, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin a start"))?;
    // S3 S13: a lease is there exactly as long as its attempt lives; the nonce is the grant's.
    let renewed = sqlx::query!(
        "update attempt_lease lease set deadline = clock_timestamp() + make_interval(secs => $5)
         from attempt
         where attempt.job_id = $1 and attempt.epoch = $2 and attempt.nonce = $3
             and lease.job_id = $1 and lease.epoch = $2 and lease.member = $4",
        token.job.0,
        token.epoch,
        &token.nonce.0[..],
        token.member,
        policy.lease_ttl.as_secs_f64()
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("renew the lease of a member"))?;
    if renewed.rows_affected() == 0 {
        return Err(fence::lost(&mut transaction, token).await?);
    }
    let next = match transition(MemberState::Offered, MemberEvent::Start) {
        Ok(next) => next.as_str(),
        Err(_) => return Err(fence::lost(&mut transaction, token).await?),
    };
    let address = sqlx::query_scalar!(
        "with begun as (
             update attempt_member set state = $4
             where job_id = $1 and epoch = $2 and member = $3 and state = 'offered'
         )
         select address from attempt_member where job_id = $1 and epoch = $2 and member = 0",
        token.job.0,
        token.epoch,
        token.member,
        next
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(failed("start a member"))?;
    transaction.commit().await.map_err(failed("commit a start"))?;
    Ok(address.flatten())
}
