//! Records of the store as messages of the protocol.

use cakes::Extent;
use cakes::cost::Cost;
use cakes_proto::convert::{architecture_to_wire, cost_to_wire, quality_to_wire, search_to_wire};
use cakes_proto::ids::JobId;
use cakes_proto::v1;
use chrono::{DateTime, Utc};
use pbjson_types::Timestamp;

use super::resume;
use crate::core::access::Role;
use crate::core::etag::Etag;
use crate::core::job::{JobKind, JobState};
use crate::core::search::{Derived, SearchState};
use crate::core::worker::{Device, Schedule};
use crate::store::attempts::Environment;
use crate::store::projects::{MemberRecord, ProjectRecord};
use crate::store::read::architectures::ArchitectureRecord;
use crate::store::read::attempts::AttemptRecord;
use crate::store::read::checkpoint::CheckpointEntry;
use crate::store::read::jobs::{JobRecord, ProgressRecord, ResultRecord};
use crate::store::read::logs::{LogPosition, LogRecord};
use crate::store::read::notes::NoteRecord;
use crate::store::read::searches::SearchRecord;
use crate::store::read::workers::WorkerRecord;

/// The metric that has a field of its own in the progress, from before there was another.
const SEGMENTATION_METRIC: &str = "mean_dice";

/// A count of the database, which holds none below zero.
pub(super) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) fn time(time: DateTime<Utc>) -> Option<Timestamp> {
    Some(time.into())
}

/// Device-seconds as device-hours.
pub(super) fn hours(device_s: i64) -> f64 {
    device_s as f64 / 3600.0
}

/// A search with its jobs.
pub(super) fn search(record: SearchRecord, jobs: Vec<JobRecord>) -> v1::Search {
    v1::Search {
        id: record.id.to_string(),
        spec: Some(search_to_wire(record.spec.spec())),
        state: search_state(record.state).into(),
        state_reason: record.state_reason,
        jobs: jobs.into_iter().map(job).collect(),
        create_time: time(record.create_time),
        end_time: record.end_time.and_then(time),
        revision: count(record.revision),
        imported: record.imported.map(|import| v1::SearchImport {
            source: import.source,
            cakes_version: import.cakes_version,
            is_snapshot: import.is_snapshot,
            content_sha256: import.content_sha256,
            export_time: time(import.export_time),
            import_time: time(import.import_time),
        }),
        etag: Etag::of_search(record.state, &record.labels).to_string(),
        labels: record.labels.into(),
        owner: record.owner.unwrap_or_default(),
        notes: Vec::new(),
        project: record.project,
        priority: record.priority,
        worker_labels: record.worker_labels.into(),
        deadline: record.deadline.and_then(time),
        cost_limit_device_hours: record.cost_limit_device_s.map(hours),
        resume_token: String::new(),
    }
}

fn search_state(state: SearchState) -> v1::SearchState {
    match state {
        SearchState::Searching => v1::SearchState::Searching,
        SearchState::Retraining => v1::SearchState::Retraining,
        SearchState::Succeeded => v1::SearchState::Succeeded,
        SearchState::Failed => v1::SearchState::Failed,
        SearchState::Cancelled => v1::SearchState::Cancelled,
    }
}

/// A job with its progress and result.
pub(super) fn job(record: JobRecord) -> v1::Job {
    let kind = match record.kind {
        JobKind::Supernet => v1::JobKind::Supernet,
        JobKind::Retrain => v1::JobKind::Retrain,
    };
    v1::Job {
        id: record.id.to_string(),
        search_id: record.search.map(|id| id.to_string()).unwrap_or_default(),
        kind: kind.into(),
        state: job_state(record.state).into(),
        label: record.label,
        architecture_digest: record.architecture.map(|digest| digest.to_string()).unwrap_or_default(),
        state_reason: record.state_reason,
        attempt_count: count(record.epoch),
        worker_id: record.worker.unwrap_or_default(),
        progress: record.progress.map(progress),
        result: record.result.map(result),
        create_time: time(record.create_time),
        start_time: record.start_time.and_then(time),
        end_time: record.end_time.and_then(time),
        environment: record.environment.map(environment),
        etag: Etag::of_job(record.state, record.epoch, &record.labels).to_string(),
        labels: record.labels.into(),
        owner: record.owner.unwrap_or_default(),
        notes: Vec::new(),
        project: record.project,
        priority: record.priority,
        worker_labels: record.worker_labels.into(),
        deadline: record.deadline.and_then(time),
        cost_limit_device_hours: record.cost_limit_device_s.map(hours),
        spent_device_hours: record.spent_device_s.map(hours),
        is_held: record.is_held,
        resume_token: String::new(),
        slots: record.slots,
    }
}

