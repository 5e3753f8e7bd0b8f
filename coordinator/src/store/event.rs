//! History: one row per thing that happened, in the transaction that did it.

use cakes_proto::ids::{JobId, SearchId, WorkerId};
use serde_json::Value;
use sqlx::PgConnection;

use super::error::{Error, failed};

/// What happened, to whom. Fields that do not apply stay empty.
#[derive(Default)]
pub(super) struct Event<'a> {
    pub kind: &'static str,
    pub search: Option<SearchId>,
    pub job: Option<JobId>,
    pub epoch: Option<i64>,
    pub worker: Option<&'a WorkerId>,
    pub body: Option<Value>,
}

pub(super) async fn record(connection: &mut PgConnection, event: Event<'_>) -> Result<(), Error> {
    sqlx::query!(
        "insert into event (kind, search_id, job_id, epoch, worker_id, body)
         values ($1, $2, $3, $4, $5, coalesce($6, '{}'::jsonb))",
        event.kind,
        event.search.map(|search| search.0),
        event.job.map(|job| job.0),
        event.epoch,
        event.worker.map(WorkerId::as_str),
        event.body
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record an event"))
}
