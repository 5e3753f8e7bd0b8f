//! What the daemon says and hears, between wire and its own types.

use std::time::Duration;

use cakes::job::TrainerJob;
use cakes_proto::convert::quality_to_wire;
use cakes_proto::ids::{InvalidId, LeaseToken};
use cakes_proto::v1;
use cakes_telemetry::trace::TraceContext;
use object_store::path::Path;

use crate::attempt::{Completion, Failure, StoredCheckpoint};

/// Longest failure message that is sent, in characters.
const MESSAGE_CHARS_MAX: usize = 4000;

/// A grant, checked.
#[derive(Clone, Debug)]
pub struct Granted {
    pub token: LeaseToken,
    /// For the trainer's file, unchanged.
    pub job_json: String,
    /// The same where this daemon understands it; only estimates depend on it.
    pub job: Option<TrainerJob>,
    /// Path of its data set; none for generated data.
    pub data: Option<String>,
    pub resume: Option<StoredCheckpoint>,
    /// Of the supernet that a fresh start takes its weights from.
    pub supernet: Option<StoredCheckpoint>,
    pub artifact_prefix: Path,
    pub offer_ttl: Duration,
    /// What the attempt's spans belong to; none outside of any trace.
    pub trace: Option<TraceContext>,
    /// Which part of the job's devices it is for; none for all of them.
    pub gang: Option<v1::GangSeat>,
}

/// Why a grant is of no use.
#[derive(Debug, thiserror::Error)]
pub enum InvalidGrant {
    #[error(transparent)]
    Token(#[from] InvalidId),
    #[error("artifact_prefix: {0}")]
    Prefix(object_store::path::Error),
}

impl TryFrom<v1::Grant> for Granted {
    type Error = InvalidGrant;

    fn try_from(grant: v1::Grant) -> Result<Self, Self::Error> {
        Ok(Granted {
            token: grant.token.try_into()?,
            job: serde_json::from_str(&grant.trainer_job_json).ok(),
            data: TrainerJob::data_path(&grant.trainer_job_json),
            job_json: grant.trainer_job_json,
            resume: grant.resume_from.map(stored_from_wire),
            supernet: grant.start_from.map(stored_from_wire),
            artifact_prefix: Path::parse(grant.artifact_prefix).map_err(InvalidGrant::Prefix)?,
            offer_ttl: Duration::from_millis(grant.offer_ttl_ms),
            trace: TraceContext::parse(&grant.traceparent, &grant.tracestate),
            gang: grant.gang,
        })
    }
}

fn stored_from_wire(reference: v1::CheckpointReference) -> StoredCheckpoint {
    StoredCheckpoint { step: reference.step, key: reference.key, manifest_sha256: reference.manifest_sha256 }
}

pub fn stored_to_wire(stored: StoredCheckpoint) -> v1::CheckpointReference {
    v1::CheckpointReference { key: stored.key, step: stored.step, manifest_sha256: stored.manifest_sha256 }
}

/// The request that ends a job with its result.
///
/// # Errors
/// Scores or times cannot be written as JSON.
pub fn complete_request(
    token: LeaseToken,
    completion: Completion,
) -> Result<v1::CompleteRequest, serde_json::Error> {
    let Completion { summary, scores, latency, checkpoint, checkpoint_bytes, last_seq, device } = completion;
    let scores_json = scores.as_ref().map(serde_json::to_string).transpose()?.unwrap_or_default();
    let latency_json = latency.as_ref().map(serde_json::to_string).transpose()?.unwrap_or_default();
    Ok(v1::CompleteRequest {
        token: Some(token.into()),
        last_seq,
        checkpoint: Some(stored_to_wire(checkpoint)),
        checkpoint_bytes,
        result: Some(v1::JobResult {
            param_count: summary.param_count,
            mac_count: summary.mac_count,
            latency_ms: summary.latency_ms,
            peak_memory_mib: summary.peak_memory_mib,
            train_duration_s: summary.train_duration_s,
            device,
            ..quality_to_wire(&summary.quality)
        }),
        scores_json,
        latency_json,
    })
}

/// The request that ends an attempt without a result.
pub fn fail_request(token: LeaseToken, failure: &Failure) -> v1::FailRequest {
    let message = failure.message.replace('\0', "\u{fffd}").chars().take(MESSAGE_CHARS_MAX).collect();
    v1::FailRequest { token: Some(token.into()), failure_class: failure.class.into(), message }
}
