//! Searches without their jobs.

use std::fmt::Display;

use cakes::labels::Labels;
use cakes::spec::CheckedSearch;
use cakes_proto::ids::SearchId;
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::types::Uuid;

use super::{Order, corrupt, failed};
use crate::core::filter;
use crate::core::search::SearchState;
use crate::store::{Error, labels};

/// A search without its jobs.
#[derive(Clone, Debug)]
pub struct SearchRecord {
    pub id: SearchId,
    pub spec: CheckedSearch,
    pub state: SearchState,
    pub state_reason: String,
    pub labels: Labels,
    /// Who submitted it; none for nobody known.
    pub owner: Option<String>,
    pub project: String,
    pub priority: i32,
    /// What workers must be labelled with to get its jobs.
    pub worker_labels: Labels,
    pub deadline: Option<DateTime<Utc>>,
    /// Most device-seconds before a job is paused.
    pub cost_limit_device_s: Option<i64>,
    /// Grows with every change of the search, its jobs and their progress.
    pub revision: i64,
    pub create_time: DateTime<Utc>,
    /// When the last job ended; none before.
    pub end_time: Option<DateTime<Utc>>,
    /// Of a search that came in a file.
    pub imported: Option<ImportRecord>,
}

/// Where a search came from that came in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRecord {
    /// The machine whose coordinator exported it.
    pub source: String,
    pub cakes_version: String,
    /// Whether it had not ended then.
    pub is_snapshot: bool,
    pub content_sha256: String,
    pub export_time: DateTime<Utc>,
    pub import_time: DateTime<Utc>,
}

struct Row {
    id: Uuid,
    spec: serde_json::Value,
    state: String,
    state_reason: String,
    labels: serde_json::Value,
    owner: Option<String>,
    project: String,
    priority: i32,
    worker_labels: serde_json::Value,
    deadline: Option<DateTime<Utc>>,
    cost_limit_device_s: Option<i64>,
    revision: i64,
    create_time: DateTime<Utc>,
    end_time: Option<DateTime<Utc>>,
    source: Option<String>,
    cakes_version: Option<String>,
    is_snapshot: Option<bool>,
    content_sha256: Option<String>,
    export_time: Option<DateTime<Utc>>,
    import_time: Option<DateTime<Utc>>,
}

impl Row {
    fn import(&mut self) -> Option<ImportRecord> {
        Some(ImportRecord {
            source: self.source.take()?,
            cakes_version: self.cakes_version.take()?,
            is_snapshot: self.is_snapshot?,
            content_sha256: self.content_sha256.take()?,
            export_time: self.export_time?,
            import_time: self.import_time?,
        })
    }
}

impl TryFrom<Row> for SearchRecord {
    type Error = Error;

    fn try_from(mut row: Row) -> Result<Self, Error> {
        let imported = row.import();
        let corrupt =
            |part: &str, problem: &dyn Display| corrupt(format!("{part} of search {}", row.id), problem);
        Ok(SearchRecord {
            id: SearchId(row.id),
            spec: serde_json::from_value(row.spec).map_err(|error| corrupt("the description", &error))?,
            state: row.state.parse().map_err(|error| corrupt("the state", &error))?,
            state_reason: row.state_reason,
            labels: labels::from_column(row.labels)?,
            owner: row.owner,
            project: row.project,
            priority: row.priority,
            worker_labels: labels::from_column(row.worker_labels)?,
            deadline: row.deadline,
            cost_limit_device_s: row.cost_limit_device_s,
            revision: row.revision,
            create_time: row.create_time,
            end_time: row.end_time,
            imported,
        })
    }
}

/// The revision of a search: what a watcher compares.
///
/// # Errors
/// There is no such search, or the database fails.
pub async fn revision(pool: &PgPool, id: SearchId) -> Result<i64, Error> {
    let revision = sqlx::query_scalar!(
        r#"select revision as "revision!" from search_revision where search_id = $1"#,
        id.0
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("read the revision of a search"))?;
    revision.ok_or_else(|| unknown(id))
}

/// One search.
///
/// # Errors
/// There is no such search, or the database fails.
pub async fn get(pool: &PgPool, id: SearchId) -> Result<SearchRecord, Error> {
    by_ids(pool, &[id.0]).await?.pop().ok_or_else(|| unknown(id))
}

/// Which searches a list holds.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only searches that have all of them.
    pub labels: Labels,
    pub expression: Option<filter::Filter>,
}

/// Searches behind the given time and id in this order.
///
/// # Errors
/// The database fails.
pub async fn page(
    pool: &PgPool,
    filter: &Filter,
    order: Order,
    behind: Option<(DateTime<Utc>, SearchId)>,
    limit: i64,
) -> Result<Vec<SearchRecord>, Error> {
    let (time, id) = behind.unzip();
    let (id, labels) = (id.map(|id| id.0), labels::to_column(&filter.labels)?);
    let expression = filter.expression.as_ref().map(filter::Filter::as_json_path);
    // Two statements, so that both walk the index.
    let ids = match order {
        Order::NewestFirst => newest(pool, labels, expression, time, id, limit).await,
        Order::OldestFirst => oldest(pool, labels, expression, time, id, limit).await,
    };
    let mut searches = by_ids(pool, &ids.map_err(failed("list searches"))?).await?;
    if order == Order::NewestFirst {
        searches.reverse();
    }
    Ok(searches)
}

async fn newest(
    pool: &PgPool,
    labels: serde_json::Value,
    expression: Option<&str>,
    time: Option<DateTime<Utc>>,
    id: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from search
         where ($1::timestamptz is null or (create_time, id) < ($1, $2::uuid)) and labels @> $4
             and case when $5::text is null then true
                 else coalesce(search_fields(search) @@ $5::text::jsonpath, false) end
         order by create_time desc, id desc limit $3",
        time,
        id,
        limit,
        labels,
        expression
    )
    .fetch_all(pool)
    .await
}

async fn oldest(
    pool: &PgPool,
    labels: serde_json::Value,
    expression: Option<&str>,
    time: Option<DateTime<Utc>>,
    id: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from search
         where ($1::timestamptz is null or (create_time, id) > ($1, $2::uuid)) and labels @> $4
             and case when $5::text is null then true
                 else coalesce(search_fields(search) @@ $5::text::jsonpath, false) end
         order by create_time, id limit $3",
        time,
        id,
        limit,
        labels,
        expression
    )
    .fetch_all(pool)
    .await
}

/// The searches of these ids, in the order of their creation.
async fn by_ids(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<SearchRecord>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, spec, state, state_reason, labels, owner, project, priority, worker_labels, deadline, cost_limit_device_s, search_revision.revision as "revision!", create_time, end_time,
               origin.source as "source?", origin.cakes_version as "cakes_version?",
               origin.is_snapshot as "is_snapshot?", origin.content_sha256 as "content_sha256?",
               origin.export_time as "export_time?", origin.import_time as "import_time?"
           from search join search_revision on search_revision.search_id = search.id
           left join search_import origin on origin.search_id = search.id
           where id = any($1)
           order by create_time, id"#,
        ids
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read searches"))?;
    rows.into_iter().map(SearchRecord::try_from).collect()
}

fn unknown(id: SearchId) -> Error {
    Error::NotFound { kind: "search", id: id.to_string() }
}
