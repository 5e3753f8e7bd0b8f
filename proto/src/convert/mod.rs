//! Wire to domain and back. Defaults of the protocol are filled in here and
//! nowhere else.

mod architecture;
mod dataset;
mod from_wire;
mod latency;
mod quality;
mod to_wire;

pub use architecture::{
    architecture_from_wire, architecture_to_wire, backbone_from_wire, cost_to_wire, extent_from_wire,
};
pub use from_wire::{in_wire_terms, measure_if_given, search_from_wire, training_from_wire};
pub use latency::{latency_from_wire, latency_to_wire};
pub use quality::{classification_to_wire, quality_from_wire, quality_to_wire};
pub use to_wire::{measure_to_wire, search_to_wire};

use cakes::spec::Violation;

#[expect(clippy::needless_pass_by_value, reason = "errors are passed as they come")]
fn violation(field: impl Into<String>, problem: impl ToString) -> Violation {
    Violation { field: field.into(), problem: problem.to_string() }
}
