//! What was told against what is stored.

pub mod gangs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use sqlx::PgPool;
use uuid::Uuid;

use super::history::{Grant, History, Wish, late_writes};
use super::plant::worker_name;

/// What was found, in words; empty lists are what is wanted.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub lost: Vec<String>,
    pub duplicated: Vec<String>,
    pub zombie_writes: Vec<String>,
    pub stuck: Vec<String>,
}

/// Findings of one kind that are spelled out.
const SHOWN_MAX: i64 = 20;

/// Compares everything.
///
/// # Errors
/// The database or a log cannot be read.
pub async fn check(pool: &PgPool, history: &History, logs: &Path, workers: usize) -> Result<Findings> {
    let mut findings = Findings::default();
    findings.duplicated.extend(history.contradictions());
    attempts(pool, history, &mut findings).await?;
    gangs::members(pool, history, &mut findings).await?;
    submissions(pool, history, &mut findings).await?;
    wishes(pool, history, &mut findings).await?;
    for number in 0..workers {
        real_worker(pool, logs, &worker_name(number), &mut findings).await?;
    }
    let lists = [
        ([LOST, gangs::LOST], &mut findings.lost),
        ([DUPLICATED, gangs::DUPLICATED], &mut findings.duplicated),
        ([ZOMBIES, gangs::ZOMBIES], &mut findings.zombie_writes),
        ([STUCK, gangs::STUCK], &mut findings.stuck),
    ];
    for (statements, list) in lists {
        for (what, statement) in statements.into_iter().flatten() {
            list.extend(rows(pool, what, statement).await?);
        }
    }
    let late = late_writes(&history.attempts());
    findings.zombie_writes.extend(late.iter().map(|grant| format!("taken behind a later grant: {grant:?}")));
    Ok(findings)
}

/// What a statement finds, in words.
async fn rows(pool: &PgPool, what: &str, statement: &str) -> Result<Vec<String>> {
    let statement = format!("select found::text from ({statement}) found limit {SHOWN_MAX}");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(statement));
    let rows: Vec<String> = query.fetch_all(pool).await.with_context(|| format!("check: {what}"))?;
    Ok(rows.into_iter().map(|row| format!("{what}: {row}")).collect())
}

type Statements = &'static [(&'static str, &'static str)];

const LOST: Statements = &[
    (
        "entries with gaps",
        "select job_id, epoch, attempt.last_seq, count(seq), max(seq)
         from attempt left join (
             select job_id, epoch, seq from metric union select job_id, epoch, seq from log_line
             union select job_id, epoch, unnest(entry_seqs) from attempt_environment
         ) entry using (job_id, epoch)
         group by job_id, epoch
         having count(seq) <> attempt.last_seq or coalesce(max(seq), 0) <> attempt.last_seq",
    ),
    (
        "a fake's entry holds something else than was sent",
        "select job_id, epoch, seq, metric.step, value from metric join attempt using (job_id, epoch)
         where worker_id like 'fake-%' and key = 'train/loss'
             and (metric.step <> resume_step + seq or abs(value * (metric.step + 1) - 1) > 1e-9)",
    ),
    (
        "a succeeded job without a result, or the reverse",
        "select job.id, state from job left join result on result.job_id = job.id
         where (state = 'succeeded') <> (result.job_id is not null)",
    ),
    (
        "a result without its entries",
        "select result.job_id from result join attempt using (job_id, epoch)
         where attempt.last_seq <> result.last_seq or end_reason <> 'succeeded'",
    ),
    (
        "an attempt that does not go on from the farthest checkpoint of before it",
        "select attempt.job_id, attempt.epoch, resume_step, max(checkpoint.step)
         from attempt join checkpoint on checkpoint.job_id = attempt.job_id and checkpoint.epoch < attempt.epoch
         group by attempt.job_id, attempt.epoch having max(checkpoint.step) > resume_step",
    ),
    (
        "a job or a result whose checkpoint was given up",
        "select checkpoint.job_id, checkpoint.epoch, checkpoint.step
         from checkpoint join job on job.id = checkpoint.job_id
         left join result on result.job_id = checkpoint.job_id
         where condemn_time is not null
             and ((checkpoint.epoch, checkpoint.step) = (job.checkpoint_epoch, job.checkpoint_step)
                 or (checkpoint.epoch, checkpoint.step) = (result.checkpoint_epoch, result.checkpoint_step))",
    ),
];

