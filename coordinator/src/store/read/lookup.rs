//! From the beginning of an identity to the identity.

use cakes::architecture::ArchitectureDigest;
use cakes_proto::ids::{JobId, SearchId, WebhookId};
use sqlx::PgPool;

use super::failed;
use crate::store::Error;

/// Candidates that are read, enough to show that a beginning is ambiguous.
const CANDIDATES: i64 = 5;

/// Searches whose id begins with `prefix`, a few at the most.
///
/// # Errors
/// The database fails.
pub async fn searches(pool: &PgPool, prefix: &str) -> Result<Vec<SearchId>, Error> {
    sqlx::query_scalar!(
        "select id from search where id::text like $1 || '%' order by create_time limit $2",
        prefix,
        CANDIDATES
    )
    .fetch_all(pool)
    .await
    .map_err(failed("look up searches"))
    .map(|ids| ids.into_iter().map(SearchId).collect())
}

/// Jobs whose id begins with `prefix`, a few at the most.
///
/// # Errors
/// The database fails.
pub async fn jobs(pool: &PgPool, prefix: &str) -> Result<Vec<JobId>, Error> {
    sqlx::query_scalar!(
        "select id from job where id::text like $1 || '%' order by position limit $2",
        prefix,
        CANDIDATES
    )
    .fetch_all(pool)
    .await
    .map_err(failed("look up jobs"))
    .map(|ids| ids.into_iter().map(JobId).collect())
}

/// Architectures whose digest begins with `prefix`, a few at the most.
///
/// # Errors
/// The database fails.
pub async fn architectures(pool: &PgPool, prefix: &str) -> Result<Vec<ArchitectureDigest>, Error> {
    let digests = sqlx::query_scalar!(
        "select digest from architecture where digest like $1 || '%' order by create_time limit $2",
        prefix,
        CANDIDATES
    )
    .fetch_all(pool)
    .await
    .map_err(failed("look up architectures"))?;
    digests.iter().map(|digest| super::architectures::digest(digest)).collect()
}

/// Webhooks whose id begins with `prefix`, a few at the most.
///
/// # Errors
/// The database fails.
pub async fn webhooks(pool: &PgPool, prefix: &str) -> Result<Vec<WebhookId>, Error> {
    sqlx::query_scalar!(
        "select id from webhook where id::text like $1 || '%' order by create_time limit $2",
        prefix,
        CANDIDATES
    )
    .fetch_all(pool)
    .await
    .map_err(failed("look up webhooks"))
    .map(|ids| ids.into_iter().map(WebhookId).collect())
}
