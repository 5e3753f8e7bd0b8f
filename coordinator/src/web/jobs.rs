//! Jobs, their logs and their curves.

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use cakes::metric::is_channels_key;
use cakes_proto::ids::JobId;
use cakes_proto::v1;
use cakes_proto::v1::job_service_server::JobService;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tonic::{Code, Request};

use super::Web;
use super::answer::{Failure, cut, json, labels, limit, names};
use super::searches::text;
use super::views::{AttemptView, JobView, NoteView, PlacementView};
use crate::core::explain::explain;
use crate::core::job::JobKind;
use crate::grpc::lookup;
use crate::store::PgPool;
use crate::store::notes::Subject;
use crate::store::read::logs::{self, LogPosition, LogRecord};
use crate::store::read::summary::{self, JobFilter};
use crate::store::read::{attempts, explain as reasons, jobs, metrics as curves, notes};

const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 500;
const LINES_DEFAULT: i64 = 500;
const LINES_MAX: i64 = 2000;
const POINTS_DEFAULT: i64 = 400;
const POINTS_MAX: i64 = 5000;
const KEYS_MAX: usize = 50;

#[derive(Deserialize)]
pub(super) struct JobList {
    search: Option<String>,
    /// States with commas between them.
    state: Option<String>,
    kind: Option<String>,
    /// Part of a label, or the beginning of an id.
    text: Option<String>,
    /// KEY=VALUE with commas between them.
    label: Option<String>,
    /// `next` of the page before.
    after: Option<i64>,
    /// Jobs that are passed over, behind `after`.
    offset: Option<i64>,
    limit: Option<i64>,
}

#[derive(Serialize)]
struct JobPage {
    jobs: Vec<JobView>,
    /// `after` of the page behind; none at the end.
    next: Option<i64>,
    /// Jobs of every state that the other filters leave.
    counts: serde_json::Map<String, serde_json::Value>,
}

