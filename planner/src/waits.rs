//! The reasons of jobs that wait for devices, after all starts of a round.

use std::collections::BTreeMap;

use crate::board::{Board, Slot, Use};
use crate::facts::{Job, JobId};
use crate::plan::Waiting;
use crate::reason::Reason;
use crate::shape::{Shape, Shapes};

pub(crate) struct Wait<'a> {
    pub job: &'a Job,
    pub shape: usize,
    pub why: Why,
}

pub(crate) enum Why {
    Known(Reason),
    /// It holds this place in the claims.
    Claim(usize),
    Devices,
    /// Another stands before it, whatever is free.
    InTurn,
}

/// In the order of the queue.
pub(crate) fn explained(board: &Board<'_>, shapes: &mut Shapes<'_>, waits: Vec<Wait<'_>>) -> Vec<Waiting> {
    let mut counts = BTreeMap::new();
    let mut first = None;
    let mut ahead = 0;
    let explain = |(place, wait): (usize, Wait<'_>)| {
        let Wait { job, shape, why } = wait;
        let reason = match why {
            Why::Known(reason) => reason,
            Why::Claim(claim) => claimed(board, claim),
            Why::InTurn => Reason::InTurn { first: first.unwrap_or(job.id), ahead },
            Why::Devices => {
                let shape_number = shape;
                let shape = shapes.get(shape);
                let count = counts.entry(shape_number).or_insert_with(|| count(board, shape, job));
                blocked(board, count, shape, job, ahead, first)
            }
        };
        if reason.is_about_devices() {
            first.get_or_insert(job.id);
            ahead += 1;
        }
        Waiting { job: job.id, position: place + 1, reason }
    };
    waits.into_iter().enumerate().map(explain).collect()
}

fn claimed(board: &Board<'_>, claim: usize) -> Reason {
    let reservation = &board.claims[claim];
    let node = reservation.parts[0].node;
    let slots = || board.slots.iter().filter(|slot| slot.claim == Some(claim));
    if reservation.is_being_cleared {
        let mut stopping: Vec<usize> = slots().filter_map(|slot| running(slot.state)).collect();
        stopping.sort_unstable();
        stopping.dedup();
        return Reason::BeingCleared { node, stop_count: stopping.len() };
    }
    let free = slots().filter(|slot| slot.state == Use::Free).count();
    Reason::Reserved { node, wanted: slots().count(), free, promised_s: reservation.promised_s }
}

fn running(state: Use) -> Option<usize> {
    match state {
        Use::Runs(running) => Some(running),
        Use::Free | Use::Placed { .. } => None,
    }
}

/// Free devices that a shape could use.
struct Count {
    free: usize,
    most_on_one_node: usize,
    /// Whose they are.
    claim: Option<usize>,
}

fn count(board: &Board<'_>, shape: &Shape, job: &Job) -> Count {
    let mut count = Count { free: 0, most_on_one_node: 0, claim: None };
    for node in &shape.nodes {
        let slots = board.slots_of(*node).map(|slot| &board.slots[slot]);
        let joins = job.spreads && board.facts.nodes[*node].joins;
        let is_part = |slot: &&Slot| joins && slot.size.is_part(job.memory_mib, job.width);
        let free = slots.filter(|slot| slot.state == Use::Free && (slot.fits(job) || is_part(slot)));
        let mut on_node = 0;
        for slot in free {
            on_node += if job.spreads { slot.size.width.min(job.width) } else { 1 };
            count.claim = count.claim.or(slot.claim);
        }
        count.free += on_node;
        count.most_on_one_node = count.most_on_one_node.max(on_node);
    }
    count
}

fn blocked(
    board: &Board<'_>,
    count: &Count,
    shape: &Shape,
    job: &Job,
    ahead: usize,
    first: Option<JobId>,
) -> Reason {
    if job.spreads {
        let (wanted, free, width) = (job.width, count.free, 1);
        return match count.claim {
            Some(claim) if free >= wanted => {
                Reason::WouldDelay { job: board.claims[claim].job, estimate_s: job.estimate_s }
            }
            _ => {
                let fitting = shape.width_for(board.facts, job).max(shape.fitting * job.width);
                Reason::Busy { wanted, width, free, fitting, ahead, first }
            }
        };
    }
    let wanted = job.device_count;
    let at_once = if job.may_span { count.free } else { count.most_on_one_node };
    match count.claim {
        Some(claim) if at_once >= wanted => {
            Reason::WouldDelay { job: board.claims[claim].job, estimate_s: job.estimate_s }
        }
        _ if count.free >= wanted && at_once < wanted => {
            Reason::Fragmented { wanted, free: count.free, most_on_one_node: at_once }
        }
        _ => {
            Reason::Busy { wanted, width: job.width, free: count.free, fitting: shape.fitting, ahead, first }
        }
    }
}
