//! What people and watchers read. Nothing here changes anything.
//!
//! Rows come out as domain types: a state that is no state or a description
//! that fails its check is [`Error::Corrupt`], never a default.

pub mod architectures;
pub mod attempts;
pub mod backlog;
pub mod census;
pub mod checkpoint;
pub mod composition;
pub mod dashboard;
pub mod events;
pub mod explain;
pub mod front;
pub mod jobs;
pub mod latency;
pub mod logs;
pub mod lookup;
pub mod metrics;
pub mod notes;
pub mod owners;
pub mod queue;
pub mod scores;
pub mod searches;
pub mod summary;
pub mod timeline;
pub mod trainer_job;
pub mod webhooks;
pub mod workers;

use super::error::{corrupt, failed};
use crate::store::Error;

/// The order of a list, by creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    NewestFirst,
    OldestFirst,
}

/// Whether the database answers.
///
/// # Errors
/// It does not.
pub async fn ping(pool: &sqlx::PgPool) -> Result<(), Error> {
    sqlx::query!("select 1 as one").fetch_one(pool).await.map_err(failed("ping the database"))?;
    Ok(())
}
