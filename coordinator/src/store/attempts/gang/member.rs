//! Members of attempts that are about to end.

use cakes_proto::ids::{LeaseToken, WorkerId};
use sqlx::PgConnection;

use super::leave::leave;
use crate::core::gang::MemberState;
use crate::core::retry::FailureClass;
use crate::store::error::{Error, corrupt, failed};
use crate::store::fence::{self, Attempt, Life};

/// A member of an attempt.
#[derive(Clone, Debug)]
pub(in crate::store::attempts) struct Member {
    pub state: MemberState,
    pub worker: WorkerId,
}

/// The member of a token whose attempt was found by epoch and nonce; `None` if it has no such one.
pub(in crate::store::attempts) async fn of(
    connection: &mut PgConnection,
    token: LeaseToken,
) -> Result<Option<Member>, Error> {
    let row = sqlx::query!(
        "select state, worker_id from attempt_member where job_id = $1 and epoch = $2 and member = $3",
        token.job.0,
        token.epoch,
        token.member
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("read a member of an attempt"))?;
    let what = || format!("member {} of attempt {} of job {}", token.member, token.epoch, token.job);
    let member = row.map(|row| {
        let state: MemberState = row.state.parse().map_err(|error| corrupt(what(), &error))?;
        let worker: WorkerId = row.worker_id.parse().map_err(|error| corrupt(what(), &error))?;
        Ok(Member { state, worker })
    });
    member.transpose()
}

/// An attempt that is locked and is about to end by a failure of this class, as it is told as its
/// member's: the worker is the member's, and an attempt that it never started is one that was not
/// begun. `None` where the attempt goes on, as the member was lost and could be done without.
///
/// # Errors
/// The attempt has no such member any more.
pub(in crate::store::attempts) async fn speaks_for(
    connection: &mut PgConnection,
    token: LeaseToken,
    attempt: Attempt,
    class: FailureClass,
) -> Result<Option<Attempt>, Error> {
    if token.leads() {
        return Ok(Some(attempt));
    }
    if class == FailureClass::Lost && leave(connection, token, &attempt).await? {
        return Ok(None);
    }
    // One that has gone before its attempt has nothing more to say.
    let Some(member) = of(connection, token).await?.filter(|member| member.state != MemberState::Ended)
    else {
        return Err(fence::lost(connection, token).await?);
    };
    let life = match (attempt.life, member.state) {
        (Life::Running, MemberState::Offered) => Life::Offered,
        (life, _) => life,
    };
    Ok(Some(Attempt { life, worker: member.worker, ..attempt }))
}
