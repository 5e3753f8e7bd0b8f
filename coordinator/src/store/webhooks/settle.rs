//! Records how a request went.

use sqlx::PgPool;
use sqlx::types::Uuid;
use tracing::instrument;

use crate::core::webhook::Verdict;
use crate::store::error::{Error, failed};

/// Records the verdict on the `attempt`th request; whether it was still the current one.
///
/// # Errors
/// The database fails.
#[instrument(skip_all, fields(delivery = %id), err(level = "debug"))]
pub async fn settle(pool: &PgPool, id: Uuid, attempt: i32, verdict: &Verdict) -> Result<bool, Error> {
    let settled = sqlx::query!(
        "update webhook_delivery set
             state = $3, last_status = $4, last_error = $5,
             next_attempt_time = clock_timestamp() + make_interval(secs => $6),
             end_time = case when $3 <> 'pending' then clock_timestamp() end
         where id = $1 and attempt_count = $2 and state = 'pending'",
        id,
        attempt,
        verdict.state.as_str(),
        verdict.status.map(i32::from),
        verdict.error,
        verdict.delay.as_secs_f64()
    )
    .execute(pool)
    .await
    .map_err(failed("settle a delivery of a webhook"))?;
    Ok(settled.rows_affected() == 1)
}
