//! What a member is handed.

use cakes_proto::ids::LeaseToken;
use sqlx::PgConnection;
use sqlx::types::Uuid;

use super::super::together::Locks;
use crate::core::gang::Seat;
use crate::store::error::{Error, failed};

/// What a question for a part comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::attempts) enum Collected {
    /// The part is handed out to it, now or before.
    Handed,
    /// Another question of the slot has it, or it has ended.
    Gone,
    /// Somebody else is at it, as one who ends the attempt, and is not waited for.
    Busy,
}

/// Hands a part out to a question of its slot. Repetitions find it by that question; of two that
/// come at once one has it.
pub(in crate::store::attempts) async fn collect(
    connection: &mut PgConnection,
    token: LeaseToken,
    request_id: Uuid,
    locks: Locks,
) -> Result<Collected, Error> {
    if locks == Locks::PassOver && !take(connection, token).await? {
        return Ok(Collected::Busy);
    }
    let handed = sqlx::query!(
        "update attempt_member set acquire_request_id = $4
         where job_id = $1 and epoch = $2 and member = $3 and state <> 'ended'
             and (acquire_request_id is null or acquire_request_id = $4)",
        token.job.0,
        token.epoch,
        token.member,
        request_id
    )
    .execute(connection)
    .await
    .map_err(failed("hand out a part of a job"))?;
    Ok(match handed.rows_affected() {
        0 => Collected::Gone,
        _ => Collected::Handed,
    })
}

/// Locks a part, unless somebody else has.
async fn take(connection: &mut PgConnection, token: LeaseToken) -> Result<bool, Error> {
    let taken = sqlx::query_scalar!(
        "select member from attempt_member
         where job_id = $1 and epoch = $2 and member = $3
         for no key update skip locked",
        token.job.0,
        token.epoch,
        token.member
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("take a part of a job"))?;
    Ok(taken.is_some())
}

/// The seat of a member that was granted.
pub(in crate::store::attempts) async fn seat(
    connection: &mut PgConnection,
    token: LeaseToken,
) -> Result<Seat, Error> {
    let row = sqlx::query!(
        r#"select member.first_rank, member.device_count, attempt.member_count,
               job.device_count as "world_size!"
           from attempt_member member
           join attempt on attempt.job_id = member.job_id and attempt.epoch = member.epoch
           join job on job.id = member.job_id
           where member.job_id = $1 and member.epoch = $2 and member.member = $3"#,
        token.job.0,
        token.epoch,
        token.member
    )
    .fetch_one(connection)
    .await
    .map_err(failed("read a part of a job"))?;
    Ok(Seat {
        member: token.member,
        member_count: row.member_count,
        first_rank: row.first_rank,
        device_count: row.device_count,
        world_size: row.world_size,
    })
}