const DUPLICATED: Statements = &[
    (
        "one number in two tables",
        "select job_id, epoch, seq from (
             select distinct job_id, epoch, seq from metric
             union all select job_id, epoch, seq from log_line
             union all select job_id, epoch, unnest(entry_seqs) from attempt_environment
         ) entry group by job_id, epoch, seq having count(*) > 1",
    ),
    (
        "grants that do not count from 1",
        "select job.id, job.epoch, count(attempt.epoch) from job left join attempt on attempt.job_id = job.id
         group by job.id having count(attempt.epoch) <> job.epoch or coalesce(max(attempt.epoch), 0) <> job.epoch",
    ),
    (
        "a grant that was noted twice",
        "select job_id, epoch, count(*) from event where kind = 'job_leased'
         group by job_id, epoch having count(*) <> 1",
    ),
    (
        "an attempt that ended twice",
        "select job_id, epoch, count(*) from event
         where epoch is not null and kind in ('job_requeued', 'job_succeeded')
         group by job_id, epoch having count(*) > 1",
    ),
    (
        // Of two attempts' values of a step readers take the later one.
        "a step stored twice by one attempt",
        "select job_id, epoch, key, step, count(*) from metric
         group by job_id, epoch, key, step having count(*) > 1",
    ),
];

/// Of transactions that need the row of a live attempt; what ends the attempt
/// changes that row last.
const ZOMBIES: Statements = &[
    (
        "an entry stored behind its attempt's end",
        "select job_id, epoch, seq from metric join attempt using (job_id, epoch)
         where state = 'ended'
             and pg_xact_commit_timestamp(metric.xmin) > pg_xact_commit_timestamp(attempt.xmin)",
    ),
    (
        "a line stored behind its attempt's end",
        "select job_id, epoch, seq from log_line join attempt using (job_id, epoch)
         where state = 'ended'
             and pg_xact_commit_timestamp(log_line.xmin) > pg_xact_commit_timestamp(attempt.xmin)",
    ),
    (
        "a checkpoint stored behind its attempt's end",
        // Retention changes rows later; then the times that the statements wrote are compared.
        "select job_id, checkpoint.epoch, checkpoint.step from checkpoint join attempt using (job_id, epoch)
         where state = 'ended' and case when settled then commit_time > end_time
             else pg_xact_commit_timestamp(checkpoint.xmin) > pg_xact_commit_timestamp(attempt.xmin) end",
    ),
    (
        "an attempt that lived on behind the next grant",
        "select mine.job_id, mine.epoch from attempt mine join attempt next
             on next.job_id = mine.job_id and next.epoch = mine.epoch + 1
         where mine.end_time is null or mine.end_time > next.grant_time",
    ),
    (
        "a result of an attempt that was not the last",
        "select result.job_id, result.epoch, job.epoch from result join job on job.id = result.job_id
         where result.epoch <> job.epoch",
    ),
];

const STUCK: Statements = &[
    ("a job that does not end", "select id, state, state_reason, epoch from job where end_time is null"),
    ("a search that does not end", "select id, name, state from search where end_time is null"),
    ("an attempt that does not end", "select job_id, epoch, worker_id from attempt where state <> 'ended'"),
    ("a lease without an attempt", "select job_id, epoch from attempt_lease"),
];

#[derive(sqlx::FromRow)]
struct Stored {
    job_id: Uuid,
    epoch: i64,
    nonce: String,
    worker_id: String,
    state: String,
    last_seq: i64,
    has_result: bool,
}

