//! Webhooks and their deliveries, without secrets.

use cakes::labels::Labels;
use cakes_proto::ids::WebhookId;
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::types::Uuid;

use super::{corrupt, failed};
use crate::core::webhook::{DeliveryState, WebhookEvent};
use crate::store::{Error, labels};

/// A webhook as people see it.
#[derive(Clone, Debug)]
pub struct WebhookRecord {
    pub id: WebhookId,
    pub url: String,
    pub events: Vec<WebhookEvent>,
    pub labels: Labels,
    pub create_time: DateTime<Utc>,
}

/// Something that it was told, or is to be told.
#[derive(Clone, Debug)]
pub struct DeliveryRecord {
    pub id: Uuid,
    pub event: WebhookEvent,
    pub state: DeliveryState,
    pub attempt_count: i32,
    pub last_status: Option<i32>,
    pub last_error: String,
    pub next_attempt_time: DateTime<Utc>,
    pub create_time: DateTime<Utc>,
    pub end_time: Option<DateTime<Utc>>,
    pub payload: String,
}

/// All webhooks, oldest first.
///
/// # Errors
/// The database fails.
pub async fn list(pool: &PgPool) -> Result<Vec<WebhookRecord>, Error> {
    let rows =
        sqlx::query!("select id, url, events, labels, create_time from webhook order by create_time, id")
            .fetch_all(pool)
            .await
            .map_err(failed("list webhooks"))?;
    rows.into_iter()
        .map(|row| {
            let events = row.events.iter().map(|event| event.parse());
            Ok(WebhookRecord {
                id: WebhookId(row.id),
                url: row.url,
                events: events.collect::<Result<_, _>>().map_err(|error| corrupt("a webhook", &error))?,
                labels: labels::from_column(row.labels)?,
                create_time: row.create_time,
            })
        })
        .collect()
}

/// The last deliveries of a webhook, newest first.
///
/// # Errors
/// There is no such webhook, or the database fails.
pub async fn deliveries(pool: &PgPool, id: WebhookId, limit: i64) -> Result<Vec<DeliveryRecord>, Error> {
    let rows = sqlx::query!(
        "select id, event, state, attempt_count, last_status, last_error, next_attempt_time, create_time,
             end_time, payload
         from webhook_delivery where webhook_id = $1 order by position desc limit $2",
        id.0,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list deliveries of a webhook"))?;
    if rows.is_empty() && !exists(pool, id).await? {
        return Err(Error::NotFound { kind: "webhook", id: id.to_string() });
    }
    rows.into_iter()
        .map(|row| {
            let unusable = |error: &dyn std::fmt::Display| corrupt(format!("delivery {}", row.id), error);
            Ok(DeliveryRecord {
                id: row.id,
                event: row.event.parse().map_err(|error| unusable(&error))?,
                state: row.state.parse().map_err(|error| unusable(&error))?,
                attempt_count: row.attempt_count,
                last_status: row.last_status,
                last_error: row.last_error,
                next_attempt_time: row.next_attempt_time,
                create_time: row.create_time,
                end_time: row.end_time,
                payload: row.payload,
            })
        })
        .collect()
}

async fn exists(pool: &PgPool, id: WebhookId) -> Result<bool, Error> {
    sqlx::query_scalar!(r#"select exists (select from webhook where id = $1) as "exists!""#, id.0)
        .fetch_one(pool)
        .await
        .map_err(failed("look for a webhook"))
}
