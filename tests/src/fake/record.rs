//! What a worker asked and what it was told.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cakes_proto::v1;

use super::{Refusal, Request};

/// A call of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Register,
    Acquire,
    Start,
    Report,
    Commit,
    Complete,
    Fail,
    Reconcile,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Register,
        Kind::Acquire,
        Kind::Start,
        Kind::Report,
        Kind::Commit,
        Kind::Complete,
        Kind::Fail,
        Kind::Reconcile,
    ];
}

/// A call with what matters of its request.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Register { request_id: String },
    Acquire { request_id: String },
    Start,
    Report { first_seq: u64, entry_count: u64, step: u64 },
    Commit { key: String, step: u64 },
    Complete { last_seq: u64, step: u64 },
    Fail { class: v1::FailureClass },
    Reconcile { tokens: Vec<v1::LeaseToken> },
}

impl Call {
    pub fn kind(&self) -> Kind {
        match self {
            Call::Register { .. } => Kind::Register,
            Call::Acquire { .. } => Kind::Acquire,
            Call::Start => Kind::Start,
            Call::Report { .. } => Kind::Report,
            Call::Commit { .. } => Kind::Commit,
            Call::Complete { .. } => Kind::Complete,
            Call::Fail { .. } => Kind::Fail,
            Call::Reconcile { .. } => Kind::Reconcile,
        }
    }
}

/// What the coordinator promised in an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    Registered {
        incarnation: u64,
    },
    /// `None`: there is nothing to do.
    Granted {
        token: Option<v1::LeaseToken>,
    },
    Started {
        lease_ttl: Duration,
    },
    Stored {
        ack_seq: u64,
        lease_ttl: Duration,
        desired: v1::DesiredState,
    },
    Committed,
    Completed,
    Failed,
    Judged {
        verdicts: Vec<v1::Verdict>,
    },
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Told {
    pub worker: String,
    pub incarnation: u64,
    /// Number of the coordinator that was asked.
    pub server: usize,
    /// The attempt that the call was about.
    pub token: Option<v1::LeaseToken>,
    pub call: Call,
    pub sent_at: Instant,
    pub took: Duration,
    pub answer: Result<Fact, Refusal>,
}

/// Takes note of every answer.
pub trait Recorder: Send + Sync {
    fn told(&self, told: Told);

    /// A call is about to be made, perhaps several times. `request` makes a copy
    /// for whoever wants one.
    fn sent(&self, request: &dyn Fn() -> Request) {
        let _ = request;
    }
}

/// Keeps everything, in the order of the answers.
#[derive(Debug, Default)]
pub struct Transcript(Mutex<Vec<Told>>);

impl Transcript {
    /// What was told so far.
    pub fn all(&self) -> Vec<Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Recorder for Transcript {
    fn told(&self, told: Told) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }
}
