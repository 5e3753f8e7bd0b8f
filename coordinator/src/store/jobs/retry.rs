//! Queues a failed or cancelled job again, at a person's wish.

use cakes_proto::ids::{JobId, SearchId};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use crate::core::etag::AsSeen;
use crate::core::job::{JobEvent, transition};
use crate::core::retry::Counters;
use crate::core::search::SearchState;
use crate::store::error::{Error, failed};
use crate::store::etag;
use crate::store::exchange::refuse_imported_job;
use crate::store::job_row::{self, Move};

/// Queues the job with all its tries, from its last checkpoint. A search that
/// has ended because of it is open again.
///
/// # Errors
/// There is no such job, it has changed since it was seen, it has not failed, or its search was cancelled.
#[instrument(skip_all, fields(job = %seen.id), err(level = "debug"))]
pub async fn retry(pool: &PgPool, seen: AsSeen<JobId>) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to retry a job"))?;
    let id = seen.id;
    refuse_imported_job(&mut transaction, id).await?;
    let search = sqlx::query_scalar!("select search_id from job where id = $1", id.0)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed("look for a job"))?
        .ok_or_else(|| Error::NotFound { kind: "job", id: id.to_string() })?
        .map(SearchId);
    // Searches are locked before their jobs, here as by the planner.
    if let Some(search) = search {
        refuse_if_cancelled(&mut transaction, search).await?;
    }
    let job = job_row::lock(&mut transaction, id).await?;
    etag::check_job(&mut transaction, seen).await?;
    let moved = transition(job.state, &JobEvent::Retry)?;
    if moved.next == job.state {
        return Ok(());
    }
    let counters = Counters { furthest_step: job.counters.furthest_step, ..Counters::default() };
    let change = Move { kind: "job_retried", moved: &moved, reason: Some(""), counters, avoid: None };
    job_row::apply(&mut transaction, &job, change).await?;
    if let Some(search) = search {
        reopen(&mut transaction, search).await?;
    }
    transaction.commit().await.map_err(failed("commit a retry"))
}

async fn refuse_if_cancelled(connection: &mut PgConnection, search: SearchId) -> Result<(), Error> {
    let state = sqlx::query_scalar!("select state from search where id = $1 for no key update", search.0)
        .fetch_one(connection)
        .await
        .map_err(failed("lock a search"))?;
    if state == SearchState::Cancelled.as_str() {
        return Err(Error::Refused(format!(
            "search {search} is cancelled; submit it again instead of retrying one of its jobs"
        )));
    }
    Ok(())
}

/// A search whose supernet has not succeeded is searching.
async fn reopen(connection: &mut PgConnection, search: SearchId) -> Result<(), Error> {
    sqlx::query!(
        "update search set
             state = case when exists (
                 select from job where search_id = $1 and kind = 'supernet' and state <> 'succeeded'
             ) then 'searching' else 'retraining' end,
             state_reason = '', end_time = null, revision = revision + 1
         where id = $1 and end_time is not null",
        search.0
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("open a search again"))
}
