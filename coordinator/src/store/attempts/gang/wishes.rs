//! What slots ask for that are kept for a gang.

use sqlx::PgConnection;
use sqlx::types::Uuid;

use super::super::acquire::Acquisition;
use crate::core::gang::{WISH_FRESH, Wishing};
use crate::store::error::{Error, failed};
use crate::store::text::storable;

/// Longest stored name of a device, in bytes. None that the API takes is longer, so all are stored as
/// their workers name them.
const DEVICE_BYTES_MAX: usize = 256;

/// A slot with the question that it asked last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store::attempts) struct Slot {
    pub worker: String,
    pub device: String,
    pub incarnation: i64,
    pub request_id: Uuid,
}

impl Slot {
    /// That of a wish, as it is stored.
    pub(in crate::store::attempts) fn of(wish: &Acquisition) -> Self {
        Slot {
            worker: wish.worker.as_str().to_owned(),
            device: storable(&wish.device.name, DEVICE_BYTES_MAX),
            incarnation: wish.incarnation,
            request_id: wish.request_id,
        }
    }

    /// Whether it is that of a wish, whichever question that is.
    pub(in crate::store::attempts) fn is_of(&self, wish: &Acquisition) -> bool {
        let Slot { worker, device, .. } = Slot::of(wish);
        (self.worker.as_str(), self.device.as_str()) == (worker.as_str(), device.as_str())
    }
}

/// Notes what a slot asks that is kept for the job.
pub(in crate::store::attempts) async fn note(
    connection: &mut PgConnection,
    job: Uuid,
    wish: &Acquisition,
) -> Result<(), Error> {
    let Slot { worker, device, incarnation, request_id } = Slot::of(wish);
    sqlx::query!(
        "insert into gang_wish (worker_id, device, job_id, incarnation, request_id, device_count)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (worker_id, device) do update set
             job_id = excluded.job_id, incarnation = excluded.incarnation, request_id = excluded.request_id,
             device_count = excluded.device_count, wish_time = clock_timestamp()",
        worker,
        device,
        job,
        incarnation,
        request_id,
        i32::try_from(wish.device.count.max(1)).unwrap_or(i32::MAX)
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("note a wish for a part of a job"))
}

/// Whether a job waits for several slots of which one that has so many devices is a part. Looks
/// past locks: whoever is at the job does not make its slots free for others.
pub(in crate::store::attempts) async fn is_kept_together(
    connection: &mut PgConnection,
    job: Uuid,
    device_count: i32,
) -> Result<bool, Error> {
    sqlx::query_scalar!(
        r#"select exists (
               select from job where id = $1 and waits and not is_held and spreads and device_count > $2
           ) as "is_kept!""#,
        job,
        device_count
    )
    .fetch_one(connection)
    .await
    .map_err(failed("look what a slot is kept for"))
}

/// Slots that are kept for the job and have asked a moment ago, but for those whose workers
/// others are at: they ask again. The rows of their workers stay locked, so none of them is
/// granted anything else meanwhile.
pub(super) async fn fresh(connection: &mut PgConnection, job: Uuid) -> Result<Vec<Wishing<Slot>>, Error> {
    let rows = sqlx::query!(
        "select wish.worker_id, wish.device, wish.incarnation, wish.request_id, wish.device_count
         from gang_wish wish join worker on worker.id = wish.worker_id
         where wish.job_id = $1 and wish.wish_time > clock_timestamp() - make_interval(secs => $2)
             and worker.incarnation = wish.incarnation and worker.joins_gangs and worker.schedule = 'ready'
             and (worker.suspect_until is null or worker.suspect_until <= clock_timestamp())
             and worker.kept ->> wish.device = $3
         order by worker.id, wish.device
         for no key update of worker skip locked",
        job,
        WISH_FRESH.as_secs_f64(),
        job.to_string()
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the wishes for parts of a job"))?;
    let wishing = rows.into_iter().map(|row| Wishing {
        device_count: row.device_count,
        slot: Slot {
            worker: row.worker_id,
            device: row.device,
            incarnation: row.incarnation,
            request_id: row.request_id,
        },
    });
    Ok(wishing.collect())
}

/// Whether one of the slots has a job. Asked behind the locks of their workers, in a statement
/// of its own: what was granted before is there.
pub(super) async fn any_is_busy(
    connection: &mut PgConnection,
    slots: &[Wishing<Slot>],
) -> Result<bool, Error> {
    let (workers, devices): (Vec<&str>, Vec<&str>) =
        slots.iter().map(|wishing| (wishing.slot.worker.as_str(), wishing.slot.device.as_str())).unzip();
    sqlx::query_scalar!(
        r#"select exists (
               select from unnest($1::text[], $2::text[]) as slot (worker_id, device)
               join live_slot on live_slot.worker_id = slot.worker_id and live_slot.device = slot.device
           ) as "busy!""#,
        &workers as _,
        &devices as _
    )
    .fetch_one(connection)
    .await
    .map_err(failed("look whether slots are free"))
}
