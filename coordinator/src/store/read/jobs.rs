//! Jobs with their progress and results.

use std::fmt::Display;

use cakes::architecture::ArchitectureDigest;
use cakes::frame::Quality;
use cakes::labels::Labels;
use cakes_proto::ids::{JobId, SearchId};
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::types::Uuid;

use super::{Order, corrupt, failed};
use crate::core::filter;
use crate::core::job::{JobKind, JobState};
use crate::store::Error;
use crate::store::attempts::{DataContent, Environment, Validated};
use crate::store::labels;
use crate::store::quality::QualityColumns;

/// A job as people see it.
#[derive(Clone, Debug)]
pub struct JobRecord {
    pub id: JobId,
    /// Order of creation over all jobs.
    pub position: i64,
    pub search: Option<SearchId>,
    pub project: String,
    pub priority: i32,
    /// What workers must be labelled with to get it.
    pub worker_labels: Labels,
    pub deadline: Option<DateTime<Utc>>,
    /// Most device-seconds before a job is paused.
    pub cost_limit_device_s: Option<i64>,
    /// Device-seconds that its attempts took so far; none without a limit.
    pub spent_device_s: Option<i64>,
    /// Whether it waits and a quota of its project keeps it from starting.
    pub is_held: bool,
    pub kind: JobKind,
    pub state: JobState,
    pub state_reason: String,
    pub label: String,
    pub labels: Labels,
    /// Who submitted it or its search; none for nobody known.
    pub owner: Option<String>,
    pub architecture: Option<ArchitectureDigest>,
    /// Grants so far.
    pub epoch: i64,
    /// Worker of the current or last attempt.
    pub worker: Option<String>,
    /// Of its last attempt, where that has several: the leader's first.
    pub slots: Vec<String>,
    pub progress: Option<ProgressRecord>,
    pub result: Option<ResultRecord>,
    /// Of the last attempt.
    pub environment: Option<Environment>,
    pub create_time: DateTime<Utc>,
    pub start_time: Option<DateTime<Utc>>,
    pub end_time: Option<DateTime<Utc>>,
}

/// The last reported progress of a job.
#[derive(Clone, Debug)]
pub struct ProgressRecord {
    pub step: i64,
    pub step_count: i64,
    pub loss: f64,
    pub learning_rate: f64,
    pub samples_per_s: f64,
    pub quality: Option<Validated>,
    pub remaining_s: Option<f64>,
    pub phase: String,
    /// Step of the last committed checkpoint, 0 for none.
    pub checkpoint_step: i64,
}

/// What a succeeded job left behind.
#[derive(Clone, Debug)]
pub struct ResultRecord {
    pub quality: Quality,
    pub param_count: i64,
    pub mac_count: i64,
    pub latency_ms: Option<f64>,
    pub peak_memory_mib: f64,
    pub train_duration_s: f64,
    pub device: String,
    pub checkpoint_key: String,
}

/// One job.
///
/// # Errors
/// There is no such job, or the database fails.
pub async fn get(pool: &PgPool, id: JobId) -> Result<JobRecord, Error> {
    let unknown = || Error::NotFound { kind: "job", id: id.to_string() };
    by_ids(pool, &[id.0]).await?.pop().ok_or_else(unknown)
}

/// Jobs of a search in the order of their creation.
///
/// # Errors
/// The database fails.
pub async fn of_search(pool: &PgPool, search: SearchId) -> Result<Vec<JobRecord>, Error> {
    let ids = sqlx::query_scalar!("select id from job where search_id = $1", search.0)
        .fetch_all(pool)
        .await
        .map_err(failed("list the jobs of a search"))?;
    by_ids(pool, &ids).await
}

/// Which jobs a list holds.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub search: Option<SearchId>,
    /// Empty for all.
    pub states: Vec<JobState>,
    /// Only jobs that have all of them.
    pub labels: Labels,
    pub expression: Option<filter::Filter>,
}

/// Jobs behind position `behind`, in this order.
///
/// # Errors
/// The database fails.
pub async fn page(
    pool: &PgPool,
    filter: &Filter,
    order: Order,
    behind: Option<i64>,
    limit: i64,
) -> Result<Vec<JobRecord>, Error> {
    let states: Vec<String> = filter.states.iter().map(|state| state.as_str().to_owned()).collect();
    let (search, labels) = (filter.search.map(|search| search.0), labels::to_column(&filter.labels)?);
    let expression = filter.expression.as_ref().map(filter::Filter::as_json_path);
    // Two statements, so that both walk the index.
    let ids = match order {
        Order::NewestFirst => newest(pool, search, &states, labels, expression, behind, limit).await,
        Order::OldestFirst => oldest(pool, search, &states, labels, expression, behind, limit).await,
    };
    let mut jobs = by_ids(pool, &ids.map_err(failed("list jobs"))?).await?;
    if order == Order::NewestFirst {
        jobs.reverse();
    }
    Ok(jobs)
}

