//! The part of one slot in an attempt that another one leads: a pure state machine like
//! [`super::Attempt`], of the same events and effects.
//!
//! ```text
//!             Fetched          address known, Prepared      the ranks ended well
//!  Preparing ─────────▶ Waiting ──────────────────────▶ Running ───────────────▶ Released
//!      │                   │                               │  │ yield, drain,       ▲
//!      │                   │                               │  │ cancel, fence       │ exit 0
//!      │ failed, stopped   │ stopped                       │  └────▶ Stopping ──────┤
//!      │                   │         Failed, bad frame     │             │ killed   │
//!      ▼                   ▼         ┌─────────────────────┘             ▼          │ too long
//!   Telling ◀──────────────┴──── Leaving ◀─ … ────────────────────── Telling ◀──────┘
//!      │ said, once nobody else does
//!      ▼
//!  Concluding ──▶ Ended           any ── lease lost ──▶ Dropping ── exit ──▶ Ended
//! ```
//!
//! It saves nothing and reports nothing: how the attempt goes and ends is the leader's to tell,
//! and reaches this one as a lease that is lost. It tells of its own failures alone. That its
//! ranks were left by others is none: whoever was the cause says why, or its lease ends, and this
//! one waits for that.

use std::time::Duration;

use cakes::frame::{TrainerEvent, tells_of_others};
use cakes_proto::v1::{DesiredState, FailureClass};

use super::event::class_to_wire;
use super::exit::{CANNOT_BE_KILLED, KILL_LIMIT, classify};
use super::{Conclusion, Effect, Event, Exit, Failure, Lease, Outcome, Patience, StopReason};
use crate::clock::Now;

/// Behind the end of a lease the coordinator has seen that it ended.
const SWEEP_GRACE: Duration = Duration::from_secs(10);
/// Between two questions while it is not known where the ranks meet.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// What a member was granted.
#[derive(Clone, Debug)]
pub struct Part {
    /// When Acquire was sent, and how long its offer stands.
    pub offered_at: Duration,
    pub offer_ttl: Duration,
    pub report_interval: Duration,
    /// Name of the artifact store, for messages.
    pub store: String,
}

#[derive(Debug)]
enum State {
    /// The checkpoint is fetched, until `give_up_at`.
    Preparing {
        give_up_at: Duration,
    },
    /// Everything is there but where the ranks meet.
    Waiting,
    Running,
    /// The ranks stop, all behind the same step, or are killed at `kill_at`.
    Stopping {
        why: StopReason,
        kill_at: Duration,
    },
    /// The ranks have nothing more to do; the leader ends the attempt, until `until`.
    Released {
        until: Duration,
    },
    /// The trainer said its last word and exits, or is killed at `kill_at`.
    Leaving {
        failure: Failure,
        kill_at: Duration,
    },
    /// Told at `at`, unless the attempt has ended by then.
    Telling {
        failure: Failure,
        at: Duration,
    },
    /// The last call is under way.
    Concluding,
    /// The attempt has ended; the trainer was killed.
    Dropping,
    Ended(Outcome),
}

/// The state machine of one part.
#[derive(Debug)]
pub struct Follower {
    patience: Patience,
    part: Part,
    state: State,
    lease: Lease,
    /// Where the ranks meet; taken when they go there.
    address: Option<String>,
    /// They are on their way there, or were.
    is_launched: bool,
    report_due: Duration,
    report_in_flight: bool,
    killed_at: Option<Duration>,
    /// When the daemon ends: until then the leader may save.
    deliver_by: Option<Duration>,
}

impl Follower {
    pub fn new(part: Part, patience: Patience, now: Now) -> Self {
        Follower {
            patience,
            state: State::Preparing { give_up_at: now.since_boot + patience.limits.loading },
            lease: Lease::offered(part.offered_at, part.offer_ttl, patience.fence_share),
            part,
            address: None,
            is_launched: false,
            report_due: now.since_boot,
            report_in_flight: false,
            killed_at: None,
            deliver_by: None,
        }
    }

    /// Takes in what happened; returns what to do, in this order.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.outcome().is_none() {
            self.apply(event, now.since_boot, &mut effects);
            self.watch_time(now.since_boot, &mut effects);
            self.settle(now.since_boot, &mut effects);
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

    fn has_child(&self) -> bool {
        matches!(
            self.state,
            State::Running | State::Stopping { .. } | State::Leaving { .. } | State::Dropping
        )
    }

