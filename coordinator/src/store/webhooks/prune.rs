//! Deletes deliveries that ended long ago.

use std::time::Duration;

use sqlx::PgPool;
use tracing::instrument;

use crate::store::error::{Error, failed};

/// Rows of one statement at the most.
const ROWS_MAX: i64 = 1000;

/// Deletes deliveries that ended before `age`, some of them; how many.
///
/// # Errors
/// The database fails.
#[instrument(skip_all, err(level = "debug"))]
pub async fn prune(pool: &PgPool, age: Duration) -> Result<u64, Error> {
    let pruned = sqlx::query!(
        "delete from webhook_delivery where id in (
             select id from webhook_delivery where end_time < now() - make_interval(secs => $1) limit $2)",
        age.as_secs_f64(),
        ROWS_MAX
    )
    .execute(pool)
    .await
    .map_err(failed("delete old deliveries of webhooks"))?;
    Ok(pruned.rows_affected())
}
