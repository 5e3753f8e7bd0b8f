//! Calls that move jobs on, and wishes for jobs, in one transaction: with as many calls
//! as there are, what it costs to begin and to commit is paid once.

use sqlx::Connection;
use tracing::instrument;

use super::acquire::{self, Acquisition, Grant};
use super::together::{Answers, Locks};
use super::turn::{self, Turn, Turned};
use crate::core::lease::Policy;
use crate::store::Kept;
use crate::store::error::{Error, failed};

/// Makes calls, then grants jobs; the answers to both, in their order.
///
/// # Errors
/// The database fails; nothing is done.
#[instrument(skip_all, fields(turns = turns.len(), wishes = wishes.len()), err(level = "debug"))]
pub async fn move_together(
    kept: &Kept,
    policy: &Policy,
    turns: &[&Turn],
    wishes: &[&Acquisition],
) -> Result<(Answers<Turned>, Answers<Option<Grant>>), Error> {
    kept.with(async |connection| {
        let mut transaction = connection.begin().await.map_err(failed("begin calls of workers"))?;
        // First what ends: it may leave room in a quota.
        let turned = turn::perform(&mut transaction, turns, Locks::PassOver).await?;
        let granted = acquire::perform(&mut transaction, policy, wishes, Locks::PassOver).await?;
        transaction.commit().await.map_err(failed("commit calls of workers"))?;
        Ok((turned, granted))
    })
    .await
}
