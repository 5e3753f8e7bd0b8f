//! Records a search and queues its first jobs.

use cakes::labels::Labels;
use cakes::spec::CheckedSearch;
use cakes_proto::ids::SearchId;
use cakes_telemetry::trace::TraceContext;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use super::advance::advance_locked;
use crate::core::project::{PRIORITY_MAX, ProjectName};
use crate::store::error::{Error, corrupt, failed};
use crate::store::event::{self, Event};
use crate::store::labels;
use crate::store::projects;
use crate::store::text::check_request_id;
use crate::store::traces::trace_columns;

/// What is said of a search beside its description.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    pub labels: Labels,
    pub project: ProjectName,
    /// Of all its jobs; higher goes first. At most [`PRIORITY_MAX`] from 0.
    pub priority: i32,
    /// What workers must be labelled with to get its jobs.
    pub worker_labels: Labels,
    /// When its jobs are wanted to be done.
    pub deadline: Option<DateTime<Utc>>,
    /// Most device-seconds that each of its jobs may take.
    pub cost_limit_device_s: Option<i64>,
    /// Who submits it; none for nobody known. Not part of what a request id stands for.
    pub owner: Option<String>,
    /// What the submission belongs to. Not part of what a request id stands for either.
    pub trace: Option<TraceContext>,
}

impl From<Labels> for Terms {
    fn from(labels: Labels) -> Self {
        Terms { labels, ..Terms::default() }
    }
}

/// Records the search with its first jobs. The same request id with the same
/// description and terms is the first search, also when two such calls come at once.
///
/// # Errors
/// There is no such project, the priority is out of its bounds, or the request id was used
/// for another search, or is no id.
#[instrument(skip_all, fields(name = search.spec().name), err(level = "debug"))]
pub async fn submit(
    pool: &PgPool,
    search: &CheckedSearch,
    terms: &Terms,
    request_id: Option<&str>,
) -> Result<SearchId, Error> {
    check_request_id(request_id)?;
    let spec = serde_json::to_value(search).map_err(|error| corrupt("a description", &error))?;
    if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&terms.priority) {
        let problem = format!("must be -{PRIORITY_MAX} to {PRIORITY_MAX}, got {}", terms.priority);
        return Err(Error::InvalidArgument { field: "priority", problem });
    }
    let labels = labels::to_column(&terms.labels)?;
    let worker_labels = labels::to_column(&terms.worker_labels)?;
    let hash = request_hash(&spec, &labels, terms);
    let id = SearchId::generate();
    let (traceparent, tracestate) = trace_columns(terms.trace.as_ref());
    let mut transaction = pool.begin().await.map_err(failed("begin to submit a search"))?;
    projects::refuse_unknown(&mut transaction, &terms.project).await?;
    // Of two with one request id the second waits here until the first has ended.
    let inserted = sqlx::query!(
        "insert into search (id, name, spec, request_id, request_hash, labels, project, priority, owner,
             traceparent, tracestate, worker_labels, deadline, cost_limit_device_s)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         on conflict (request_id) do nothing",
        id.0,
        search.spec().name,
        spec,
        request_id,
        request_id.map(|_| &hash[..]),
        labels,
        terms.project.as_str(),
        terms.priority,
        terms.owner,
        traceparent,
        tracestate,
        worker_labels,
        terms.deadline,
        terms.cost_limit_device_s
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("record a search"))?;
    if let (0, Some(request_id)) = (inserted.rows_affected(), request_id) {
        return first_search(&mut transaction, request_id, &hash).await;
    }
    let body = serde_json::json!({ "name": search.spec().name });
    let event = Event { kind: "search_submitted", search: Some(id), body: Some(body), ..Event::default() };
    event::record(&mut transaction, event).await?;
    advance_locked(&mut transaction, id).await?;
    transaction.commit().await.map_err(failed("commit a search"))?;
    Ok(id)
}

/// Without terms that of the description alone, as before there were any.
fn request_hash(spec: &Value, labels: &Value, terms: &Terms) -> [u8; 32] {
    let mut content = spec.to_string();
    if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        content += &labels.to_string();
    }
    if terms.project != ProjectName::default() || terms.priority != 0 {
        content += &serde_json::json!([terms.project.as_str(), terms.priority]).to_string();
    }
    if !terms.worker_labels.is_empty() || terms.deadline.is_some() {
        content += &serde_json::json!([&terms.worker_labels, terms.deadline]).to_string();
    }
    if let Some(limit) = terms.cost_limit_device_s {
        content += &serde_json::json!({ "cost_limit_device_s": limit }).to_string();
    }
    Sha256::digest(content).into()
}

async fn first_search(
    connection: &mut PgConnection,
    request_id: &str,
    hash: &[u8; 32],
) -> Result<SearchId, Error> {
    let first = sqlx::query!("select id, request_hash from search where request_id = $1", request_id)
        .fetch_one(connection)
        .await
        .map_err(failed("look for an earlier request"))?;
    if first.request_hash.as_deref() == Some(&hash[..]) {
        return Ok(SearchId(first.id));
    }
    Err(Error::Conflict { request_id: request_id.to_owned() })
}