async fn attempts(pool: &PgPool, history: &History, findings: &mut Findings) -> Result<()> {
    let statement = "select job_id, attempt.epoch, encode(nonce, 'hex') as nonce, worker_id, state,
            attempt.last_seq, result.job_id is not null as has_result
        from attempt left join result using (job_id, epoch)";
    let rows: Vec<Stored> = sqlx::query_as(statement).fetch_all(pool).await?;
    let stored: BTreeMap<Grant, Stored> =
        rows.into_iter().map(|row| ((row.job_id, row.epoch), row)).collect();
    let commits = checkpoints(pool).await?;
    for (grant, told) in history.attempts() {
        let Some(row) = stored.get(&grant) else {
            findings.lost.push(format!("a grant is not stored: {grant:?} {told:?}"));
            continue;
        };
        // What was only sent again by the rig has no worker here.
        if !told.worker.is_empty() && (row.worker_id != told.worker || !told.nonces.contains(&row.nonce)) {
            findings.lost.push(format!("a grant is stored for another: {grant:?} {told:?}"));
        }
        if told.nonces.len() > 1 {
            findings.duplicated.push(format!("two nonces of one grant: {grant:?}"));
        }
        if told.acked_seq > row.last_seq.unsigned_abs() {
            let stored = row.last_seq;
            findings
                .lost
                .push(format!("entry {} was acknowledged, {stored} are stored: {grant:?}", told.acked_seq));
        }
        for (key, step) in told.commits {
            if !commits.contains(&(grant.0, grant.1, step.cast_signed(), key.clone())) {
                findings.lost.push(format!("checkpoint {key} of step {step} is not stored: {grant:?}"));
            }
        }
        if told.completed && !row.has_result {
            findings.lost.push(format!("a completion is not stored: {grant:?}"));
        }
        if told.failed && row.state != "ended" {
            findings.lost.push(format!("a failure is not stored: {grant:?}"));
        }
    }
    Ok(())
}

async fn checkpoints(pool: &PgPool) -> Result<BTreeSet<(Uuid, i64, i64, String)>> {
    let rows: Vec<(Uuid, i64, i64, String)> =
        sqlx::query_as("select job_id, epoch, step, key from checkpoint").fetch_all(pool).await?;
    Ok(rows.into_iter().collect())
}

async fn submissions(pool: &PgPool, history: &History, findings: &mut Findings) -> Result<()> {
    let statement = "select request_id, id from job where request_id is not null
        union all select request_id, id from search where request_id is not null";
    let rows: Vec<(String, Uuid)> = sqlx::query_as(statement).fetch_all(pool).await?;
    let told = history.submissions();
    let mut stored: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (request, id) in rows {
        if !told.contains_key(&request) {
            findings.duplicated.push(format!("nobody was told of {id}, submitted as {request}"));
        }
        stored.entry(request).or_default().insert(id.to_string());
    }
    for (request, submission) in told {
        if submission.ids.len() > 1 {
            findings.duplicated.push(format!("{request} is {:?}", submission.ids));
        }
        if stored.get(&request) != Some(&submission.ids) {
            findings.lost.push(format!("{request} was acknowledged as {:?}", submission.ids));
        }
    }
    let alone: Vec<Uuid> =
        sqlx::query_scalar("select id from job where request_id is null and search_id is null")
            .fetch_all(pool)
            .await?;
    findings.duplicated.extend(alone.iter().map(|id| format!("nobody submitted job {id}")));
    Ok(())
}

/// A cancel that was acknowledged and not taken back is the end of its job.
async fn wishes(pool: &PgPool, history: &History, findings: &mut Findings) -> Result<()> {
    let rows: Vec<(Uuid, String)> = sqlx::query_as("select id, state from job").fetch_all(pool).await?;
    let states: BTreeMap<Uuid, String> = rows.into_iter().collect();
    for (job, wishes) in history.wishes() {
        let cancelled = wishes.last() == Some(&Wish::Cancel);
        let state = states.get(&job).map_or("missing", String::as_str);
        if cancelled && state != "cancelled" {
            findings.lost.push(format!("a cancel was acknowledged, but job {job} is {state}"));
        }
    }
    Ok(())
}

