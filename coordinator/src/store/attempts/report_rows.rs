//! The rows of reports: locked, then written, many in one statement each.

use std::collections::BTreeMap;

use cakes_proto::ids::JobId;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Uuid;

use super::curve_rows::CurveRows;
use super::environment_rows::EnvironmentRows;
use super::report::{Entry, Progress, Report};
use super::together::{Locks, Tokens};
use crate::core::job::JobState;
use crate::core::lease::{Desired, Policy, desired};
use crate::core::worker::Schedule;
use crate::store::error::{Error, corrupt, failed};
use crate::store::text::storable;

/// Longest stored log line, in bytes.
const LINE_BYTES_MAX: usize = 16_384;
/// Longest stored name of a phase, in bytes.
const PHASE_BYTES_MAX: usize = 128;

/// A line of a log as it is stored.
pub(super) fn line(text: &str) -> String {
    storable(text, LINE_BYTES_MAX)
}

/// A reporting attempt; its row is locked until the transaction ends.
#[derive(Clone, Debug)]
pub(super) struct Reporting {
    pub job: Uuid,
    /// "offered", "running" or "ended".
    pub state: String,
    pub worker: String,
    pub last_seq: i64,
    pub epoch: i64,
    /// Steps of the checkpoint that it went on from.
    pub resume_step: i64,
    /// Steps of the whole job.
    pub step_count: i64,
}

/// Locks attempts; those that are not the token's, or that others hold where they
/// are passed over, are left out.
pub(super) async fn lock(
    connection: &mut PgConnection,
    tokens: &Tokens,
    locks: Locks,
) -> Result<Vec<Reporting>, Error> {
    macro_rules! lock {
        ($locks:literal) => {
            // S3: the epoch and the nonce of a grant, in the transaction of the write.
            sqlx::query_as!(
                Reporting,
                "select attempt.job_id as job, attempt.state, attempt.worker_id as worker, attempt.last_seq,
                     attempt.epoch, attempt.resume_step, job.step_count
                   from unnest($1::uuid[], $2::bigint[], $3::bytea[]) as token (job_id, epoch, nonce)
                   join attempt on attempt.job_id = token.job_id and attempt.epoch = token.epoch
                       and attempt.nonce = token.nonce
                   join job on job.id = attempt.job_id
                   order by attempt.job_id
                   for no key update of attempt "
                    + $locks,
                &tokens.jobs,
                &tokens.epochs,
                &tokens.nonces
            )
            .fetch_all(connection)
            .await
        };
    }
    let locked = match locks {
        Locks::Wait => lock!(""),
        Locks::PassOver => lock!("skip locked"),
    };
    locked.map_err(failed("check leases"))
}

/// Columns of what reports bring.
#[derive(Debug, Default)]
pub(super) struct ReportRows {
    attempts: Attempts,
    progress: ProgressRows,
    metrics: Metrics,
    logs: Logs,
    curves: CurveRows,
    environments: EnvironmentRows,
}

#[derive(Debug, Default)]
struct Attempts {
    jobs: Vec<Uuid>,
    epochs: Vec<i64>,
    last_seqs: Vec<i64>,
    steps: Vec<i64>,
    workers: Vec<String>,
}

#[derive(Debug, Default)]
struct ProgressRows {
    jobs: Vec<Uuid>,
    steps: Vec<i64>,
    step_counts: Vec<i64>,
    losses: Vec<f64>,
    learning_rates: Vec<f64>,
    samples_per_s: Vec<f64>,
    qualities: Vec<Option<f64>>,
    quality_metrics: Vec<Option<String>>,
    remaining_s: Vec<Option<f64>>,
    phases: Vec<String>,
}

#[derive(Debug, Default)]
struct Metrics {
    jobs: Vec<Uuid>,
    epochs: Vec<i64>,
    seqs: Vec<i64>,
    keys: Vec<String>,
    steps: Vec<i64>,
    values: Vec<f64>,
    times: Vec<DateTime<Utc>>,
}

#[derive(Debug, Default)]
struct Logs {
    jobs: Vec<Uuid>,
    epochs: Vec<i64>,
    seqs: Vec<i64>,
    times: Vec<DateTime<Utc>>,
    texts: Vec<String>,
}

impl ReportRows {
    pub(super) fn is_empty(&self) -> bool {
        self.attempts.jobs.is_empty()
    }

    /// Adds a report of an attempt, up to `ack_seq`; entries up to the attempt's
    /// last one are stored already.
    pub(super) fn add(&mut self, report: &Report, attempt: &Reporting, ack_seq: i64) {
        let token = report.token;
        self.attempts.jobs.push(token.job.0);
        self.attempts.epochs.push(token.epoch);
        self.attempts.last_seqs.push(ack_seq);
        self.attempts.steps.push(report.progress.as_ref().map_or(0, |progress| progress.step));
        self.attempts.workers.push(attempt.worker.clone());
        if let Some(progress) = &report.progress {
            self.progress.add(token.job, progress);
        }
        if attempt.last_seq == 0 && ack_seq > 0 {
            self.curves.begin(attempt);
        }
        for (seq, entry) in (report.first_seq..).zip(&report.entries) {
            if seq > attempt.last_seq {
                self.add_entry(report, seq, entry);
                self.curves.add(attempt, seq, entry);
            }
        }
    }

