//! Registered worker daemons.

mod register;
mod schedule;
mod suspect;

pub use register::{Registration, register};
pub use schedule::schedule;
pub use suspect::judge_all;

use std::collections::BTreeMap;

use cakes::labels::Labels;
use cakes_proto::ids::WorkerId;
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::{Json, Uuid};

use super::attempts::Locks;
use super::error::{Error, corrupt, failed};
use super::labels;
use crate::core::worker::Schedule;

/// What counts of a worker that asks.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub incarnation: i64,
    pub schedule: Schedule,
    /// Its machine seems to be at fault.
    pub is_suspect: bool,
    /// How long ago it was last heard of, in seconds.
    pub silent_s: f64,
    /// Jobs that its slots are kept for.
    pub kept: BTreeMap<String, Uuid>,
    pub labels: Labels,
}

/// Locks the worker's row and notes that it lives.
///
/// # Errors
/// `incarnation` is not the current start of the daemon.
pub(super) async fn lock_current(
    connection: &mut PgConnection,
    worker: &WorkerId,
    incarnation: i64,
) -> Result<(), Error> {
    let known = lock_all(connection, &[worker.as_str()], Locks::Wait).await?;
    match known.get(worker) {
        Some(current) if current.incarnation == incarnation => see(connection, &[worker.as_str()]).await,
        found => Err(Error::StaleIncarnation { current: found.map_or(0, |current| current.incarnation) }),
    }
}

/// Locks the rows of workers.
pub(super) async fn lock_all(
    connection: &mut PgConnection,
    ids: &[&str],
    locks: Locks,
) -> Result<BTreeMap<WorkerId, Current>, Error> {
    struct Row {
        id: String,
        incarnation: i64,
        schedule: String,
        is_suspect: bool,
        silent_s: f64,
        kept: Json<BTreeMap<String, Uuid>>,
        labels: Value,
    }
    macro_rules! lock {
        ($locks:literal) => {
            sqlx::query_as!(
                Row,
                r#"select id, incarnation, schedule,
                       coalesce(suspect_until > clock_timestamp(), false) as "is_suspect!",
                       extract(epoch from clock_timestamp() - last_seen_time)::float8 as "silent_s!",
                       kept as "kept!: Json<BTreeMap<String, Uuid>>", labels
                   from worker where id = any($1) order by id
                   for no key update "#
                    + $locks,
                ids as _
            )
            .fetch_all(connection)
            .await
        };
    }
    let rows = match locks {
        Locks::Wait => lock!(""),
        Locks::PassOver => lock!("skip locked"),
    };
    rows.map_err(failed("lock workers"))?
        .into_iter()
        .map(|row| {
            let what = || format!("worker {}", row.id);
            let id = row.id.parse().map_err(|error| corrupt(what(), &error))?;
            let schedule = row.schedule.parse().map_err(|error| corrupt(what(), &error))?;
            let labels = labels::from_column(row.labels)?;
            let Row { incarnation, is_suspect, silent_s, kept, .. } = row;
            Ok((id, Current { incarnation, schedule, is_suspect, silent_s, kept: kept.0, labels }))
        })
        .collect()
}

/// Notes that locked workers live.
pub(super) async fn see(connection: &mut PgConnection, ids: &[&str]) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!("update worker set last_seen_time = clock_timestamp() where id = any($1)", ids as _)
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("note that workers live"))
}
