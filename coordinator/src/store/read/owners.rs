//! Who submitted something.

use cakes_proto::ids::{JobId, SearchId};
use sqlx::PgPool;

use super::failed;
use crate::store::Error;

/// The name of whoever submitted a job, or its search; none for nobody known.
///
/// # Errors
/// There is no such job, or the database fails.
pub async fn of_job(pool: &PgPool, id: JobId) -> Result<Option<String>, Error> {
    sqlx::query_scalar!("select owner from job where id = $1", id.0)
        .fetch_optional(pool)
        .await
        .map_err(failed("look for the owner of a job"))?
        .ok_or_else(|| Error::NotFound { kind: "job", id: id.to_string() })
}

/// The name of whoever submitted a search; none for nobody known.
///
/// # Errors
/// There is no such search, or the database fails.
pub async fn of_search(pool: &PgPool, id: SearchId) -> Result<Option<String>, Error> {
    sqlx::query_scalar!("select owner from search where id = $1", id.0)
        .fetch_optional(pool)
        .await
        .map_err(failed("look for the owner of a search"))?
        .ok_or_else(|| Error::NotFound { kind: "search", id: id.to_string() })
}
