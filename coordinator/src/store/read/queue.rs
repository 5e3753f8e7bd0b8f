//! Jobs that wait, in the order in which they are served, and what each waits for.

use std::collections::HashMap;

use sqlx::PgPool;
use sqlx::types::Uuid;

use super::explain::{duration, worker_facts};
use super::failed;
use super::jobs::{self, JobRecord};
use crate::core::explain::Facts;
use crate::core::schedule::Rules;
use crate::store::{Error, schedule};

/// A job that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub job: JobRecord,
    pub facts: Facts,
}

/// Waiting jobs from the front of the queue, behind the first `offset`.
///
/// # Errors
/// The database fails.
pub async fn page(pool: &PgPool, offset: i64, limit: i64, rules: &Rules) -> Result<Vec<Waiting>, Error> {
    let rows = sqlx::query!(
        r#"select id, memory_mib, device_count as "device_count!", spreads as "spreads!", furthest_step, step_count,
               coalesce(checkpoint_step, 0) as "checkpoint_step!",
               extract(epoch from run_after - clock_timestamp())::float8 as back_off_s,
               case when avoid_until > clock_timestamp() then avoid_worker_id end as avoided_worker
           from job where waits order by is_held, rank offset $1 limit $2"#,
        offset,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read the queue"))?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let known = jobs::by_ids(pool, &ids).await?;
    let mut by_id: HashMap<Uuid, JobRecord> = known.into_iter().map(|job| (job.id.0, job)).collect();
    let workers = worker_facts(pool, rules.lease_ttl).await?;
    let mut outlooks = schedule::outlooks(pool, rules).await?;
    let waiting = (offset + 1..).zip(rows).filter_map(|(position, row)| {
        let job = by_id.remove(&row.id)?;
        let outlook = outlooks.remove(&row.id).unwrap_or_default();
        let facts = Facts {
            state: job.state,
            state_reason: job.state_reason.clone(),
            attempt_count: job.epoch,
            queue_position: u32::try_from(position).unwrap_or(u32::MAX),
            back_off: row.back_off_s.map(duration),
            memory_mib: u64::try_from(row.memory_mib).unwrap_or(0),
            device_count: u32::try_from(row.device_count).unwrap_or(1),
            spreads: row.spreads,
            worker_labels: job.worker_labels.clone(),
            cost: None,
            step: row.furthest_step,
            step_count: row.step_count,
            checkpoint_step: row.checkpoint_step,
            runs_on: None,
            avoided_worker: row.avoided_worker,
            planned: outlook.reason,
            estimate: outlook.estimate,
            workers: workers.clone(),
        };
        Some(Waiting { job, facts })
    });
    Ok(waiting.collect())
}

/// Jobs that wait.
///
/// # Errors
/// The database fails.
pub async fn length(pool: &PgPool) -> Result<i64, Error> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from job where waits"#)
        .fetch_one(pool)
        .await
        .map_err(failed("count the queue"))
}
