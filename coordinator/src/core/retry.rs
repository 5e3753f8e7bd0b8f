//! Whether a job whose attempt failed is tried again, and when.
//!
//! | class | action | tries |
//! |---|---|---|
//! | lost | again from the last checkpoint | 20 |
//! | infrastructure | again, for a while on another worker | 5 |
//! | resource, numeric | once more | 1 |
//! | user | never | 0 |
//!
//! A worker that tells itself that it lost the job, and got farther with it than anybody
//! before, takes no try: a training that lasts longer than any allocation is handed on as
//! often as it must be. What nobody told of, a lease that ran out, always takes one.
//!
//! Whatever the class: three bad ends in a row without a step beyond those that
//! an earlier attempt had reached, and the job is quarantined. A job that kills
//! its trainer at the same place costs the fleet three attempts, not twenty. Of an attempt
//! that was lost before it began nothing is learnt, and so it is none of the three.

use std::time::Duration;

use super::job::{Decision, EndReason};
use super::text::named;

/// Why an attempt ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureClass {
    /// Daemon or machine went away.
    Lost,
    /// The machine is at fault.
    Infrastructure,
    /// Out of memory.
    Resource,
    /// Not finite.
    Numeric,
    /// The job is wrong.
    User,
    /// Stopped as asked.
    Cancelled,
}

named!(FailureClass, "failure class", {
    Lost => "lost",
    Infrastructure => "infrastructure",
    Resource => "resource",
    Numeric => "numeric",
    User => "user",
    Cancelled => "cancelled",
});

/// Tries after the first, by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    pub lost: u32,
    pub infrastructure: u32,
    pub resource: u32,
    pub numeric: u32,
    /// Bad ends in a row without a new step.
    pub no_progress: u32,
}

impl Default for Budgets {
    fn default() -> Self {
        Budgets { lost: 20, infrastructure: 5, resource: 1, numeric: 1, no_progress: 3 }
    }
}

/// Bad ends of a job's attempts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counters {
    pub lost: u32,
    pub infrastructure: u32,
    pub resource: u32,
    pub numeric: u32,
    /// In a row, without a step beyond `furthest_step`.
    pub no_progress: u32,
    /// Most optimizer steps that any attempt has done.
    pub furthest_step: i64,
}

/// A bad end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Failure<'a> {
    pub end: EndReason,
    pub class: FailureClass,
    pub message: &'a str,
    /// Whether its worker had started it; before, it is but an offer.
    pub began: bool,
    /// Optimizer steps that the attempt had done.
    pub last_step: i64,
}

/// What a bad end means for its job.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub decision: Decision,
    pub counters: Counters,
    /// Whether the job should go to another worker, if there is one.
    pub avoid_worker: bool,
}

/// How long a worker is avoided after a fault of its machine.
pub const AVOID_WORKER_FOR: Duration = Duration::from_secs(300);

/// Judges a bad end. `jitter` is any number that differs between jobs and
/// attempts: it spreads what failed together.
pub fn judge(failure: &Failure<'_>, counters: Counters, budgets: &Budgets, jitter: u64) -> Judgement {
    let progress = failure.last_step > counters.furthest_step;
    let mut counted = Counters { furthest_step: counters.furthest_step.max(failure.last_step), ..counters };
    if failure.end == EndReason::HandedBack {
        // As asked, so nobody's fault.
        return Judgement {
            decision: Decision::Again { delay: Duration::ZERO },
            counters: counted,
            avoid_worker: false,
        };
    }
    let lost = failure.class == FailureClass::Lost;
    counted.no_progress = match progress {
        true => 0,
        // It never ran, so it says nothing of the job.
        false if lost && !failure.began => counters.no_progress,
        false => counters.no_progress + 1,
    };
    // Steps are finite, so it cannot go on for ever.
    let handed_on = lost && failure.end == EndReason::Failed && progress;
    let (count, budget) = match handed_on {
        true => (counted.lost, budgets.lost),
        false => count(&mut counted, failure.class, budgets),
    };
    let decision = if count > budget {
        Decision::GiveUp { reason: give_up_reason(failure, count, budget) }
    } else if counted.no_progress >= budgets.no_progress {
        Decision::GiveUp {
            reason: format!(
                "quarantined: {} attempts in a row ended without a new step, the last one with: {}",
                counted.no_progress, failure.message
            ),
        }
    } else {
        Decision::Again { delay: delay(failure, counted.no_progress, jitter) }
    };
    let avoid_worker = failure.class == FailureClass::Infrastructure;
    Judgement { decision, counters: counted, avoid_worker }
}

