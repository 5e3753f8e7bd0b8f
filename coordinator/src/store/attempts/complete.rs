//! Ends a job with its result.

use cakes::backbone::Backbone;
use cakes::derive::{ChannelCosts, LatencyTable};
use cakes::frame::Quality;
use cakes::job::{Task, TrainerJob};
use cakes::kernel::KernelSet;
use cakes::scores::ChannelScores;
use cakes::spec::TaskKind;
use cakes_proto::ids::LeaseToken;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use super::CheckpointRef;
use super::end::end_attempt;
use crate::core::job::{EndReason, JobEvent, JobState, transition};
use crate::store::error::{Error, corrupt, failed};
use crate::store::fence::{self, Attempt, Life};
use crate::store::job_row::{self, Move};
use crate::store::quality::QualityColumns;

/// What a worker hands in at the end.
#[derive(Clone, Debug)]
pub struct Completion {
    /// Number of the last entry that was reported.
    pub last_seq: i64,
    /// Committed before, by this attempt or by an earlier one.
    pub checkpoint: CheckpointRef,
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

/// Records the result and ends the job. The same result again is answered like
/// the first time.
///
/// # Errors
/// The token is not the current one, entries or the checkpoint are missing,
/// quality, scores or times do not fit the job, another result is recorded, or the job was
/// cancelled first: then the attempt is ended as cancelled.
#[instrument(skip_all, fields(job = %token.job, epoch = token.epoch), err(level = "debug"))]
pub async fn complete(pool: &PgPool, token: LeaseToken, completion: &Completion) -> Result<(), Error> {
    check_numbers(&completion.outcome)?;
    let hash = content_hash(completion);
    let mut transaction = pool.begin().await.map_err(failed("begin a completion"))?;
    let job = job_row::lock(&mut transaction, token.job).await?;
    let attempt = fence::attempt(&mut transaction, token).await?;
    if let Life::Ended(end) = attempt.life {
        return repeated(&mut transaction, token, end, &hash).await;
    }
    let moved = transition(job.state, &JobEvent::Complete)?;
    let succeeded = moved.next == JobState::Succeeded;
    if succeeded {
        check_last_seq(completion.last_seq, &attempt)?;
        insert_result(&mut transaction, token, completion, &attempt, &hash).await?;
        let trained = read_trainer_job(&mut transaction, token).await?;
        check_task(&trained, &completion.outcome.quality)?;
        insert_findings(&mut transaction, token, &trained, completion).await?;
    }
    end_attempt(&mut transaction, token, moved.ends_attempt.unwrap_or(EndReason::Succeeded), None).await?;
    let (kind, reason) = if succeeded { ("job_succeeded", Some("")) } else { ("job_cancelled", None) };
    let change = Move { kind, moved: &moved, reason, counters: job.counters, avoid: None };
    job_row::apply(&mut transaction, &job, change).await?;
    transaction.commit().await.map_err(failed("commit a completion"))?;
    if succeeded { Ok(()) } else { Err(Error::JobCancelled { job: token.job }) }
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

fn check_last_seq(last_seq: i64, attempt: &Attempt) -> Result<(), Error> {
    match last_seq.cmp(&attempt.last_seq) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Error::OutOfRange { ack_seq: attempt.last_seq }),
        std::cmp::Ordering::Less => Err(Error::InvalidArgument {
            field: "last_seq",
            problem: format!("{} entries are stored, which is more", attempt.last_seq),
        }),
    }
}

/// Answers a completion of an attempt that has ended.
async fn repeated(
    connection: &mut PgConnection,
    token: LeaseToken,
    end: EndReason,
    hash: &[u8; 32],
) -> Result<(), Error> {
    match end {
        EndReason::Succeeded => {
            let stored =
                sqlx::query_scalar!("select content_hash from result where job_id = $1", token.job.0)
                    .fetch_one(connection)
                    .await
                    .map_err(failed("compare a result"))?;
            if stored == hash {
                return Ok(());
            }
            Err(Error::Refused("another result of this job is recorded".to_owned()))
        }
        EndReason::Cancelled => Err(Error::JobCancelled { job: token.job }),
        _ => Err(fence::lost(connection, token).await?),
    }
}

async fn insert_result(
    connection: &mut PgConnection,
    token: LeaseToken,
    completion: &Completion,
    attempt: &Attempt,
    hash: &[u8; 32],
) -> Result<(), Error> {
    let Completion { checkpoint, outcome, .. } = completion;
    let checkpoint_epoch = sqlx::query_scalar!(
        "select epoch from checkpoint where job_id = $1 and key = $2 and step = $3 and manifest_sha256 = $4",
        token.job.0,
        checkpoint.key,
        checkpoint.step,
        checkpoint.manifest_sha256
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("look for the final checkpoint"))?
    .ok_or_else(|| Error::Refused("the final checkpoint is not committed; commit it first".to_owned()))?;
    let columns = QualityColumns::of(&outcome.quality)?;
    // S7: the primary key is the job, and the foreign key a committed checkpoint.
    sqlx::query!(
        "insert into result
             (job_id, epoch, last_seq, content_hash, checkpoint_epoch, checkpoint_step, quality,
              quality_metric, mean_dice, dice_per_class, case_count, classification, param_count, mac_count,
              latency_ms, peak_memory_mib, train_duration_s, device)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
        token.job.0,
        token.epoch,
        completion.last_seq,
        &hash[..],
        checkpoint_epoch,
        checkpoint.step,
        outcome.quality.value(),
        outcome.quality.metric(),
        columns.mean_dice,
        columns.dice_per_class.as_deref(),
        columns.case_count,
        columns.classification,
        outcome.param_count,
        outcome.mac_count,
        outcome.latency_ms,
        outcome.peak_memory_mib,
        outcome.train_duration_s,
        attempt.device
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record a result"))
}

async fn read_trainer_job(connection: &mut PgConnection, token: LeaseToken) -> Result<TrainerJob, Error> {
    let stored = sqlx::query_scalar!("select trainer_job from job where id = $1", token.job.0)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("read what a job trained"))?;
    serde_json::from_value(stored)
        .map_err(|error| corrupt(format!("the trainer's job of job {}", token.job), &error))
}

/// A network that classifies is not measured by Dice.
fn check_task(job: &TrainerJob, quality: &Quality) -> Result<(), Error> {
    let task = job.task.backbone().task();
    if matches!(
        (task, quality),
        (TaskKind::Segmentation, Quality::Segmentation(_))
            | (TaskKind::Classification, Quality::Classification(_))
    ) {
        return Ok(());
    }
    let problem = format!("{} is no measure of what the job trained", quality.metric());
    Err(Error::InvalidArgument { field: "result.quality_metric", problem })
}

/// Scores and times belong to supernets, and to the supernet that the job trained.
async fn insert_findings(
    connection: &mut PgConnection,
    token: LeaseToken,
    job: &TrainerJob,
    completion: &Completion,
) -> Result<(), Error> {
    let (scores, latency) = match &job.task {
        Task::Retrain { .. } => return no_findings(completion),
        Task::Supernet { backbone, kernels, .. } => findings(backbone, kernels, completion)?,
    };
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
    let Completion { last_seq, checkpoint, outcome, scores, latency } = completion;
    let content = (last_seq, &checkpoint.key, &checkpoint.manifest_sha256, outcome, scores, latency);
    // Plain data into memory cannot fail.
    Sha256::digest(serde_json::to_vec(&content).unwrap_or_default()).into()
}