async fn newest(
    pool: &PgPool,
    search: Option<Uuid>,
    states: &[String],
    labels: serde_json::Value,
    expression: Option<&str>,
    behind: Option<i64>,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from job
         where ($1::uuid is null or search_id = $1)
             and (cardinality($2::text[]) = 0 or state = any($2))
             and ($3::bigint is null or position < $3)
             and labels @> $5
             and case when $6::text is null then true
                 else coalesce(job_fields(job) @@ $6::text::jsonpath, false) end
         order by position desc limit $4",
        search,
        states,
        behind,
        limit,
        labels,
        expression
    )
    .fetch_all(pool)
    .await
}

async fn oldest(
    pool: &PgPool,
    search: Option<Uuid>,
    states: &[String],
    labels: serde_json::Value,
    expression: Option<&str>,
    behind: Option<i64>,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from job
         where ($1::uuid is null or search_id = $1)
             and (cardinality($2::text[]) = 0 or state = any($2))
             and ($3::bigint is null or position > $3)
             and labels @> $5
             and case when $6::text is null then true
                 else coalesce(job_fields(job) @@ $6::text::jsonpath, false) end
         order by position limit $4",
        search,
        states,
        behind,
        limit,
        labels,
        expression
    )
    .fetch_all(pool)
    .await
}

