//! Registered worker daemons.

mod register;
mod schedule;

pub use register::{Registration, register};
pub use schedule::schedule;

use cakes_proto::ids::WorkerId;
use sqlx::PgConnection;

use super::error::{Error, corrupt, failed};
use crate::core::worker::Schedule;

/// Locks the worker's row and notes that it lives; its schedule.
///
/// # Errors
/// `incarnation` is not the current start of the daemon.
pub(super) async fn lock_current(
    connection: &mut PgConnection,
    worker: &WorkerId,
    incarnation: i64,
) -> Result<Schedule, Error> {
    let row = sqlx::query!(
        "select incarnation, schedule from worker where id = $1 for no key update",
        worker.as_str()
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("lock a worker"))?
    .ok_or(Error::StaleIncarnation { current: 0 })?;
    if row.incarnation != incarnation {
        return Err(Error::StaleIncarnation { current: row.incarnation });
    }
    sqlx::query!("update worker set last_seen_time = clock_timestamp() where id = $1", worker.as_str())
        .execute(connection)
        .await
        .map_err(failed("note that a worker lives"))?;
    row.schedule.parse().map_err(|error| corrupt(format!("the schedule of worker {worker}"), &error))
}
