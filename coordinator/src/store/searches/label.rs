//! Sets and removes labels of a search.

use cakes::labels::LabelChange;
use cakes_proto::ids::SearchId;
use sqlx::PgPool;
use tracing::instrument;

use crate::core::etag::AsSeen;
use crate::store::error::{Error, failed};
use crate::store::{etag, labels};

/// Changes the labels of a search, and tells whoever watches it.
///
/// # Errors
/// There is no such search, it has changed since it was seen, or it would have too many labels.
#[instrument(skip_all, fields(search = %seen.id), err(level = "debug"))]
pub async fn label(pool: &PgPool, seen: AsSeen<SearchId>, change: &LabelChange) -> Result<(), Error> {
    let id = seen.id;
    let mut transaction = pool.begin().await.map_err(failed("begin to label a search"))?;
    let stored = sqlx::query_scalar!("select labels from search where id = $1 for no key update", id.0)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed("lock a search"))?
        .ok_or_else(|| Error::NotFound { kind: "search", id: id.to_string() })?;
    etag::check_search(&mut transaction, seen).await?;
    let Some(changed) = labels::changed(stored, change)? else { return Ok(()) };
    sqlx::query!("update search set labels = $2, revision = revision + 1 where id = $1", id.0, changed)
        .execute(&mut *transaction)
        .await
        .map_err(failed("label a search"))?;
    transaction.commit().await.map_err(failed("commit labels of a search"))
}
