//! Searches, their fronts, architectures and scores.

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use cakes::architecture::Architecture;
use cakes::derive::derive_per_layer;
use cakes_proto::convert::search_to_wire;
use cakes_proto::ids::SearchId;
use cakes_proto::v1;
use cakes_proto::v1::architecture_service_server::ArchitectureService;
use cakes_proto::v1::search_service_server::SearchService;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tonic::Request;
use uuid::Uuid;

use super::Web;
use super::answer::{Failure, cut, json, labels, limit, names};
use super::views::{JobView, NoteView, PlacementView, SearchView};
use crate::core::histogram::{BINS_MAX, histogram};
use crate::grpc::lookup;
use crate::store::PgPool;
use crate::store::notes::Subject;
use crate::store::read::summary::{self, JobFilter, SearchFilter};
use crate::store::read::{
    architectures, composition as composition_of, jobs, notes, scores as scores_of, searches,
};

/// Most characters of a text that is searched for.
pub(super) const TEXT_CHARS_MAX: usize = 100;
const LIMIT_DEFAULT: i64 = 50;
const LIMIT_MAX: i64 = 200;
const BINS_DEFAULT: usize = 40;

#[derive(Deserialize)]
pub(super) struct SearchList {
    /// States with commas between them.
    state: Option<String>,
    /// Part of a name, or the beginning of an id.
    text: Option<String>,
    /// KEY=VALUE with commas between them.
    label: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    limit: Option<i64>,
}

#[derive(Serialize)]
struct SearchPage {
    searches: Vec<SearchView>,
    /// `after` of the page behind; none at the end.
    next: Option<String>,
}

