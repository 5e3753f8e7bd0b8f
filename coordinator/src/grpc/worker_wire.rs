//! Messages of workers as the store's types, and back.

use std::time::Duration;

use cakes::address::host_and_port;
use cakes::frame::Quality;
use cakes_proto::convert::quality_from_wire;
use cakes_proto::{DATA_AT_HAND_BYTES_MAX, DATA_AT_HAND_MAX, v1};
use cakes_telemetry::trace::TraceContext;
use tonic::Status;
use uuid::Uuid;

use super::job_service::METRIC_KEY_CHARS_MAX;
use super::status::invalid_field;
use super::traces;
use super::values::{amount, checked, cleaned, share, signed, time};
use crate::core::lease::{Desired, Policy};
use crate::core::retry::FailureClass;
use crate::core::worker::Device;
use crate::store::attempts::{
    CheckpointRef, DataContent, Entry, Environment, Grant, Outcome, Progress, Report, Validated,
};

const DEVICES_MAX: usize = 64;
/// Devices of one slot.
const SLOT_DEVICES_MAX: u32 = 64;
const DEVICE_NAME_CHARS_MAX: usize = 64;
const DEVICE_MODEL_CHARS_MAX: usize = 200;
const CHECKPOINT_KEY_CHARS_MAX: usize = 512;
const WORKER_VERSION_CHARS_MAX: usize = 64;
const ADDRESS_CHARS_MAX: usize = 255;
const PHASE_CHARS_MAX: usize = 64;
const LOG_LINE_CHARS_MAX: usize = 8192;
const ENTRIES_MAX: usize = 10_000;
const VALUES_MAX: usize = 100;
/// As many as a network for classification may have.
const CLASSES_MAX: usize = 10_000;
const QUALITY_METRIC_CHARS_MAX: usize = 64;

pub(super) fn uuid(field: &str, text: &str) -> Result<Uuid, Status> {
    Uuid::try_parse(text).map_err(|_| invalid_field(field, format!("'{text}' is no UUID")))
}

