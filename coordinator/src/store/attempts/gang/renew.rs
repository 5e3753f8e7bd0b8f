//! A member that does not lead is heard of.

use cakes_proto::ids::LeaseToken;
use sqlx::PgPool;
use tracing::instrument;

use super::member;
use crate::core::gang::{MemberEvent, MemberState, Refusal, transition};
use crate::core::job::JobState;
use crate::core::lease::{Desired, Policy, desired};
use crate::core::worker::Schedule;
use crate::store::error::{Error, corrupt, failed};
use crate::store::fence;

/// What a member is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    pub desired: Desired,
    /// Where the ranks meet; `None` until the leader has told.
    pub address: Option<String>,
}

/// Renews the lease of a member. One that has run out and that nobody took comes back to life.
///
/// # Errors
/// The attempt has ended, has no such member, or that one has not started.
#[instrument(skip_all, fields(job = %token.job, epoch = token.epoch, member = token.member), err(level = "debug"))]
pub async fn renew(pool: &PgPool, policy: &Policy, token: LeaseToken) -> Result<Renewal, Error> {
    // S3 S13: a lease is there exactly as long as its attempt lives; the nonce is the grant's.
    let row = sqlx::query!(
        r#"with renewed as (
               update attempt_lease lease set deadline = clock_timestamp() + make_interval(secs => $5)
               from attempt, attempt_member member
               where attempt.job_id = $1 and attempt.epoch = $2 and attempt.nonce = $3
                   and member.job_id = $1 and member.epoch = $2 and member.member = $4
                   and member.state = 'running'
                   and lease.job_id = $1 and lease.epoch = $2 and lease.member = $4
               returning lease.job_id, member.worker_id
           ), alive as (
               -- As with reports: waits for nobody, and is exact to a twelfth of the lease.
               select worker.id from renewed join worker on worker.id = renewed.worker_id
               where worker.last_seen_time < clock_timestamp() - make_interval(secs => $5 / 12)
               for no key update of worker skip locked
           ), seen as (
               update worker set last_seen_time = clock_timestamp() from alive where worker.id = alive.id
           )
           select job.state as "state!", worker.schedule as "schedule!",
               coalesce(job.yield_epoch = $2, false) as "makes_way!", leader.address as "address?"
           from renewed
           join job on job.id = renewed.job_id
           join worker on worker.id = renewed.worker_id
           left join attempt_member leader on leader.job_id = renewed.job_id and leader.epoch = $2
               and leader.member = 0"#,
        token.job.0,
        token.epoch,
        &token.nonce.0[..],
        token.member,
        policy.lease_ttl.as_secs_f64()
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("renew the lease of a member"))?;
    let Some(row) = row else { return Err(refusal(pool, token).await?) };
    let what = || format!("what job {} is to do", token.job);
    let state: JobState = row.state.parse().map_err(|error| corrupt(what(), &error))?;
    let schedule: Schedule = row.schedule.parse().map_err(|error| corrupt(what(), &error))?;
    Ok(Renewal { desired: desired(state, schedule, row.makes_way), address: row.address })
}

/// Why nothing was renewed.
async fn refusal(pool: &PgPool, token: LeaseToken) -> Result<Error, Error> {
    let mut connection = pool.acquire().await.map_err(failed("begin to look at a member"))?;
    let attempt = fence::attempt(&mut connection, token).await;
    let state = match attempt {
        Ok(_) => member::of(&mut connection, token).await?.map_or(MemberState::Ended, |member| member.state),
        Err(Error::LeaseLost { .. }) => MemberState::Ended,
        Err(error) => return Err(error),
    };
    match transition(state, MemberEvent::Renew) {
        Err(Refusal::NotStarted) => {
            Ok(Error::Refused("a member of an attempt is started before it reports".to_owned()))
        }
        // That it runs by now is as good as that it is gone: the next report tells.
        Ok(_) | Err(Refusal::Lost) => fence::lost(&mut connection, token).await,
    }
}
