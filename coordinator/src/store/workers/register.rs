//! Numbers the start of a daemon.

use cakes::labels::Labels;
use cakes_proto::ids::WorkerId;
use sqlx::PgPool;
use tracing::instrument;
use uuid::Uuid;

use crate::core::worker::Device;
use crate::store::error::{Error, corrupt, failed};
use crate::store::event::{self, Event};
use crate::store::labels;
use crate::store::text::storable;

/// Longest stored name of a device, a processor or a version, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// A daemon's start.
#[derive(Clone, Debug)]
pub struct Registration {
    pub worker: WorkerId,
    /// Chosen anew at each start; a repetition is the same start.
    pub request_id: Uuid,
    pub devices: Vec<Device>,
    pub labels: Labels,
    /// Whether its slots may train with those of other workers.
    pub joins_gangs: bool,
    pub version: String,
}

/// Registers a start of a daemon; its incarnation. What people decided about
/// the worker outlives its restarts.
///
/// # Errors
/// The database fails.
#[instrument(skip_all, fields(worker = %registration.worker), err(level = "debug"))]
pub async fn register(pool: &PgPool, registration: &Registration) -> Result<i64, Error> {
    let devices: Vec<Device> = registration.devices.iter().map(storable_device).collect();
    let devices = serde_json::to_value(devices).map_err(|error| corrupt("a list of devices", &error))?;
    let labels = labels::to_column(&registration.labels)?;
    let mut transaction = pool.begin().await.map_err(failed("begin a registration"))?;
    let known = sqlx::query!(
        "select incarnation, register_request_id from worker where id = $1 for no key update",
        registration.worker.as_str()
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(failed("look for a worker"))?;
    if let Some(known) = known.filter(|known| known.register_request_id == registration.request_id) {
        return Ok(known.incarnation);
    }
    let incarnation = sqlx::query_scalar!(
        "insert into worker (id, incarnation, devices, version, register_request_id, labels, joins_gangs)
         values ($1, 1, $2, $3, $4, $5, $6)
         on conflict (id) do update set
             incarnation = worker.incarnation
                 + (worker.register_request_id <> excluded.register_request_id)::int,
             devices = excluded.devices, version = excluded.version,
             register_request_id = excluded.register_request_id, labels = excluded.labels,
             joins_gangs = excluded.joins_gangs, last_seen_time = clock_timestamp(), register_time = clock_timestamp()
         returning incarnation",
        registration.worker.as_str(),
        devices,
        storable(&registration.version, NAME_BYTES_MAX),
        registration.request_id,
        labels,
        registration.joins_gangs
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(failed("register a worker"))?;
    let body = serde_json::json!({ "incarnation": incarnation, "version": registration.version });
    let event = Event {
        kind: "worker_registered",
        worker: Some(&registration.worker),
        body: Some(body),
        ..Event::default()
    };
    event::record(&mut transaction, event).await?;
    transaction.commit().await.map_err(failed("commit a registration"))?;
    Ok(incarnation)
}

fn storable_device(device: &Device) -> Device {
    Device {
        name: storable(&device.name, NAME_BYTES_MAX),
        model: storable(&device.model, NAME_BYTES_MAX),
        memory_mib: device.memory_mib,
        count: device.count,
    }
}
