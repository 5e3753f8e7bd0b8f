//! Ends a job with its result.

use std::collections::BTreeSet;

use cakes::backbone::Backbone;
use cakes::derive::{ChannelCosts, LatencyTable};
use cakes::frame::Quality;
use cakes::job::{Task, TrainerJob};
use cakes::kernel::KernelSet;
use cakes::scores::ChannelScores;
use cakes::spec::TaskKind;
use cakes_proto::ids::{JobId, LeaseToken};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::types::Uuid;
use sqlx::{PgConnection, PgPool};

use super::CheckpointRef;
use super::commit_checkpoint::{self, Saved};
use super::turn::{Decision, Deed, Effects, Turn, turn};
use super::turn_rows::Turning;
use crate::core::job::{EndReason, JobEvent, JobKind, JobState, transition};
use crate::store::error::{Error, corrupt, failed};
use crate::store::fence::Life;
use crate::store::job_row::task_name;
use crate::store::quality::QualityColumns;

/// What a worker hands in at the end.
#[derive(Clone, Debug)]
pub struct Completion {
    /// Number of the last entry that was reported.
    pub last_seq: i64,
    /// Committed before, by this attempt or by an earlier one; or with the result.
    pub checkpoint: CheckpointRef,
    /// Size of the checkpoint's files, if it is to be committed with the result.
    pub checkpoint_bytes: Option<i64>,
    pub outcome: Outcome,
    /// Of a supernet.
    pub scores: Option<ChannelScores>,
    /// Of a supernet.
    pub latency: Option<LatencyTable>,
}

/// What a finished job leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub quality: Quality,
    pub param_count: i64,
    pub mac_count: i64,
    pub latency_ms: Option<f64>,
    pub peak_memory_mib: f64,
    pub train_duration_s: f64,
}

/// Records the result and ends the job, and commits the checkpoint if it is to be
/// committed with it. The same result again is answered like the first time.
///
/// # Errors
/// The token is not the current one, entries or the checkpoint are missing,
/// quality, scores or times do not fit the job, another result is recorded, or the job was
/// cancelled first: then the attempt is ended as cancelled.
pub async fn complete(pool: &PgPool, token: LeaseToken, completion: &Completion) -> Result<(), Error> {
    let deed = Deed::Complete(Box::new(completion.clone()));
    turn(pool, &Turn { token, deed }).await.map(drop)
}

/// What is worked out of a completion before any row is locked.
pub(super) struct Content {
    pub hash: [u8; 32],
    columns: QualityColumns,
    /// The checkpoint, if it is to be committed with the result.
    pub saved: Option<Saved>,
}

/// What can be told of a completion without the database.
pub(super) fn check(token: LeaseToken, completion: &Completion) -> Result<Content, Error> {
    check_numbers(&completion.outcome)?;
    let carried = |bytes| Saved { checkpoint: completion.checkpoint.clone(), bytes };
    let saved = completion.checkpoint_bytes.map(carried);
    saved.as_ref().map_or(Ok(()), |saved| commit_checkpoint::check(token, saved))?;
    Ok(Content {
        saved,
        hash: content_hash(completion),
        columns: QualityColumns::of(&completion.outcome.quality)?,
    })
}

pub(super) fn decide(row: &Turning, completion: &Completion) -> Decision {
    match row.life {
        Life::Ended(EndReason::Succeeded) => return Decision::Compare,
        Life::Ended(EndReason::Cancelled) => return Decision::Refuse(cancelled(row)),
        Life::Ended(_) => return Decision::Lost,
        Life::Offered | Life::Running => {}
    }
    let moved = match transition(row.state, &JobEvent::Complete) {
        Ok(moved) => moved,
        Err(error) => return Decision::Refuse(error.into()),
    };
    if moved.next != JobState::Succeeded {
        return Decision::Write(Effects {
            moved: Some(("job_cancelled", moved)),
            refusal: Some(cancelled(row)),
            ..Effects::default()
        });
    }
    let checked = check_last_seq(completion.last_seq, row.last_seq)
        .and_then(|()| check_task(&row.task, &completion.outcome.quality))
        .and_then(|()| if row.kind == JobKind::Supernet.as_str() { Ok(()) } else { no_findings(completion) });
    match checked {
        Err(error) => Decision::Refuse(error),
        Ok(()) => Decision::Write(Effects {
            succeeds: true,
            moved: Some(("job_succeeded", moved)),
            ..Effects::default()
        }),
    }
}

fn cancelled(row: &Turning) -> Error {
    Error::JobCancelled { job: JobId(row.job) }
}

fn check_numbers(outcome: &Outcome) -> Result<(), Error> {
    let finite = [outcome.peak_memory_mib, outcome.train_duration_s]
        .into_iter()
        .chain(figures(&outcome.quality))
        .chain(outcome.latency_ms)
        .all(|value| value.is_finite() && value >= 0.0);
    if finite && outcome.param_count > 0 && outcome.mac_count > 0 {
        return Ok(());
    }
    let problem = "every number must be finite and not negative, and both counts above 0".to_owned();
    Err(Error::InvalidArgument { field: "result", problem })
}

