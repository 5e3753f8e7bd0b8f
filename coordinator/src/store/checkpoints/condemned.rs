//! Condemned checkpoints whose objects are still there.

use sqlx::PgPool;
use sqlx::types::Uuid;
use tracing::instrument;

use crate::store::error::{Error, failed};

/// A checkpoint whose objects are to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    pub job: Uuid,
    pub step: i64,
    /// Key of its folder in the artifact store.
    pub key: String,
}

/// So many condemned checkpoints behind a key, in the order of keys.
///
/// # Errors
/// The database fails.
pub async fn condemned(pool: &PgPool, after: Option<&str>, limit: i64) -> Result<Vec<Condemned>, Error> {
    sqlx::query_as!(
        Condemned,
        "select job_id as job, step, key from checkpoint
         where condemn_time is not null and delete_time is null and ($1::text is null or key > $1)
         order by key limit $2",
        after,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(failed("look for condemned checkpoints"))
}

/// Notes that the objects of a condemned checkpoint are gone. Again, it changes nothing.
///
/// # Errors
/// The database fails.
#[instrument(skip(pool), err(level = "debug"))]
pub async fn mark_deleted(pool: &PgPool, key: &str) -> Result<(), Error> {
    sqlx::query!(
        "update checkpoint set delete_time = clock_timestamp()
         where key = $1 and condemn_time is not null and delete_time is null",
        key
    )
    .execute(pool)
    .await
    .map(drop)
    .map_err(failed("note that a checkpoint is deleted"))
}
