//! One attempt at one job, as a pure state machine: events and a time go in,
//! effects come out. No process, socket, file or clock is touched here, so every
//! order of events can be tried in a test.
//!
//! ```text
//!             Prepared            Completed, Failed, bad frame, overdue
//!  Preparing ──────────▶ Running ──────────────────────────────▶ Leaving
//!      │                    │                                   ▲    │
//!      │     cancel, yield, │            Completed, Failed      │    │ exit, or
//!      │    drain, fence    ├──────────▶ Stopping ──────────────┘    │ killed
//!      │                    │               │ exit, or killed        │
//!      │ no trainer         │ exit          ▼                        │
//!      └────────────────────┴─────────▶ Delivering ◀─────────────────┘
//!                                           │ all entries acknowledged,
//!                                           ▼ no checkpoint under way
//!                                       Concluding ──────▶ Ended
//!
//!  any ── lease lost, or held for too long without contact ──▶ Dropping ──exit──▶ Ended
//! ```
//!
//! A child process exists exactly in Running, Stopping, Leaving and in Dropping;
//! each of them either has a moment at which the child is killed or a watchdog. One
//! that the kernel does not end although it was killed is abandoned: to the attempt it
//! is gone, and its slot takes no further job until it really is.

mod curves;
mod event;
mod exit;
mod follower;
mod lease;
mod progress;
mod section;
#[cfg(test)]
mod tests;
mod transitions;
mod uploads;

use std::path::PathBuf;
use std::time::Duration;

use cakes::derive::LatencyTable;
use cakes::frame::Summary;
use cakes::scores::ChannelScores;
use cakes::spec::TrainingSpec;
use cakes_proto::v1::{DesiredState, FailureClass, LogLine};
use chrono::{DateTime, Utc};

pub use event::{Completion, Conclusion, Effect, Event, Exit, Failure};
pub use follower::{Follower, Part};
pub use lease::Lease;
pub use progress::Progress;
pub use section::{Section, SectionLimits};
pub use uploads::{LocalCheckpoint, StoredCheckpoint, Uploads};

use crate::clock::Now;
use crate::outbox::{Outbox, SeqError};

/// How patient the daemon is with an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    pub limits: SectionLimits,
    /// A trainer that takes more is killed.
    pub memory_mib_max: u64,
    /// For a trainer that was asked to save and exit.
    pub stop_grace: Duration,
    /// For a trainer whose job was cancelled.
    pub cancel_grace: Duration,
    /// For a trainer that said its last word.
    pub exit_grace: Duration,
    /// Share of the lease's time without contact after which training stops.
    pub fence_share: f64,
    /// How long after that the saved state is kept for the coordinator's return.
    pub hold: Duration,
}

/// What the attempt was granted.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Number of the grant, for log lines.
    pub epoch: u64,
    /// When Acquire was sent, and how long its offer stands.
    pub offered_at: Duration,
    pub offer_ttl: Duration,
    pub report_interval: Duration,
    /// Folder in which the trainer leaves its checkpoints.
    pub checkpoints: PathBuf,
    /// Name of the artifact store, for messages.
    pub store: String,
    /// The checkpoint to go on from.
    pub resume: Option<StoredCheckpoint>,
    /// From the job, where this daemon understands it.
    pub training: Option<TrainingSpec>,
}

/// Why a trainer is asked to stop before its job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopReason {
    Cancelled,
    Yielded,
    Drained,
    Fenced,
}

impl StopReason {
    fn failure(self) -> Failure {
        let lost = |message| Failure::new(FailureClass::Lost, message);
        match self {
            StopReason::Cancelled => Failure::new(FailureClass::Cancelled, "stopped as asked"),
            StopReason::Yielded => lost("handed back as asked, behind its last checkpoint"),
            StopReason::Drained => lost("the worker shuts down; handed back behind its last checkpoint"),
            StopReason::Fenced => lost(
                "the worker had no contact with the coordinator and stopped; handed back behind its last checkpoint",
            ),
        }
    }
}

/// How an attempt will end; a completion still waits for its checkpoint's commit.
#[derive(Clone, Debug)]
enum Ending {
    Complete(Box<Summary>),
    Fail(Failure),
}

