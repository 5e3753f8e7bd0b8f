//! A delivery that tells of nothing, to see whether deliveries arrive.

use cakes_proto::ids::WebhookId;
use serde_json::json;
use sqlx::PgPool;
use sqlx::types::Uuid;
use tracing::instrument;

use super::outbox::{insert, time};
use crate::core::webhook::{WebhookEvent, payload};
use crate::store::error::{Error, failed};

/// Queues a ping; its id.
///
/// # Errors
/// There is no such webhook.
#[instrument(skip_all, fields(webhook = %id), err(level = "debug"))]
pub async fn ping(pool: &PgPool, id: WebhookId) -> Result<Uuid, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to ping a webhook"))?;
    let found = sqlx::query_scalar!("select id from webhook where id = $1 for key share", id.0)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed("look for a webhook"))?
        .ok_or_else(|| Error::NotFound { kind: "webhook", id: id.to_string() })?;
    let data = json!({ "webhook": { "id": id.to_string() } });
    let payload = payload(WebhookEvent::Ping, &time(&mut transaction).await?, &data);
    let ids = insert(&mut transaction, &[found], WebhookEvent::Ping, &payload).await?;
    transaction.commit().await.map_err(failed("commit a ping"))?;
    Ok(ids.first().copied().unwrap_or_default())
}
