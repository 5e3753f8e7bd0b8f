//! How much is queued and open, as far as a limit asks.

use sqlx::PgPool;

use super::failed;
use crate::store::Error;

/// Counted up to the limits and no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    pub waiting_jobs: i64,
    pub open_searches: i64,
}

/// # Errors
/// The database fails.
pub async fn count(pool: &PgPool, up_to: Backlog) -> Result<Backlog, Error> {
    sqlx::query_as!(
        Backlog,
        r#"select
               (select count(*) from (select from job where waits limit $1) waiting) as "waiting_jobs!",
               (select count(*) from (
                   select from search where state in ('searching', 'retraining') limit $2
               ) open) as "open_searches!""#,
        up_to.waiting_jobs,
        up_to.open_searches
    )
    .fetch_one(pool)
    .await
    .map_err(failed("count what waits"))
}
