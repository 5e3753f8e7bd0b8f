//! Adds a webhook.

use cakes::labels::Labels;
use cakes_proto::ids::WebhookId;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use crate::core::webhook::{Secret, Target, WebhookEvent};
use crate::store::error::{Error, failed};
use crate::store::labels;
use crate::store::text::check_request_id;

/// Webhooks at the most: each is asked for with every event.
const WEBHOOKS_MAX: i64 = 100;

/// Who wants to be told of what.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    pub target: Target,
    pub events: Vec<WebhookEvent>,
    /// Only what is about searches or jobs with these labels.
    pub labels: Labels,
    pub secret: Secret,
    /// A repetition gets the first webhook.
    pub request_id: Option<String>,
}

/// Adds the webhook.
///
/// # Errors
/// There are too many, or the request id was used for another one.
#[instrument(skip_all, err(level = "debug"))]
pub async fn add(pool: &PgPool, webhook: &NewWebhook) -> Result<WebhookId, Error> {
    check_request_id(webhook.request_id.as_deref())?;
    let id = WebhookId::generate();
    let mut transaction = pool.begin().await.map_err(failed("begin to add a webhook"))?;
    let events: Vec<String> = webhook.events.iter().map(|event| event.as_str().to_owned()).collect();
    let inserted = sqlx::query!(
        "insert into webhook (id, url, events, labels, secret, request_id, request_hash)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (request_id) do nothing",
        id.0,
        webhook.target.as_str(),
        &events,
        labels::to_column(&webhook.labels)?,
        webhook.secret.bytes(),
        webhook.request_id,
        webhook.request_id.as_ref().map(|_| content_hash(webhook).to_vec())
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("add a webhook"))?;
    if let (0, Some(request_id)) = (inserted.rows_affected(), &webhook.request_id) {
        return first_webhook(&mut transaction, request_id, &content_hash(webhook)).await;
    }
    let count = sqlx::query_scalar!(r#"select count(*) as "count!" from webhook"#)
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed("count webhooks"))?;
    if count > WEBHOOKS_MAX {
        return Err(Error::Refused(format!("there are {WEBHOOKS_MAX} webhooks already; remove one first")));
    }
    transaction.commit().await.map_err(failed("commit a webhook"))?;
    Ok(id)
}

async fn first_webhook(
    connection: &mut PgConnection,
    request_id: &str,
    hash: &[u8; 32],
) -> Result<WebhookId, Error> {
    let first = sqlx::query!("select id, request_hash from webhook where request_id = $1", request_id)
        .fetch_one(connection)
        .await
        .map_err(failed("look for an earlier webhook"))?;
    if first.request_hash.as_deref() == Some(&hash[..]) {
        return Ok(WebhookId(first.id));
    }
    Err(Error::Conflict { request_id: request_id.to_owned() })
}

fn content_hash(webhook: &NewWebhook) -> [u8; 32] {
    let events: Vec<&str> = webhook.events.iter().map(|event| event.as_str()).collect();
    let content = (webhook.target.as_str(), events, &webhook.labels, webhook.secret.bytes());
    // Plain data into memory cannot fail.
    Sha256::digest(serde_json::to_vec(&content).unwrap_or_default()).into()
}