/// What a watcher compares, and whether the job has ended.
///
/// # Errors
/// There is no such job, or the database fails.
pub async fn revision(pool: &PgPool, id: JobId) -> Result<i64, Error> {
    let revision =
        sqlx::query_scalar!(r#"select revision as "revision!" from job_revision where job_id = $1"#, id.0)
            .fetch_optional(pool)
            .await
            .map_err(failed("read the revision of a job"))?;
    revision.ok_or_else(|| Error::NotFound { kind: "job", id: id.to_string() })
}

struct Row {
    id: Uuid,
    position: i64,
    search_id: Option<Uuid>,
    project: String,
    priority: i32,
    worker_labels: serde_json::Value,
    deadline: Option<DateTime<Utc>>,
    cost_limit_device_s: Option<i64>,
    spent_device_s: Option<i64>,
    is_held: bool,
    kind: String,
    state: String,
    state_reason: String,
    label: String,
    labels: serde_json::Value,
    owner: Option<String>,
    architecture_digest: Option<String>,
    epoch: i64,
    worker_id: Option<String>,
    slots: Vec<String>,
    checkpoint_step: Option<i64>,
    create_time: DateTime<Utc>,
    start_time: Option<DateTime<Utc>>,
    end_time: Option<DateTime<Utc>>,
    step: Option<i64>,
    step_count: i64,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    samples_per_s: Option<f64>,
    progress_quality: Option<f64>,
    progress_metric: Option<String>,
    remaining_s: Option<f64>,
    phase: Option<String>,
    mean_dice: Option<f64>,
    dice_per_class: Option<Vec<f64>>,
    case_count: Option<i64>,
    classification: Option<serde_json::Value>,
    param_count: Option<i64>,
    mac_count: Option<i64>,
    latency_ms: Option<f64>,
    peak_memory_mib: Option<f64>,
    train_duration_s: Option<f64>,
    device: Option<String>,
    checkpoint_key: Option<String>,
    environment_epoch: Option<i64>,
    libtorch: Option<String>,
    environment_device: Option<String>,
    worker_version: Option<String>,
    data_sha256: Option<String>,
    data_file_count: Option<i64>,
    data_bytes: Option<i64>,
}

/// The jobs of these ids, in the order of their creation.
pub(super) async fn by_ids(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<JobRecord>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select job.id, job.position, job.search_id, job.project, job.priority, job.worker_labels, job.deadline,
               job.cost_limit_device_s,
               case when job.cost_limit_device_s is not null then spent_device_s(job) end as spent_device_s,
               job.waits and job.is_held as "is_held!", job.kind, job.state, job.state_reason, job.label,
               job.labels, job.owner, job.architecture_digest, job.epoch, attempt.worker_id as "worker_id?", job.checkpoint_step,
               case when attempt.member_count > 1 then array(
                   select member.worker_id || ' ' || member.device from attempt_member member
                   where member.job_id = job.id and member.epoch = job.epoch order by member.member
               ) else '{}' end as "slots!",
               job.create_time, job.start_time, job.end_time,
               progress.step as "step?", job.step_count, progress.loss as "loss?",
               progress.learning_rate as "learning_rate?", progress.samples_per_s as "samples_per_s?",
               progress.quality as progress_quality, progress.quality_metric as progress_metric,
               progress.remaining_s, progress.phase as "phase?",
               result.mean_dice, result.dice_per_class, result.case_count, result.classification,
               result.param_count as "param_count?", result.mac_count as "mac_count?", result.latency_ms,
               result.peak_memory_mib as "peak_memory_mib?",
               result.train_duration_s as "train_duration_s?", result.device as "device?",
               checkpoint.key as "checkpoint_key?",
               environment.epoch as "environment_epoch?", environment.libtorch,
               environment.device as environment_device, environment.worker_version,
               environment.data_sha256, environment.data_file_count, environment.data_bytes
           from job
           left join attempt on attempt.job_id = job.id and attempt.epoch = job.epoch
           left join attempt_environment environment
               on environment.job_id = job.id and environment.epoch = job.epoch
           left join job_progress progress on progress.job_id = job.id
           left join result on result.job_id = job.id
           left join checkpoint on checkpoint.job_id = job.id
               and checkpoint.epoch = result.checkpoint_epoch and checkpoint.step = result.checkpoint_step
           where job.id = any($1)
           order by job.position"#,
        ids
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read jobs"))?;
    rows.into_iter().map(JobRecord::try_from).collect()
}

impl TryFrom<Row> for JobRecord {
    type Error = Error;

    fn try_from(mut row: Row) -> Result<Self, Error> {
        let (progress, result, environment) = (row.progress(), row.result()?, row.environment());
        let corrupt =
            |part: &str, problem: &dyn Display| corrupt(format!("{part} of job {}", row.id), problem);
        Ok(JobRecord {
            id: JobId(row.id),
            position: row.position,
            search: row.search_id.map(SearchId),
            project: row.project,
            priority: row.priority,
            worker_labels: labels::from_column(row.worker_labels)?,
            deadline: row.deadline,
            cost_limit_device_s: row.cost_limit_device_s,
            spent_device_s: row.spent_device_s,
            is_held: row.is_held,
            kind: row.kind.parse().map_err(|error| corrupt("the kind", &error))?,
            state: row.state.parse().map_err(|error| corrupt("the state", &error))?,
            state_reason: row.state_reason,
            label: row.label,
            labels: labels::from_column(row.labels)?,
            owner: row.owner,
            architecture: row.architecture_digest.as_deref().map(super::architectures::digest).transpose()?,
            epoch: row.epoch,
            worker: row.worker_id,
            slots: row.slots,
            progress,
            result,
            environment,
            create_time: row.create_time,
            start_time: row.start_time,
            end_time: row.end_time,
        })
    }
}

impl Row {
    /// The progress; none before the first report.
    fn progress(&mut self) -> Option<ProgressRecord> {
        Some(ProgressRecord {
            step: self.step?,
            step_count: self.step_count,
            loss: self.loss?,
            learning_rate: self.learning_rate?,
            samples_per_s: self.samples_per_s?,
            quality: self
                .progress_quality
                .zip(self.progress_metric.take())
                .map(|(value, metric)| Validated { value, metric }),
            remaining_s: self.remaining_s,
            phase: self.phase.take()?,
            checkpoint_step: self.checkpoint_step.unwrap_or(0),
        })
    }

    fn environment(&mut self) -> Option<Environment> {
        self.environment_epoch?;
        let data = self.data_sha256.take().zip(self.data_file_count).zip(self.data_bytes);
        Some(Environment {
            libtorch: self.libtorch.take(),
            device: self.environment_device.take(),
            worker_version: self.worker_version.take(),
            data: data.map(|((sha256, file_count), bytes)| DataContent { sha256, file_count, bytes }),
        })
    }

    /// The result; none unless the job succeeded.
    fn result(&mut self) -> Result<Option<ResultRecord>, Error> {
        let Some(checkpoint_key) = self.checkpoint_key.take() else { return Ok(None) };
        let columns = QualityColumns {
            mean_dice: self.mean_dice,
            dice_per_class: self.dice_per_class.take(),
            case_count: self.case_count,
            classification: self.classification.take(),
        };
        let quality = columns.quality()?;
        Ok(self.result_of(quality, checkpoint_key))
    }

    fn result_of(&mut self, quality: Quality, checkpoint_key: String) -> Option<ResultRecord> {
        Some(ResultRecord {
            quality,
            param_count: self.param_count?,
            mac_count: self.mac_count?,
            latency_ms: self.latency_ms,
            peak_memory_mib: self.peak_memory_mib?,
            train_duration_s: self.train_duration_s?,
            device: self.device.take()?,
            checkpoint_key,
        })
    }
}
