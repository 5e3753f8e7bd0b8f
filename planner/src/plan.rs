//! What a round decides.

use crate::facts::{JobId, Part};
use crate::reason::Reason;

/// The decisions of a round. Whoever carries it out keeps [`Plan::reservations`] for the
/// facts of the next one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub placements: Vec<Placement>,
    /// Running jobs that are to save a checkpoint and stop. Their devices are free only in
    /// a later round, when they have stopped.
    pub stops: Vec<Stop>,
    pub reservations: Vec<Reservation>,
    /// Every job that goes on waiting, in the order of the queue.
    pub waiting: Vec<Waiting>,
    /// Waiting jobs that are estimated to miss their deadline even if they started now.
    pub late: Vec<JobId>,
}

/// A job that starts, with all devices that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub job: JobId,
    pub parts: Vec<Part>,
}

/// A running job that is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    pub job: JobId,
    pub reason: StopReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It makes way for a job of a higher priority.
    Preempted { by: JobId },
    /// Its node drains.
    Drains,
    /// It has taken the device-seconds that its owner allows it.
    CostLimit,
}

/// Devices, free or not yet, that are kept for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub job: JobId,
    pub parts: Vec<Part>,
    /// Nothing is started on these devices that is not estimated to end by then.
    pub promised_s: u64,
    /// How often it has moved.
    pub move_count: u32,
    /// Whether all that is in the way has been told to stop.
    pub is_being_cleared: bool,
}

/// A job that goes on waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub job: JobId,
    /// From 1, among waiting jobs, in the order in which they were considered.
    pub position: usize,
    pub reason: Reason,
}