fn environment(found: Environment) -> v1::Environment {
    let data = found.data.as_ref();
    v1::Environment {
        libtorch: found.libtorch.unwrap_or_default(),
        device: found.device.unwrap_or_default(),
        worker_version: found.worker_version.unwrap_or_default(),
        data_sha256: data.map(|data| data.sha256.clone()).unwrap_or_default(),
        data_file_count: data.map_or(0, |data| count(data.file_count)),
        data_bytes: data.map_or(0, |data| count(data.bytes)),
    }
}

/// Remarks of people.
pub(super) fn notes(records: Vec<NoteRecord>) -> Vec<v1::Note> {
    let note =
        |NoteRecord { author, text, create_time }| v1::Note { author, text, create_time: time(create_time) };
    records.into_iter().map(note).collect()
}

fn job_state(state: JobState) -> v1::JobState {
    match state {
        JobState::Queued => v1::JobState::Queued,
        JobState::Leased => v1::JobState::Leased,
        JobState::Running => v1::JobState::Running,
        JobState::Succeeded => v1::JobState::Succeeded,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelling => v1::JobState::Cancelling,
        JobState::Cancelled => v1::JobState::Cancelled,
        JobState::Pausing => v1::JobState::Pausing,
        JobState::Paused => v1::JobState::Paused,
    }
}

/// The state that a list request names; none for `UNSPECIFIED` and unknown numbers.
pub(super) fn job_state_from_wire(state: i32) -> Option<JobState> {
    let wire = v1::JobState::try_from(state).ok()?;
    JobState::ALL.iter().copied().find(|candidate| job_state(*candidate) == wire)
}

fn progress(record: ProgressRecord) -> v1::JobProgress {
    let (quality, metric) = record.quality.map(|quality| (quality.value, quality.metric)).unzip();
    v1::JobProgress {
        step: count(record.step),
        step_count: count(record.step_count),
        loss: record.loss,
        learning_rate: record.learning_rate,
        samples_per_s: record.samples_per_s,
        mean_dice: quality.filter(|_| metric.as_deref() == Some(SEGMENTATION_METRIC)),
        quality,
        quality_metric: metric.unwrap_or_default(),
        remaining_s: record.remaining_s,
        phase: record.phase,
        checkpoint_step: count(record.checkpoint_step),
    }
}

fn result(record: ResultRecord) -> v1::JobResult {
    v1::JobResult {
        param_count: count(record.param_count),
        mac_count: count(record.mac_count),
        latency_ms: record.latency_ms,
        peak_memory_mib: record.peak_memory_mib,
        train_duration_s: record.train_duration_s,
        checkpoint_key: record.checkpoint_key,
        device: record.device,
        ..quality_to_wire(&record.quality)
    }
}

/// An architecture with its cost and origins.
pub(super) fn architecture(record: &ArchitectureRecord) -> v1::Architecture {
    v1::Architecture {
        cost: Some(cost(&record.cost, record)),
        create_time: time(record.create_time),
        origins: record.origins.clone(),
        ..architecture_to_wire(&record.architecture)
    }
}

/// An architecture that was derived for patches of this extent and is not recorded.
pub(super) fn unrecorded(derived: &Derived, patch: Extent) -> v1::Architecture {
    let cost = cost_to_wire(&derived.cost, patch, derived.cost.mac_count);
    v1::Architecture {
        cost: Some(v1::Cost { mac_fraction: derived.mac_fraction, ..cost }),
        origins: vec![derived.origin.clone()],
        ..architecture_to_wire(&derived.architecture)
    }
}

/// How an architecture was found.
pub(super) fn derivation(derived: &Derived) -> v1::Derivation {
    v1::Derivation {
        digest: derived.architecture.digest().to_string(),
        origin: derived.origin.clone(),
        param_fraction: derived.param_fraction,
        score: derived.merit.map(|merit| merit.score),
        score_bound: derived.merit.map(|merit| merit.score_bound),
        is_optimal: derived.merit.is_some_and(|merit| merit.is_optimal),
        predicted_latency_ms: derived.latency.map(|latency| latency.ms),
        latency_fraction: derived.latency.map(|latency| latency.fraction),
    }
}