    fn apply(&mut self, event: Event, at: Duration, effects: &mut Vec<Effect>) {
        match event {
            Event::Fetched => {
                if matches!(self.state, State::Preparing { .. }) {
                    self.state = State::Waiting;
                }
            }
            Event::Prepared => {
                if matches!(self.state, State::Waiting) {
                    self.state = State::Running;
                }
            }
            Event::PreparationFailed(failure) => self.tell(failure, at),
            Event::Trainer(TrainerEvent::Failed { class, message }) => {
                self.leave(Failure::new(class_to_wire(class), message), at);
            }
            Event::BadFrame(problem) => {
                let problem = format!("the trainer does not keep to the protocol: {problem}");
                self.leave(Failure::infrastructure(problem), at);
                self.kill(at, effects);
            }
            Event::Exited(exit) => self.exited(&exit, at),
            Event::Joined { sent_at, ttl, address } => {
                self.lease.renewed(sent_at, ttl);
                self.report_due = at;
                self.learn(address);
            }
            Event::Renewed { sent_at, ttl, desired, address } => {
                self.lease.renewed(sent_at, ttl);
                self.report_in_flight = false;
                let knows = self.is_launched || self.address.is_some() || address.is_some();
                let interval = self.part.report_interval;
                self.report_due = at + if knows { interval } else { interval.min(ASK_INTERVAL) };
                self.learn(address);
                self.obey(desired, at, effects);
            }
            Event::LeaseLost(_) => self.drop_part(Outcome::Left, at, effects),
            Event::Refused { call, message } => self.refused(call, &message, at, effects),
            Event::Concluded => self.state = State::Ended(Outcome::Failed),
            Event::Drain { deadline } => self.drain(deadline, at, effects),
            Event::Memory { mib } => self.takes_memory(mib, at, effects),
            _ => {}
        }
    }

    /// Where the ranks meet, if that is news.
    fn learn(&mut self, address: Option<String>) {
        if !self.is_launched && self.address.is_none() {
            self.address = address;
        }
    }

    fn obey(&mut self, desired: DesiredState, at: Duration, effects: &mut Vec<Effect>) {
        match desired {
            DesiredState::Unspecified | DesiredState::Run => {}
            DesiredState::Cancel => self.stop(StopReason::Cancelled, at, effects),
            DesiredState::Yield => self.stop(StopReason::Yielded, at, effects),
        }
    }

    fn stop(&mut self, why: StopReason, at: Duration, effects: &mut Vec<Effect>) {
        let grace = match why {
            StopReason::Cancelled => self.patience.cancel_grace,
            StopReason::Yielded | StopReason::Drained | StopReason::Fenced => self.patience.stop_grace,
        };
        match &mut self.state {
            State::Preparing { .. } | State::Waiting => {
                effects.push(Effect::AbandonPreparation);
                self.tell(why.failure(), at);
            }
            State::Running => {
                self.state = State::Stopping { why, kill_at: at + grace };
                effects.push(Effect::SendStop);
            }
            State::Stopping { why: current, kill_at }
                if why == StopReason::Cancelled && *current != StopReason::Cancelled =>
            {
                *current = why;
                *kill_at = (*kill_at).min(at + grace);
            }
            // Nobody is looked for who was the cause.
            State::Telling { failure, at: due } if why == StopReason::Cancelled => {
                *failure = why.failure();
                *due = at;
            }
            _ => {}
        }
    }

    /// The daemon ends at `deadline`: the leader must have saved and ended the attempt before.
    fn drain(&mut self, deadline: Duration, at: Duration, effects: &mut Vec<Effect>) {
        let left = deadline.saturating_sub(at);
        let deliver_by = at + left.mul_f64(0.9);
        self.deliver_by = Some(deliver_by);
        self.stop(StopReason::Drained, at, effects);
        match &mut self.state {
            State::Stopping { kill_at, .. } | State::Leaving { kill_at, .. } => {
                *kill_at = (*kill_at).min(at + left.mul_f64(0.7));
            }
            State::Released { until } => *until = (*until).min(deliver_by),
            State::Telling { at: due, .. } => *due = (*due).min(deliver_by),
            _ => {}
        }
    }

    fn exited(&mut self, exit: &Exit, at: Duration) {
        let is_well = exit.code == Some(0);
        // Long enough for a validation and the last checkpoint, which are the leader's; that it
        // lives is seen by its lease, and by nothing else here.
        let released = State::Released { until: self.deliver_by.unwrap_or(Duration::MAX) };
        match &mut self.state {
            State::Running | State::Stopping { .. } if is_well => self.state = released,
            State::Running => self.tell(classify(exit), at),
            State::Stopping { why, .. } => {
                let failure = why.failure();
                self.tell(failure, at);
            }
            State::Leaving { failure, .. } => {
                let failure = failure.clone();
                self.tell(failure, at);
            }
            State::Dropping => self.state = State::Ended(Outcome::Left),
            _ => {}
        }
    }

    fn leave(&mut self, failure: Failure, at: Duration) {
        if matches!(self.state, State::Running | State::Stopping { .. }) {
            self.state = State::Leaving { failure, kill_at: at + self.patience.exit_grace };
        }
    }

    fn takes_memory(&mut self, mib: u64, at: Duration, effects: &mut Vec<Effect>) {
        let limit = self.patience.memory_mib_max;
        if mib <= limit || !matches!(self.state, State::Running | State::Stopping { .. }) {
            return;
        }
        let message = format!(
            "the trainer took {mib} MiB of memory, more than {limit}, and was killed; use a smaller patch or batch, \
             a larger machine, or raise --memory-limit-mib"
        );
        self.leave(Failure::new(FailureClass::Resource, message), at);
        self.kill(at, effects);
    }

    fn kill(&mut self, at: Duration, effects: &mut Vec<Effect>) {
        if self.killed_at.is_none() {
            self.killed_at = Some(at);
            effects.push(Effect::Kill);
        }
    }

