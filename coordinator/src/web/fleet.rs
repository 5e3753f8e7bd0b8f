//! The queue, the devices, the workers and what happened.

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use cakes_proto::v1;
use cakes_proto::v1::fleet_service_server::FleetService;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::json;
use tonic::Request;

use super::Web;
use super::answer::{Failure, cut, json, limit};
use super::searches::text;
use super::views::{EventView, JobView, SpanView};
use crate::core::explain::explain;
use crate::grpc::lookup;
use crate::store::read::events::{self, EventFilter};
use crate::store::read::{queue as waiting, timeline as spans};

const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 500;
const SPANS_MAX: i64 = 1000;
/// Longest time that is looked back.
const HOURS_MAX: f64 = 24.0 * 90.0;

#[derive(Deserialize)]
pub(super) struct QueuePage {
    /// Jobs that are passed over.
    offset: Option<i64>,
    limit: Option<i64>,
}

pub(super) async fn queue(
    State(web): State<Web>,
    headers: HeaderMap,
    Query(query): Query<QueuePage>,
) -> Result<Response, Failure> {
    let limit = limit(query.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let offset = query.offset.unwrap_or(0);
    if offset < 0 {
        return Err(Failure::invalid("offset", format!("must be 0 or more, got {offset}")));
    }
    let (length, jobs) = web
        .ask(async {
            let length = waiting::length(&web.pool).await?;
            Ok((length, waiting::page(&web.pool, offset, limit, web.api.rules()).await?))
        })
        .await?;
    let jobs: Vec<_> = jobs
        .into_iter()
        .map(|entry| {
            json!({
                "position": entry.facts.queue_position,
                "priority": entry.job.priority,
                "project": entry.job.project,
                "memory_mib": entry.facts.memory_mib,
                "reason": explain(&entry.facts),
                "job": JobView::from(entry.job),
            })
        })
        .collect();
    json(&headers, &json!({ "length": length, "jobs": jobs }))
}

#[derive(Deserialize)]
pub(super) struct Window {
    /// How far to look back.
    hours: Option<f64>,
    /// End of the window; now without it.
    to: Option<DateTime<Utc>>,
}

pub(super) async fn timeline(
    State(web): State<Web>,
    headers: HeaderMap,
    Query(query): Query<Window>,
) -> Result<Response, Failure> {
    let hours = query.hours.unwrap_or(6.0);
    if !(hours > 0.0 && hours <= HOURS_MAX) {
        return Err(Failure::invalid("hours", format!("must be more than 0 and at most {HOURS_MAX}")));
    }
    let to = query.to.unwrap_or_else(Utc::now);
    let from = to - TimeDelta::milliseconds((hours * 3_600_000.0) as i64);
    let mut found = web.ask(async { Ok(spans::spans(&web.pool, from, to, SPANS_MAX + 1).await?) }).await?;
    let more = cut(&mut found, SPANS_MAX);
    let spans: Vec<SpanView> = found.into_iter().map(SpanView::from).collect();
    json(&headers, &json!({ "from": from, "to": to, "spans": spans, "more": more }))
}

pub(super) async fn workers(State(web): State<Web>, headers: HeaderMap) -> Result<Response, Failure> {
    let request = Request::new(v1::ListWorkersRequest {});
    let found = web.ask(async { Ok(web.api.list_workers(request).await?.into_inner()) }).await?;
    json(&headers, &found)
}

#[derive(Deserialize)]
pub(super) struct EventList {
    search: Option<String>,
    job: Option<String>,
    worker: Option<String>,
    kind: Option<String>,
    /// `next` of the page before.
    after: Option<i64>,
    limit: Option<i64>,
}

pub(super) async fn events(
    State(web): State<Web>,
    headers: HeaderMap,
    Query(query): Query<EventList>,
) -> Result<Response, Failure> {
    let limit = limit(query.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let (worker, kind) = (text(query.worker)?, text(query.kind)?);
    let mut found = web
        .ask(async {
            let search =
                lookup::search_if_given(&web.pool, "search", query.search.as_deref().unwrap_or("")).await?;
            let job = match query.job.as_deref().filter(|job| !job.is_empty()) {
                Some(job) => Some(lookup::job(&web.pool, "job", job).await?),
                None => None,
            };
            let filter = EventFilter { search, job, worker, kind };
            Ok(events::page(&web.pool, &filter, query.after, limit + 1).await?)
        })
        .await?;
    let more = cut(&mut found, limit);
    let next = found.last().map(|event| event.id).filter(|_| more);
    let events: Vec<EventView> = found.into_iter().map(EventView::from).collect();
    json(&headers, &json!({ "events": events, "next": next }))
}
