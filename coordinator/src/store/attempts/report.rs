//! Stores what an attempt reports, and renews its lease.

use std::collections::BTreeSet;

use cakes_proto::ids::{LeaseToken, WorkerId};
use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use crate::core::lease::{Desired, Policy, desired};
use crate::core::{job, worker};
use crate::store::error::{Error, corrupt, failed};
use crate::store::fence::{self, Attempt, Life};
use crate::store::text::storable;

/// Longest stored log line, in bytes.
const LINE_BYTES_MAX: usize = 16_384;
/// Longest key of a metric, in characters; the table checks the same.
const KEY_LENGTH_MAX: usize = 128;

/// A batch of entries and the progress so far.
#[derive(Clone, Debug)]
pub struct Report {
    pub token: LeaseToken,
    /// Number of the first entry; entries of an attempt count from 1.
    pub first_seq: i64,
    /// May be empty, to renew only.
    pub entries: Vec<Entry>,
    pub progress: Option<Progress>,
}

/// One thing that happened in an attempt.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Values of one step.
    Metric { step: i64, values: Vec<(String, f64)>, time: DateTime<Utc> },
    /// A line of the log.
    Log { time: DateTime<Utc>, text: String },
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: i64,
    pub step_count: i64,
    pub loss: f64,
    pub learning_rate: f64,
    pub samples_per_s: f64,
    pub quality: Option<Validated>,
    pub remaining_s: Option<f64>,
    pub phase: String,
}

/// The compared figure of the last validation.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    pub value: f64,
    /// Its name: "mean_dice", "top1".
    pub metric: String,
}

/// What the worker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Number of the last stored entry.
    pub ack_seq: i64,
    pub desired: Desired,
}

/// Stores the entries that are not stored yet and renews the lease. A lease
/// that has run out and that nobody took comes back to life.
///
/// # Errors
/// The token is not the current one, or entries are missing before the first.
#[instrument(skip_all, fields(job = %report.token.job, epoch = report.token.epoch), err(level = "debug"))]
pub async fn report(pool: &PgPool, policy: &Policy, report: &Report) -> Result<Receipt, Error> {
    check(report)?;
    let token = report.token;
    let mut transaction = pool.begin().await.map_err(failed("begin a report"))?;
    let attempt = fence::live_attempt(&mut transaction, token).await?;
    if attempt.life == Life::Offered {
        return Err(Error::Refused("an attempt is started before it reports".to_owned()));
    }
    let ack_seq = store_entries(&mut transaction, report, &attempt).await?;
    update_attempt(&mut transaction, report, ack_seq).await?;
    if let Some(progress) = &report.progress {
        store_progress(&mut transaction, token, progress).await?;
    }
    renew(&mut transaction, token, policy).await?;
    let desired = read_desired(&mut transaction, token, &attempt.worker).await?;
    see_worker(&mut transaction, &attempt.worker).await?;
    transaction.commit().await.map_err(failed("commit a report"))?;
    Ok(Receipt { ack_seq, desired })
}

fn check(report: &Report) -> Result<(), Error> {
    let invalid = |field, problem: &str| Err(Error::InvalidArgument { field, problem: problem.to_owned() });
    if report.first_seq < 1 && !report.entries.is_empty() {
        return invalid("first_seq", "entries count from 1");
    }
    for entry in &report.entries {
        let Entry::Metric { step, values, .. } = entry else { continue };
        if *step < 0 {
            return invalid("entries.metric.step", "must not be negative");
        }
        let keys: BTreeSet<&str> = values.iter().map(|(key, _)| key.as_str()).collect();
        let storable =
            |key: &&str| (1..=KEY_LENGTH_MAX).contains(&key.chars().count()) && !key.contains('\0');
        if keys.len() != values.len() || !keys.iter().all(storable) {
            return invalid("entries.metric.values", "keys have 1 to 128 characters and appear once");
        }
    }
    match &report.progress {
        Some(progress) if progress.step < 0 || progress.step_count < 0 => {
            invalid("progress.step", "must not be negative")
        }
        _ => Ok(()),
    }
}

/// Inserts what is new of the batch; the number of the last stored entry.
async fn store_entries(
    connection: &mut PgConnection,
    report: &Report,
    attempt: &Attempt,
) -> Result<i64, Error> {
    let stored = attempt.last_seq;
    if report.entries.is_empty() {
        return Ok(stored);
    }
    if report.first_seq > stored + 1 {
        return Err(Error::OutOfRange { ack_seq: stored });
    }
    let numbered = (report.first_seq..).zip(&report.entries).filter(|(seq, _)| *seq > stored);
    let (mut metrics, mut logs, mut ack_seq) = (Metrics::default(), Logs::default(), stored);
    for (seq, entry) in numbered {
        ack_seq = seq;
        match entry {
            Entry::Metric { step, values, time } => {
                for (key, value) in values {
                    metrics.seqs.push(seq);
                    metrics.keys.push(key.clone());
                    metrics.steps.push(*step);
                    metrics.values.push(*value);
                    metrics.times.push(*time);
                }
            }
            Entry::Log { time, text } => {
                logs.seqs.push(seq);
                logs.times.push(*time);
                logs.texts.push(storable(text, LINE_BYTES_MAX));
            }
        }
    }
    metrics.insert(connection, report.token).await?;
    logs.insert(connection, report.token).await?;
    Ok(ack_seq)
}

