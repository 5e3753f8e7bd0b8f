//! A member that does not lead has begun.

use cakes_proto::ids::LeaseToken;
use sqlx::PgPool;
use tracing::instrument;

use crate::core::gang::{MemberEvent, MemberState, transition};
use crate::core::lease::Policy;
use crate::store::error::{Error, corrupt, failed};
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
    let state = sqlx::query_scalar!(
        "update attempt_lease lease set deadline = clock_timestamp() + make_interval(secs => $5)
         from attempt, attempt_member member
         where attempt.job_id = $1 and attempt.epoch = $2 and attempt.nonce = $3
             and member.job_id = $1 and member.epoch = $2 and member.member = $4
             and lease.job_id = $1 and lease.epoch = $2 and lease.member = $4
         returning member.state",
        token.job.0,
        token.epoch,
        &token.nonce.0[..],
        token.member,
        policy.lease_ttl.as_secs_f64()
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(failed("renew the lease of a member"))?;
    let state = state
        .map(|state| state.parse::<MemberState>())
        .transpose()
        .map_err(|error| corrupt(format!("member {} of job {}", token.member, token.job), &error))?;
    let Some(Ok(next)) = state.map(|state| transition(state, MemberEvent::Start)) else {
        return Err(fence::lost(&mut transaction, token).await?);
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
        next.as_str()
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(failed("start a member"))?;
    transaction.commit().await.map_err(failed("commit a start"))?;
    Ok(address.flatten())
}