pub(super) async fn list(
    State(web): State<Web>,
    headers: HeaderMap,
    Query(query): Query<SearchList>,
) -> Result<Response, Failure> {
    let limit = limit(query.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let states = names("state", query.state.as_deref())?;
    let (text, labels) = (text(query.text)?, labels(query.label.as_deref())?);
    let filter = SearchFilter { id: None, states, text, labels };
    let behind = query.after.as_deref().map(position).transpose()?;
    let mut found =
        web.ask(async { Ok(summary::searches(&web.pool, &filter, behind, limit + 1).await?) }).await?;
    let more = cut(&mut found, limit);
    let next = found.last().filter(|_| more);
    let next = next.map(|last| format!("{}.{}", last.create_time.timestamp_micros(), last.id));
    json(&headers, &SearchPage { searches: found.into_iter().map(SearchView::from).collect(), next })
}

/// A text to look for.
pub(super) fn text(text: Option<String>) -> Result<String, Failure> {
    let text = text.unwrap_or_default();
    if text.chars().count() > TEXT_CHARS_MAX || text.contains('\0') {
        return Err(Failure::invalid("text", format!("must have {TEXT_CHARS_MAX} characters or fewer")));
    }
    Ok(text.trim().to_owned())
}

/// Where the page before ended.
fn position(after: &str) -> Result<(DateTime<Utc>, SearchId), Failure> {
    let read = || {
        let (micros, id) = after.split_once('.')?;
        let time = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        Some((time, SearchId(Uuid::parse_str(id).ok()?)))
    };
    read().ok_or_else(|| Failure::invalid("after", "is not the 'next' of another page"))
}

/// The search that a path names, which exists.
async fn search(pool: &PgPool, id: &str) -> Result<SearchId, Failure> {
    Ok(lookup::search(pool, "id", id).await?)
}

pub(super) async fn one(
    State(web): State<Web>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let answer = web
        .ask(async {
            let id = search(&web.pool, &id).await?;
            let record = searches::get(&web.pool, id).await?;
            let filter = SearchFilter { id: Some(id), ..SearchFilter::default() };
            let summary = summary::searches(&web.pool, &filter, None, 1).await?.pop();
            let counts = JobFilter { search: Some(id), ..JobFilter::default() };
            let counts = summary::job_counts(&web.pool, &counts).await?.into_iter();
            let counts: Map<String, Value> =
                counts.map(|(state, count)| (state.to_string(), count.into())).collect();
            let supernet = match summary::supernet(&web.pool, id).await? {
                Some(job) => Some(JobView::from(jobs::get(&web.pool, job).await?)),
                None => None,
            };
            let spent_device_s = match record.cost_limit_device_s {
                Some(_) => summary::spent_device_s(&web.pool, id).await?,
                None => None,
            };
            let remarks = notes::of(&web.pool, Subject::Search(id)).await?;
            let layers = record.spec.spec().backbone.searchable_layers();
            let layers: Vec<_> = layers
                .iter()
                .map(|layer| json!({ "name": layer.name, "channels": layer.channels }))
                .collect();
            Ok(json!({
                "search": summary.map(SearchView::from),
                "placement": PlacementView::of_search(&record, spent_device_s),
                "revision": record.revision,
                "spec": search_to_wire(record.spec.spec()),
                "layers": layers,
                "kernels": record.spec.spec().supernet.kernels,
                "job_counts": counts,
                "supernet": supernet,
                "notes": remarks.into_iter().map(NoteView::from).collect::<Vec<_>>(),
            }))
        })
        .await?;
    json(&headers, &answer)
}

pub(super) async fn front(
    State(web): State<Web>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let request = Request::new(v1::GetParetoFrontRequest { id });
    let mut front = web.ask(async { Ok(web.api.get_pareto_front(request).await?.into_inner()) }).await?;
    for entry in &mut front.entries {
        // Thousands where an architecture was retrained with many seeds; the page has none of them.
        entry.job_ids.clear();
        without_layer_costs(entry.architecture.as_mut());
    }
    json(&headers, &front)
}

/// Costs of single layers are most of an architecture, and one page alone shows them.
fn without_layer_costs(architecture: Option<&mut v1::Architecture>) {
    if let Some(cost) = architecture.and_then(|architecture| architecture.cost.as_mut()) {
        cost.layers.clear();
    }
}

#[derive(Deserialize)]
pub(super) struct ArchitectureList {
    /// `next_page_token` of the page before.
    after: Option<String>,
    limit: Option<i32>,
}

pub(super) async fn architectures(
    State(web): State<Web>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<ArchitectureList>,
) -> Result<Response, Failure> {
    let request = v1::ListArchitecturesRequest {
        search_id: id,
        page_size: query.limit.unwrap_or_default(),
        page_token: query.after.unwrap_or_default(),
    };
    let listed = web.api.list_architectures(Request::new(request));
    let mut page = web.ask(async { Ok(listed.await?.into_inner()) }).await?;
    for architecture in &mut page.architectures {
        without_layer_costs(Some(architecture));
    }
    json(&headers, &page)
}

pub(super) async fn architecture(
    State(web): State<Web>,
    headers: HeaderMap,
    Path(digest): Path<String>,
) -> Result<Response, Failure> {
    let request = Request::new(v1::GetArchitectureRequest { digest });
    let found = web.ask(async { Ok(web.api.get_architecture(request).await?.into_inner()) }).await?;
    json(&headers, &found)
}

pub(super) async fn composition(
    State(web): State<Web>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let found = web.ask(async {
        let id = search(&web.pool, &id).await?;
        let spec = searches::get(&web.pool, id).await?.spec;
        Ok(match summary::supernet(&web.pool, id).await? {
            Some(job) => composition_of::of_supernet(&web.pool, job, spec.spec()).await?,
            None => Vec::new(),
        })
    });
    let evaluations: Vec<_> = found
        .await?
        .into_iter()
        .map(|known| json!({ "step": known.step, "epoch": known.epoch, "layers": known.layers }))
        .collect();
    json(&headers, &json!({ "evaluations": evaluations }))
}

#[derive(Deserialize)]
pub(super) struct Scores {
    /// A layer by name; all without it.
    layer: Option<String>,
    /// Whose channels count as kept; those of the paper's rule without it.
    architecture: Option<String>,
    bins: Option<usize>,
}

pub(super) async fn scores(
    State(web): State<Web>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<Scores>,
) -> Result<Response, Failure> {
    let bins = query.bins.unwrap_or(BINS_DEFAULT);
    if !(2..=BINS_MAX).contains(&bins) {
        return Err(Failure::invalid("bins", format!("must be 2 to {BINS_MAX}, got {bins}")));
    }
    let answer = web
        .ask(async {
            let id = search(&web.pool, &id).await?;
            // An unknown id is an error, and a supernet that has not ended is none.
            searches::revision(&web.pool, id).await?;
            let Some(scores) = scores_of::of_search(&web.pool, id).await? else { return Ok(json!(null)) };
            let kept: Architecture = match query.architecture.as_deref().filter(|digest| !digest.is_empty()) {
                Some(digest) => {
                    let digest = lookup::architecture(&web.pool, "architecture", digest).await?;
                    architectures::get(&web.pool, digest).await?.architecture
                }
                None => derive_per_layer(&scores).map_err(|error| Failure::invalid("id", error))?,
            };
            let layer = query.layer.as_deref().filter(|layer| !layer.is_empty());
            let found = histogram(&scores, &kept, layer, bins)
                .ok_or_else(|| Failure::invalid("layer", "is none of this search's"))?;
            Ok(json!({ "histogram": found, "architecture": kept.digest().to_string() }))
        })
        .await?;
    json(&headers, &answer)
}