    /// Ends with a failure, unless the attempt ends before.
    fn tell(&mut self, mut failure: Failure, at: Duration) {
        if matches!(self.state, State::Concluding | State::Telling { .. } | State::Ended(_)) {
            return;
        }
        // The leader may have to store what it saved before it ends the attempt.
        let due = match wait_for_others(&mut failure, &self.lease, self.patience.hold, at) {
            Some(due) => self.deliver_by.map_or(due, |deliver_by| due.min(deliver_by)),
            None => at,
        };
        self.state = State::Telling { failure, at: due };
    }

    fn refused(&mut self, call: &'static str, message: &str, at: Duration, effects: &mut Vec<Effect>) {
        let failure = Failure::infrastructure(format!("the coordinator refused {call}: {message}"));
        match self.state {
            State::Concluding => {
                self.state = State::Ended(Outcome::Dropped { why: failure.message });
            }
            State::Preparing { .. } | State::Waiting => {
                effects.push(Effect::AbandonPreparation);
                self.tell(failure, at);
            }
            State::Running | State::Stopping { .. } => {
                self.leave(failure, at);
                self.kill(at, effects);
            }
            State::Released { .. } => self.tell(failure, at),
            State::Leaving { .. } | State::Telling { .. } | State::Dropping | State::Ended(_) => {}
        }
    }

    /// The attempt has ended, or nobody knows; its trainer goes at once.
    fn drop_part(&mut self, outcome: Outcome, at: Duration, effects: &mut Vec<Effect>) {
        if matches!(self.state, State::Preparing { .. } | State::Waiting) {
            effects.push(Effect::AbandonPreparation);
        }
        if !self.has_child() {
            self.state = State::Ended(outcome);
        } else if !matches!(self.state, State::Dropping) {
            self.state = State::Dropping;
            self.kill(at, effects);
        }
    }

    /// What is decided by time alone.
    fn watch_time(&mut self, at: Duration, effects: &mut Vec<Effect>) {
        if self.outcome().is_some() {
            return;
        }
        if self.has_child() && self.killed_at.is_some_and(|killed_at| at >= killed_at + KILL_LIMIT) {
            effects.push(Effect::AbandonTrainer);
            match &self.state {
                State::Dropping => self.state = State::Ended(Outcome::Left),
                _ => self.state = State::Telling { failure: Failure::infrastructure(CANNOT_BE_KILLED), at },
            }
            return;
        }
        let fence_at = self.lease.fence_at();
        if at >= fence_at && matches!(self.state, State::Preparing { .. } | State::Waiting | State::Running) {
            self.stop(StopReason::Fenced, at, effects);
        }
        if at >= fence_at + self.patience.hold {
            let why = "no contact with the coordinator".to_owned();
            return self.drop_part(Outcome::Dropped { why }, at, effects);
        }
        match &self.state {
            State::Preparing { give_up_at } if at >= *give_up_at => {
                effects.push(Effect::AbandonPreparation);
                let limit = humantime::format_duration(self.patience.limits.loading);
                self.tell(
                    Failure::infrastructure(format!(
                        "its checkpoint did not come from the artifact store {} within {limit}; see that this machine \
                         can read it, or raise --loading-limit if it may take longer",
                        self.part.store
                    )),
                    at,
                );
            }
            State::Stopping { kill_at, .. } | State::Leaving { kill_at, .. } if at >= *kill_at => {
                self.kill(at, effects);
            }
            State::Released { until } if at >= *until => self.tell(StopReason::Drained.failure(), at),
            _ => {}
        }
    }

    /// What follows from the state alone, whatever the event was.
    fn settle(&mut self, at: Duration, effects: &mut Vec<Effect>) {
        if matches!(self.state, State::Dropping | State::Ended(_)) {
            return;
        }
        if self.lease.start_is_due(true, at) {
            effects.push(Effect::Join);
        }
        if matches!(self.state, State::Waiting)
            && let Some(address) = self.address.take()
        {
            self.is_launched = true;
            effects.push(Effect::Launch(address));
        }
        if let State::Telling { failure, at: due } = &self.state
            && at >= *due
        {
            effects.push(Effect::Conclude(Conclusion::Fail(failure.clone())));
            self.state = State::Concluding;
        }
        let renews = self.lease.is_held() && !self.report_in_flight && at >= self.report_due;
        if renews && !matches!(self.state, State::Concluding) {
            self.report_in_flight = true;
            effects.push(Effect::Renew);
        }
    }
}

/// Until when somebody else may say why an attempt ended, of a failure that only says that others
/// of its ranks are gone: they tell themselves, within `hold`, or lose their lease. Who tells it then
/// is at no fault. `None` for what is to be told at once.
pub(super) fn wait_for_others(
    failure: &mut Failure,
    lease: &Lease,
    hold: Duration,
    at: Duration,
) -> Option<Duration> {
    if !tells_of_others(&failure.message) {
        return None;
    }
    failure.class = FailureClass::Lost;
    Some(at + lease.ttl() + SWEEP_GRACE + hold)
}