#[derive(Debug)]
enum State {
    /// The checkpoint is fetched and the trainer started, until `give_up_at`.
    Preparing {
        give_up_at: Duration,
    },
    /// The trainer works.
    Running,
    /// The trainer saves and exits, or is killed at `kill_at`.
    Stopping {
        why: StopReason,
        kill_at: Duration,
    },
    /// The trainer has nothing more to say and exits, or is killed at `kill_at`.
    Leaving {
        ending: Ending,
        kill_at: Duration,
    },
    /// No trainer; entries and checkpoints are on their way until `give_up_at`.
    Delivering {
        ending: Ending,
        give_up_at: Duration,
    },
    /// The last call is under way.
    Concluding {
        completes: bool,
    },
    /// Nobody wants the attempt; its trainer was killed.
    Dropping {
        why: String,
    },
    Ended(Outcome),
}

/// How an attempt ended, for the daemon's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Completed,
    /// Told to the coordinator.
    Failed,
    /// Not told: the lease is another's, or the coordinator is away.
    Dropped {
        why: String,
    },
    /// A part in an attempt that another slot leads, whose end was told by others.
    Left,
}

/// What the leader of a gang does beside the rest.
#[derive(Debug)]
struct Gang {
    /// Where other machines reach this one.
    host: String,
    /// Where the ranks meet, until it is told.
    address: Option<String>,
    /// A failure that only says that others are gone is told then.
    blame_at: Option<Duration>,
}

/// The state machine of one attempt.
#[derive(Debug)]
pub struct Attempt {
    patience: Patience,
    epoch: u64,
    report_interval: Duration,
    checkpoints: PathBuf,
    store: String,
    state: State,
    outbox: Outbox,
    uploads: Uploads,
    progress: Progress,
    section: Section,
    lease: Lease,
    resume_step: u64,
    /// Of the trainer, from its first frame.
    device: Option<String>,
    scores: Option<ChannelScores>,
    latency: Option<LatencyTable>,
    report_due: Duration,
    report_in_flight: bool,
    /// The coordinator takes no reports of this attempt; only its end is told.
    muted: bool,
    /// When the trainer was killed.
    killed_at: Option<Duration>,
    /// When the daemon ends: until then checkpoints may still be stored.
    deliver_by: Option<Duration>,
    /// Where other slots train with this one.
    gang: Option<Gang>,
}

impl Attempt {
    pub fn new(terms: Terms, patience: Patience, now: Now) -> Self {
        let resume_step = terms.resume.as_ref().map_or(0, |resume| resume.step);
        Attempt {
            patience,
            epoch: terms.epoch,
            report_interval: terms.report_interval,
            checkpoints: terms.checkpoints,
            store: terms.store,
            state: State::Preparing { give_up_at: now.since_boot + patience.limits.loading },
            outbox: Outbox::default(),
            uploads: Uploads::new(terms.resume),
            progress: Progress::new(terms.training),
            section: Section::new(now.since_boot),
            lease: Lease::offered(terms.offered_at, terms.offer_ttl, patience.fence_share),
            resume_step,
            device: None,
            scores: None,
            latency: None,
            report_due: now.since_boot,
            report_in_flight: false,
            muted: false,
            killed_at: None,
            deliver_by: None,
            gang: None,
        }
    }

    /// Leads a gang, whose other members reach this machine at `host`.
    #[must_use]
    pub fn leading(self, host: String) -> Self {
        Attempt { gang: Some(Gang { host, address: None, blame_at: None }), ..self }
    }

