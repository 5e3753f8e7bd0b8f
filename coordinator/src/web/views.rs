//! Records of the store as the page reads them. Times are RFC 3339, units stand in
//! the names.

use cakes::frame::Quality;
use cakes::labels::Labels;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::store::read::attempts::AttemptRecord;
use crate::store::read::events::EventRecord;
use crate::store::read::jobs::{JobRecord, ProgressRecord, ResultRecord};
use crate::store::read::notes::NoteRecord;
use crate::store::read::searches::SearchRecord;
use crate::store::read::summary::SearchSummary;
use crate::store::read::timeline::Span;

#[derive(Serialize)]
pub(super) struct SearchView {
    pub id: Uuid,
    pub name: String,
    pub backbone: String,
    pub state: &'static str,
    pub state_reason: String,
    pub create_time: DateTime<Utc>,
    pub end_time: Option<DateTime<Utc>>,
    pub imported: bool,
    pub job_count: i64,
    pub succeeded_count: i64,
    pub failed_count: i64,
    pub cancelled_count: i64,
    pub live_count: i64,
    pub step_share: f64,
    pub best_quality: Option<f64>,
    pub quality_metric: Option<String>,
    pub labels: Labels,
    /// Who submitted it; none for nobody known.
    pub owner: Option<String>,
    pub project: String,
}

impl From<SearchSummary> for SearchView {
    fn from(summary: SearchSummary) -> Self {
        let (best_quality, quality_metric) = summary.best.unzip();
        SearchView {
            id: summary.id.0,
            name: summary.name,
            backbone: summary.backbone,
            state: summary.state.as_str(),
            state_reason: summary.state_reason,
            create_time: summary.create_time,
            end_time: summary.end_time,
            imported: summary.imported,
            job_count: summary.job_count,
            succeeded_count: summary.succeeded_count,
            failed_count: summary.failed_count,
            cancelled_count: summary.cancelled_count,
            live_count: summary.live_count,
            step_share: summary.step_share,
            best_quality,
            quality_metric,
            labels: summary.labels,
            owner: summary.owner,
            project: summary.project,
        }
    }
}

#[derive(Serialize)]
pub(super) struct JobView {
    pub id: Uuid,
    pub position: i64,
    pub search: Option<Uuid>,
    pub kind: &'static str,
    pub state: &'static str,
    pub state_reason: String,
    pub label: String,
    pub labels: Labels,
    /// Who submitted it or its search; none for nobody known.
    pub owner: Option<String>,
    pub project: String,
    pub architecture: Option<String>,
    pub attempt_count: i64,
    pub worker: Option<String>,
    /// Of the last attempt, where it trains on several.
    pub slots: Vec<String>,
    pub progress: Option<ProgressView>,
    pub result: Option<ResultView>,
    pub create_time: DateTime<Utc>,
    pub start_time: Option<DateTime<Utc>>,
    pub end_time: Option<DateTime<Utc>>,
}

/// Which workers a job or the jobs of a search go to, until when they are wanted, and for how
/// much.
#[derive(Serialize)]
pub(super) struct PlacementView {
    pub worker_labels: Labels,
    pub deadline: Option<DateTime<Utc>>,
    /// Most that a job may take; none for no limit.
    pub cost_limit_device_s: Option<i64>,
    /// What the job, or all jobs of the search together, took so far; none without a limit.
    pub spent_device_s: Option<i64>,
}

impl PlacementView {
    pub(super) fn of_job(job: &JobRecord) -> Self {
        PlacementView {
            worker_labels: job.worker_labels.clone(),
            deadline: job.deadline,
            cost_limit_device_s: job.cost_limit_device_s,
            spent_device_s: job.spent_device_s,
        }
    }

    pub(super) fn of_search(search: &SearchRecord, spent_device_s: Option<i64>) -> Self {
        PlacementView {
            worker_labels: search.worker_labels.clone(),
            deadline: search.deadline,
            cost_limit_device_s: search.cost_limit_device_s,
            spent_device_s,
        }
    }
}

#[derive(Serialize)]
pub(super) struct ProgressView {
    pub step: i64,
    pub step_count: i64,
    pub loss: f64,
    pub learning_rate: f64,
    pub samples_per_s: f64,
    pub quality: Option<f64>,
    pub quality_metric: Option<String>,
    pub remaining_s: Option<f64>,
    pub phase: String,
    pub checkpoint_step: i64,
}

