//! What is known of a job and of the workers that could take it.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::types::Json;

use super::jobs::JobRecord;
use super::{failed, workers};
use crate::core::explain::{Cost, DeviceFacts, Facts, Placement, WorkerFacts};
use crate::core::job::JobState;
use crate::core::schedule::{Outlook, Rules};
use crate::store::{Error, schedule};

/// Facts for [`crate::core::explain::explain`].
///
/// # Errors
/// The database fails.
pub async fn facts(pool: &PgPool, job: &JobRecord, rules: &Rules) -> Result<Facts, Error> {
    let row = sqlx::query!(
        r#"select job.memory_mib, job.device_count as "device_count!", job.spreads as "spreads!",
               job.furthest_step, job.step_count,
               coalesce(job.checkpoint_step, 0) as "checkpoint_step!",
               extract(epoch from job.run_after - clock_timestamp())::float8 as back_off_s,
               case when job.avoid_until > clock_timestamp() then job.avoid_worker_id end as avoided_worker,
               case when job.state = 'queued' then (
                   select count(*) from job other where other.waits
                       and (other.is_held, other.rank) <= (job.is_held, job.rank)
               ) else 0 end as "queue_position!",
               attempt.worker_id as "worker_id?", attempt.device as "device?",
               coalesce((
                   select jsonb_agg(jsonb_build_array(slot.worker_id, slot.device) order by slot.member)
                   from live_slot slot where slot.job_id = job.id and slot.member > 0
               ), '[]') as "others!: Json<Vec<(String, String)>>",
               extract(epoch from attempt_lease.deadline - clock_timestamp())::float8 as lease_left_s
           from job
           left join attempt on attempt.job_id = job.id and attempt.end_time is null
           left join attempt_lease on attempt_lease.job_id = job.id and attempt_lease.member = 0
           where job.id = $1"#,
        job.id.0
    )
    .fetch_one(pool)
    .await
    .map_err(failed("read why a job is where it is"))?;
    let lease_left = row.lease_left_s.map(duration).unwrap_or_default();
    let (placement, others) = (row.worker_id.zip(row.device), row.others.0);
    let outlook = match job.state {
        JobState::Queued => schedule::outlooks(pool, rules).await?.remove(&job.id.0).unwrap_or_default(),
        _ => Outlook::default(),
    };
    Ok(Facts {
        state: job.state,
        state_reason: job.state_reason.clone(),
        attempt_count: job.epoch,
        queue_position: u32::try_from(row.queue_position).unwrap_or(u32::MAX),
        back_off: row.back_off_s.map(duration),
        memory_mib: u64::try_from(row.memory_mib).unwrap_or(0),
        device_count: u32::try_from(row.device_count).unwrap_or(1),
        spreads: row.spreads,
        worker_labels: job.worker_labels.clone(),
        cost: job
            .cost_limit_device_s
            .zip(job.spent_device_s)
            .map(|(limit_device_s, taken_device_s)| Cost { taken_device_s, limit_device_s }),
        step: job.progress.as_ref().map_or(row.furthest_step, |progress| progress.step),
        step_count: row.step_count,
        checkpoint_step: row.checkpoint_step,
        runs_on: placement.map(|(worker, device)| Placement { worker, device, others, lease_left }),
        avoided_worker: row.avoided_worker,
        planned: outlook.reason,
        estimate: outlook.estimate,
        workers: worker_facts(pool, rules.lease_ttl).await?,
    })
}

/// Seconds of the database; what lies in the past is no time at all.
pub(super) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

pub(super) async fn worker_facts(pool: &PgPool, lease_ttl: Duration) -> Result<Vec<WorkerFacts>, Error> {
    let rows = sqlx::query!(r#"select worker_id as "worker_id!", device as "device!" from live_slot"#)
        .fetch_all(pool)
        .await
        .map_err(failed("read which devices are busy"))?;
    let mut busy: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        busy.entry(row.worker_id).or_default().push(row.device);
    }
    let known = workers::list(pool, lease_ttl).await?;
    let facts = known.into_iter().map(|worker| {
        let busy = busy.get(worker.id.as_str()).map_or(&[][..], Vec::as_slice);
        let devices = worker.devices.into_iter().map(|device| DeviceFacts {
            busy: busy.contains(&device.name),
            name: device.name,
            memory_mib: device.memory_mib,
            count: device.count,
        });
        WorkerFacts {
            id: worker.id.to_string(),
            schedule: worker.schedule,
            lost: worker.is_lost,
            suspect: worker.suspect.map(|(reason, _)| reason),
            labels: worker.labels,
            joins_gangs: worker.joins_gangs,
            devices: devices.collect(),
        }
    });
    Ok(facts.collect())
}
