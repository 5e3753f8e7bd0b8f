//! Deliveries, written in the transaction of what they tell of.
//!
//! Most events have nobody who wants to be told: then one look at a small table is all.

use cakes_proto::ids::{JobId, SearchId};
use chrono::SecondsFormat;
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use sqlx::types::Uuid;

use crate::core::front::FrontPoint;
use crate::core::webhook::{WebhookEvent, bounded, payload};
use crate::store::error::{Error, failed};

/// Characters of a reason in a payload.
const REASON_CHARS_MAX: usize = 500;

/// What has happened.
#[derive(Clone, Copy)]
pub(in crate::store) struct Happening<'a> {
    pub event: WebhookEvent,
    pub search: Option<SearchId>,
    pub job: Option<JobId>,
    /// With the name of its quality.
    pub point: Option<(&'a FrontPoint, &'a str)>,
}

/// Queues a delivery for everybody who wants to be told.
pub(in crate::store) async fn record(
    connection: &mut PgConnection,
    happening: Happening<'_>,
) -> Result<(), Error> {
    let webhooks = listeners(connection, happening).await?;
    if webhooks.is_empty() {
        return Ok(());
    }
    let mut data = Map::new();
    if let Some(search) = happening.search {
        data.insert("search".to_owned(), search_facts(connection, search).await?);
    }
    if let Some(job) = happening.job {
        data.insert("job".to_owned(), job_facts(connection, job).await?);
    }
    if let Some((point, metric)) = happening.point {
        data.insert("point".to_owned(), point_facts(point, metric));
    }
    let payload = payload(happening.event, &time(connection).await?, &Value::Object(data));
    insert(connection, &webhooks, happening.event, &payload).await.map(drop)
}

/// Webhooks that want to be told; the locks keep them until the deliveries are written.
async fn listeners(connection: &mut PgConnection, happening: Happening<'_>) -> Result<Vec<Uuid>, Error> {
    sqlx::query_scalar!(
        "select id from webhook
         where $1 = any(events)
             and (coalesce((select search.labels from search where search.id = $2), '{}'::jsonb)
                 || coalesce((select job.labels from job where job.id = $3), '{}'::jsonb)) @> webhook.labels
         for key share of webhook",
        happening.event.as_str(),
        happening.search.map(|search| search.0),
        happening.job.map(|job| job.0)
    )
    .fetch_all(connection)
    .await
    .map_err(failed("look for webhooks"))
}

async fn search_facts(connection: &mut PgConnection, id: SearchId) -> Result<Value, Error> {
    let row = sqlx::query!(
        r#"select name, state, state_reason, labels, create_time, end_time,
               (select count(*) from job where job.search_id = search.id and job.state = 'succeeded')
                   as "succeeded!",
               (select count(*) from job where job.search_id = search.id and job.state = 'failed') as "failed!"
           from search where id = $1"#,
        id.0
    )
    .fetch_one(connection)
    .await
    .map_err(failed("read a search for a webhook"))?;
    Ok(json!({
        "id": id.to_string(),
        "name": row.name,
        "state": row.state,
        "reason": bounded(&row.state_reason, REASON_CHARS_MAX),
        "labels": row.labels,
        "succeeded_job_count": row.succeeded,
        "failed_job_count": row.failed,
        "create_time": row.create_time.to_rfc3339_opts(SecondsFormat::Millis, true),
        "end_time": row.end_time.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
    }))
}

async fn job_facts(connection: &mut PgConnection, id: JobId) -> Result<Value, Error> {
    let row = sqlx::query!(
        "select kind, label, architecture_digest, state, state_reason, labels, epoch from job where id = $1",
        id.0
    )
    .fetch_one(connection)
    .await
    .map_err(failed("read a job for a webhook"))?;
    Ok(json!({
        "id": id.to_string(),
        "kind": row.kind,
        "label": bounded(&row.label, REASON_CHARS_MAX),
        "architecture_digest": row.architecture_digest,
        "state": row.state,
        "reason": bounded(&row.state_reason, REASON_CHARS_MAX),
        "labels": row.labels,
        "attempt_count": row.epoch,
    }))
}

fn point_facts(point: &FrontPoint, metric: &str) -> Value {
    json!({
        "architecture_digest": point.architecture.to_string(),
        "quality": point.quality,
        "quality_metric": metric,
        "mac_count": point.mac_count,
        "seed_count": point.seed_count,
    })
}

/// The database's time as RFC 3339 says it.
pub(super) async fn time(connection: &mut PgConnection) -> Result<String, Error> {
    let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#)
        .fetch_one(connection)
        .await
        .map_err(failed("ask the database for the time of an event"))?;
    Ok(now.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// One delivery for each webhook; their ids.
pub(super) async fn insert(
    connection: &mut PgConnection,
    webhooks: &[Uuid],
    event: WebhookEvent,
    payload: &str,
) -> Result<Vec<Uuid>, Error> {
    let ids: Vec<Uuid> = webhooks.iter().map(|_| Uuid::new_v4()).collect();
    sqlx::query!(
        "insert into webhook_delivery (id, webhook_id, event, payload)
         select id, webhook_id, $3, $4 from unnest($1::uuid[], $2::uuid[]) as row (id, webhook_id)",
        &ids,
        webhooks,
        event.as_str(),
        payload
    )
    .execute(connection)
    .await
    .map_err(failed("queue deliveries of a webhook"))?;
    Ok(ids)
}
