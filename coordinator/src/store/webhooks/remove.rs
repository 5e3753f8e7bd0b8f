//! Removes a webhook with its secret and everything that it was still to be told.

use cakes_proto::ids::WebhookId;
use sqlx::PgPool;
use tracing::instrument;

use crate::store::error::{Error, failed};

/// Removes the webhook. A request that is under way may still arrive.
///
/// # Errors
/// There is no such webhook.
#[instrument(skip_all, fields(webhook = %id), err(level = "debug"))]
pub async fn remove(pool: &PgPool, id: WebhookId) -> Result<(), Error> {
    let removed = sqlx::query!("delete from webhook where id = $1", id.0)
        .execute(pool)
        .await
        .map_err(failed("remove a webhook"))?;
    match removed.rows_affected() {
        0 => Err(Error::NotFound { kind: "webhook", id: id.to_string() }),
        _ => Ok(()),
    }
}
