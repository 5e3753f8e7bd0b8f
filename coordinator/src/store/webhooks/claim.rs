//! Takes deliveries that are due.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::types::Uuid;
use tracing::instrument;

use crate::core::webhook::Secret;
use crate::store::error::{Error, corrupt, failed};

/// How much to take.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Deliveries at the most.
    pub limit: i64,
    /// Deliveries of one webhook at the most.
    pub limit_per_webhook: i64,
    /// Webhooks of which there is enough under way.
    pub busy: Vec<Uuid>,
    /// After that long somebody else may take them.
    pub hold: Duration,
}

/// A delivery to make.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub id: Uuid,
    pub webhook: Uuid,
    pub url: String,
    pub secret: Secret,
    pub payload: String,
    /// Number of this request, from 1.
    pub attempt: i32,
}

/// Takes deliveries that are due, whoever else does so at the same time. They come back
/// by themselves unless they are settled.
///
/// # Errors
/// The database fails.
#[instrument(skip_all, err(level = "debug"))]
pub async fn claim(pool: &PgPool, wish: &Claim) -> Result<Vec<Claimed>, Error> {
    let rows = sqlx::query!(
        r#"with due as (
               select delivery.id from webhook
               cross join lateral (
                   select id from webhook_delivery
                   where webhook_id = webhook.id and state = 'pending' and next_attempt_time <= now()
                   order by next_attempt_time limit $2
                   for no key update skip locked
               ) delivery
               where not webhook.id = any($3)
               limit $1
           )
           update webhook_delivery set
               attempt_count = attempt_count + 1,
               next_attempt_time = clock_timestamp() + make_interval(secs => $4)
           from due, webhook
           where webhook_delivery.id = due.id and webhook.id = webhook_delivery.webhook_id
           returning webhook_delivery.id, webhook_delivery.webhook_id, webhook_delivery.payload,
               webhook_delivery.attempt_count, webhook.url, webhook.secret"#,
        wish.limit,
        wish.limit_per_webhook,
        &wish.busy,
        wish.hold.as_secs_f64()
    )
    .fetch_all(pool)
    .await
    .map_err(failed("take deliveries of webhooks"))?;
    rows.into_iter()
        .map(|row| {
            let secret = Secret::from_bytes(row.secret)
                .map_err(|problem| corrupt(format!("the secret of webhook {}", row.webhook_id), &problem))?;
            Ok(Claimed {
                id: row.id,
                webhook: row.webhook_id,
                url: row.url,
                secret,
                payload: row.payload,
                attempt: row.attempt_count,
            })
        })
        .collect()
}
