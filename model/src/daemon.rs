//! A worker's daemon with one device, as far as the protocol sees it:
//! `worker/src/{session,slot,recovery}.rs` and `worker/src/attempt/`.
//!
//! A call is repeated until it is answered, so sending is putting it into the
//! network once. The trainer is part of the daemon here: it dies with it.

use cakes_coordinator::core::retry::FailureClass;

use crate::database::{Answer, Call, Checkpoint, Token, Wish};
use crate::mutant::{Mutant, Rules};

/// What a daemon is and knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Daemon {
    /// Request id of the last registration; each start chooses a new one.
    pub registration: u8,
    /// Request id of the last question for a job.
    pub question: u8,
    /// On disk: survives a crash.
    pub journal: Option<Journal>,
    pub stage: Stage,
}

/// `worker/src/journal.rs`: the token, and the last call once it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Journal {
    pub token: Token,
    pub conclusion: Option<Conclusion>,
}

/// The last call of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Conclusion {
    Complete { last_seq: u8, checkpoint: Checkpoint, saves: bool },
    Fail(FailureClass),
}

impl Conclusion {
    pub fn is_complete(self) -> bool {
        matches!(self, Conclusion::Complete { .. })
    }
}

/// What a daemon is at, in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Registering,
    /// Asks what becomes of the attempt in its journal.
    Reconciling {
        incarnation: u8,
    },
    /// Asks for a job.
    Asking {
        incarnation: u8,
    },
    Working(Work),
    /// Tells the end of its attempt.
    Telling {
        incarnation: u8,
        conclusion: Conclusion,
    },
    /// All questions of the bounds are asked.
    Resting,
}

/// A training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Work {
    pub incarnation: u8,
    /// Whether Start was acknowledged.
    pub started: bool,
    pub resume: Checkpoint,
    /// Steps done. Entry `s` of the attempt is of step `resume.step + s`.
    pub step: u8,
    /// Last entry that was sent, and that was acknowledged.
    pub sent: u8,
    pub acked: u8,
    /// Last step that was uploaded, and that is known to be committed.
    pub saved: u8,
    pub stored: Checkpoint,
    /// Whether the last step was uploaded and is committed with the completion.
    pub keeps: bool,
}

impl Work {
    /// Number of the last entry.
    pub fn last_seq(&self) -> u8 {
        self.step - self.resume.step
    }
}

/// What limits a daemon in the model.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Steps of the whole training.
    pub steps: u8,
    /// Questions for a job.
    pub questions: u8,
    /// Whether a question that was answered "nothing" is replaced by a new one.
    pub ghosts: bool,
    pub rules: Rules,
}

impl Daemon {
    /// A daemon that was just started.
    pub fn new() -> Self {
        Daemon { registration: 1, question: 0, journal: None, stage: Stage::Registering }
    }

    pub fn work(&mut self) -> Option<&mut Work> {
        match &mut self.stage {
            Stage::Working(work) => Some(work),
            _ => None,
        }
    }

    /// What its stage makes it call, and repeat until there is an answer.
    pub fn call(&self, worker: u8) -> Option<Call> {
        match self.stage {
            Stage::Registering => Some(Call::Register { worker, request: self.registration }),
            Stage::Reconciling { incarnation } => {
                let token = self.journal.map(|journal| journal.token);
                Some(Call::Reconcile { worker, incarnation, token })
            }
            Stage::Asking { incarnation } => {
                Some(Call::Acquire { worker, incarnation, request: self.question })
            }
            Stage::Working(work) if !work.started => {
                self.journal.map(|Journal { token, .. }| Call::Start { token })
            }
            Stage::Telling { conclusion, .. } => self.journal.map(|Journal { token, .. }| match conclusion {
                Conclusion::Complete { last_seq, checkpoint, saves } => {
                    Call::Complete { token, last_seq, checkpoint, saves }
                }
                Conclusion::Fail(class) => Call::Fail { token, class },
            }),
            Stage::Working(_) | Stage::Resting => None,
        }
    }

    /// `kill -9`, and the start that follows.
    pub fn crash(&mut self) {
        self.registration += 1;
        self.stage = Stage::Registering;
    }

    /// Decides the end of the attempt; on disk before it is told.
    pub fn conclude(&mut self, incarnation: u8, conclusion: Conclusion) {
        if let Some(journal) = &mut self.journal {
            journal.conclusion = Some(conclusion);
        }
        self.stage = Stage::Telling { incarnation, conclusion };
    }

    /// The attempt is over: the journal goes, the next question comes.
    pub fn next(&mut self, incarnation: u8, limits: &Limits) {
        self.journal = None;
        self.ask(incarnation, limits);
    }

    fn ask(&mut self, incarnation: u8, limits: &Limits) {
        self.stage = if self.question < limits.questions {
            self.question += 1;
            Stage::Asking { incarnation }
        } else {
            Stage::Resting
        };
    }

    /// Completes as soon as everything is delivered.
    pub fn complete_if_delivered(&mut self, limits: &Limits) {
        let Stage::Working(work) = self.stage else { return };
        let saved = work.stored.step == work.step || work.keeps;
        let delivered = work.acked == work.last_seq() && saved;
        let early = limits.rules.breaks(Mutant::CompleteEarly);
        if work.started && work.step == limits.steps && (delivered || early) {
            let epoch = self.journal.map_or(0, |journal| journal.token.epoch);
            let committed = delivered && !work.keeps;
            let checkpoint = if committed { work.stored } else { Checkpoint { epoch, step: work.step } };
            let (last_seq, saves) = (work.last_seq(), work.keeps);
            let conclusion = Conclusion::Complete { last_seq, checkpoint, saves };
            self.conclude(work.incarnation, conclusion);
        }
    }

