//! What a round is planned from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cakes::labels::Labels;
use cakes_planner::Schedule;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::paces;
use crate::core::gang::KEPT_MAX;
use crate::core::ranks::Ranked;
use crate::core::schedule::estimate::{Kind, Work};
use crate::core::schedule::{ALIKE_MAX, JobRow, ProjectRow, RunningRow, Snapshot, WaitingRow, WorkerRow};
use crate::core::worker::Device;
use crate::store::error::{Error, failed};

/// How many of the waiting jobs are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    All,
    /// [`ALIKE_MAX`] of each kind, the first ones, and those that have a rank: enough to decide
    /// who goes first, however long the queue is.
    Front,
}

/// Projects, workers, and the jobs that run or wait. What is granted between two of the
/// statements may be there twice, or not at all.
///
/// # Errors
/// The database fails.
pub async fn load(
    connection: &mut PgConnection,
    lease_ttl: Duration,
    extent: Extent,
) -> Result<Snapshot, Error> {
    // Waiting jobs first: one that is granted meanwhile is then found among those that run.
    let alike_max = match extent {
        Extent::All => i64::MAX,
        Extent::Front => ALIKE_MAX,
    };
    let waiting = waiting(connection, alike_max).await?;
    let now_s = sqlx::query_scalar!(r#"select extract(epoch from clock_timestamp())::bigint as "now_s!""#)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("read the clock"))?;
    let known = paces::known(connection, &waiting).await?;
    Ok(Snapshot {
        now_s,
        projects: projects(connection).await?,
        workers: workers(connection, lease_ttl).await?,
        running: running(connection).await?,
        waiting,
        known,
    })
}

async fn projects(connection: &mut PgConnection) -> Result<Vec<ProjectRow>, Error> {
    let rows = sqlx::query!(
        r#"select name, share, device_quota, device_s_quota, period_days, used_device_s, usage_device_s,
               extract(epoch from clock_timestamp() - period_time)::float8 as "period_age_s!",
               extract(epoch from clock_timestamp() - usage_time)::float8 as "usage_age_s!"
           from project order by name"#
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read projects"))?;
    let project = rows.into_iter().map(|row| ProjectRow {
        name: row.name,
        share: row.share.unsigned_abs(),
        device_quota: row.device_quota,
        device_s_quota: row.device_s_quota,
        period_days: row.period_days,
        period_age_s: row.period_age_s,
        used_device_s: row.used_device_s,
        usage_device_s: row.usage_device_s,
        usage_age_s: row.usage_age_s,
    });
    Ok(project.collect())
}

async fn workers(connection: &mut PgConnection, lease_ttl: Duration) -> Result<Vec<WorkerRow>, Error> {
    let rows = sqlx::query!(
        r#"select id, devices as "devices!: Json<Vec<Device>>", labels as "labels!: Json<Labels>",
               kept as "kept!: Json<BTreeMap<String, Uuid>>", joins_gangs,
               coalesce((
                   select jsonb_object_agg(device, extract(epoch from clock_timestamp() - since::timestamptz))
                   from jsonb_each_text(kept_since) as slot (device, since)
               ), '{}') as "kept_age_s!: Json<BTreeMap<String, f64>>",
               coalesce((
                   select jsonb_object_agg(wish.device, wish.job_id) from gang_wish wish
                   where wish.worker_id = worker.id and wish.incarnation = worker.incarnation
                       and wish.wish_time > clock_timestamp() - make_interval(secs => $2)
               ), '{}') as "asks!: Json<BTreeMap<String, Uuid>>",
               -- Of slots that are kept; by the time of the statement, which an index can be
               -- searched for.
               coalesce((
                   select jsonb_agg(slot.device) from jsonb_object_keys(kept) as slot (device)
                   where exists (
                       select from attempt
                       where attempt.worker_id = worker.id and attempt.device = slot.device
                           and attempt.end_time > statement_timestamp() - make_interval(secs => $2)
                   ) or exists (
                       select from attempt_member member
                       where member.worker_id = worker.id and member.device = slot.device
                           and member.member > 0
                           and member.end_time > statement_timestamp() - make_interval(secs => $2)
                   )
               ), '[]') as "freed!: Json<BTreeSet<String>>",
               case when last_seen_time < clock_timestamp() - make_interval(secs => $1) then 'lost'
                    when schedule = 'draining' then 'draining'
                    when schedule = 'cordoned' or suspect_until > clock_timestamp() then 'cordoned'
                    else 'ready' end as "schedule!"
           from worker
           where last_seen_time > clock_timestamp() - interval '1 day'
           order by id"#,
        lease_ttl.as_secs_f64(),
        KEPT_MAX.as_secs_f64()
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read workers"))?;
    let worker = rows.into_iter().map(|row| WorkerRow {
        id: row.id,
        schedule: match row.schedule.as_str() {
            "ready" => Schedule::Ready,
            "cordoned" => Schedule::Cordoned,
            "draining" => Schedule::Draining,
            _ => Schedule::Lost,
        },
        devices: row.devices.0,
        labels: row.labels.0,
        kept: row.kept.0,
        kept_age_s: row.kept_age_s.0,
        asks: row.asks.0,
        freed: row.freed.0,
        joins_gangs: row.joins_gangs,
    });
    Ok(worker.collect())
}

/// Slots of gangs beside their leaders', by job and epoch.
async fn followers(
    connection: &mut PgConnection,
) -> Result<BTreeMap<(Uuid, i64), Vec<(String, String)>>, Error> {
    let rows = sqlx::query!(
        "select job_id, epoch, worker_id, device from attempt_member
         where state <> 'ended' and member > 0
         order by job_id, epoch, member"
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the members of gangs"))?;
    let mut found: BTreeMap<(Uuid, i64), Vec<(String, String)>> = BTreeMap::new();
    for row in rows {
        found.entry((row.job_id, row.epoch)).or_default().push((row.worker_id, row.device));
    }
    Ok(found)
}

async fn running(connection: &mut PgConnection) -> Result<Vec<RunningRow>, Error> {
    let rows = sqlx::query!(
        r#"select job.id, job.project, job.priority, job.kind = 'supernet' as "is_supernet!", job.position,
               extract(epoch from job.create_time)::bigint as "create_s!", job.memory_mib,
               job.device_count as "device_count!", job.spreads as "spreads!", job.preemption_count,
               job.worker_labels as "worker_labels!: Json<Labels>",
               extract(epoch from job.deadline)::bigint as deadline_s, job.cost_limit_device_s,
               case when job.cost_limit_device_s is null then 0 else taken_device_s(job) end
                   as "spent_device_s!", attempt.epoch, attempt.worker_id,
               attempt.device, extract(epoch from attempt.grant_time)::bigint as "grant_s!",
               progress.remaining_s, job.state,
               coalesce(job.yield_epoch = attempt.epoch, false) as "makes_way!"
           from attempt join job on job.id = attempt.job_id
           left join job_progress progress on progress.job_id = job.id
           where attempt.end_time is null
           order by attempt.worker_id, attempt.device, job.id"#
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("read which jobs run"))?;
    let mut others = followers(connection).await?;
    let running = rows.into_iter().map(|row| RunningRow {
        job: JobRow {
            id: row.id,
            project: row.project,
            priority: row.priority,
            is_supernet: row.is_supernet,
            position: row.position,
            create_s: row.create_s,
            memory_mib: row.memory_mib,
            device_count: row.device_count,
            spreads: row.spreads,
            preemption_count: row.preemption_count,
            worker_labels: row.worker_labels.0,
            deadline_s: row.deadline_s,
            cost_limit_device_s: row.cost_limit_device_s,
            spent_device_s: row.spent_device_s,
        },
        epoch: row.epoch,
        others: others.remove(&(row.id, row.epoch)).unwrap_or_default(),
        worker: row.worker_id,
        device: row.device,
        grant_s: row.grant_s,
        remaining_s: row.remaining_s,
        may_be_stopped: row.state == "running" && !row.makes_way,
        is_stopping: row.makes_way || matches!(row.state.as_str(), "pausing" | "cancelling"),
    });
    Ok(running.collect())
}

async fn waiting(connection: &mut PgConnection, alike_max: i64) -> Result<Vec<WaitingRow>, Error> {
    // Of jobs that are alike the planner takes the older one. Those that a quota holds are
    // counted apart: they go back behind others, and come to the front again when it does not.
    let rows = sqlx::query!(
        r#"with alike as (
               select id, planned_rank is not null as has_rank,
                   row_number() over (
                       partition by project, priority, kind, device_count, spreads, memory_mib, worker_labels,
                           deadline, is_held
                       order by position
                   ) as place
               from job where waits
           )
           select id, project, priority, kind = 'supernet' as "is_supernet!", position,
               extract(epoch from create_time)::bigint as "create_s!", memory_mib,
               device_count as "device_count!", spreads as "spreads!", preemption_count,
               worker_labels as "worker_labels!: Json<Labels>",
               extract(epoch from deadline)::bigint as deadline_s, cost_limit_device_s,
               case when cost_limit_device_s is null or epoch = 0 then 0 else taken_device_s(job) end
                   as "spent_device_s!", epoch,
               case when run_after > clock_timestamp() then ceil(extract(epoch from run_after))::bigint end
                   as run_after_s,
               case when avoid_until > clock_timestamp() then avoid_worker_id end as avoids,
               step_count - coalesce(checkpoint_step, 0) as "steps_left!",
               case when epoch > 0 then (
                   select step_s(progress)
                   from job_progress progress where progress.job_id = job.id
               ) end as step_s,
               coalesce(search_id, like_search_id) as like_search_id, architecture_digest,
               rank as "rank!", plan_reason,
               (position << 10) - (priority::bigint << 44)
                   - case when kind = 'supernet' then 1::bigint << 43 else 0 end as "natural!"
           from job where waits and id in (select id from alike where place <= $1 or has_rank)
           order by is_held, rank"#,
        alike_max
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read which jobs wait"))?;
    let waiting = rows.into_iter().map(|row| WaitingRow {
        job: JobRow {
            id: row.id,
            project: row.project,
            priority: row.priority,
            is_supernet: row.is_supernet,
            position: row.position,
            create_s: row.create_s,
            memory_mib: row.memory_mib,
            device_count: row.device_count,
            spreads: row.spreads,
            preemption_count: row.preemption_count,
            worker_labels: row.worker_labels.0,
            deadline_s: row.deadline_s,
            cost_limit_device_s: row.cost_limit_device_s,
            spent_device_s: row.spent_device_s,
        },
        epoch: row.epoch,
        run_after_s: row.run_after_s,
        avoids: row.avoids,
        work: Work {
            step_count: row.steps_left,
            step_s: row.step_s,
            kind: row
                .like_search_id
                .zip(row.architecture_digest)
                .map(|(search, digest)| Kind { search, digest }),
        },
        ranked: Ranked { rank: row.rank, natural: row.natural },
        plan_reason: row.plan_reason,
    });
    Ok(waiting.collect())
}
