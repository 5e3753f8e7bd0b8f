//! What the coordinator's transactions do to its rows, in pure code: a call and
//! rows go in, an answer comes out and the rows have changed.
//!
//! Every decision is the coordinator's own (`cakes_coordinator::core`). What
//! stands here is the part that its statements do, transaction by transaction;
//! each function names the file whose statements it repeats. The same lists of
//! calls run through this and through a real Postgres in
//! `coordinator/tests/store/random_walk.rs`, and the rows are compared.

mod attempts;
mod checkpoints;
mod jobs;
mod rows;
mod workers;

use cakes_coordinator::core::lease::Desired;
use cakes_coordinator::core::retry::{Budgets, FailureClass};

pub use checkpoints::{STRICT, unneeded};
pub use rows::{AttemptRow, CheckpointRow, JobRow, Lease, Life, ResultRow, Rows, WorkerRow};

use crate::mutant::Rules;

/// What names a grant. `nonce` numbers the grants, since random bits cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// Index of the job.
    pub job: u8,
    pub epoch: u8,
    pub nonce: u8,
}

/// A checkpoint's row by its key: the attempt's epoch and the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checkpoint {
    pub epoch: u8,
    pub step: u8,
}

/// A call to a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `request` is chosen anew at each start of the daemon.
    Register {
        worker: u8,
        request: u8,
    },
    /// `request` is chosen anew for each grant that is wished for.
    Acquire {
        worker: u8,
        incarnation: u8,
        request: u8,
    },
    Start {
        token: Token,
    },
    /// Entries `first_seq .. first_seq + count`; the first is of `first_step`,
    /// each later one of the next step. `step`: steps done.
    Report {
        token: Token,
        first_seq: u8,
        count: u8,
        first_step: u8,
        step: u8,
    },
    Commit {
        token: Token,
        step: u8,
    },
    Complete {
        token: Token,
        last_seq: u8,
        checkpoint: Checkpoint,
        /// Whether the checkpoint is committed with the result.
        saves: bool,
    },
    Fail {
        token: Token,
        class: FailureClass,
    },
    /// `token`: what the daemon's journal holds; a worker has one device.
    Reconcile {
        worker: u8,
        incarnation: u8,
        token: Option<Token>,
    },
    /// `body` stands for the content of the submission.
    Submit {
        key: u8,
        body: u8,
    },
    Cancel {
        job: u8,
    },
    Pause {
        job: u8,
    },
    Resume {
        job: u8,
    },
    Retry {
        job: u8,
    },
    /// The sweep takes an attempt whose lease it saw run out.
    Expire {
        token: Token,
    },
    /// The sweep gives every live attempt a fresh term.
    Extend,
    /// Checkpoints that nothing needs are condemned.
    Condemn {
        job: u8,
    },
}

impl Call {
    /// The token by which the caller claims to hold an attempt.
    pub fn token(&self) -> Option<Token> {
        match *self {
            Call::Start { token }
            | Call::Report { token, .. }
            | Call::Commit { token, .. }
            | Call::Complete { token, .. }
            | Call::Fail { token, .. } => Some(token),
            _ => None,
        }
    }
}

/// What the caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    Registered {
        incarnation: u8,
    },
    Granted {
        token: Token,
        resume: Option<Checkpoint>,
    },
    NothingToDo,
    /// Done, or done before.
    Done,
    Receipt {
        ack_seq: u8,
        desired: Wish,
    },
    Verdict {
        keep: bool,
    },
    Submitted {
        job: u8,
    },
    /// A later start of the daemon is registered.
    Stale,
    LeaseLost,
    OutOfRange {
        ack_seq: u8,
    },
    /// The job was cancelled first.
    Cancelled,
    /// The state or the content does not allow it.
    Refused,
    NotFound,
}

impl Answer {
    /// Whether the caller may believe that what it asked for is stored.
    pub fn is_ok(&self) -> bool {
        !matches!(
            self,
            Answer::Stale
                | Answer::LeaseLost
                | Answer::OutOfRange { .. }
                | Answer::Cancelled
                | Answer::Refused
                | Answer::NotFound
        )
    }
}

/// [`Desired`] with an order and a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wish {
    Run,
    Cancel,
    Yield,
}

impl From<Desired> for Wish {
    fn from(desired: Desired) -> Self {
        match desired {
            Desired::Run => Wish::Run,
            Desired::Cancel => Wish::Cancel,
            Desired::Yield => Wish::Yield,
        }
    }
}

/// What a transaction needs beside rows and call.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    pub budgets: &'a Budgets,
    pub rules: Rules,
    /// Of the next grant; a number that no grant had.
    pub fresh_nonce: u8,
    /// Checkpoint in the store that only [`crate::mutant::Mutant::ResumeFromStore`] uses.
    pub newest_object: Option<Checkpoint>,
}

/// Runs one call as one transaction.
pub fn execute(rows: &mut Rows, call: &Call, world: &World<'_>) -> Answer {
    match *call {
        Call::Register { worker, request } => workers::register(rows, worker, request),
        Call::Reconcile { worker, incarnation, token } => {
            workers::reconcile(rows, world, worker, incarnation, token)
        }
        Call::Acquire { worker, incarnation, request } => {
            attempts::acquire(rows, world, worker, incarnation, request)
        }
        Call::Start { token } => attempts::start(rows, world, token),
        Call::Report { token, first_seq, count, first_step, step } => {
            let batch = attempts::Batch { first_seq, count, first_step };
            attempts::report(rows, world, token, batch, step)
        }
        Call::Commit { token, step } => attempts::commit(rows, world, token, step),
        Call::Complete { token, last_seq, checkpoint, saves } => {
            attempts::complete(rows, world, token, last_seq, checkpoint, saves)
        }
        Call::Fail { token, class } => attempts::fail(rows, world, token, class),
        Call::Expire { token } => attempts::expire(rows, world, token),
        Call::Extend => attempts::extend(rows),
        Call::Condemn { job } => checkpoints::condemn(rows, world, job),
        Call::Submit { key, body } => jobs::submit(rows, world, key, body),
        Call::Cancel { job } => jobs::cancel(rows, world, job),
        Call::Pause { job } => jobs::pause(rows, job),
        Call::Resume { job } => jobs::resume(rows, job),
        Call::Retry { job } => jobs::retry(rows, job),
    }
}
