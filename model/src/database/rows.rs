//! The rows of the tables that the protocol lives in (`migrations/`).

use cakes_coordinator::core::job::{EndReason, JobState};
use cakes_coordinator::core::retry::{Counters, FailureClass};
use cakes_coordinator::core::worker::Schedule;

use super::{Checkpoint, Token};

/// Tables `worker` and `job` with all that hangs on them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rows {
    /// By index; `None` before the first registration.
    pub workers: Vec<Option<WorkerRow>>,
    pub jobs: Vec<JobRow>,
}

/// A row of `worker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerRow {
    pub incarnation: u8,
    pub register_request: u8,
    pub schedule: Schedule,
}

/// A row of `job` with its attempts in the order of their grants, its
/// checkpoints and its results.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobRow {
    pub state: JobState,
    pub epoch: u8,
    pub counters: Counters,
    pub checkpoint: Option<Checkpoint>,
    /// Key and content of the submission.
    pub request: Option<(u8, u8)>,
    pub attempts: Vec<AttemptRow>,
    pub checkpoints: Vec<CheckpointRow>,
    /// The table's primary key allows one.
    pub results: Vec<ResultRow>,
}

/// A row of `attempt` with its entries and its row of `attempt_lease`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptRow {
    pub epoch: u8,
    pub nonce: u8,
    pub worker: u8,
    pub incarnation: u8,
    pub request: u8,
    pub life: Life,
    pub class: Option<FailureClass>,
    pub resume: Option<Checkpoint>,
    pub last_step: u8,
    pub last_seq: u8,
    /// Sequence number and step of what is stored, in the order of storing.
    pub entries: Vec<(u8, u8)>,
    pub lease: Option<Lease>,
}

/// Where an attempt is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    Offered,
    Running,
    Ended(EndReason),
}

/// A deadline, seen from now. Time may pass at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lease {
    Lasts,
    RanOut,
}

/// A row of `checkpoint`. Its key in the store follows from the token and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointRow {
    pub epoch: u8,
    pub nonce: u8,
    pub step: u8,
    /// Given up: its objects may be deleted.
    pub condemned: bool,
}

impl CheckpointRow {
    /// What never changes of it.
    pub fn key(&self) -> (u8, u8, u8) {
        (self.epoch, self.nonce, self.step)
    }

    pub fn is(&self, checkpoint: Checkpoint) -> bool {
        (self.epoch, self.step) == (checkpoint.epoch, checkpoint.step)
    }
}

/// A row of `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultRow {
    pub epoch: u8,
    pub last_seq: u8,
    pub checkpoint: Checkpoint,
}

impl Rows {
    /// Rows before anything happened.
    pub fn new(workers: usize) -> Self {
        Rows { workers: vec![None; workers], jobs: Vec::new() }
    }

    /// The attempt of a token, whether it lives or not.
    pub fn attempt(&self, token: Token) -> Option<&AttemptRow> {
        self.jobs.get(usize::from(token.job))?.attempt(token)
    }

    /// Whether the token is the one that may write now.
    pub fn is_current(&self, token: Token) -> bool {
        let job = self.jobs.get(usize::from(token.job));
        job.is_some_and(|job| job.epoch == token.epoch && job.attempt(token).is_some_and(AttemptRow::lives))
    }
}

impl JobRow {
    pub(super) fn queued(request: Option<(u8, u8)>) -> Self {
        JobRow {
            state: JobState::Queued,
            epoch: 0,
            counters: Counters::default(),
            checkpoint: None,
            request,
            attempts: Vec::new(),
            checkpoints: Vec::new(),
            results: Vec::new(),
        }
    }

    fn attempt(&self, token: Token) -> Option<&AttemptRow> {
        self.attempts.iter().find(|row| row.epoch == token.epoch && row.nonce == token.nonce)
    }

    /// The live attempt.
    pub fn live(&self) -> Option<&AttemptRow> {
        self.attempts.iter().find(|attempt| attempt.lives())
    }

    /// Whether the checkpoint is committed; it may be condemned since.
    pub fn is_committed(&self, checkpoint: Checkpoint) -> bool {
        self.checkpoints.iter().any(|row| row.is(checkpoint))
    }

    /// Whether the checkpoint is committed and not condemned.
    pub fn is_kept(&self, checkpoint: Checkpoint) -> bool {
        self.checkpoints.iter().any(|row| row.is(checkpoint) && !row.condemned)
    }
}

impl AttemptRow {
    pub fn lives(&self) -> bool {
        !matches!(self.life, Life::Ended(_))
    }

    pub fn resume_step(&self) -> u8 {
        self.resume.map_or(0, |resume| resume.step)
    }
}