    fn add_entry(&mut self, report: &Report, seq: i64, entry: &Entry) {
        let (job, epoch) = (report.token.job.0, report.token.epoch);
        match entry {
            Entry::Metric { step, values, time } => {
                for (key, value) in values {
                    self.metrics.jobs.push(job);
                    self.metrics.epochs.push(epoch);
                    self.metrics.seqs.push(seq);
                    self.metrics.keys.push(key.clone());
                    self.metrics.steps.push(*step);
                    self.metrics.values.push(*value);
                    self.metrics.times.push(*time);
                }
            }
            Entry::Environment(environment) => self.environments.add(job, epoch, seq, environment),
            Entry::Log { time, text } => {
                self.logs.jobs.push(job);
                self.logs.epochs.push(epoch);
                self.logs.seqs.push(seq);
                self.logs.times.push(*time);
                self.logs.texts.push(line(text));
            }
        }
    }

    /// Stores entries and progress, and renews the leases; what is wanted of each
    /// attempt. That is read behind the locks: in a statement of its own snapshot.
    pub(super) async fn write(
        &self,
        connection: &mut PgConnection,
        policy: &Policy,
    ) -> Result<BTreeMap<Uuid, Desired>, Error> {
        let ReportRows { attempts, progress, metrics, logs, curves, environments } = self;
        curves.write(connection).await?;
        environments.write(connection).await?;
        // S4: the key of an entry holds attempt and number; what is stored is skipped before.
        let rows = sqlx::query!(
            r#"with attempts as (
                   select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
                       as report (job_id, epoch, last_seq, step, worker_id)
               ), moved as (
                   update attempt set last_seq = report.last_seq, last_step = greatest(last_step, report.step)
                   from attempts report where attempt.job_id = report.job_id and attempt.epoch = report.epoch
               ), renewed as (
                   update attempt_lease set deadline = clock_timestamp() + make_interval(secs => $6)
                   from attempts report
                   where attempt_lease.job_id = report.job_id and attempt_lease.epoch = report.epoch
                       and attempt_lease.member = 0
               ), shown as (
                   insert into job_progress
                       (job_id, step, step_count, loss, learning_rate, samples_per_s, quality, quality_metric,
                        remaining_s, phase)
                   select * from unnest($7::uuid[], $8::bigint[], $9::bigint[], $10::float8[], $11::float8[],
                       $12::float8[], $13::float8[], $14::text[], $15::float8[], $16::text[])
                   on conflict (job_id) do update set
                       step = excluded.step, step_count = excluded.step_count, loss = excluded.loss,
                       learning_rate = excluded.learning_rate, samples_per_s = excluded.samples_per_s,
                       quality = excluded.quality, quality_metric = excluded.quality_metric,
                       remaining_s = excluded.remaining_s, phase = excluded.phase,
                       update_time = clock_timestamp(), revision = job_progress.revision + 1
               ), measured as (
                   insert into metric (job_id, epoch, seq, key, step, value, time)
                   select * from unnest($17::uuid[], $18::bigint[], $19::bigint[], $20::text[], $21::bigint[],
                       $22::float8[], $23::timestamptz[])
               ), logged as (
                   insert into log_line (job_id, epoch, seq, time, text)
                   select * from unnest($24::uuid[], $25::bigint[], $26::bigint[], $27::timestamptz[],
                       $28::text[])
               ), alive as (
                   -- Waits for nobody, and is exact to a twelfth of what makes a worker count as lost.
                   select id from worker
                   where id = any($5) and last_seen_time < clock_timestamp() - make_interval(secs => $6 / 12)
                   for no key update skip locked
               ), seen as (
                   update worker set last_seen_time = clock_timestamp() from alive where worker.id = alive.id
               )
               -- Of a gang the first one that drains lets the leader save for all.
               select job.id as "id!", job.state as "state!",
                   case when exists (
                       select from attempt_member member join worker other on other.id = member.worker_id
                       where member.job_id = report.job_id and member.epoch = report.epoch
                           and other.schedule = 'draining'
                   ) then 'draining' else worker.schedule end as "schedule!",
                   coalesce(job.yield_epoch = report.epoch, false) as "makes_way!"
               from attempts report join job on job.id = report.job_id
               join worker on worker.id = report.worker_id"#,
            &attempts.jobs,
            &attempts.epochs,
            &attempts.last_seqs,
            &attempts.steps,
            &attempts.workers,
            policy.lease_ttl.as_secs_f64(),
            &progress.jobs,
            &progress.steps,
            &progress.step_counts,
            &progress.losses,
            &progress.learning_rates,
            &progress.samples_per_s,
            &progress.qualities as _,
            &progress.quality_metrics as _,
            &progress.remaining_s as _,
            &progress.phases,
            &metrics.jobs,
            &metrics.epochs,
            &metrics.seqs,
            &metrics.keys,
            &metrics.steps,
            &metrics.values,
            &metrics.times,
            &logs.jobs,
            &logs.epochs,
            &logs.seqs,
            &logs.times,
            &logs.texts
        )
        .fetch_all(connection)
        .await
        .map_err(failed("store reports"))?;
        rows.into_iter()
            .map(|row| {
                let what = || format!("what job {} is to do", row.id);
                let state: JobState = row.state.parse().map_err(|error| corrupt(what(), &error))?;
                let schedule: Schedule = row.schedule.parse().map_err(|error| corrupt(what(), &error))?;
                Ok((row.id, desired(state, schedule, row.makes_way)))
            })
            .collect()
    }
}

impl ProgressRows {
    fn add(&mut self, job: JobId, progress: &Progress) {
        self.jobs.push(job.0);
        self.steps.push(progress.step);
        self.step_counts.push(progress.step_count);
        self.losses.push(progress.loss);
        self.learning_rates.push(progress.learning_rate);
        self.samples_per_s.push(progress.samples_per_s);
        self.qualities.push(progress.quality.as_ref().map(|quality| quality.value));
        self.quality_metrics.push(progress.quality.as_ref().map(|quality| quality.metric.clone()));
        self.remaining_s.push(progress.remaining_s);
        self.phases.push(storable(&progress.phase, PHASE_BYTES_MAX));
    }
}
