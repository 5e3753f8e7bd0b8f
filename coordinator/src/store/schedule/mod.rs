//! Rounds of the planner of jobs: what it plans from, and what it writes.
//!
//! [`crate::core::schedule`] decides. Grants are left to [`super::attempts`], which takes
//! waiting jobs in the order that is written here.

mod apply;
mod load;
mod paces;

pub use load::{Extent, load};

use std::collections::BTreeMap;

use cakes_planner::{FactsError, Policy};
use cakes_proto::ids::JobId;
use sqlx::PgPool;
use tracing::instrument;
use uuid::Uuid;

use super::error::{Error, corrupt, failed};
use super::jobs;
use crate::core::schedule::{Decisions, Outlook, Rules, Snapshot, decide};

/// Any number that no other lock of this database has.
const LOCK: i64 = 0x6361_6b65_7301;

/// Plans a round and writes it down; what was decided. `None` if another coordinator is at
/// it.
///
/// # Errors
/// The database fails; nothing is written.
#[instrument(skip_all, err(level = "debug"))]
pub async fn plan(pool: &PgPool, rules: &Rules) -> Result<Option<Decisions>, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin a round"))?;
    let is_ours = sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock($1) as "is_ours!""#, LOCK)
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed("take the lock of rounds"))?;
    if !is_ours {
        return Ok(None);
    }
    let snapshot = load(&mut transaction, rules.lease_ttl, Extent::Front).await?;
    let decisions = think(snapshot, rules, decide).await?;
    apply::apply(&mut transaction, &decisions).await?;
    transaction.commit().await.map_err(failed("commit a round"))?;
    for (job, epoch) in &decisions.spent {
        // The round is written; whoever could not be paused is found again by the next one.
        if let Err(error) = jobs::pause_spent(pool, JobId(*job), *epoch).await {
            tracing::warn!(%job, %error, "a job that has taken what it may could not be paused");
        }
    }
    Ok(Some(decisions))
}

/// Why jobs wait, as a round at this moment would say, and for how long they are going to train;
/// see [`crate::core::schedule::outlooks`].
///
/// # Errors
/// The database fails.
pub async fn outlooks(pool: &PgPool, rules: &Rules) -> Result<BTreeMap<Uuid, Outlook>, Error> {
    let mut connection = pool.acquire().await.map_err(failed("begin to look at the queue"))?;
    let snapshot = load(&mut connection, rules.lease_ttl, Extent::All).await?;
    drop(connection);
    think(snapshot, rules, crate::core::schedule::outlooks).await
}

/// Takes a processor for some milliseconds where many jobs wait.
async fn think<T: Send + 'static>(
    snapshot: Snapshot,
    rules: &Rules,
    decide: impl FnOnce(&Snapshot, &Policy) -> Result<T, FactsError> + Send + 'static,
) -> Result<T, Error> {
    let policy = rules.policy.clone();
    let decided = tokio::task::spawn_blocking(move || decide(&snapshot, &policy)).await;
    decided
        .map_err(|error| corrupt("a round", &error))?
        .map_err(|error| corrupt("what a round is planned from", &error))
}