    /// Hears an answer. One that the stage does not wait for comes too late.
    pub fn hear(&mut self, call: &Call, answer: Answer, limits: &Limits) {
        match (self.stage, *call) {
            (Stage::Registering, Call::Register { request, .. }) if request == self.registration => {
                if let Answer::Registered { incarnation } = answer {
                    self.stage = Stage::Reconciling { incarnation };
                }
            }
            (Stage::Reconciling { incarnation }, Call::Reconcile { incarnation: asked, token, .. })
                if incarnation == asked && token == self.journal.map(|journal| journal.token) =>
            {
                self.reconciled(incarnation, answer, limits);
            }
            (Stage::Asking { incarnation }, Call::Acquire { incarnation: asked, request, .. })
                if incarnation == asked && request == self.question =>
            {
                self.acquired(incarnation, answer, limits);
            }
            _ if call.token().is_some() && call.token() == self.journal.map(|journal| journal.token) => {
                self.heard_of_attempt(call, answer, limits);
            }
            _ => {}
        }
    }

    fn reconciled(&mut self, incarnation: u8, answer: Answer, limits: &Limits) {
        match (answer, self.journal) {
            (Answer::Verdict { keep: true }, Some(journal)) => {
                let conclusion = journal.conclusion.unwrap_or(Conclusion::Fail(FailureClass::Lost));
                self.stage = Stage::Telling { incarnation, conclusion };
            }
            (Answer::Stale, _) if !limits.rules.breaks(Mutant::ForgetWhenStale) => {
                self.registration += 1;
                self.stage = Stage::Registering;
            }
            _ => self.next(incarnation, limits),
        }
    }

    fn acquired(&mut self, incarnation: u8, answer: Answer, limits: &Limits) {
        match answer {
            Answer::Granted { token, resume } => {
                self.journal = Some(Journal { token, conclusion: None });
                let resume = resume.unwrap_or(Checkpoint { epoch: 0, step: 0 });
                self.stage = Stage::Working(Work {
                    incarnation,
                    started: false,
                    resume,
                    step: resume.step,
                    sent: 0,
                    acked: 0,
                    saved: resume.step,
                    stored: resume,
                    keeps: false,
                });
            }
            Answer::Stale => {
                self.registration += 1;
                self.stage = Stage::Registering;
            }
            // A new question, which nobody can tell from the old one unless a late
            // repetition of the old one is granted something.
            _ if limits.ghosts => self.ask(incarnation, limits),
            _ => {}
        }
    }

    fn heard_of_attempt(&mut self, call: &Call, answer: Answer, limits: &Limits) {
        match self.stage {
            Stage::Working(_) => self.heard_at_work(call, answer, limits),
            Stage::Telling { incarnation, conclusion } => {
                let is_last_call = matches!(call, Call::Complete { .. }) && conclusion.is_complete()
                    || matches!(call, Call::Fail { .. }) && !conclusion.is_complete();
                let refused = matches!(answer, Answer::Refused | Answer::OutOfRange { .. });
                match (is_last_call, refused) {
                    (false, _) => {}
                    (true, true) if conclusion.is_complete() => {
                        self.conclude(incarnation, Conclusion::Fail(FailureClass::Infrastructure));
                    }
                    (true, _) => self.next(incarnation, limits),
                }
            }
            _ => {}
        }
    }

    fn heard_at_work(&mut self, call: &Call, answer: Answer, limits: &Limits) {
        let Stage::Working(work) = &mut self.stage else { return };
        let incarnation = work.incarnation;
        match (call, answer) {
            (_, Answer::LeaseLost) => return self.next(incarnation, limits),
            (_, Answer::Refused) => {
                return self.conclude(incarnation, Conclusion::Fail(FailureClass::Infrastructure));
            }
            (Call::Start { .. }, Answer::Done) => work.started = true,
            (Call::Report { .. }, Answer::Receipt { ack_seq, desired }) => {
                // More than was sent, or less than was acknowledged, is no
                // coordinator to go on with (`worker/src/outbox.rs`).
                if ack_seq < work.acked || ack_seq > work.last_seq() {
                    return self.next(incarnation, limits);
                }
                work.acked = ack_seq;
                work.sent = work.sent.max(ack_seq);
                match desired {
                    Wish::Run => {}
                    Wish::Cancel => {
                        return self.conclude(incarnation, Conclusion::Fail(FailureClass::Cancelled));
                    }
                    Wish::Yield => return self.conclude(incarnation, Conclusion::Fail(FailureClass::Lost)),
                }
            }
            (Call::Report { .. }, Answer::OutOfRange { ack_seq }) => {
                if ack_seq < work.acked {
                    return self.next(incarnation, limits);
                }
                work.sent = ack_seq;
            }
            (Call::Commit { token, step }, Answer::Done) if *step > work.stored.step => {
                work.stored = Checkpoint { epoch: token.epoch, step: *step };
            }
            _ => {}
        }
        self.complete_if_delivered(limits);
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Daemon::new()
    }
}
