//! What can be asked of jobs and searches, under the names of the API.
//!
//! The SQL functions `job_fields` and `search_fields` give the same names to the same values.

use crate::core::job::{JobKind, JobState};
use crate::core::search::SearchState;

/// A field, or a map of fields.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub(super) holds: Holds,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holds {
    Text,
    Number,
    /// In the row: seconds since 1970.
    Time,
    /// One of these; in the API in capitals behind the prefix.
    Name {
        prefix: &'static str,
        all: fn() -> Vec<&'static str>,
    },
    /// Texts by key.
    Map,
}

macro_rules! name {
    ($prefix:literal, $kind:ident) => {
        Holds::Name { prefix: $prefix, all: || $kind::ALL.iter().map(|value| value.as_str()).collect() }
    };
}

const fn field(name: &'static str, holds: Holds) -> Field {
    Field { name, holds }
}

/// Of jobs.
pub const JOB_FIELDS: &[Field] = &[
    field("architecture_digest", Holds::Text),
    field("attempt_count", Holds::Number),
    field("cost_limit_device_hours", Holds::Number),
    field("create_time", Holds::Time),
    field("deadline", Holds::Time),
    field("end_time", Holds::Time),
    field("kind", name!("JOB_KIND_", JobKind)),
    field("label", Holds::Text),
    field("labels", Holds::Map),
    field("owner", Holds::Text),
    field("priority", Holds::Number),
    field("project", Holds::Text),
    field("result.device", Holds::Text),
    field("result.latency_ms", Holds::Number),
    field("result.mac_count", Holds::Number),
    field("result.param_count", Holds::Number),
    field("result.peak_memory_mib", Holds::Number),
    field("result.quality", Holds::Number),
    field("result.train_duration_s", Holds::Number),
    field("search_id", Holds::Text),
    field("start_time", Holds::Time),
    field("state", name!("JOB_STATE_", JobState)),
    field("state_reason", Holds::Text),
    field("worker_id", Holds::Text),
    field("worker_labels", Holds::Map),
];

/// Of searches.
pub const SEARCH_FIELDS: &[Field] = &[
    field("cost_limit_device_hours", Holds::Number),
    field("create_time", Holds::Time),
    field("deadline", Holds::Time),
    field("end_time", Holds::Time),
    field("labels", Holds::Map),
    field("owner", Holds::Text),
    field("priority", Holds::Number),
    field("project", Holds::Text),
    field("spec.name", Holds::Text),
    field("state", name!("SEARCH_STATE_", SearchState)),
    field("state_reason", Holds::Text),
    field("worker_labels", Holds::Map),
];
