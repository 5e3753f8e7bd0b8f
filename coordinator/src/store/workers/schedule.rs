//! Cordons, drains and readies workers.

use cakes_proto::ids::WorkerId;
use sqlx::PgPool;
use tracing::instrument;

use crate::core::worker::Schedule;
use crate::store::error::{Error, failed};
use crate::store::event::{self, Event};

/// Sets whether the worker takes jobs. It learns so with its next call.
///
/// # Errors
/// There is no such worker.
#[instrument(skip_all, fields(%worker, %schedule), err(level = "debug"))]
pub async fn schedule(pool: &PgPool, worker: &WorkerId, schedule: Schedule) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to schedule a worker"))?;
    let changed =
        sqlx::query!("update worker set schedule = $2 where id = $1", worker.as_str(), schedule.as_str())
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
