//! The lines of the file, as types that refuse what no database holds.
//!
//! Fields are those of the tables' columns; `docs/exchange.md` says what they mean.

use cakes::architecture::Architecture;
use cakes::cost::Cost;
use cakes::derive::LatencyTable;
use cakes::job::TrainerJob;
use cakes::labels::Labels;
use cakes::scores::ChannelScores;
use cakes::spec::CheckedSearch;
use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use uuid::Uuid;

/// A time that the database can hold.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub DateTime<Utc>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let time = DateTime::<Utc>::deserialize(deserializer)?;
        if !(1970..=9999).contains(&time.year()) {
            return Err(serde::de::Error::custom(format!("{time} is not between 1970 and 9999")));
        }
        Ok(Time(time))
    }
}

/// A number, or one of the words that JSON has no number for.
#[derive(Clone, Copy, Debug)]
pub struct Real(pub f64);

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(f64),
            Word(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(value) => Ok(Real(value)),
            Form::Word(word) => match word.as_str() {
                "NaN" => Ok(Real(f64::NAN)),
                "Infinity" => Ok(Real(f64::INFINITY)),
                "-Infinity" => Ok(Real(f64::NEG_INFINITY)),
                _ => Err(serde::de::Error::custom(format!(
                    "'{word}' is no number; expected one, or NaN, Infinity, -Infinity"
                ))),
            },
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRow {
    pub id: Uuid,
    pub name: String,
    pub spec: CheckedSearch,
    pub state: String,
    pub state_reason: String,
    pub revision: i64,
    pub create_time: Time,
    pub end_time: Option<Time>,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub notes: Vec<NoteRow>,
}

/// A remark of somebody; the table checks the same lengths.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoteRow {
    pub author: String,
    pub text: String,
    pub create_time: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchitectureRow {
    pub origin: String,
    pub digest: String,
    pub retrain: bool,
    pub param_count: u64,
    pub mac_count: u64,
    pub mac_fraction: Real,
    pub cost: Cost,
    pub create_time: Time,
    pub architecture: Architecture,
    /// Of the architecture, in the first line that has it.
    #[serde(default)]
    pub notes: Vec<NoteRow>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRow {
    pub id: Uuid,
    pub kind: String,
    pub label: String,
    pub priority: i32,
    pub architecture_digest: Option<String>,
    pub seed: u64,
    pub trainer_job: TrainerJob,
    pub step_count: u64,
    pub memory_mib: u64,
    pub task: String,
    pub state: String,
    pub state_reason: String,
    pub epoch: i64,
    pub lost_count: i32,
    pub infrastructure_count: i32,
    pub resource_count: i32,
    pub numeric_count: i32,
    pub no_progress_count: i32,
    pub furthest_step: i64,
    pub checkpoint_epoch: Option<i64>,
    pub checkpoint_step: Option<i64>,
    pub supernet_job_id: Option<Uuid>,
    pub revision: i64,
    pub create_time: Time,
    pub start_time: Option<Time>,
    pub end_time: Option<Time>,
    pub attempts: Vec<AttemptRow>,
    pub checkpoints: Vec<CheckpointRow>,
    pub progress: Option<ProgressRow>,
    pub result: Option<ResultRow>,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub notes: Vec<NoteRow>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptRow {
    pub epoch: i64,
    pub worker_id: String,
    pub incarnation: i64,
    pub device: String,
    pub state: String,
    pub resume_epoch: Option<i64>,
    pub resume_step: u64,
    pub last_step: u64,
    pub last_seq: u64,
    pub end_reason: Option<String>,
    pub failure_class: Option<String>,
    pub message: String,
    pub grant_time: Time,
    pub start_time: Option<Time>,
    pub end_time: Option<Time>,
    pub environment: Option<EnvironmentRow>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentRow {
    pub libtorch: Option<String>,
    pub device: Option<String>,
    pub worker_version: Option<String>,
    pub data_sha256: Option<String>,
    pub data_file_count: Option<u64>,
    pub data_bytes: Option<u64>,
    pub entry_seqs: Vec<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRow {
    pub epoch: i64,
    pub step: i64,
    pub key: String,
    pub manifest_sha256: String,
    pub bytes: u64,
    pub commit_time: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgressRow {
    pub step: u64,
    pub step_count: u64,
    pub loss: Real,
    pub learning_rate: Real,
    pub samples_per_s: Real,
    pub quality: Option<Real>,
    pub quality_metric: Option<String>,
    pub remaining_s: Option<Real>,
    pub phase: String,
    pub update_time: Time,
    pub revision: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultRow {
    pub epoch: i64,
    pub last_seq: u64,
    pub content_hash: String,
    pub checkpoint_epoch: i64,
    pub checkpoint_step: i64,
    pub quality: Real,
    pub quality_metric: String,
    pub mean_dice: Option<Real>,
    pub dice_per_class: Option<Vec<Real>>,
    pub case_count: Option<u64>,
    pub classification: Option<Value>,
    pub param_count: u64,
    pub mac_count: u64,
    pub latency_ms: Option<Real>,
    pub peak_memory_mib: Real,
    pub train_duration_s: Real,
    pub device: String,
    pub end_time: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoresRow {
    pub job_id: Uuid,
    pub scores: ChannelScores,
    pub latency: Option<LatencyTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventRow {
    pub time: Time,
    pub kind: String,
    pub job_id: Option<Uuid>,
    pub epoch: Option<i64>,
    pub worker_id: Option<String>,
    pub body: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricRow {
    pub job_id: Uuid,
    pub key: String,
    pub epoch: i64,
    pub seq: i64,
    pub step: u64,
    pub value: Real,
    pub time: Time,
}