/// Counts the failure; its count and budget.
fn count(counters: &mut Counters, class: FailureClass, budgets: &Budgets) -> (u32, u32) {
    let (counter, budget) = match class {
        // A stop that nobody had asked for is a loss.
        FailureClass::Lost | FailureClass::Cancelled => (&mut counters.lost, budgets.lost),
        FailureClass::Infrastructure => (&mut counters.infrastructure, budgets.infrastructure),
        FailureClass::Resource => (&mut counters.resource, budgets.resource),
        FailureClass::Numeric => (&mut counters.numeric, budgets.numeric),
        FailureClass::User => return (1, 0),
    };
    *counter += 1;
    (*counter, budget)
}

fn give_up_reason(failure: &Failure<'_>, count: u32, budget: u32) -> String {
    match failure.class {
        FailureClass::User => failure.message.to_owned(),
        class => format!(
            "{count} failures of class {class}, of which {budget} may be tried again; the last one: {}",
            failure.message
        ),
    }
}

/// A worker that went away in mid-training is no reason to wait; the job can go
/// on elsewhere at once.
fn delay(failure: &Failure<'_>, no_progress: u32, jitter: u64) -> Duration {
    match (failure.class, no_progress) {
        (FailureClass::Lost | FailureClass::Cancelled, 0 | 1) => Duration::ZERO,
        (_, no_progress) => back_off(no_progress.max(1), jitter),
    }
}

const BACK_OFF_FIRST: Duration = Duration::from_secs(4);
const BACK_OFF_LONGEST: Duration = Duration::from_secs(300);

/// Doubles from four seconds to five minutes; between half and all of that.
fn back_off(failures: u32, jitter: u64) -> Duration {
    let doubled = BACK_OFF_FIRST.saturating_mul(1 << (failures - 1).min(16)).min(BACK_OFF_LONGEST);
    let share = (scramble(jitter) >> 11) as f64 / (1_u64 << 53) as f64;
    doubled.mul_f64(0.5 + 0.5 * share)
}