/// Where the ranks of a gang meet; `None` where nobody says it.
pub(super) fn rendezvous(address: String) -> Result<Option<String>, Status> {
    const FIELD: &str = "rendezvous_address";
    let address = checked(FIELD, address, ADDRESS_CHARS_MAX)?;
    if address.is_empty() {
        return Ok(None);
    }
    // The others of the gang hand it to programs of their own.
    if host_and_port(&address).is_some() {
        return Ok(Some(address));
    }
    Err(invalid_field(FIELD, format!("'{address}' is no address; write host:port")))
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn devices(wire: Vec<v1::Device>) -> Result<Vec<Device>, Status> {
    if !(1..=DEVICES_MAX).contains(&wire.len()) {
        let problem = format!("must be 1 to {DEVICES_MAX}, got {}", wire.len());
        return Err(invalid_field("devices", problem));
    }
    let read = |(index, wire)| device(&format!("devices[{index}]"), Some(wire));
    let devices = wire.into_iter().enumerate().map(read).collect::<Result<Vec<Device>, _>>()?;
    for (index, device) in devices.iter().enumerate() {
        if devices[..index].iter().any(|other| other.name == device.name) {
            return Err(invalid_field("devices", format!("'{}' is given twice", device.name)));
        }
    }
    Ok(devices)
}

pub(super) fn device(field: &str, wire: Option<v1::Device>) -> Result<Device, Status> {
    let wire = wire.ok_or_else(|| invalid_field(field, "is missing"))?;
    let name = checked(&format!("{field}.name"), wire.name, DEVICE_NAME_CHARS_MAX)?;
    if name.is_empty() {
        return Err(invalid_field(format!("{field}.name"), "is missing; say \"cpu\" or \"cuda:0\""));
    }
    signed(&format!("{field}.memory_mib"), wire.memory_mib)?;
    let model = checked(&format!("{field}.model"), wire.model, DEVICE_MODEL_CHARS_MAX)?;
    if wire.count > SLOT_DEVICES_MAX {
        let problem = format!("must be at most {SLOT_DEVICES_MAX}, got {}", wire.count);
        return Err(invalid_field(format!("{field}.count"), problem));
    }
    Ok(Device { name, model, memory_mib: wire.memory_mib, count: wire.count.max(1) })
}

pub(super) fn data_at_hand(paths: Vec<String>) -> Result<Vec<String>, Status> {
    if paths.len() > DATA_AT_HAND_MAX {
        let problem =
            format!("{} are more than {DATA_AT_HAND_MAX}; name those that were used last", paths.len());
        return Err(invalid_field("data_at_hand", problem));
    }
    if let Some(index) = paths.iter().position(|path| path.len() > DATA_AT_HAND_BYTES_MAX) {
        let problem = format!(
            "has {} bytes, which are more than {DATA_AT_HAND_BYTES_MAX}; leave it out",
            paths[index].len()
        );
        return Err(invalid_field(format!("data_at_hand[{index}]"), problem));
    }
    Ok(paths)
}

pub(super) fn grant(grant: Grant, policy: &Policy) -> v1::Grant {
    let trace = traces::waited(&grant);
    let reference = |checkpoint: CheckpointRef| v1::CheckpointReference {
        key: checkpoint.key,
        step: checkpoint.step.unsigned_abs(),
        manifest_sha256: checkpoint.manifest_sha256,
    };
    v1::Grant {
        token: Some(grant.token.into()),
        trainer_job_json: grant.trainer_job_json,
        resume_from: grant.resume_from.map(reference),
        start_from: grant.start_from.map(reference),
        artifact_prefix: grant.artifact_prefix,
        offer_ttl_ms: milliseconds(policy.offer_ttl),
        traceparent: trace.as_ref().map(TraceContext::traceparent).unwrap_or_default(),
        tracestate: trace.as_ref().map(TraceContext::tracestate).unwrap_or_default(),
        gang: grant.seat.map(|seat| v1::GangSeat {
            member_count: u32::from(seat.member_count.unsigned_abs()),
            first_rank: seat.first_rank.unsigned_abs(),
            rank_count: seat.device_count.unsigned_abs(),
            world_size: seat.world_size.unsigned_abs(),
        }),
    }
}

pub(super) fn checkpoint(wire: Option<v1::CheckpointReference>) -> Result<CheckpointRef, Status> {
    let wire = wire.ok_or_else(|| invalid_field("checkpoint", "is missing"))?;
    if !is_digest(&wire.manifest_sha256) {
        return Err(invalid_field(
            "checkpoint.manifest_sha256",
            "must be 64 hexadecimal digits in lower case",
        ));
    }
    let key = checked("checkpoint.key", wire.key, CHECKPOINT_KEY_CHARS_MAX)?;
    if key.is_empty() {
        return Err(invalid_field("checkpoint.key", "is missing"));
    }
    let step = signed("checkpoint.step", wire.step)?;
    if step == 0 {
        return Err(invalid_field("checkpoint.step", "must be at least 1"));
    }
    Ok(CheckpointRef { key, step, manifest_sha256: wire.manifest_sha256 })
}

pub(super) fn report(wire: v1::ReportRequest) -> Result<Report, Status> {
    let token = wire.token.try_into().map_err(|error| invalid_field("token", error))?;
    let first_seq = signed("first_seq", wire.first_seq)?;
    if first_seq == 0 && !wire.entries.is_empty() {
        return Err(invalid_field("first_seq", "entries count from 1"));
    }
    if wire.entries.len() > ENTRIES_MAX {
        let problem = format!("{} are more than {ENTRIES_MAX}; report more often", wire.entries.len());
        return Err(invalid_field("entries", problem));
    }
    let entries = wire.entries.into_iter().enumerate().map(|(index, wire)| entry(index, wire));
    Ok(Report {
        token,
        first_seq,
        entries: entries.collect::<Result<Vec<_>, _>>()?,
        progress: wire.progress.map(progress).transpose()?,
    })
}

fn entry(index: usize, wire: v1::ReportEntry) -> Result<Entry, Status> {
    use v1::report_entry::Entry as Wire;
    let at = |field: &str| format!("entries[{index}].{field}");
    match wire.entry {
        None => Err(invalid_field(at("entry"), "is no metric, no log line and no environment")),
        Some(Wire::Environment(found)) => environment(found, &at).map(Entry::Environment),
        Some(Wire::Log(line)) => Ok(Entry::Log {
            time: time(&at("log.time"), line.time)?,
            text: cleaned(&line.text, LOG_LINE_CHARS_MAX),
        }),
        Some(Wire::Metric(point)) => {
            if !(1..=VALUES_MAX).contains(&point.values.len()) {
                let problem = format!("must be 1 to {VALUES_MAX}, got {}", point.values.len());
                return Err(invalid_field(at("metric.values"), problem));
            }
            let values = point.values.into_iter().map(|(key, value)| {
                if key.is_empty() {
                    return Err(invalid_field(at("metric.values"), "a value has no name"));
                }
                Ok((checked(&at("metric.values"), key, METRIC_KEY_CHARS_MAX)?, value))
            });
            let mut values = values.collect::<Result<Vec<_>, _>>()?;
            // A map of the wire has no order; a repetition must have the same.
            values.sort_by(|(left, _), (right, _)| left.cmp(right));
            Ok(Entry::Metric {
                step: signed(&at("metric.step"), point.step)?,
                values,
                time: time(&at("metric.time"), point.time)?,
            })
        }
    }
}

fn environment(wire: v1::Environment, at: &dyn Fn(&str) -> String) -> Result<Environment, Status> {
    let text = |field: &str, text: String, limit: usize| {
        let text = checked(&at(&format!("environment.{field}")), text, limit)?;
        Ok::<_, Status>(Some(text).filter(|text| !text.is_empty()))
    };
    let sha256 = text("data_sha256", wire.data_sha256, 64)?;
    if sha256.as_ref().is_some_and(|text| !is_digest(text)) {
        let problem = "must be 64 hexadecimal digits in lower case, or empty";
        return Err(invalid_field(at("environment.data_sha256"), problem));
    }
    let data = sha256.map(|sha256| {
        Ok::<_, Status>(DataContent {
            sha256,
            file_count: signed(&at("environment.data_file_count"), wire.data_file_count)?,
            bytes: signed(&at("environment.data_bytes"), wire.data_bytes)?,
        })
    });
    Ok(Environment {
        libtorch: text("libtorch", wire.libtorch, DEVICE_MODEL_CHARS_MAX)?,
        device: text("device", wire.device, DEVICE_MODEL_CHARS_MAX)?,
        worker_version: text("worker_version", wire.worker_version, WORKER_VERSION_CHARS_MAX)?,
        data: data.transpose()?,
    })
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Losses may be what they are, infinities included: a job that diverges is to
/// be seen diverging.
fn progress(wire: v1::JobProgress) -> Result<Progress, Status> {
    Ok(Progress {
        step: signed("progress.step", wire.step)?,
        step_count: signed("progress.step_count", wire.step_count)?,
        loss: wire.loss,
        learning_rate: wire.learning_rate,
        samples_per_s: wire.samples_per_s,
        quality: wire.quality.map(|value| validated(value, wire.quality_metric)).transpose()?,
        remaining_s: wire.remaining_s,
        phase: checked("progress.phase", wire.phase, PHASE_CHARS_MAX)?,
    })
}

fn validated(value: f64, metric: String) -> Result<Validated, Status> {
    if metric.is_empty() {
        return Err(invalid_field("progress.quality_metric", "is missing; name what progress.quality is"));
    }
    Ok(Validated { value, metric: checked("progress.quality_metric", metric, QUALITY_METRIC_CHARS_MAX)? })
}

pub(super) fn outcome(wire: Option<v1::JobResult>) -> Result<Outcome, Status> {
    let wire = wire.ok_or_else(|| invalid_field("result", "is missing"))?;
    let counted = |field: &str, value: u64| match signed(field, value)? {
        0 => Err(invalid_field(field, "must be at least 1")),
        count => Ok(count),
    };
    Ok(Outcome {
        quality: quality(&wire)?,
        param_count: counted("result.param_count", wire.param_count)?,
        mac_count: counted("result.mac_count", wire.mac_count)?,
        latency_ms: wire.latency_ms.map(|value| amount("result.latency_ms", value)).transpose()?,
        peak_memory_mib: amount("result.peak_memory_mib", wire.peak_memory_mib)?,
        train_duration_s: amount("result.train_duration_s", wire.train_duration_s)?,
    })
}

fn quality(wire: &v1::JobResult) -> Result<Quality, Status> {
    let quality = quality_from_wire(wire).ok_or_else(|| {
        invalid_field("result.quality_metric", "give either mean_dice and dice_per_class, or classification")
    })?;
    let class_count = |field: &str, count: usize| match count {
        0..=CLASSES_MAX => Ok(()),
        _ => Err(invalid_field(field, format!("{count} are more than {CLASSES_MAX}"))),
    };
    match &quality {
        Quality::Segmentation(quality) => {
            class_count("result.dice_per_class", quality.dice_per_class.len())?;
            share("result.mean_dice", quality.mean_dice)?;
            for dice in &quality.dice_per_class {
                share("result.dice_per_class", *dice)?;
            }
            signed("result.case_count", quality.case_count)?;
        }
        Quality::Classification(quality) => {
            let at = |field: &str| format!("result.classification.{field}");
            class_count(&at("recall_per_class"), quality.recall_per_class.len())?;
            share(&at("top1"), quality.top1)?;
            share(&at("top5"), quality.top5)?;
            share(&at("balanced_accuracy"), quality.balanced_accuracy)?;
            quality.auc.map(|auc| share(&at("auc"), auc)).transpose()?;
            for recall in quality.recall_per_class.iter().flatten() {
                share(&at("recall_per_class"), *recall)?;
            }
            amount(&at("loss"), quality.loss)?;
        }
    }
    Ok(quality)
}

pub(super) fn desired(desired: Desired) -> v1::DesiredState {
    match desired {
        Desired::Run => v1::DesiredState::Run,
        Desired::Cancel => v1::DesiredState::Cancel,
        Desired::Yield => v1::DesiredState::Yield,
    }
}

pub(super) fn failure_class(wire: i32) -> Result<FailureClass, Status> {
    match v1::FailureClass::try_from(wire) {
        Ok(v1::FailureClass::Lost) => Ok(FailureClass::Lost),
        Ok(v1::FailureClass::Infrastructure) => Ok(FailureClass::Infrastructure),
        Ok(v1::FailureClass::Resource) => Ok(FailureClass::Resource),
        Ok(v1::FailureClass::Numeric) => Ok(FailureClass::Numeric),
        Ok(v1::FailureClass::User) => Ok(FailureClass::User),
        Ok(v1::FailureClass::Cancelled) => Ok(FailureClass::Cancelled),
        Ok(v1::FailureClass::Unspecified) | Err(_) => {
            Err(invalid_field("failure_class", format!("{wire} is no class of failures")))
        }
    }
}
