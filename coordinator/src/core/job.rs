//! The life of a job, and the one table of its moves.
//!
//! ```text
//!                    ┌──────────── fail, tries left ─────────────┐
//!                    ▼                                           │
//!   (new) ──────► queued ──grant──► leased ──start──► running ───┴─ complete ──► succeeded
//!                  │  ▲                │                 │
//!            pause │  │ resume         └────────┬────────┴─ fail, no tries left ► failed
//!                  ▼  │                         │ pause                             │
//!                 paused ◄──── fail ──────── pausing ── complete ──► succeeded      │
//!                                               │                                   │
//!   queued, paused ── cancel ──► cancelled      │ cancel                            │
//!   leased, running, pausing ─── cancel ──► cancelling ── fail, complete ► cancelled│
//!                                                                           │       │
//!                                 queued ◄────────── retry, by a person ────┴───────┘
//! ```
//!
//! "Fail" is every end of an attempt without a result, a lease that ran out
//! included. Completing and cancelling race; whichever commits first wins, and
//! a completion that comes second ends the attempt as cancelled.

use std::time::Duration;

use super::text::named;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    Queued,
    Leased,
    Running,
    Succeeded,
    Failed,
    Cancelling,
    Cancelled,
    Pausing,
    Paused,
}

named!(JobState, "job state", {
    Queued => "queued",
    Leased => "leased",
    Running => "running",
    Succeeded => "succeeded",
    Failed => "failed",
    Cancelling => "cancelling",
    Cancelled => "cancelled",
    Pausing => "pausing",
    Paused => "paused",
});

impl JobState {
    /// Whether the job has ended; only a person's retry leaves such a state.
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Succeeded | JobState::Failed | JobState::Cancelled)
    }

    /// Whether an attempt of the job lives.
    pub fn has_attempt(self) -> bool {
        matches!(self, JobState::Leased | JobState::Running | JobState::Cancelling | JobState::Pausing)
    }
}

/// What a job trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobKind {
    Supernet,
    Retrain,
}

named!(JobKind, "job kind", { Supernet => "supernet", Retrain => "retrain" });

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndReason {
    Succeeded,
    Failed,
    Cancelled,
    /// Its worker saved and gave the job back, as asked.
    HandedBack,
    LeaseExpired,
    /// It was offered and never started.
    OfferExpired,
    /// Its daemon was restarted and does not know it any more.
    Superseded,
}

named!(EndReason, "end of an attempt", {
    Succeeded => "succeeded",
    Failed => "failed",
    Cancelled => "cancelled",
    HandedBack => "handed back",
    LeaseExpired => "lease expired",
    OfferExpired => "offer expired",
    Superseded => "superseded",
});

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobEvent {
    /// A worker gets it.
    Grant,
    /// Its trainer runs.
    Start,
    /// The attempt brought the result.
    Complete,
    /// The attempt ended without one.
    Fail {
        end: EndReason,
        decision: Decision,
    },
    Cancel,
    Pause,
    /// `started`: whether a live attempt has started its trainer.
    Resume {
        started: bool,
    },
    /// A person wants it tried again.
    Retry,
}

/// Whether a failed attempt is followed by another; see [`super::retry`].
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Again { delay: Duration },
    GiveUp { reason: String },
}

/// A move: the next state and what becomes of the live attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    pub next: JobState,
    /// The live attempt ends in this way; `None` leaves it alone.
    pub ends_attempt: Option<EndReason>,
    /// The job waits this long before it is offered again.
    pub delay: Option<Duration>,
    /// Why the job will not be tried again.
    pub reason: Option<String>,
}

impl Transition {
    fn to(next: JobState) -> Self {
        Transition { next, ends_attempt: None, delay: None, reason: None }
    }

    fn ending(next: JobState, end: EndReason) -> Self {
        Transition { ends_attempt: Some(end), ..Transition::to(next) }
    }
}

/// A move that is not in the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {state} cannot be {verb}")]
pub struct IllegalTransition {
    pub state: JobState,
    /// The event as a participle: "paused".
    pub verb: &'static str,
}

