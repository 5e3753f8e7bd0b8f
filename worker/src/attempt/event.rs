//! What an attempt hears and what it asks to be done.

use std::path::PathBuf;
use std::time::Duration;

use cakes::derive::LatencyTable;
use cakes::frame::{Summary, TrainerEvent};
use cakes::scores::ChannelScores;
use cakes_proto::v1::{DesiredState, FailureClass, JobProgress};

use super::uploads::{LocalCheckpoint, StoredCheckpoint};
use crate::outbox::Batch;

/// Something that happened to an attempt.
#[derive(Debug)]
pub enum Event {
    /// The trainer process runs.
    Prepared,
    /// Of a member that follows: everything is there that its trainer needs.
    Fetched,
    /// There is no trainer process and there will be none.
    PreparationFailed(Failure),
    /// The trainer sent a frame.
    Trainer(TrainerEvent),
    /// The trainer wrote a line of its log.
    Log(String),
    /// What the trainer sent is no frame.
    BadFrame(String),
    /// The trainer process is gone and all it wrote was heard.
    Exited(Exit),
    /// The offer became a lease.
    Started { sent_at: Duration, ttl: Duration },
    /// The same of a member that follows; where the ranks meet, if that is known.
    Joined { sent_at: Duration, ttl: Duration, address: Option<String> },
    /// The lease of a member that follows was renewed.
    Renewed { sent_at: Duration, ttl: Duration, desired: DesiredState, address: Option<String> },
    /// The coordinator knows where the ranks meet.
    Told,
    /// A report was stored.
    Acknowledged { sent_at: Duration, ttl: Duration, ack_seq: u64, desired: DesiredState },
    /// The coordinator misses entries; the last that it has, if it said so.
    OutOfRange { ack_seq: Option<u64> },
    /// Another attempt has the job, or it has ended.
    LeaseLost(String),
    /// The coordinator does not take a call, and never will.
    Refused { call: &'static str, message: String },
    /// A checkpoint is in the store, and the size of its files.
    Uploaded { checkpoint: StoredCheckpoint, bytes: u64 },
    /// A checkpoint is in the store and committed.
    Stored(StoredCheckpoint),
    /// A checkpoint could not be stored; `permanent` if it never can be.
    StoreFailed { message: String, permanent: bool },
    /// The coordinator took the conclusion.
    Concluded,
    /// The daemon is to end.
    Drain { deadline: Duration },
    /// The trainer takes so much memory.
    Memory { mib: u64 },
    /// Time passed.
    Tick,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// The kernel killed processes for memory while it ran.
    pub memory_exhausted: bool,
    /// Of its log.
    pub last_lines: Vec<String>,
}

/// Something to do for an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Call Start; answer with `Started`, `LeaseLost` or `Refused`.
    Start,
    /// Call Report; answer with `Acknowledged`, `OutOfRange`, `LeaseLost` or `Refused`.
    Report { batch: Batch, progress: JobProgress },
    /// Call Start for a member that follows; answer with `Joined`, `LeaseLost` or `Refused`.
    Join,
    /// Call Report for it, which says nothing; answer with `Renewed`, `LeaseLost` or `Refused`.
    Renew,
    /// Start its trainer, whose ranks go to this address; answer with `Prepared` or
    /// `PreparationFailed`.
    Launch(String),
    /// Tell where the ranks meet; answer with `Told`, `LeaseLost` or `Refused`.
    Tell(String),
    /// Give up preparing; no trainer process may come of it.
    AbandonPreparation,
    /// Ask the trainer to save and exit.
    SendStop,
    /// Kill the trainer and everything that it started.
    Kill,
    /// Wait no longer for the end of the trainer that was killed; nothing more is heard of
    /// it, and its device is not free.
    AbandonTrainer,
    /// Upload; answer with `Uploaded` or `StoreFailed`.
    Store(LocalCheckpoint),
    /// Commit what was uploaded; answer with `Stored`, `StoreFailed` or `LeaseLost`.
    Commit { checkpoint: StoredCheckpoint, bytes: u64 },
    /// Delete a checkpoint folder that nobody needs.
    RemoveLocal(PathBuf),
    /// Keep the conclusion in the journal, then call Complete or Fail; answer
    /// with `Concluded`, `LeaseLost` or `Refused`.
    Conclude(Conclusion),
}

/// How an attempt ends, as told to the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Conclusion {
    Complete(Box<Completion>),
    Fail(Failure),
}

/// What a finished attempt leaves behind.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    pub summary: Summary,
    /// Of a supernet.
    pub scores: Option<ChannelScores>,
    /// Of a supernet.
    pub latency: Option<LatencyTable>,
    pub checkpoint: StoredCheckpoint,
    /// Size of the checkpoint's files, if it is to be committed with the completion.
    pub checkpoint_bytes: Option<u64>,
    pub last_seq: u64,
    /// The device by its model's name, as the trainer saw it.
    pub device: String,
}

/// Why an attempt failed, for the coordinator and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub class: FailureClass,
    pub message: String,
}

impl Failure {
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Failure { class, message: message.into() }
    }

    pub fn infrastructure(message: impl Into<String>) -> Self {
        Failure::new(FailureClass::Infrastructure, message)
    }
}

/// The trainer's failure classes on the wire.
pub fn class_to_wire(class: cakes::frame::FailureClass) -> FailureClass {
    use cakes::frame::FailureClass as Trainer;
    match class {
        Trainer::Lost => FailureClass::Lost,
        Trainer::Infrastructure => FailureClass::Infrastructure,
        Trainer::Resource => FailureClass::Resource,
        Trainer::Numeric => FailureClass::Numeric,
        Trainer::User => FailureClass::User,
    }
}