    /// Takes in what happened; returns what to do, in this order.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.outcome().is_none() {
            self.apply(event, now, &mut effects);
            self.watch_time(now, &mut effects);
            self.settle(now, &mut effects);
        }
        effects
    }

    /// How it ended; none while it goes on.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Whether the trainer's log should wait for the coordinator.
    pub fn log_should_wait(&self) -> bool {
        self.outbox.is_full()
    }

    /// Number of the last entry that was acknowledged.
    pub fn acked_seq(&self) -> u64 {
        self.outbox.acked()
    }

    fn not_prepared(&self) -> Failure {
        let limit = humantime::format_duration(self.patience.limits.loading);
        Failure::infrastructure(format!(
            "no trainer was started within {limit}: its checkpoint does not come from the artifact store {}; see \
             that this machine can read it, or raise --loading-limit if it may take longer",
            self.store
        ))
    }

    fn has_child(&self) -> bool {
        matches!(
            self.state,
            State::Running | State::Stopping { .. } | State::Leaving { .. } | State::Dropping { .. }
        )
    }

    fn apply(&mut self, event: Event, now: Now, effects: &mut Vec<Effect>) {
        let at = now.since_boot;
        match event {
            Event::Prepared => self.prepared(now),
            Event::PreparationFailed(failure) => self.deliver(Ending::Fail(failure), now),
            Event::Trainer(event) => self.trainer_said(event, now, effects),
            Event::Log(text) => self.log(text, now),
            Event::BadFrame(problem) => self.bad_frame(&problem, now, effects),
            Event::Exited(exit) => self.exited(&exit, now),
            Event::Started { sent_at, ttl } => {
                self.lease.renewed(sent_at, ttl);
                self.report_due = at;
            }
            Event::Acknowledged { sent_at, ttl, ack_seq, desired } => {
                if at >= self.lease.fence_at() {
                    self.contact_is_back(now);
                }
                self.lease.renewed(sent_at, ttl);
                let answer = self.outbox.acknowledge(ack_seq);
                self.reported(answer, now, effects);
                self.obey(desired, now, effects);
            }
            Event::OutOfRange { ack_seq } => {
                // Without a number the same batch is sent again.
                let answer = ack_seq.map_or(Ok(()), |ack_seq| self.outbox.acknowledge(ack_seq));
                self.reported(answer, now, effects);
            }
            Event::LeaseLost(why) => self.drop_attempt(format!("lease lost: {why}"), now, effects),
            Event::Refused { call, message } => self.refused(call, &message, now, effects),
            Event::Uploaded { checkpoint, bytes } => self.uploaded(checkpoint, bytes, effects),
            Event::Stored(stored) => {
                self.note(format!("checkpoint of step {} is stored", stored.step), now);
                effects.extend(self.uploads.finish(stored, at).map(Effect::RemoveLocal));
            }
            Event::StoreFailed { message, permanent } => {
                self.note(format!("checkpoint could not be stored: {message}"), now);
                effects.extend(self.uploads.fail(message, permanent, at).map(Effect::RemoveLocal));
            }
            Event::Concluded => self.concluded(),
            // Of parts in attempts that others lead.
            Event::Told | Event::Fetched | Event::Joined { .. } | Event::Renewed { .. } => {}
            Event::Drain { deadline } => self.drain(deadline, now, effects),
            Event::Memory { mib } => self.takes_memory(mib, now, effects),
            Event::Tick => {}
        }
    }

    fn reported(&mut self, answer: Result<(), SeqError>, now: Now, effects: &mut Vec<Effect>) {
        self.report_in_flight = false;
        self.report_due = now.since_boot + self.report_interval;
        if let Err(error) = answer {
            self.drop_attempt(error.to_string(), now, effects);
        }
    }

    fn obey(&mut self, desired: DesiredState, now: Now, effects: &mut Vec<Effect>) {
        match desired {
            DesiredState::Unspecified | DesiredState::Run => {}
            DesiredState::Cancel => self.stop(StopReason::Cancelled, now, effects),
            DesiredState::Yield => self.stop(StopReason::Yielded, now, effects),
        }
    }

    /// What follows from the state alone, whatever the event was.
    fn settle(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let at = now.since_boot;
        if matches!(self.state, State::Dropping { .. } | State::Ended(_)) {
            return;
        }
        if self.lease.start_is_due(!matches!(self.state, State::Preparing { .. }), at) {
            effects.push(Effect::Start);
        }
        if self.lease.is_held() {
            effects.extend(self.uploads.start(at).map(Effect::Store));
            let address = self.gang.as_mut().and_then(|gang| gang.address.take());
            effects.extend(address.map(Effect::Tell));
        }
        self.conclude_if_delivered(now, effects);
        self.report_if_due(at, effects);
    }

    fn report_if_due(&mut self, at: Duration, effects: &mut Vec<Effect>) {
        let delivers = matches!(self.state, State::Delivering { .. }) && !self.outbox.is_empty();
        let due = at >= self.report_due || self.outbox.has_full_batch() || delivers;
        let possible = self.lease.is_held()
            && !self.report_in_flight
            && !self.muted
            && !matches!(self.state, State::Concluding { .. } | State::Ended(_));
        if !(due && possible) {
            return;
        }
        self.report_in_flight = true;
        let progress = self.progress.to_wire(self.uploads.stored_step(), at);
        effects.push(Effect::Report { batch: self.outbox.batch(), progress });
    }

    /// A line of the trainer's log. Stored text may not hold NUL.
    fn log(&mut self, text: String, now: Now) {
        let text = if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
        self.outbox.push_log(LogLine {
            time: Some(stamp(now)),
            attempt: self.epoch,
            text,
            ..LogLine::default()
        });
    }

    /// A line of the daemon's own.
    fn note(&mut self, text: impl Into<String>, now: Now) {
        self.log(format!("[worker] {}", text.into()), now);
    }
}

fn stamp(now: Now) -> pbjson_types::Timestamp {
    DateTime::<Utc>::from(now.wall).into()
}
