//! Refuses to change what is no longer as its reader saw it.

use cakes_proto::ids::{JobId, SearchId};
use sqlx::PgConnection;

use super::error::{Error, corrupt, failed};
use super::labels;
use crate::core::etag::{AsSeen, Etag};

/// Compares a job, whose row the caller has locked.
///
/// # Errors
/// It has changed since, or it is gone.
pub(super) async fn check_job(connection: &mut PgConnection, seen: AsSeen<JobId>) -> Result<(), Error> {
    let Some(etag) = seen.etag else { return Ok(()) };
    let id = seen.id;
    let row = sqlx::query!("select state, epoch, labels from job where id = $1", id.0)
        .fetch_one(connection)
        .await
        .map_err(failed("compare a job with what was seen of it"))?;
    let state = row.state.parse().map_err(|error| corrupt(format!("the state of job {id}"), &error))?;
    let now = Etag::of_job(state, row.epoch, &labels::from_column(row.labels)?);
    if now == etag { Ok(()) } else { Err(Error::Changed { kind: "job", id: id.to_string(), etag: now }) }
}

/// Compares a search, whose row the caller has locked.
///
/// # Errors
/// It has changed since, or it is gone.
pub(super) async fn check_search(connection: &mut PgConnection, seen: AsSeen<SearchId>) -> Result<(), Error> {
    let Some(etag) = seen.etag else { return Ok(()) };
    let id = seen.id;
    let row = sqlx::query!("select state, labels from search where id = $1", id.0)
        .fetch_one(connection)
        .await
        .map_err(failed("compare a search with what was seen of it"))?;
    let state = row.state.parse().map_err(|error| corrupt(format!("the state of search {id}"), &error))?;
    let now = Etag::of_search(state, &labels::from_column(row.labels)?);
    if now == etag { Ok(()) } else { Err(Error::Changed { kind: "search", id: id.to_string(), etag: now }) }
}
