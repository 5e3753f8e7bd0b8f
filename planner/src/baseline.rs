//! Simpler rules, to compare with: no shares, quotas, reservations or preemption.

use std::cmp::Reverse;

use crate::facts::{CheckedFacts, Job};
use crate::plan::Plan;
use crate::round::Round;
use crate::waits::Why;

/// First come, first served: nobody starts before who was submitted earlier.
pub fn plan_fifo(facts: &CheckedFacts<'_>) -> Plan {
    let facts = facts.get();
    in_order(facts, |job| (job.submit_s, job.id), true)
}

/// The first that fits, by priority and then by submission.
pub fn plan_queue(facts: &CheckedFacts<'_>) -> Plan {
    let facts = facts.get();
    in_order(facts, |job| (Reverse(job.priority), job.submit_s, job.id), false)
}

fn in_order<K: Ord>(facts: &crate::facts::Facts<'_>, key: impl Fn(&Job) -> K, is_strict: bool) -> Plan {
    let mut order: Vec<&Job> = facts.waiting.iter().collect();
    order.sort_by_cached_key(|job| key(job));
    let mut round = Round::new(facts);
    let mut is_blocked = false;
    for job in order {
        let number = round.shapes.number(facts, job);
        if let Some(reason) = round.shapes.get(number).impossible.clone() {
            round.wait(job, number, Why::Known(reason));
        } else if is_strict && is_blocked {
            round.wait(job, number, Why::InTurn);
        } else if !round.start(job, number) {
            is_blocked = true;
            round.wait(job, number, Why::Devices);
        }
    }
    round.end()
}
