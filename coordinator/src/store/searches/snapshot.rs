//! What is recorded of a search, as the planner wants it.

use cakes::spec::CheckedSearch;
use cakes_proto::ids::SearchId;
use cakes_telemetry::trace::TraceContext;
use serde_json::Value;
use sqlx::PgConnection;

use crate::core::search::{Findings, RecordedArchitecture, RecordedJob, SearchSnapshot, Work};
use crate::store::error::{Error, corrupt, failed};
use crate::store::traces::trace_from_columns;

/// The description of a search.
///
/// # Errors
/// There is no such search.
pub(in crate::store) async fn read_spec(
    connection: &mut PgConnection,
    id: SearchId,
) -> Result<CheckedSearch, Error> {
    let spec = sqlx::query_scalar!("select spec from search where id = $1", id.0)
        .fetch_optional(connection)
        .await
        .map_err(failed("read a search"))?
        .ok_or_else(|| Error::NotFound { kind: "search", id: id.to_string() })?;
    checked(id, spec)
}

/// Locks the search and reads all that planning needs, and what it was submitted within.
///
/// # Errors
/// There is no such search.
pub(super) async fn lock_snapshot(
    connection: &mut PgConnection,
    id: SearchId,
) -> Result<(SearchSnapshot, Option<TraceContext>), Error> {
    let row = sqlx::query!(
        r#"select spec, state, end_time is not null as "closed!", traceparent, tracestate
           from search where id = $1
           for no key update"#,
        id.0
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("lock a search"))?
    .ok_or_else(|| Error::NotFound { kind: "search", id: id.to_string() })?;
    let trace = trace_from_columns(row.traceparent.as_deref(), row.tracestate.as_deref());
    let mut snapshot = SearchSnapshot {
        search: checked(id, row.spec)?,
        state: row.state.parse().map_err(|error| corrupt(format!("the state of search {id}"), &error))?,
        closed: row.closed,
        architectures: read_architectures(connection, id).await?,
        jobs: read_jobs(connection, id).await?,
        findings: None,
    };
    if !snapshot.closed && snapshot.needs_findings() {
        snapshot.findings = read_findings(connection, id).await?;
    }
    Ok((snapshot, trace))
}

/// What the search's supernet found; `None` before it has succeeded.
pub(super) async fn read_findings(
    connection: &mut PgConnection,
    id: SearchId,
) -> Result<Option<Findings>, Error> {
    let row = sqlx::query!(
        "select supernet_scores.scores, supernet_scores.latency
         from supernet_scores join job on job.id = supernet_scores.job_id
         where job.search_id = $1 and job.kind = 'supernet'",
        id.0
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("read what a supernet found"))?;
    let Some(row) = row else { return Ok(None) };
    let unusable =
        |what: &str, error: serde_json::Error| corrupt(format!("the {what} of search {id}"), &error);
    Ok(Some(Findings {
        scores: serde_json::from_value(row.scores).map_err(|error| unusable("scores", error))?,
        latency: row
            .latency
            .map(serde_json::from_value)
            .transpose()
            .map_err(|error| unusable("times of channels", error))?,
    }))
}

async fn read_architectures(
    connection: &mut PgConnection,
    id: SearchId,
) -> Result<Vec<RecordedArchitecture>, Error> {
    let rows = sqlx::query!(
        "select origin, digest, retrain from search_architecture where search_id = $1 order by position",
        id.0
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the architectures of a search"))?;
    rows.into_iter()
        .map(|row| {
            let digest = row.digest.parse().map_err(|error| corrupt("a digest", &error))?;
            Ok(RecordedArchitecture { origin: row.origin, digest, retrain: row.retrain })
        })
        .collect()
}

async fn read_jobs(connection: &mut PgConnection, id: SearchId) -> Result<Vec<RecordedJob>, Error> {
    let rows = sqlx::query!(
        r#"select id, architecture_digest, seed::text as "seed!", label, state, state_reason
           from job where search_id = $1 order by position"#,
        id.0
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the jobs of a search"))?;
    rows.into_iter()
        .map(|row| {
            let what = || format!("job {}", row.id);
            let seed = row.seed.parse().map_err(|error| corrupt(what(), &error))?;
            let work = match &row.architecture_digest {
                None => Work::Supernet,
                Some(digest) => {
                    let digest = digest.parse().map_err(|error| corrupt(what(), &error))?;
                    Work::Retrain { digest, seed }
                }
            };
            let state = row.state.parse().map_err(|error| corrupt(what(), &error))?;
            Ok(RecordedJob { work, label: row.label, state, state_reason: row.state_reason })
        })
        .collect()
}

fn checked(id: SearchId, spec: Value) -> Result<CheckedSearch, Error> {
    serde_json::from_value(spec).map_err(|error| corrupt(format!("the description of search {id}"), &error))
}