fn cost(cost: &Cost, record: &ArchitectureRecord) -> v1::Cost {
    v1::Cost { mac_fraction: record.mac_fraction, ..cost_to_wire(cost, record.patch, cost.mac_count) }
}

pub(super) fn attempt(record: AttemptRecord) -> v1::Attempt {
    v1::Attempt {
        epoch: count(record.epoch),
        worker_id: record.worker,
        resume_step: count(record.resume_step),
        last_step: count(record.last_step),
        outcome: record.outcome,
        start_time: time(record.grant_time),
        end_time: record.end_time.and_then(time),
        slots: record.slots,
    }
}

pub(super) fn checkpoint(entry: CheckpointEntry) -> v1::StoredCheckpoint {
    v1::StoredCheckpoint {
        step: count(entry.step),
        epoch: count(entry.epoch),
        bytes: count(entry.bytes),
        key: entry.key,
        commit_time: time(entry.commit_time),
        is_pinned: entry.is_pinned,
        kept_because: entry.kept_because.into_iter().map(|reason| reason.to_string()).collect(),
        condemn_reason: entry.condemn_reason.unwrap_or_default(),
        condemn_time: entry.condemn_time.and_then(time),
        delete_time: entry.delete_time.and_then(time),
    }
}

pub(super) fn log_line(job: JobId, record: LogRecord) -> v1::LogLine {
    let LogPosition { epoch, seq } = record.at;
    v1::LogLine {
        time: time(record.time),
        attempt: count(epoch),
        text: record.text,
        resume_token: resume::token(job.0, [epoch, seq]),
    }
}

pub(super) fn worker(record: WorkerRecord) -> v1::Worker {
    let state = match record.schedule {
        _ if record.is_lost => v1::WorkerState::Lost,
        Schedule::Ready if record.suspect.is_some() => v1::WorkerState::Suspect,
        Schedule::Ready => v1::WorkerState::Ready,
        Schedule::Cordoned => v1::WorkerState::Cordoned,
        Schedule::Draining => v1::WorkerState::Draining,
    };
    let (suspect_reason, suspect_until) = record.suspect.unzip();
    v1::Worker {
        suspect_reason: suspect_reason.unwrap_or_default(),
        suspect_until: suspect_until.and_then(time),
        id: record.id.to_string(),
        state: state.into(),
        devices: record.devices.into_iter().map(device).collect(),
        job_ids: record.jobs.iter().map(ToString::to_string).collect(),
        last_seen_time: time(record.last_seen_time),
        register_time: time(record.register_time),
        version: record.version,
        labels: record.labels.into(),
    }
}

pub(super) fn project(record: ProjectRecord, members: Vec<MemberRecord>) -> v1::Project {
    v1::Project {
        name: record.name,
        share: record.share.unsigned_abs(),
        device_quota: record.device_quota.map(i32::unsigned_abs),
        device_hours_quota: record.device_s_quota.map(hours),
        period_days: record.period_days.unsigned_abs(),
        used_device_hours: record.used_device_s / 3600.0,
        usage_device_hours: record.usage_device_s / 3600.0,
        busy_device_count: u32::try_from(record.busy_device_count).unwrap_or(u32::MAX),
        waiting_job_count: u32::try_from(record.waiting_job_count).unwrap_or(u32::MAX),
        members: members.into_iter().map(member).collect(),
    }
}

fn member(record: MemberRecord) -> v1::ProjectMember {
    let role = match record.role {
        Role::Viewer => v1::ProjectRole::Viewer,
        Role::Submitter => v1::ProjectRole::Submitter,
        Role::Operator => v1::ProjectRole::Operator,
    };
    v1::ProjectMember { name: record.name, role: role.into() }
}

/// None for what is no role.
pub(super) fn project_role_from_wire(role: i32) -> Option<Role> {
    match v1::ProjectRole::try_from(role).ok()? {
        v1::ProjectRole::Unspecified => None,
        v1::ProjectRole::Viewer => Some(Role::Viewer),
        v1::ProjectRole::Submitter => Some(Role::Submitter),
        v1::ProjectRole::Operator => Some(Role::Operator),
    }
}

fn device(device: Device) -> v1::Device {
    v1::Device { name: device.name, model: device.model, memory_mib: device.memory_mib, count: device.count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_state_has_a_name_of_its_own_on_the_wire() {
        for state in JobState::ALL.iter().copied() {
            assert_eq!(job_state_from_wire(job_state(state).into()), Some(state));
        }
        assert_eq!(job_state_from_wire(0), None);
        assert_eq!(job_state_from_wire(99), None);
    }
}