fn figures(quality: &Quality) -> Vec<f64> {
    match quality {
        Quality::Segmentation(quality) => {
            quality.dice_per_class.iter().copied().chain([quality.mean_dice]).collect()
        }
        Quality::Classification(quality) => {
            let recall = quality.recall_per_class.iter().copied().flatten();
            let all = [quality.top1, quality.top5, quality.balanced_accuracy, quality.loss];
            recall.chain(all).chain(quality.auc).collect()
        }
    }
}

fn check_last_seq(last_seq: i64, stored: i64) -> Result<(), Error> {
    match last_seq.cmp(&stored) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Error::OutOfRange { ack_seq: stored }),
        std::cmp::Ordering::Less => Err(Error::InvalidArgument {
            field: "last_seq",
            problem: format!("{stored} entries are stored, which is more"),
        }),
    }
}

/// A network that classifies is not measured by Dice.
fn check_task(task: &str, quality: &Quality) -> Result<(), Error> {
    let of = match quality {
        Quality::Segmentation(_) => TaskKind::Segmentation,
        Quality::Classification(_) => TaskKind::Classification,
    };
    if task == task_name(of) {
        return Ok(());
    }
    let problem = format!("{} is no measure of what the job trained", quality.metric());
    Err(Error::InvalidArgument { field: "result.quality_metric", problem })
}

/// Answers a completion of an attempt that has succeeded.
pub(super) async fn compare(
    connection: &mut PgConnection,
    token: LeaseToken,
    hash: Option<[u8; 32]>,
) -> Result<Result<(), Error>, Error> {
    let stored = sqlx::query_scalar!("select content_hash from result where job_id = $1", token.job.0)
        .fetch_one(connection)
        .await
        .map_err(failed("compare a result"))?;
    let same = hash.is_some_and(|hash| stored == hash);
    Ok(if same { Ok(()) } else { Err(Error::Refused("another result of this job is recorded".to_owned())) })
}

/// A row of results; the database reads it from JSON.
#[derive(Debug, Serialize)]
pub(super) struct ResultRow<'a> {
    pub job_id: Uuid,
    epoch: i64,
    last_seq: i64,
    /// As the database writes bytes: `\x00ff`.
    content_hash: String,
    key: &'a str,
    step: i64,
    manifest_sha256: &'a str,
    quality: f64,
    quality_metric: &'static str,
    mean_dice: Option<f64>,
    dice_per_class: Option<&'a [f64]>,
    case_count: Option<i64>,
    classification: Option<&'a Value>,
    param_count: i64,
    mac_count: i64,
    latency_ms: Option<f64>,
    peak_memory_mib: f64,
    train_duration_s: f64,
    device: &'a str,
}

pub(super) fn result_row<'a>(
    token: LeaseToken,
    row: &'a Turning,
    completion: &'a Completion,
    content: &'a Content,
) -> ResultRow<'a> {
    let Completion { checkpoint, outcome, .. } = completion;
    let Content { hash, columns, .. } = content;
    ResultRow {
        job_id: token.job.0,
        epoch: token.epoch,
        last_seq: completion.last_seq,
        content_hash: format!("\\x{}", hex::encode(hash)),
        key: &checkpoint.key,
        step: checkpoint.step,
        manifest_sha256: &checkpoint.manifest_sha256,
        quality: outcome.quality.value(),
        quality_metric: outcome.quality.metric(),
        mean_dice: columns.mean_dice,
        dice_per_class: columns.dice_per_class.as_deref(),
        case_count: columns.case_count,
        classification: columns.classification.as_ref(),
        param_count: outcome.param_count,
        mac_count: outcome.mac_count,
        latency_ms: outcome.latency_ms,
        peak_memory_mib: outcome.peak_memory_mib,
        train_duration_s: outcome.train_duration_s,
        device: &row.device,
    }
}