#[derive(Serialize)]
pub(super) struct ResultView {
    pub quality: f64,
    pub quality_metric: &'static str,
    /// Dice from class 1, or recall from class 0.
    pub per_class: Vec<Option<f64>>,
    pub param_count: i64,
    pub mac_count: i64,
    pub latency_ms: Option<f64>,
    pub peak_memory_mib: f64,
    pub train_duration_s: f64,
    pub device: String,
    pub checkpoint_key: String,
}

impl From<JobRecord> for JobView {
    fn from(job: JobRecord) -> Self {
        JobView {
            id: job.id.0,
            position: job.position,
            search: job.search.map(|search| search.0),
            kind: job.kind.as_str(),
            state: job.state.as_str(),
            state_reason: job.state_reason,
            label: job.label,
            labels: job.labels,
            owner: job.owner,
            project: job.project,
            architecture: job.architecture.map(|digest| digest.to_string()),
            attempt_count: job.epoch,
            worker: job.worker,
            slots: job.slots,
            progress: job.progress.map(ProgressView::from),
            result: job.result.map(ResultView::from),
            create_time: job.create_time,
            start_time: job.start_time,
            end_time: job.end_time,
        }
    }
}

impl From<ProgressRecord> for ProgressView {
    fn from(progress: ProgressRecord) -> Self {
        let (quality, quality_metric) =
            progress.quality.map(|quality| (quality.value, quality.metric)).unzip();
        ProgressView {
            step: progress.step,
            step_count: progress.step_count,
            loss: progress.loss,
            learning_rate: progress.learning_rate,
            samples_per_s: progress.samples_per_s,
            quality,
            quality_metric,
            remaining_s: progress.remaining_s,
            phase: progress.phase,
            checkpoint_step: progress.checkpoint_step,
        }
    }
}

impl From<ResultRecord> for ResultView {
    fn from(result: ResultRecord) -> Self {
        let per_class = match &result.quality {
            Quality::Segmentation(quality) => quality.dice_per_class.iter().copied().map(Some).collect(),
            Quality::Classification(quality) => quality.recall_per_class.clone(),
        };
        ResultView {
            quality: result.quality.value(),
            quality_metric: result.quality.metric(),
            per_class,
            param_count: result.param_count,
            mac_count: result.mac_count,
            latency_ms: result.latency_ms,
            peak_memory_mib: result.peak_memory_mib,
            train_duration_s: result.train_duration_s,
            device: result.device,
            checkpoint_key: result.checkpoint_key,
        }
    }
}

#[derive(Serialize)]
pub(super) struct NoteView {
    pub author: String,
    pub text: String,
    pub create_time: DateTime<Utc>,
}

impl From<NoteRecord> for NoteView {
    fn from(note: NoteRecord) -> Self {
        let NoteRecord { author, text, create_time } = note;
        NoteView { author, text, create_time }
    }
}

#[derive(Serialize)]
pub(super) struct AttemptView {
    pub epoch: i64,
    pub worker: String,
    pub resume_step: i64,
    pub last_step: i64,
    pub outcome: String,
    pub grant_time: DateTime<Utc>,
    pub end_time: Option<DateTime<Utc>>,
}

impl From<AttemptRecord> for AttemptView {
    fn from(attempt: AttemptRecord) -> Self {
        let AttemptRecord { epoch, worker, slots, resume_step, last_step, outcome, grant_time, end_time } =
            attempt;
        let worker = if slots.is_empty() { worker } else { slots.join(", ") };
        AttemptView { epoch, worker, resume_step, last_step, outcome, grant_time, end_time }
    }
}

#[derive(Serialize)]
pub(super) struct EventView {
    pub id: i64,
    pub time: DateTime<Utc>,
    pub kind: String,
    pub search: Option<Uuid>,
    pub job: Option<Uuid>,
    pub label: Option<String>,
    pub epoch: Option<i64>,
    pub worker: Option<String>,
    pub body: Value,
}

impl From<EventRecord> for EventView {
    fn from(event: EventRecord) -> Self {
        let EventRecord { id, time, kind, search, job, label, epoch, worker, body } = event;
        EventView { id, time, kind, search, job, label, epoch, worker, body }
    }
}

#[derive(Serialize)]
pub(super) struct SpanView {
    pub job: Uuid,
    pub search: Option<Uuid>,
    pub label: String,
    pub kind: String,
    pub epoch: i64,
    pub worker: String,
    pub device: String,
    pub outcome: String,
    pub grant_time: DateTime<Utc>,
    pub end_time: Option<DateTime<Utc>>,
}

impl From<Span> for SpanView {
    fn from(span: Span) -> Self {
        let Span { job, search, label, kind, epoch, worker, device, outcome, grant_time, end_time } = span;
        SpanView { job, search, label, kind, epoch, worker, device, outcome, grant_time, end_time }
    }
}
