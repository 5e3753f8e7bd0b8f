//! Cordons, drains and readies workers.

use cakes_proto::ids::WorkerId;
use sqlx::PgPool;
use tracing::instrument;

use crate::core::worker::Schedule;
use crate::store::error::{Error, failed};
use crate::store::event::{self, Event};

/// Sets whether the worker takes jobs. It learns so with its next call. One that is to
/// take them is not suspect any more, whatever it did before.
///
/// # Errors
/// There is no such worker.
#[instrument(skip_all, fields(%worker, %schedule), err(level = "debug"))]
pub async fn schedule(pool: &PgPool, worker: &WorkerId, schedule: Schedule) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to schedule a worker"))?;
    let changed = sqlx::query!(
        "update worker set schedule = $2,
                 suspect_until = case when not $3 then suspect_until end,
                 suspect_reason = case when not $3 then suspect_reason end,
                 suspect_count = case when $3 then 0 else suspect_count end,
                 judged_time = case when $3 then clock_timestamp() else judged_time end
             where id = $1",
        worker.as_str(),
        schedule.as_str(),
        schedule == Schedule::Ready
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("schedule a worker"))?;
    if changed.rows_affected() == 0 {
        return Err(Error::NotFound { kind: "worker", id: worker.to_string() });
    }
    let kind = match schedule {
        Schedule::Ready => "worker_uncordoned",
        Schedule::Cordoned => "worker_cordoned",
        Schedule::Draining => "worker_drained",
    };
    event::record(&mut transaction, Event { kind, worker: Some(worker), ..Event::default() }).await?;
    transaction.commit().await.map_err(failed("commit a worker's schedule"))
}