/// The table.
///
/// Repeating what already happened is a move from a state to itself, so that
/// callers may repeat their calls.
///
/// # Errors
/// The job's state does not allow the event.
pub fn transition(state: JobState, event: &JobEvent) -> Result<Transition, IllegalTransition> {
    use JobEvent as E;
    use JobState as S;
    let to = |next| Ok(Transition::to(next));
    match (state, event) {
        (S::Queued, E::Grant) => to(S::Leased),

        (S::Leased | S::Running, E::Start) => to(S::Running),
        (S::Pausing | S::Cancelling, E::Start) => to(state),

        (S::Running | S::Pausing, E::Complete) => Ok(Transition::ending(S::Succeeded, EndReason::Succeeded)),
        (S::Cancelling, E::Complete) => Ok(Transition::ending(S::Cancelled, EndReason::Cancelled)),

        (S::Leased | S::Running, E::Fail { end, decision }) => Ok(after_failure(S::Queued, *end, decision)),
        (S::Pausing, E::Fail { end, decision }) => Ok(after_failure(S::Paused, *end, decision)),
        (S::Cancelling, E::Fail { .. }) => Ok(Transition::ending(S::Cancelled, EndReason::Cancelled)),

        (S::Queued | S::Paused | S::Cancelled, E::Cancel) => to(S::Cancelled),
        (S::Leased | S::Running | S::Pausing | S::Cancelling, E::Cancel) => to(S::Cancelling),

        (S::Queued | S::Paused, E::Pause) => to(S::Paused),
        (S::Leased | S::Running | S::Pausing, E::Pause) => to(S::Pausing),

        (S::Paused, E::Resume { .. }) => to(S::Queued),
        (S::Pausing, E::Resume { started: true }) => to(S::Running),
        (S::Pausing, E::Resume { started: false }) => to(S::Leased),
        (S::Queued | S::Leased | S::Running, E::Resume { .. }) => to(state),

        (S::Failed | S::Cancelled | S::Queued, E::Retry) => to(S::Queued),

        (_, event) => Err(IllegalTransition { state, verb: verb(event) }),
    }
}

fn after_failure(waiting: JobState, end: EndReason, decision: &Decision) -> Transition {
    match decision {
        Decision::Again { delay } => Transition { delay: Some(*delay), ..Transition::ending(waiting, end) },
        Decision::GiveUp { reason } => {
            Transition { reason: Some(reason.clone()), ..Transition::ending(JobState::Failed, end) }
        }
    }
}

fn verb(event: &JobEvent) -> &'static str {
    match event {
        JobEvent::Grant => "granted",
        JobEvent::Start => "started",
        JobEvent::Complete => "completed",
        JobEvent::Fail { .. } => "ended by a failure",
        JobEvent::Cancel => "cancelled",
        JobEvent::Pause => "paused",
        JobEvent::Resume { .. } => "resumed",
        JobEvent::Retry => "tried again",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = JobState> {
        proptest::sample::select(JobState::ALL)
    }

    fn any_event() -> impl Strategy<Value = JobEvent> {
        let decision = prop_oneof![
            Just(Decision::Again { delay: Duration::ZERO }),
            Just(Decision::GiveUp { reason: "no tries left".into() }),
        ];
        let end = prop_oneof![Just(EndReason::Failed), Just(EndReason::LeaseExpired)];
        prop_oneof![
            Just(JobEvent::Grant),
            Just(JobEvent::Start),
            Just(JobEvent::Complete),
            (end, decision).prop_map(|(end, decision)| JobEvent::Fail { end, decision }),
            Just(JobEvent::Cancel),
            Just(JobEvent::Pause),
            any::<bool>().prop_map(|started| JobEvent::Resume { started }),
            Just(JobEvent::Retry),
        ]
    }

    proptest! {
        /// The attempt ends exactly when the job leaves the states that have one.
        #[test]
        fn an_attempt_lives_exactly_as_long_as_the_state_says(state in any_state(), event in any_event()) {
            if let Ok(moved) = transition(state, &event) {
                let ended = state.has_attempt() && !moved.next.has_attempt();
                prop_assert_eq!(moved.ends_attempt.is_some(), ended);
                let began = !state.has_attempt() && moved.next.has_attempt();
                prop_assert_eq!(began, event == JobEvent::Grant);
            }
        }

        #[test]
        fn what_has_ended_stays_so_unless_a_person_retries(state in any_state(), event in any_event()) {
            if let Ok(moved) = transition(state, &event)
                && state.is_final()
            {
                prop_assert!(moved.next == state || event == JobEvent::Retry);
            }
        }

        /// After a cancel nothing but a person's retry leads to another end.
        #[test]
        fn a_cancelled_job_never_succeeds(events in proptest::collection::vec(any_event(), 0..20)) {
            let mut state = JobState::Cancelling;
            for event in events.iter().filter(|event| **event != JobEvent::Retry) {
                state = transition(state, event).map_or(state, |moved| moved.next);
                prop_assert!(matches!(state, JobState::Cancelling | JobState::Cancelled));
            }
        }

        /// From anywhere a cancel and one end of the attempt reach an end.
        #[test]
        fn every_job_can_be_ended(events in proptest::collection::vec(any_event(), 0..20)) {
            let mut state = JobState::Queued;
            for event in &events {
                state = transition(state, event).map_or(state, |moved| moved.next);
            }
            let fail = JobEvent::Fail {
                end: EndReason::LeaseExpired,
                decision: Decision::Again { delay: Duration::ZERO },
            };
            for event in [JobEvent::Cancel, fail] {
                state = transition(state, &event).map_or(state, |moved| moved.next);
            }
            prop_assert!(state.is_final());
        }
    }

    #[test]
    fn a_refusal_says_what_was_wanted_of_which_state() {
        let error = transition(JobState::Succeeded, &JobEvent::Pause).unwrap_err();
        assert_eq!(error.to_string(), "a job that is succeeded cannot be paused");
    }
}
