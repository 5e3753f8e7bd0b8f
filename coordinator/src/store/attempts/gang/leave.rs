//! A member goes whose ranks have nothing more to do.

use cakes_proto::ids::LeaseToken;
use sqlx::PgConnection;

use crate::core::gang::MemberState;
use crate::store::error::{Error, failed};
use crate::store::fence::{Attempt, Life};

/// Lets a member that does not lead and was lost go without ending its attempt, which is locked:
/// behind the last step only the leader has still to validate, save and complete. False where the
/// attempt cannot do without it. A repetition changes nothing.
pub(super) async fn leave(
    connection: &mut PgConnection,
    token: LeaseToken,
    attempt: &Attempt,
) -> Result<bool, Error> {
    if attempt.life != Life::Running {
        return Ok(false);
    }
    // Of one that went on from behind the last step the ranks may not even have met.
    let is_trained = sqlx::query_scalar!(
        r#"select exists (
               select from attempt_member member
               join attempt on attempt.job_id = member.job_id and attempt.epoch = member.epoch
               join job on job.id = member.job_id
               where member.job_id = $1 and member.epoch = $2 and member.member = $3
                   and attempt.last_step >= job.step_count and attempt.resume_step < job.step_count
           ) as "is_trained!""#,
        token.job.0,
        token.epoch,
        token.member
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("look whether a job is trained"))?;
    if !is_trained {
        return Ok(false);
    }
    // S13: it lives as long as it has a lease. First that, then the member, as of those who renew.
    sqlx::query!(
        "delete from attempt_lease where job_id = $1 and epoch = $2 and member = $3",
        token.job.0,
        token.epoch,
        token.member
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("remove the lease of a member"))?;
    sqlx::query!(
        "update attempt_member set state = $4, end_time = clock_timestamp()
         where job_id = $1 and epoch = $2 and member = $3 and state <> $4",
        token.job.0,
        token.epoch,
        token.member,
        MemberState::Ended.as_str()
    )
    .execute(connection)
    .await
    .map_err(failed("let a member go"))?;
    Ok(true)
}