/// What a real worker wrote down of the answers that it got.
async fn real_worker(pool: &PgPool, logs: &Path, name: &str, findings: &mut Findings) -> Result<()> {
    let log = std::fs::read(logs.join(format!("worker-{name}.log"))).unwrap_or_default();
    for line in String::from_utf8_lossy(&log).lines() {
        if !(line.contains("attempt ended") && line.contains("outcome=Completed")) {
            continue;
        }
        let field = |key: &str| line.split_once(key)?.1.split_whitespace().next();
        let (Some(job), Some(epoch)) = (field("job="), field("epoch=")) else { continue };
        let (job, epoch): (Uuid, i64) = (job.parse()?, epoch.parse()?);
        let statement = "select exists (select from result where job_id = $1 and epoch = $2)";
        if !sqlx::query_scalar::<_, bool>(statement).bind(job).bind(epoch).fetch_one(pool).await? {
            findings
                .lost
                .push(format!("worker {name} completed job {job} in attempt {epoch}; no result is stored"));
        }
    }
    let statement =
        "select job_id, epoch, (regexp_match(text, 'checkpoint of step (\\d+) is stored'))[1]::bigint
        from log_line where text ~ '^\\[worker\\] checkpoint of step \\d+ is stored'
        except select job_id, epoch, step from checkpoint";
    let missing: Vec<(Uuid, i64, i64)> = sqlx::query_as(statement).fetch_all(pool).await?;
    findings.lost.extend(missing.iter().map(|row| format!("worker {name} stored a checkpoint: {row:?}")));
    Ok(())
}

/// Figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub jobs: i64,
    pub states: Vec<(String, i64)>,
    pub attempts: i64,
    pub entries: i64,
    pub ends: Vec<(String, i64)>,
    /// From a kill to the start of the next attempt, in rising order, in seconds; of jobs on one slot.
    pub reassign_s: Vec<f64>,
    /// Steps that did not lead to what was left in the end, over all steps.
    pub wasted_step_share: f64,
    pub gangs: gangs::Gangs,
}

/// # Errors
/// The database cannot be read.
pub async fn figures(pool: &PgPool, history: &History) -> Result<Figures> {
    let mut reassign_s = Vec::new();
    for kill in history.kills() {
        let (job, epoch) = kill.grant;
        let statement = "select extract(epoch from next.start_time - $3)::float8
            from attempt next join attempt mine on mine.job_id = next.job_id and mine.epoch = $2
            where next.job_id = $1 and next.epoch = $2 + 1 and next.start_time is not null
                and mine.end_time >= $3 and mine.end_reason <> 'handed back' and mine.member_count = 1";
        let at = chrono::DateTime::<chrono::Utc>::from(kill.at);
        let query = sqlx::query_scalar(statement).bind(job).bind(epoch).bind(at);
        reassign_s.extend(query.fetch_optional(pool).await?.into_iter().map(|seconds: f64| seconds));
    }
    reassign_s.sort_by(f64::total_cmp);
    let wasted = "select (1 - sum(useful) / nullif(sum(done), 0))::float8 from (
            select sum(last_step - resume_step) as done,
                least(max(last_step), sum(last_step - resume_step)) as useful
            from attempt group by job_id
        ) job";
    Ok(Figures {
        jobs: sqlx::query_scalar("select count(*) from job").fetch_one(pool).await?,
        states: sqlx::query_as("select state, count(*) from job group by 1 order by 1")
            .fetch_all(pool)
            .await?,
        attempts: sqlx::query_scalar("select count(*) from attempt").fetch_one(pool).await?,
        entries: sqlx::query_scalar("select coalesce(sum(last_seq), 0)::bigint from attempt")
            .fetch_one(pool)
            .await?,
        ends: sqlx::query_as(
            "select coalesce(end_reason, state), count(*) from attempt group by 1 order by 1",
        )
        .fetch_all(pool)
        .await?,
        reassign_s,
        wasted_step_share: sqlx::query_scalar::<_, Option<f64>>(wasted).fetch_one(pool).await?.unwrap_or(0.0),
        gangs: gangs::count(pool).await?,
    })
}

#[cfg(test)]
mod tests;