/// Columns of new metric rows.
#[derive(Default)]
struct Metrics {
    seqs: Vec<i64>,
    keys: Vec<String>,
    steps: Vec<i64>,
    values: Vec<f64>,
    times: Vec<DateTime<Utc>>,
}

impl Metrics {
    async fn insert(&self, connection: &mut PgConnection, token: LeaseToken) -> Result<(), Error> {
        if self.seqs.is_empty() {
            return Ok(());
        }
        // S4: the key holds attempt and number; what is stored is skipped before.
        sqlx::query!(
            "insert into metric (job_id, epoch, seq, key, step, value, time)
             select $1, $2, * from unnest($3::bigint[], $4::text[], $5::bigint[], $6::float8[], $7::timestamptz[])",
            token.job.0,
            token.epoch,
            &self.seqs,
            &self.keys,
            &self.steps,
            &self.values,
            &self.times
        )
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("store metrics"))
    }
}

/// Columns of new log rows.
#[derive(Default)]
struct Logs {
    seqs: Vec<i64>,
    times: Vec<DateTime<Utc>>,
    texts: Vec<String>,
}

impl Logs {
    async fn insert(&self, connection: &mut PgConnection, token: LeaseToken) -> Result<(), Error> {
        if self.seqs.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "insert into log_line (job_id, epoch, seq, time, text)
             select $1, $2, * from unnest($3::bigint[], $4::timestamptz[], $5::text[])",
            token.job.0,
            token.epoch,
            &self.seqs,
            &self.times,
            &self.texts
        )
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("store log lines"))
    }
}

async fn update_attempt(connection: &mut PgConnection, report: &Report, ack_seq: i64) -> Result<(), Error> {
    let token = report.token;
    sqlx::query!(
        "update attempt set last_seq = $3, last_step = greatest(last_step, $4)
         where job_id = $1 and epoch = $2",
        token.job.0,
        token.epoch,
        ack_seq,
        report.progress.as_ref().map_or(0, |progress| progress.step)
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record how far an attempt is"))
}

async fn store_progress(
    connection: &mut PgConnection,
    token: LeaseToken,
    progress: &Progress,
) -> Result<(), Error> {
    sqlx::query!(
        "insert into job_progress
             (job_id, step, step_count, loss, learning_rate, samples_per_s, quality, quality_metric,
              remaining_s, phase)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict (job_id) do update set
             step = excluded.step, step_count = excluded.step_count, loss = excluded.loss,
             learning_rate = excluded.learning_rate, samples_per_s = excluded.samples_per_s,
             quality = excluded.quality, quality_metric = excluded.quality_metric,
             remaining_s = excluded.remaining_s, phase = excluded.phase,
             update_time = clock_timestamp(), revision = job_progress.revision + 1",
        token.job.0,
        progress.step,
        progress.step_count,
        progress.loss,
        progress.learning_rate,
        progress.samples_per_s,
        progress.quality.as_ref().map(|quality| quality.value),
        progress.quality.as_ref().map(|quality| quality.metric.as_str()),
        progress.remaining_s,
        storable(&progress.phase, KEY_LENGTH_MAX)
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("store the progress of a job"))
}

async fn renew(connection: &mut PgConnection, token: LeaseToken, policy: &Policy) -> Result<(), Error> {
    sqlx::query!(
        "update attempt_lease set deadline = clock_timestamp() + make_interval(secs => $3)
         where job_id = $1 and epoch = $2",
        token.job.0,
        token.epoch,
        policy.lease_ttl.as_secs_f64()
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("renew a lease"))
}

async fn read_desired(
    connection: &mut PgConnection,
    token: LeaseToken,
    worker: &WorkerId,
) -> Result<Desired, Error> {
    let row = sqlx::query!(
        "select job.state, worker.schedule from job, worker where job.id = $1 and worker.id = $2",
        token.job.0,
        worker.as_str()
    )
    .fetch_one(connection)
    .await
    .map_err(failed("read what an attempt is to do"))?;
    let state: job::JobState =
        row.state.parse().map_err(|error| corrupt(format!("the state of job {}", token.job), &error))?;
    let schedule: worker::Schedule =
        row.schedule.parse().map_err(|error| corrupt(format!("the schedule of worker {worker}"), &error))?;
    Ok(desired(state, schedule))
}

/// Notes that the worker lives, at most once a second, and waits for nobody.
async fn see_worker(connection: &mut PgConnection, worker: &WorkerId) -> Result<(), Error> {
    sqlx::query!(
        "update worker set last_seen_time = clock_timestamp()
         where id in (
             select id from worker where id = $1 and last_seen_time < clock_timestamp() - interval '1 second'
             for no key update skip locked
         )",
        worker.as_str()
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("note that a worker lives"))
}
