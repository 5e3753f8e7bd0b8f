//! Applies the plan of a search.

use std::time::SystemTime;

use cakes::spec::CheckedSearch;
use cakes_proto::ids::SearchId;
use cakes_telemetry::trace::{Span, SpanKind, TraceContext, scope};
use sqlx::{PgConnection, PgPool};
use tracing::{Instrument, instrument};

use super::front;
use super::snapshot::lock_snapshot;
use crate::core::search::{SearchState, Step, plan};
use crate::core::webhook::WebhookEvent;
use crate::store::architecture_rows;
use crate::store::error::{Error, corrupt, failed};
use crate::store::event::{self, Event};
use crate::store::jobs::{NewJob, enqueue};
use crate::store::webhooks::{self, Happening};

/// A search that is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSearch {
    pub id: SearchId,
    /// Grows with every change of the search or its jobs, but not with progress.
    pub revision: i64,
}

/// Searches that are not closed, oldest first.
///
/// # Errors
/// The database fails.
#[instrument(skip_all, err(level = "debug"))]
pub async fn open(pool: &PgPool) -> Result<Vec<OpenSearch>, Error> {
    let rows = sqlx::query!(
        r#"select id, search.revision + coalesce(
               (select sum(job.revision) from job where job.search_id = search.id), 0)::bigint as "revision!"
           from search where end_time is null order by create_time"#
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list open searches"))?;
    Ok(rows.into_iter().map(|row| OpenSearch { id: SearchId(row.id), revision: row.revision }).collect())
}

/// Plans a search and applies the plan; how many steps that took. Whoever comes
/// second finds nothing to do.
///
/// # Errors
/// There is no such search, or its rows are unusable.
#[instrument(skip_all, fields(search = %id), err(level = "debug"))]
pub async fn advance(pool: &PgPool, id: SearchId) -> Result<usize, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to advance a search"))?;
    let steps = advance_locked(&mut transaction, id).await?;
    transaction.commit().await.map_err(failed("commit the advance of a search"))?;
    Ok(steps)
}

/// The same within a transaction.
pub(super) async fn advance_locked(connection: &mut PgConnection, id: SearchId) -> Result<usize, Error> {
    let began = SystemTime::now();
    let (snapshot, submission) = lock_snapshot(connection, id).await?;
    if snapshot.has_results() {
        front::announce(connection, id).await?;
    }
    // Deriving takes a processor for a while.
    let planned = tokio::task::spawn_blocking(move || (plan(&snapshot), snapshot)).await;
    let (steps, snapshot) = planned.map_err(|error| corrupt(format!("the plan of search {id}"), &error))?;
    if steps.is_empty() {
        return Ok(0);
    }
    let mut span = Span::within("plan search", SpanKind::Internal, submission.as_ref())
        .since(began)
        .with("cakes.search.id", id.to_string())
        .with("cakes.search.steps", steps.len() as i64);
    let applying = async {
        for step in &steps {
            apply(connection, id, &snapshot.search, step, span.context()).await?;
        }
        tracing::info!(search = %id, steps = steps.len(), "advanced a search");
        Ok(steps.len())
    };
    let applied: Result<usize, Error> = applying.instrument(scope(span.context())).await;
    if let Err(error) = &applied {
        span.fail(&error.to_string());
    }
    applied
}

async fn apply(
    connection: &mut PgConnection,
    id: SearchId,
    search: &CheckedSearch,
    step: &Step,
    trace: Option<&TraceContext>,
) -> Result<(), Error> {
    match step {
        Step::EnqueueSupernet => {
            let new = NewJob {
                search: Some(id),
                label: "supernet",
                architecture: None,
                trainer_job: &search.supernet_job(),
                of: id,
                supernet_of: None,
                like: None,
                request: None,
                labels: None,
                owner: None,
                trace,
            };
            enqueue(connection, &new).await.map(drop)
        }
        Step::Record(derived) => {
            architecture_rows::record(connection, id, derived, true).await?;
            touch(connection, id).await
        }
        Step::EnqueueRetrain { digest, seed, label } => {
            let architecture = architecture_rows::read_architecture(connection, *digest).await?;
            let new = NewJob {
                search: Some(id),
                label,
                architecture: Some(*digest),
                trainer_job: &search.retrain_job(architecture, *seed),
                of: id,
                supernet_of: search.retrains_start_from_supernet().then_some(id),
                like: None,
                request: None,
                labels: None,
                owner: None,
                trace,
            };
            enqueue(connection, &new).await.map(drop)
        }
        Step::EnterRetraining => set_state(connection, id, SearchState::Retraining, "").await,
        Step::Finish { state, reason } => set_state(connection, id, *state, reason).await,
        Step::Close => close(connection, id).await,
    }
}

/// Tells watchers that the search has changed.
pub(super) async fn touch(connection: &mut PgConnection, id: SearchId) -> Result<(), Error> {
    sqlx::query!("update search set revision = revision + 1 where id = $1", id.0)
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("count a change of a search"))
}

async fn set_state(
    connection: &mut PgConnection,
    id: SearchId,
    state: SearchState,
    reason: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "update search set state = $2, state_reason = $3, revision = revision + 1,
             end_time = case when $2 in ('succeeded', 'failed') then clock_timestamp() end
         where id = $1 and end_time is null",
        id.0,
        state.as_str(),
        reason
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("move a search to another state"))?;
    let kind = match state {
        SearchState::Succeeded => "search_succeeded",
        SearchState::Failed => "search_failed",
        SearchState::Cancelled => "search_cancelled",
        SearchState::Searching | SearchState::Retraining => "search_retraining",
    };
    let body = serde_json::json!({ "reason": reason });
    let event = Event { kind, search: Some(id), body: Some(body), ..Event::default() };
    event::record(&mut *connection, event).await?;
    let told = match state {
        SearchState::Succeeded => WebhookEvent::SearchFinished,
        SearchState::Failed => WebhookEvent::SearchFailed,
        SearchState::Searching | SearchState::Retraining | SearchState::Cancelled => return Ok(()),
    };
    webhooks::record(connection, Happening { event: told, search: Some(id), job: None, point: None }).await
}

async fn close(connection: &mut PgConnection, id: SearchId) -> Result<(), Error> {
    sqlx::query!(
        "update search set end_time = clock_timestamp(), revision = revision + 1
         where id = $1 and end_time is null",
        id.0
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("close a search"))?;
    event::record(connection, Event { kind: "search_closed", search: Some(id), ..Event::default() }).await
}
