//! Which running jobs make way for one of a higher priority.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::board::{Board, Use};
use crate::facts::{Job, Running};
use crate::shape::Shape;
use crate::spread;

/// Devices for a job, and who has to stop for them.
pub(crate) struct Clearance {
    pub slots: Vec<usize>,
    /// Places in the running jobs; empty if all that is in the way stops already.
    pub victims: Vec<usize>,
}

/// The clearance that hurts least: of the lowest priorities, then of the fewest devices,
/// then of the least time since their start. A job that spreads is cleared several slots only
/// where nobody can make way on one.
pub(crate) fn clear(board: &Board<'_>, shape: &Shape, job: &Job) -> Option<Clearance> {
    let nodes: Vec<usize> = shape.nodes_for(job).collect();
    let groups: Vec<&[usize]> = if job.may_span { vec![&nodes] } else { nodes.chunks(1).collect() };
    let found = groups.into_iter().filter_map(|group| on(board, job, group));
    found.min_by_key(|clearance| hurt(board, clearance)).or_else(|| {
        let (slots, victims) = job.spreads.then(|| spread::clear(board, shape, job)).flatten()?;
        Some(Clearance { slots, victims })
    })
}

fn hurt(board: &Board<'_>, clearance: &Clearance) -> (Option<i32>, usize, u64) {
    let victims = || clearance.victims.iter().map(|victim| &board.facts.running[*victim]);
    let ran_s = |running: &Running| board.facts.now_s.saturating_sub(running.start_s);
    (
        victims().map(|running| running.job.priority).max(),
        victims().map(Running::weight).sum(),
        victims().map(ran_s).fold(0, u64::saturating_add),
    )
}

/// Whether the running job makes way for the other one.
pub(crate) fn makes_way(board: &Board<'_>, running: usize, job: &Job) -> bool {
    let policy = board.facts.policy;
    let candidate = &board.facts.running[running];
    candidate.job.priority.saturating_add_unsigned(policy.preemption_gap.max(1)) <= job.priority
        && candidate.job.is_preemptible
        && !board.is_stopping[running]
        && candidate.job.preemption_count < policy.preemption_count_max
        && board.facts.now_s.saturating_sub(candidate.start_s) >= policy.min_run_s
}

fn on(board: &Board<'_>, job: &Job, nodes: &[usize]) -> Option<Clearance> {
    let mut free = Vec::new();
    let mut soon = Vec::new();
    let mut taken: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let fits = |slot: &usize| board.slots[*slot].claim.is_none() && board.slots[*slot].fits(job);
    for slot in nodes.iter().flat_map(|node| board.slots_of(*node)).filter(fits) {
        match board.slots[slot].state {
            Use::Free => free.push(slot),
            Use::Placed { .. } => {}
            Use::Runs(running) if board.is_stopping[running] => soon.push(slot),
            Use::Runs(running) if makes_way(board, running, job) => {
                taken.entry(running).or_default().push(slot);
            }
            Use::Runs(_) => {}
        }
    }
    let wanted = job.device_count.saturating_sub(free.len() + soon.len());
    let victims = choose(board, &taken, wanted)?;
    let mut slots = [free, soon].concat();
    slots.extend(victims.iter().filter_map(|victim| taken.get(victim)).flatten());
    slots.truncate(job.device_count);
    Some(Clearance { slots, victims })
}

/// Lowest priorities and latest starts first, as many as needed, and then none of them
/// without which the others are enough.
fn choose(board: &Board<'_>, taken: &BTreeMap<usize, Vec<usize>>, wanted: usize) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = taken.keys().copied().collect();
    order.sort_by_key(|running| {
        let running = &board.facts.running[*running];
        (running.job.priority, Reverse(running.start_s), running.job.id)
    });
    let mut victims = Vec::new();
    let mut sum = 0;
    for running in order {
        if sum >= wanted {
            break;
        }
        sum += taken[&running].len();
        victims.push(running);
    }
    if sum < wanted {
        return None;
    }
    for index in (0..victims.len()).rev() {
        let count = taken[&victims[index]].len();
        if sum - count >= wanted {
            sum -= count;
            victims.remove(index);
        }
    }
    Some(victims)
}