/// Records results whose checkpoint is committed; of which jobs.
pub(super) async fn insert_results(
    connection: &mut PgConnection,
    rows: &[ResultRow<'_>],
) -> Result<BTreeSet<Uuid>, Error> {
    let rows = serde_json::to_value(rows).map_err(|error| corrupt("results", &error))?;
    // S7 S11: the primary key is the job, and the foreign key a committed checkpoint that is kept.
    let recorded = sqlx::query_scalar!(
        "insert into result
             (job_id, epoch, last_seq, content_hash, checkpoint_epoch, checkpoint_step, quality,
              quality_metric, mean_dice, dice_per_class, case_count, classification, param_count, mac_count,
              latency_ms, peak_memory_mib, train_duration_s, device)
         select row.job_id, row.epoch, row.last_seq, row.content_hash, checkpoint.epoch, checkpoint.step,
              row.quality, row.quality_metric, row.mean_dice, row.dice_per_class, row.case_count,
              row.classification, row.param_count, row.mac_count, row.latency_ms, row.peak_memory_mib,
              row.train_duration_s, row.device
         from jsonb_to_recordset($1) as row (
             job_id uuid, epoch bigint, last_seq bigint, content_hash bytea, key text, step bigint,
             manifest_sha256 text, quality float8, quality_metric text, mean_dice float8,
             dice_per_class float8[], case_count bigint, classification jsonb, param_count bigint,
             mac_count bigint, latency_ms float8, peak_memory_mib float8, train_duration_s float8, device text)
         cross join lateral (
             select epoch, step from checkpoint
             where checkpoint.job_id = row.job_id and checkpoint.key = row.key
                 and checkpoint.step = row.step and checkpoint.manifest_sha256 = row.manifest_sha256
                 and checkpoint.condemn_time is null
             -- One row by its key: a plan made for an empty table would read all of them.
             limit 1
         ) checkpoint
         returning job_id",
        rows
    )
    .fetch_all(connection)
    .await
    .map_err(failed("record results"))?;
    Ok(recorded.into_iter().collect())
}

/// Whether scores and times are of the supernet that the job trained; a
/// retraining has none.
pub(super) async fn check_findings(
    connection: &mut PgConnection,
    token: LeaseToken,
    row: &Turning,
    completion: &Completion,
) -> Result<Result<(), Error>, Error> {
    if row.kind != JobKind::Supernet.as_str() {
        return Ok(Ok(()));
    }
    let job = read_trainer_job(connection, token).await?;
    let Task::Supernet { backbone, kernels, .. } = &job.task else {
        return Err(corrupt(format!("the trainer's job of job {}", token.job), &"it is no supernet's"));
    };
    Ok(findings(backbone, kernels, completion).map(drop))
}

async fn read_trainer_job(connection: &mut PgConnection, token: LeaseToken) -> Result<TrainerJob, Error> {
    let stored = sqlx::query_scalar!("select trainer_job from job where id = $1", token.job.0)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("read what a job trained"))?;
    serde_json::from_value(stored)
        .map_err(|error| corrupt(format!("the trainer's job of job {}", token.job), &error))
}

/// Records scores and times, which were checked; a retraining has none.
pub(super) async fn insert_findings(
    connection: &mut PgConnection,
    token: LeaseToken,
    completion: &Completion,
) -> Result<(), Error> {
    let (Some(scores), Some(latency)) = (&completion.scores, &completion.latency) else { return Ok(()) };
    let json = |value: serde_json::Result<Value>| value.map_err(|error| corrupt("findings", &error));
    sqlx::query!(
        "insert into supernet_scores (job_id, scores, latency) values ($1, $2, $3)",
        token.job.0,
        json(serde_json::to_value(scores))?,
        json(serde_json::to_value(latency))?
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record what a supernet found"))
}

fn no_findings(completion: &Completion) -> Result<(), Error> {
    let invalid = |field, what: &str| {
        Err(Error::InvalidArgument { field, problem: format!("a retraining has no {what}") })
    };
    match completion {
        Completion { scores: Some(_), .. } => invalid("scores_json", "scores"),
        Completion { latency: Some(_), .. } => invalid("latency_json", "times of channels"),
        _ => Ok(()),
    }
}

/// Scores and times of the supernet of these kernels.
fn findings<'a>(
    backbone: &Backbone,
    kernels: &KernelSet,
    completion: &'a Completion,
) -> Result<(&'a ChannelScores, &'a LatencyTable), Error> {
    let invalid = |field, problem: String| Error::InvalidArgument { field, problem };
    let missing = |field, what: &str| invalid(field, format!("{what} of a supernet are missing"));
    let scores = completion.scores.as_ref().ok_or_else(|| missing("scores_json", "the scores"))?;
    if scores.backbone() != backbone || scores.kernels() != kernels {
        return Err(invalid("scores_json", "they are of another supernet than the job's".to_owned()));
    }
    let latency =
        completion.latency.as_ref().ok_or_else(|| missing("latency_json", "the times of channels"))?;
    ChannelCosts::measured(backbone, kernels, latency)
        .map_err(|error| invalid("latency_json", error.to_string()))?;
    Ok((scores, latency))
}

fn content_hash(completion: &Completion) -> [u8; 32] {
    let Completion { last_seq, checkpoint, outcome, scores, latency, checkpoint_bytes: _ } = completion;
    let content = (last_seq, &checkpoint.key, &checkpoint.manifest_sha256, outcome, scores, latency);
    // Plain data into memory cannot fail.
    Sha256::digest(serde_json::to_vec(&content).unwrap_or_default()).into()
}
