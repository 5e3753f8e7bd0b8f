//! Faults that can be put into the protocol, each a fault that a system of this
//! kind has had. A property that none of them breaks would test nothing.

use crate::property::Safety;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// A writer's epoch and nonce are not compared; the job's live attempt is
    /// written, whoever calls.
    DropEpochCheck,
    /// The next epoch is counted from the live attempt's, so it starts anew
    /// when the job is queued again.
    EpochFromLease,
    /// A writer is whoever holds the job now, by the name of its worker.
    FenceByWorker,
    /// Complete looks at the job's state alone.
    CompleteWithoutEpoch,
    /// The sweep ends the job's live attempt without looking at its lease again.
    RescueById,
    /// Complete of an ended attempt is taken while the job is queued.
    AcceptWhileQueued,
    /// The coordinator answers before its transaction commits.
    AckBeforeCommit,
    /// A worker forgets a decided completion when it gets no answer.
    GiveUpOnComplete,
    /// A restarted worker forgets its journal when a later start of its daemon
    /// seems to be registered.
    ForgetWhenStale,
    /// The collector deletes what is old and has no row, though its attempt
    /// can still commit it.
    CollectByAge,
    /// Retention does not ask what the next attempt goes on from.
    CondemnCurrent,
    /// Objects are deleted before the row that names them is condemned.
    DeleteFirst,
    /// The row of a condemned checkpoint is deleted, so that a repeated commit stores it
    /// again.
    ForgetCondemned,
    /// Leases that run out are not counted.
    LossNotCounted,
    /// The claim does not ask whether the job is queued.
    GrantAnyState,
    /// A repeated entry is stored again.
    StoreRepeats,
    /// A finished job can be cancelled.
    CancelFinished,
    /// Complete does not ask for entries and checkpoint, and the worker does
    /// not wait for them.
    CompleteEarly,
    /// The next attempt goes on from whatever lies in the store.
    ResumeFromStore,
    /// Every commit, even a repeated one, sets the checkpoint to resume from.
    RaiseAlways,
    /// The key of a submission is not unique.
    SubmitTwice,
    /// A completion beats a cancellation that was acknowledged before.
    CompleteAfterCancel,
    /// A grant leaves out the row of its lease.
    NoDeadline,
    /// Curves show points that a later attempt computed again.
    ShowSuperseded,
    /// The key of a checkpoint does not name its attempt.
    KeyByStep,
    /// The nonce is not compared; only a failover that loses a grant shows why
    /// it is.
    EpochWithoutNonce,
}

impl Mutant {
    pub const ALL: [Mutant; 26] = [
        Mutant::DropEpochCheck,
        Mutant::EpochFromLease,
        Mutant::FenceByWorker,
        Mutant::CompleteWithoutEpoch,
        Mutant::RescueById,
        Mutant::AcceptWhileQueued,
        Mutant::AckBeforeCommit,
        Mutant::GiveUpOnComplete,
        Mutant::ForgetWhenStale,
        Mutant::CollectByAge,
        Mutant::CondemnCurrent,
        Mutant::DeleteFirst,
        Mutant::ForgetCondemned,
        Mutant::LossNotCounted,
        Mutant::GrantAnyState,
        Mutant::StoreRepeats,
        Mutant::CancelFinished,
        Mutant::CompleteEarly,
        Mutant::ResumeFromStore,
        Mutant::RaiseAlways,
        Mutant::SubmitTwice,
        Mutant::CompleteAfterCancel,
        Mutant::NoDeadline,
        Mutant::ShowSuperseded,
        Mutant::KeyByStep,
        Mutant::EpochWithoutNonce,
    ];

    /// The property that it breaks first of all.
    pub fn breaks(self) -> Safety {
        match self {
            Mutant::GrantAnyState => Safety::S1,
            Mutant::EpochFromLease => Safety::S2,
            Mutant::DropEpochCheck
            | Mutant::FenceByWorker
            | Mutant::CompleteWithoutEpoch
            | Mutant::AcceptWhileQueued
            | Mutant::EpochWithoutNonce => Safety::S3,
            Mutant::StoreRepeats => Safety::S4,
            Mutant::AckBeforeCommit | Mutant::GiveUpOnComplete | Mutant::ForgetWhenStale => Safety::S5,
            Mutant::CancelFinished => Safety::S6,
            Mutant::CompleteEarly => Safety::S7,
            Mutant::ResumeFromStore | Mutant::RaiseAlways => Safety::S8,
            Mutant::SubmitTwice => Safety::S9,
            Mutant::CompleteAfterCancel => Safety::S10,
            Mutant::CollectByAge
            | Mutant::CondemnCurrent
            | Mutant::DeleteFirst
            | Mutant::ForgetCondemned
            | Mutant::KeyByStep => Safety::S11,
            Mutant::LossNotCounted => Safety::S12,
            Mutant::NoDeadline => Safety::S13,
            Mutant::ShowSuperseded => Safety::S14,
            Mutant::RescueById => Safety::S15,
        }
    }
}

/// The rules as they are, or with one fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub broken: Option<Mutant>,
}

impl Rules {
    pub fn breaks(self, mutant: Mutant) -> bool {
        self.broken == Some(mutant)
    }
}
