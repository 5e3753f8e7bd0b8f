//! Cancels a search with all its jobs.

use cakes_proto::ids::{JobId, SearchId};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use super::advance::advance_locked;
use crate::core::etag::AsSeen;
use crate::core::search::SearchState;
use crate::store::error::{Error, corrupt, failed};
use crate::store::etag;
use crate::store::event::{self, Event};
use crate::store::exchange::refuse_imported_search;
use crate::store::job_row;
use crate::store::jobs::cancel_locked;
use crate::store::text::storable;

/// Longest stored reason, in bytes.
const REASON_BYTES_MAX: usize = 1000;

/// Cancels the search and its jobs that have not ended. A repetition changes
/// nothing.
///
/// # Errors
/// There is no such search, it has changed since it was seen, or it has succeeded or failed.
#[instrument(skip_all, fields(search = %seen.id), err(level = "debug"))]
pub async fn cancel(pool: &PgPool, seen: AsSeen<SearchId>, reason: &str) -> Result<(), Error> {
    let id = seen.id;
    let reason = storable(reason, REASON_BYTES_MAX);
    let mut transaction = pool.begin().await.map_err(failed("begin to cancel a search"))?;
    refuse_imported_search(&mut transaction, id).await?;
    let state = sqlx::query_scalar!("select state from search where id = $1 for no key update", id.0)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed("lock a search"))?
        .ok_or_else(|| Error::NotFound { kind: "search", id: id.to_string() })?;
    etag::check_search(&mut transaction, seen).await?;
    match state.parse().map_err(|error| corrupt(format!("the state of search {id}"), &error))? {
        SearchState::Cancelled => return Ok(()),
        SearchState::Searching | SearchState::Retraining => {}
        ended @ (SearchState::Succeeded | SearchState::Failed) => {
            return Err(Error::Refused(format!("search {id} has {ended}, so there is nothing to cancel")));
        }
    }
    mark_cancelled(&mut transaction, id, &reason).await?;
    cancel_jobs(&mut transaction, id, &reason).await?;
    // Closes it at once if no worker has any of its jobs.
    advance_locked(&mut transaction, id).await?;
    transaction.commit().await.map_err(failed("commit a cancellation"))
}

async fn mark_cancelled(connection: &mut PgConnection, id: SearchId, reason: &str) -> Result<(), Error> {
    sqlx::query!(
        "update search set state = 'cancelled', state_reason = $2, revision = revision + 1 where id = $1",
        id.0,
        reason
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("cancel a search"))?;
    let body = serde_json::json!({ "reason": reason });
    let event = Event { kind: "search_cancelled", search: Some(id), body: Some(body), ..Event::default() };
    event::record(connection, event).await
}

async fn cancel_jobs(connection: &mut PgConnection, id: SearchId, reason: &str) -> Result<(), Error> {
    let jobs = sqlx::query_scalar!("select id from job where search_id = $1 order by id", id.0)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed("list the jobs of a search"))?;
    let reason = if reason.is_empty() { "its search was cancelled" } else { reason };
    for job in jobs {
        let job = job_row::lock(connection, JobId(job)).await?;
        if !job.state.is_final() {
            cancel_locked(connection, &job, reason).await?;
        }
    }
    Ok(())
}
