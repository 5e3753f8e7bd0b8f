//! Workers as their operators see them.

use std::fmt::Display;
use std::time::Duration;

use cakes::labels::Labels;
use cakes_proto::ids::WorkerId;
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Uuid;

use super::{corrupt, failed};
use crate::core::worker::{Device, Schedule};
use crate::store::{Error, labels};

/// A worker.
#[derive(Clone, Debug)]
pub struct WorkerRecord {
    pub id: WorkerId,
    pub schedule: Schedule,
    /// Silent for longer than a lease lasts.
    pub is_lost: bool,
    pub devices: Vec<Device>,
    pub labels: Labels,
    /// Whether its slots may train with those of other workers.
    pub joins_gangs: bool,
    pub version: String,
    /// Why it gets no jobs, and until when; none for one that is not suspect now.
    pub suspect: Option<(String, DateTime<Utc>)>,
    /// Jobs that it has leases for.
    pub jobs: Vec<Uuid>,
    pub last_seen_time: DateTime<Utc>,
    pub register_time: DateTime<Utc>,
}

/// Workers that were heard of in the last day, by name.
///
/// # Errors
/// The database fails.
pub async fn list(pool: &PgPool, lease_ttl: Duration) -> Result<Vec<WorkerRecord>, Error> {
    let ttl = interval(lease_ttl)?;
    let rows = sqlx::query_as!(
        Row,
        r#"select id, schedule, clock_timestamp() - last_seen_time > $1 as "is_lost!", devices, labels,
               joins_gangs, version,
               array(select distinct job_id from live_slot where worker_id = worker.id order by job_id)
                   as "jobs!",
               last_seen_time, register_time,
               case when suspect_until > clock_timestamp() then suspect_until end as suspect_until,
               suspect_reason
           from worker
           where last_seen_time > clock_timestamp() - interval '1 day'
           order by id"#,
        ttl
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list workers"))?;
    rows.into_iter().map(WorkerRecord::try_from).collect()
}

/// One worker, however long it is silent.
///
/// # Errors
/// There is no such worker, or the database fails.
pub async fn get(pool: &PgPool, id: &WorkerId, lease_ttl: Duration) -> Result<WorkerRecord, Error> {
    let ttl = interval(lease_ttl)?;
    let row = sqlx::query_as!(
        Row,
        r#"select id, schedule, clock_timestamp() - last_seen_time > $1 as "is_lost!", devices, labels,
               joins_gangs, version,
               array(select distinct job_id from live_slot where worker_id = worker.id order by job_id)
                   as "jobs!",
               last_seen_time, register_time,
               case when suspect_until > clock_timestamp() then suspect_until end as suspect_until,
               suspect_reason
           from worker
           where id = $2"#,
        ttl,
        id.as_str()
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("read a worker"))?;
    row.ok_or_else(|| Error::NotFound { kind: "worker", id: id.to_string() })?.try_into()
}

pub(super) fn interval(duration: Duration) -> Result<PgInterval, Error> {
    PgInterval::try_from(duration)
        .map_err(|error| Error::Corrupt { what: "a duration".to_owned(), problem: error.to_string() })
}

struct Row {
    id: String,
    schedule: String,
    is_lost: bool,
    devices: serde_json::Value,
    labels: serde_json::Value,
    joins_gangs: bool,
    version: String,
    jobs: Vec<Uuid>,
    last_seen_time: DateTime<Utc>,
    register_time: DateTime<Utc>,
    suspect_until: Option<DateTime<Utc>>,
    suspect_reason: Option<String>,
}

impl TryFrom<Row> for WorkerRecord {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let corrupt =
            |part: &str, problem: &dyn Display| corrupt(format!("{part} of worker {}", row.id), problem);
        Ok(WorkerRecord {
            id: row.id.parse().map_err(|error| corrupt("the name", &error))?,
            schedule: row.schedule.parse().map_err(|error| corrupt("the schedule", &error))?,
            is_lost: row.is_lost,
            devices: serde_json::from_value(row.devices).map_err(|error| corrupt("the devices", &error))?,
            labels: labels::from_column(row.labels)?,
            joins_gangs: row.joins_gangs,
            version: row.version,
            suspect: row.suspect_reason.zip(row.suspect_until),
            jobs: row.jobs,
            last_seen_time: row.last_seen_time,
            register_time: row.register_time,
        })
    }
}
