//! Workers as the planner sees them.

use serde::{Deserialize, Serialize};

use super::text::named;

/// What people decided about a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Schedule {
    /// Takes jobs.
    Ready,
    /// Finishes what it has and takes no more.
    Cordoned,
    /// Saves and hands back what it has, and takes no more.
    Draining,
}

named!(Schedule, "worker schedule", {
    Ready => "ready",
    Cordoned => "cordoned",
    Draining => "draining",
});

/// Something that trains one job at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// `cpu`, or `cuda:0`.
    pub name: String,
    /// The processor's name.
    pub model: String,
    /// Memory that a job may use, of each device of a slot.
    pub memory_mib: u64,
    /// Devices of the slot, which a job may train on together.
    #[serde(default = "one")]
    pub count: u32,
}

/// Rows of before there were slots of several devices.
fn one() -> u32 {
    1
}
