//! Wire to domain and back. Defaults of the protocol are filled in here and
//! nowhere else.

mod architecture;
mod from_wire;
mod to_wire;

pub use architecture::{
    architecture_from_wire, architecture_to_wire, backbone_from_wire, cost_to_wire, extent_from_wire,
};
pub use from_wire::{in_wire_terms, search_from_wire, training_from_wire};
pub use to_wire::search_to_wire;