/// The finaliser of SplitMix64: neighbouring numbers come out far apart.
fn scramble(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failure(class: FailureClass, last_step: i64) -> Failure<'static> {
        Failure { end: EndReason::Failed, class, message: "it broke", began: true, last_step }
    }

    /// Attempts until the job is given up, each getting `gain` new steps.
    fn attempts_until_given_up(class: FailureClass, gain: i64) -> u32 {
        attempts_that_end(EndReason::Failed, class, gain)
    }

    fn attempts_that_end(end: EndReason, class: FailureClass, gain: i64) -> u32 {
        let (mut counters, mut attempts) = (Counters::default(), 0);
        loop {
            attempts += 1;
            let bad = Failure { end, ..failure(class, counters.furthest_step + gain) };
            let judgement = judge(&bad, counters, &Budgets::default(), 7);
            counters = judgement.counters;
            if matches!(judgement.decision, Decision::GiveUp { .. }) {
                return attempts;
            }
        }
    }

    #[test]
    fn each_class_has_its_budget() {
        assert_eq!(attempts_that_end(EndReason::LeaseExpired, FailureClass::Lost, 1), 21);
        assert_eq!(attempts_until_given_up(FailureClass::Infrastructure, 1), 6);
        assert_eq!(attempts_until_given_up(FailureClass::Resource, 1), 2);
        assert_eq!(attempts_until_given_up(FailureClass::Numeric, 1), 2);
        assert_eq!(attempts_until_given_up(FailureClass::User, 1), 1);
    }

    #[test]
    fn a_job_that_gets_nowhere_is_quarantined_after_three_attempts() {
        assert_eq!(attempts_until_given_up(FailureClass::Lost, 0), 3);
        assert_eq!(attempts_until_given_up(FailureClass::Infrastructure, 0), 3);
    }

    #[test]
    fn handing_back_as_asked_costs_nothing() {
        let counters = Counters { lost: 20, no_progress: 2, ..Counters::default() };
        let back = Failure { end: EndReason::HandedBack, ..failure(FailureClass::Lost, 5) };
        let judgement = judge(&back, counters, &Budgets::default(), 1);
        assert_eq!(judgement.decision, Decision::Again { delay: Duration::ZERO });
        assert_eq!(judgement.counters, Counters { furthest_step: 5, ..counters });
    }

    #[test]
    fn a_worker_that_hands_on_farther_than_before_takes_no_try() {
        let mut counters = Counters { lost: 20, no_progress: 2, ..Counters::default() };
        for step in 1..100 {
            let judgement = judge(&failure(FailureClass::Lost, step), counters, &Budgets::default(), 1);
            assert_eq!(judgement.decision, Decision::Again { delay: Duration::ZERO });
            counters = judgement.counters;
        }
        assert_eq!(counters, Counters { lost: 20, furthest_step: 99, ..Counters::default() });
        // No farther, or nobody told.
        for bad in [
            failure(FailureClass::Lost, 99),
            Failure { end: EndReason::LeaseExpired, ..failure(FailureClass::Lost, 100) },
            Failure { end: EndReason::Superseded, ..failure(FailureClass::Lost, 100) },
        ] {
            let judgement = judge(&bad, counters, &Budgets::default(), 1);
            assert!(matches!(judgement.decision, Decision::GiveUp { .. }), "{bad:?}");
        }
    }

    #[test]
    fn an_offer_that_was_lost_says_nothing_of_the_job() {
        let counters = Counters { no_progress: 2, ..Counters::default() };
        for end in [EndReason::OfferExpired, EndReason::Failed] {
            let offer = Failure { end, began: false, ..failure(FailureClass::Lost, 0) };
            let judgement = judge(&offer, counters, &Budgets::default(), 1);
            assert!(matches!(judgement.decision, Decision::Again { .. }), "{end}");
            assert_eq!(judgement.counters, Counters { lost: 1, ..counters });
        }
        let unfit = Failure { began: false, ..failure(FailureClass::Infrastructure, 0) };
        let judgement = judge(&unfit, counters, &Budgets::default(), 1);
        assert!(matches!(judgement.decision, Decision::GiveUp { .. }), "it could not be begun");
    }

    proptest! {
        /// 27 tries at the most, and 20 steps; an end that takes no try has done a step.
        #[test]
        fn every_job_is_given_up_or_done_at_last(
            ends in proptest::collection::vec((0_usize..6, 0_i64..3), 28 + 20),
        ) {
            let mut counters = Counters::default();
            let ended = ends.into_iter().any(|(class, gain)| {
                let bad = failure(FailureClass::ALL[class], counters.furthest_step + gain);
                let judgement = judge(&bad, counters, &Budgets::default(), 3);
                counters = judgement.counters;
                matches!(judgement.decision, Decision::GiveUp { .. }) || counters.furthest_step >= 20
            });
            prop_assert!(ended);
        }

        #[test]
        fn back_off_stays_in_its_bounds(failures in 1_u32..100, jitter: u64) {
            let wait = back_off(failures, jitter);
            prop_assert!(wait >= BACK_OFF_FIRST / 2 && wait <= BACK_OFF_LONGEST);
            prop_assert_eq!(wait, back_off(failures, jitter));
        }
    }
}