pub(super) async fn list(
    State(web): State<Web>,
    headers: HeaderMap,
    Query(query): Query<JobList>,
) -> Result<Response, Failure> {
    let limit = limit(query.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let states = names("state", query.state.as_deref())?;
    let kind: Option<JobKind> = names("kind", query.kind.as_deref())?.pop();
    let (text, labels) = (text(query.text)?, labels(query.label.as_deref())?);
    let offset = query.offset.unwrap_or(0);
    if offset < 0 {
        return Err(Failure::invalid("offset", format!("must be 0 or more, got {offset}")));
    }
    let page = web.ask(async {
        let search =
            lookup::search_if_given(&web.pool, "search", query.search.as_deref().unwrap_or("")).await?;
        let filter = JobFilter { search, states, kind, text, labels };
        let mut jobs = summary::jobs(&web.pool, &filter, query.after, offset, limit + 1).await?;
        let more = cut(&mut jobs, limit);
        let next = jobs.last().map(|job| job.position).filter(|_| more);
        let counts = summary::job_counts(&web.pool, &filter).await?;
        Ok(JobPage {
            jobs: jobs.into_iter().map(JobView::from).collect(),
            next,
            counts: counts.into_iter().map(|(state, count)| (state.to_string(), count.into())).collect(),
        })
    });
    json(&headers, &page.await?)
}

/// The job that a path names.
async fn job(pool: &PgPool, id: &str) -> Result<JobId, Failure> {
    Ok(lookup::job(pool, "id", id).await?)
}

pub(super) async fn one(
    State(web): State<Web>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let answer = web
        .ask(async {
            let id = job(&web.pool, &id).await?;
            let job = jobs::get(&web.pool, id).await?;
            let facts = reasons::facts(&web.pool, &job, web.api.rules()).await?;
            let attempts = attempts::of_job(&web.pool, id).await?;
            let remarks = notes::of(&web.pool, Subject::Job(id)).await?;
            let runs_on = facts.runs_on.as_ref();
            Ok(json!({
                "placement": PlacementView::of_job(&job),
                "job": JobView::from(job),
                "explanation": explain(&facts),
                "queue_position": facts.queue_position,
                "memory_mib": facts.memory_mib,
                "device": runs_on.map(|placement| &placement.device),
                "checkpoints": checkpoints(&web, id).await?,
                "notes": remarks.into_iter().map(NoteView::from).collect::<Vec<_>>(),
                "attempts": attempts.into_iter().map(AttemptView::from).collect::<Vec<_>>(),
            }))
        })
        .await?;
    json(&headers, &answer)
}

/// Checkpoints as `cakes job checkpoints` has them; null where they are elsewhere.
async fn checkpoints(web: &Web, id: JobId) -> Result<Value, Failure> {
    let request = v1::ListCheckpointsRequest { id: id.to_string() };
    match web.api.list_checkpoints(Request::new(request)).await {
        Ok(found) => Ok(json!(found.into_inner().checkpoints)),
        Err(status) if status.code() == Code::FailedPrecondition => Ok(Value::Null),
        Err(status) => Err(status.into()),
    }
}

#[derive(Deserialize)]
pub(super) struct LogPage {
    /// `next` of the page before; without it the last lines are given.
    after: Option<String>,
    limit: Option<i64>,
}

#[derive(Serialize)]
struct LineView {
    time: chrono::DateTime<chrono::Utc>,
    epoch: i64,
    text: String,
}

pub(super) async fn logs(
    State(web): State<Web>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<LogPage>,
) -> Result<Response, Failure> {
    let limit = limit(query.limit, LINES_DEFAULT, LINES_MAX)?;
    let after = query.after.as_deref().map(log_position).transpose()?;
    let lines = web.ask(async {
        let id = job(&web.pool, &id).await?;
        // An unknown job is an error, and one without lines is none.
        jobs::revision(&web.pool, id).await?;
        Ok(match after {
            Some(after) => logs::after(&web.pool, id, after, limit).await?,
            None => logs::tail(&web.pool, id, limit).await?,
        })
    });
    let lines = lines.await?;
    let next = lines.last().map(|line| line.at).or(after).unwrap_or_default();
    let view = |line: LogRecord| LineView { time: line.time, epoch: line.at.epoch, text: line.text };
    json(
        &headers,
        &json!({
            "lines": lines.into_iter().map(view).collect::<Vec<_>>(),
            "next": format!("{}.{}", next.epoch, next.seq),
        }),
    )
}

fn log_position(after: &str) -> Result<LogPosition, Failure> {
    let read = || {
        let (epoch, seq) = after.split_once('.')?;
        Some(LogPosition { epoch: epoch.parse().ok()?, seq: seq.parse().ok()? })
    };
    read().ok_or_else(|| Failure::invalid("after", "is not the 'next' of another page"))
}

#[derive(Deserialize)]
pub(super) struct Curves {
    /// Keys with commas between them; all without them.
    keys: Option<String>,
    /// Most points of a curve.
    points: Option<i64>,
}

#[derive(Serialize)]
struct CurveView {
    key: String,
    steps: Vec<i64>,
    values: Vec<Option<f64>>,
}

pub(super) async fn metrics(
    State(web): State<Web>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<Curves>,
) -> Result<Response, Failure> {
    let points = limit(query.points, POINTS_DEFAULT, POINTS_MAX)?;
    let keys: Vec<String> = names("keys", query.keys.as_deref())?;
    if keys.len() > KEYS_MAX {
        return Err(Failure::invalid("keys", format!("{} are more than {KEYS_MAX}", keys.len())));
    }
    let found = web.ask(async {
        let id = job(&web.pool, &id).await?;
        jobs::revision(&web.pool, id).await?;
        Ok(curves::curves(&web.pool, id, &keys, points).await?)
    });
    let mut curves: Vec<CurveView> = Vec::new();
    for point in found.await? {
        // Counts of channels have a picture of their own.
        if keys.is_empty() && is_channels_key(&point.key) {
            continue;
        }
        if curves.last().is_none_or(|curve| curve.key != point.key) {
            curves.push(CurveView { key: point.key, steps: Vec::new(), values: Vec::new() });
        }
        if let Some(curve) = curves.last_mut() {
            curve.steps.push(point.step);
            // JSON has no infinity.
            curve.values.push(Some(point.value).filter(|value| value.is_finite()));
        }
    }
    json(&headers, &json!({ "curves": curves }))
}
