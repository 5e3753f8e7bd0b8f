//! Stores what an attempt reports, and renews its lease.

use std::collections::BTreeSet;
use std::slice;

use cakes_proto::ids::LeaseToken;
use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, PgPool};
use tracing::instrument;

use super::repeated;
use super::report_rows::{self, ReportRows, Reporting};
use super::together::{Answers, Locks, Tokens, only, refuse_rest};
use crate::core::lease::{Desired, Policy};
use crate::store::Kept;
use crate::store::error::{Error, corrupt, failed};
use crate::store::fence;

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
    /// What the attempt runs with.
    Environment(Environment),
}

/// What an attempt runs with, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub libtorch: Option<String>,
    /// `cpu`, or the GPU's name.
    pub device: Option<String>,
    pub worker_version: Option<String>,
    pub data: Option<DataContent>,
}

/// What a data set holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataContent {
    /// In hexadecimal.
    pub sha256: String,
    pub file_count: i64,
    pub bytes: i64,
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
/// The token is not the current one, entries are missing before the first, or one that is stored
/// already comes with other content.
#[instrument(skip_all, fields(job = %report.token.job, epoch = report.token.epoch), err(level = "debug"))]
pub async fn report(pool: &PgPool, policy: &Policy, report: &Report) -> Result<Receipt, Error> {
    let mut connection = pool.acquire().await.map_err(failed("begin reports"))?;
    let answers = store(&mut connection, policy, slice::from_ref(report), Locks::Wait).await?;
    only(answers).unwrap_or(Err(Error::LeaseLost { current_epoch: 0 }))
}

/// The same for many attempts in one transaction.
///
/// # Errors
/// The database fails; nothing is stored.
#[instrument(skip_all, fields(count = reports.len()), err(level = "debug"))]
pub async fn report_together(
    kept: &Kept,
    policy: &Policy,
    reports: &[Report],
) -> Result<Answers<Receipt>, Error> {
    kept.with(async |connection| store(connection, policy, reports, Locks::PassOver).await).await
}

async fn store(
    connection: &mut PgConnection,
    policy: &Policy,
    reports: &[Report],
    locks: Locks,
) -> Result<Answers<Receipt>, Error> {
    let mut answers: Answers<Receipt> = reports.iter().map(|report| check(report).err().map(Err)).collect();
    let sound = reports.iter().enumerate().filter(|(place, _)| answers[*place].is_none());
    let tokens = Tokens::of(sound.map(|(place, report)| (place, report.token)));
    if tokens.is_empty() {
        return Ok(answers);
    }
    let mut transaction = connection.begin().await.map_err(failed("begin reports"))?;
    let (mut rows, mut receipts) = (ReportRows::default(), Vec::new());
    for attempt in report_rows::lock(&mut transaction, &tokens, locks).await? {
        let Some(place) = tokens.place(attempt.job) else { continue };
        let report = &reports[place];
        match decide(report, &attempt) {
            Decision::Store { ack_seq } => {
                if let Some(last) = repeated::last(report, &attempt) {
                    // What came before is compared, which nobody else is to wait for.
                    if locks == Locks::PassOver {
                        continue;
                    }
                    if let Err(error) = repeated::compare(&mut transaction, report, last).await? {
                        answers[place] = Some(Err(error));
                        continue;
                    }
                }
                rows.add(report, &attempt, ack_seq);
                receipts.push((place, ack_seq));
            }
            Decision::Refuse(error) => answers[place] = Some(Err(error)),
            Decision::Lost => {
                answers[place] = Some(Err(fence::lost(&mut transaction, report.token).await?));
            }
        }
    }
    if !rows.is_empty() {
        let wanted = rows.write(&mut transaction, policy).await?;
        for (place, ack_seq) in receipts {
            let job = reports[place].token.job;
            let desired = wanted.get(&job.0).ok_or_else(|| corrupt(format!("job {job}"), &"it is gone"))?;
            answers[place] = Some(Ok(Receipt { ack_seq, desired: *desired }));
        }
    }
    if locks == Locks::Wait {
        refuse_rest(&mut transaction, reports.iter().map(|report| report.token), &mut answers).await?;
    }
    transaction.commit().await.map_err(failed("commit reports"))?;
    Ok(answers)
}

/// What becomes of a report.
enum Decision {
    /// Entries are stored up to this number.
    Store {
        ack_seq: i64,
    },
    Refuse(Error),
    Lost,
}

fn decide(report: &Report, attempt: &Reporting) -> Decision {
    let stored = attempt.last_seq;
    match attempt.state.as_str() {
        "ended" => return Decision::Lost,
        "offered" => {
            return Decision::Refuse(Error::Refused("an attempt is started before it reports".to_owned()));
        }
        _ => {}
    }
    if report.entries.is_empty() {
        return Decision::Store { ack_seq: stored };
    }
    if report.first_seq > stored + 1 {
        return Decision::Refuse(Error::OutOfRange { ack_seq: stored });
    }
    let count = i64::try_from(report.entries.len()).unwrap_or(i64::MAX);
    Decision::Store { ack_seq: stored.max(report.first_seq.saturating_add(count - 1)) }
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
