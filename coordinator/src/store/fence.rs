//! Proof, inside a transaction, that a caller speaks for an attempt.

use cakes_proto::ids::{LeaseToken, WorkerId};
use sqlx::PgConnection;

use super::error::{Error, corrupt, failed};
use crate::core::UnknownName;
use crate::core::job::EndReason;

/// Where an attempt is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Offered,
    Running,
    Ended(EndReason),
}

impl Life {
    /// From its columns.
    ///
    /// # Errors
    /// The end has an unknown name.
    pub(super) fn of(state: &str, end_reason: Option<&str>) -> Result<Self, UnknownName> {
        match state {
            "offered" => Ok(Life::Offered),
            "running" => Ok(Life::Running),
            _ => Ok(Life::Ended(end_reason.unwrap_or_default().parse()?)),
        }
    }
}

/// An attempt's row, locked until the transaction ends.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub life: Life,
    pub worker: WorkerId,
    pub last_step: i64,
}

/// Locks the attempt of a token, whether it lives or has ended.
///
/// # Errors
/// Epoch and nonce are of no grant of the job.
pub(super) async fn attempt(connection: &mut PgConnection, token: LeaseToken) -> Result<Attempt, Error> {
    // S3: the epoch and the nonce of a grant, in the transaction of the write.
    let row = sqlx::query!(
        "select state, worker_id, last_step, end_reason from attempt
         where job_id = $1 and epoch = $2 and nonce = $3
         for no key update",
        token.job.0,
        token.epoch,
        &token.nonce.0[..]
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("check a lease"))?;
    let Some(row) = row else { return Err(lost(connection, token).await?) };
    let what = || format!("attempt {} of job {}", token.epoch, token.job);
    let life = Life::of(&row.state, row.end_reason.as_deref()).map_err(|error| corrupt(what(), &error))?;
    let worker = row.worker_id.parse().map_err(|error| corrupt(what(), &error))?;
    Ok(Attempt { life, worker, last_step: row.last_step })
}

/// The refusal of a token that is not current.
pub(super) async fn lost(connection: &mut PgConnection, token: LeaseToken) -> Result<Error, Error> {
    let current = sqlx::query_scalar!("select epoch from job where id = $1", token.job.0)
        .fetch_optional(connection)
        .await
        .map_err(failed("check a lease"))?;
    Ok(Error::LeaseLost { current_epoch: current.unwrap_or(0) })
}
