//! What a round writes: only what changes, and past rows that others hold. What was passed
//! over is decided again in the next round.

use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::core::schedule::{Account, Decisions, Yield};
use crate::store::error::{Error, failed};

pub(super) async fn apply(connection: &mut PgConnection, decisions: &Decisions) -> Result<(), Error> {
    keep(connection, decisions).await?;
    arrange(connection, decisions).await?;
    explain(connection, decisions).await?;
    stop(connection, &decisions.stops).await?;
    account(connection, &decisions.accounts).await
}

async fn keep(connection: &mut PgConnection, decisions: &Decisions) -> Result<(), Error> {
    if decisions.kept.is_empty() {
        return Ok(());
    }
    let (mut workers, mut slots): (Vec<&str>, Vec<Value>) = Default::default();
    for (worker, kept) in &decisions.kept {
        workers.push(worker);
        slots.push(json!(kept));
    }
    sqlx::query!(
        "with change as (
             select * from unnest($1::text[], $2::jsonb[]) as change (id, kept)
         ), free as (
             select worker.id, change.kept from change join worker on worker.id = change.id
             order by worker.id for no key update of worker skip locked
         )
         update worker set kept = free.kept, kept_since = coalesce((
             -- A slot that goes on being kept for its job has been since it was first.
             select jsonb_object_agg(slot.device, case
                 when worker.kept -> slot.device = slot.job
                     then coalesce(worker.kept_since -> slot.device, to_jsonb(clock_timestamp()))
                 else to_jsonb(clock_timestamp()) end)
             from jsonb_each(free.kept) as slot (device, job)
         ), '{}')
         from free where worker.id = free.id",
        &workers as _,
        &slots
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("keep slots for jobs"))
}

async fn arrange(connection: &mut PgConnection, decisions: &Decisions) -> Result<(), Error> {
    if decisions.ranks.is_empty() {
        return Ok(());
    }
    let (jobs, ranks): (Vec<_>, Vec<_>) = decisions.ranks.iter().copied().unzip();
    sqlx::query!(
        "with change as (
             select * from unnest($1::uuid[], $2::bigint[]) as change (id, rank)
         ), free as (
             select job.id, change.rank from change join job on job.id = change.id
             where job.waits
             order by job.id for no key update of job skip locked
         )
         update job set planned_rank = free.rank from free where job.id = free.id",
        &jobs,
        &ranks as _
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("arrange the queue"))
}

async fn explain(connection: &mut PgConnection, decisions: &Decisions) -> Result<(), Error> {
    if decisions.reasons.is_empty() {
        return Ok(());
    }
    let (jobs, reasons): (Vec<_>, Vec<_>) = decisions.reasons.iter().copied().unzip();
    sqlx::query!(
        "with change as (
             select * from unnest($1::uuid[], $2::text[]) as change (id, reason)
         ), free as (
             select job.id, change.reason from change join job on job.id = change.id
             where job.waits
             order by job.id for no key update of job skip locked
         )
         update job set plan_reason = free.reason from free where job.id = free.id",
        &jobs,
        &reasons as _
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("say why jobs wait"))
}

/// Tells attempts to make way; they learn of it with their next report.
async fn stop(connection: &mut PgConnection, stops: &[Yield]) -> Result<(), Error> {
    if stops.is_empty() {
        return Ok(());
    }
    let jobs: Vec<_> = stops.iter().map(|stop| stop.job).collect();
    let epochs: Vec<_> = stops.iter().map(|stop| stop.epoch).collect();
    let by: Vec<_> = stops.iter().map(|stop| stop.by).collect();
    // S6: only the attempt that was looked at, once, and while it runs.
    let told = sqlx::query_scalar!(
        r#"with change as (
               select * from unnest($1::uuid[], $2::bigint[], $3::uuid[]) as change (id, epoch, by)
           ), free as (
               select job.id, change.epoch, change.by from change join job on job.id = change.id
               where job.state = 'running' and job.epoch = change.epoch
                   and job.yield_epoch is distinct from change.epoch
               order by job.id for no key update of job skip locked
           ), told as (
               update job set yield_epoch = free.epoch, yield_for = free.by,
                   preemption_count = preemption_count + 1, revision = revision + 1
               from free where job.id = free.id
               returning job.id, job.search_id, job.epoch, job.yield_for
           ), recorded as (
               insert into event (kind, search_id, job_id, epoch, worker_id, body)
               select 'job_preempted', told.search_id, told.id, told.epoch, attempt.worker_id,
                   jsonb_build_object('reason', 'it makes way for job ' || told.yield_for, 'for', told.yield_for)
               from told join attempt on attempt.job_id = told.id and attempt.epoch = told.epoch
           )
           select count(*) as "count!" from told"#,
        &jobs,
        &epochs,
        &by
    )
    .fetch_one(connection)
    .await
    .map_err(failed("tell attempts to make way"))?;
    if told > 0 {
        tracing::info!(jobs = told, "jobs save a checkpoint and make way for others");
    }
    Ok(())
}

async fn account(connection: &mut PgConnection, accounts: &[Account]) -> Result<(), Error> {
    if accounts.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = accounts.iter().map(|account| account.project.as_str()).collect();
    let used: Vec<f64> = accounts.iter().map(|account| account.used_device_s).collect();
    let usage: Vec<f64> = accounts.iter().map(|account| account.usage_device_s).collect();
    let periods: Vec<i32> = accounts.iter().map(|account| account.period_count).collect();
    sqlx::query!(
        "with change as (
             select * from unnest($1::text[], $2::float8[], $3::float8[], $4::integer[])
                 as change (name, used, usage, periods)
         ), free as (
             select change.* from change join project on project.name = change.name
             order by change.name for no key update of project skip locked
         )
         update project set used_device_s = free.used, usage_device_s = free.usage,
             usage_time = clock_timestamp(),
             period_time = period_time + make_interval(days => free.periods * period_days)
         from free where project.name = free.name",
        &names as _,
        &used,
        &usage,
        &periods
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("account for what projects use"))
}
