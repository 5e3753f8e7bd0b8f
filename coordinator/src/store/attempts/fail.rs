//! Ends an attempt that its worker gives up.

use cakes_proto::ids::LeaseToken;
use sqlx::PgPool;
use tracing::instrument;

use super::end::{BadEnd, end_badly};
use super::gang;
use crate::core::job::EndReason;
use crate::core::lease::Policy;
use crate::core::retry::FailureClass;
use crate::store::error::{Error, failed};
use crate::store::fence::{self, Life};
use crate::store::job_row;

/// Ends the attempt; its class decides what becomes of the job. Any member of it may say so; the loss
/// of one that follows, behind the last step, is its own alone.
/// A repetition changes nothing.
///
/// # Errors
/// The token is not the current one.
#[instrument(skip_all, fields(job = %token.job, epoch = token.epoch, %class), err(level = "debug"))]
pub async fn fail(
    pool: &PgPool,
    policy: &Policy,
    token: LeaseToken,
    class: FailureClass,
    message: &str,
) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin a failure"))?;
    let job = job_row::lock(&mut transaction, token.job).await?;
    let attempt = fence::attempt(&mut transaction, token).await?;
    match attempt.life {
        Life::Ended(EndReason::Failed | EndReason::HandedBack | EndReason::Cancelled) => return Ok(()),
        Life::Ended(_) => return Err(fence::lost(&mut transaction, token).await?),
        Life::Offered | Life::Running => {}
    }
    let Some(attempt) = gang::speaks_for(&mut transaction, token, attempt, class).await? else {
        return transaction.commit().await.map_err(failed("commit the loss of a member"));
    };
    let bad = BadEnd { end: EndReason::Failed, class, message };
    end_badly(&mut transaction, policy, &job, token, &attempt, &bad).await?;
    // S5: the answer follows the commit.
    transaction.commit().await.map_err(failed("commit a failure"))
}
