//! The reasons of jobs that wait for devices, after all starts of a round.

use std::collections::BTreeMap;

use crate::board::{Board, Slot, Use};
use crate::facts::{Job, JobId, NodeNo};
use crate::plan::Waiting;
use crate::reason::Reason;
use crate::shape::{Shape, Shapes};
use crate::spread::make_up;

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
            Why::Claim(claim) => claimed(board, claim, job),
            Why::InTurn => Reason::InTurn { first: first.unwrap_or(job.id), ahead },
            Why::Devices => {
                let key = (shape, job.avoids);
                let count = counts.entry(key).or_insert_with(|| count(board, shapes.get(shape), job));
                blocked(board, count, job, ahead, first)
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

fn claimed(board: &Board<'_>, claim: usize, job: &Job) -> Reason {
    let reservation = &board.claims[claim];
    let nodes: Vec<NodeNo> = reservation.parts.iter().map(|part| part.node).collect();
    let slots = || board.slots.iter().filter(|slot| slot.claim == Some(claim));
    if reservation.is_being_cleared {
        let mut stopping: Vec<usize> = slots().filter_map(|slot| running(slot.state)).collect();
        stopping.sort_unstable();
        stopping.dedup();
        return Reason::BeingCleared { nodes, stop_count: stopping.len() };
    }
    let wanted = slots().map(|slot| devices_for(job, slot)).sum();
    let free = slots().filter(|slot| slot.state == Use::Free).map(|slot| devices_for(job, slot)).sum();
    Reason::Reserved { nodes, wanted, free, promised_s: reservation.promised_s }
}

fn running(state: Use) -> Option<usize> {
    match state {
        Use::Runs(running) => Some(running),
        Use::Free | Use::Placed { .. } => None,
    }
}

/// Devices of a slot that the job trains on.
fn devices_for(job: &Job, slot: &Slot) -> usize {
    slot.size.width.min(job.width)
}

/// Devices that jobs of a shape could use which keep away from the same node; for those that spread
/// all of a slot, and for the others one.
struct Count {
    fitting: usize,
    free: usize,
    most_on_one_node: usize,
    /// What each free slot has of them.
    free_widths: Vec<usize>,
    /// Whose they are.
    claim: Option<usize>,
}

fn count(board: &Board<'_>, shape: &Shape, job: &Job) -> Count {
    let mut count = Count { fitting: 0, free: 0, most_on_one_node: 0, free_widths: Vec::new(), claim: None };
    for node in shape.nodes_for(job) {
        let slots = board.slots_of(node).map(|slot| &board.slots[slot]);
        let joins = job.spreads && board.facts.nodes[node].joins;
        let is_part = |slot: &&Slot| joins && slot.size.is_part(job.memory_mib, job.width);
        let mut on_node = 0;
        for slot in slots.filter(|slot| slot.fits(job) || is_part(slot)) {
            let devices = if job.spreads { devices_for(job, slot) } else { 1 };
            count.fitting += devices;
            if slot.state == Use::Free {
                on_node += devices;
                count.free_widths.push(devices);
                count.claim = count.claim.or(slot.claim);
            }
        }
        count.free += on_node;
        count.most_on_one_node = count.most_on_one_node.max(on_node);
    }
    count
}

fn blocked(board: &Board<'_>, count: &Count, job: &Job, ahead: usize, first: Option<JobId>) -> Reason {
    let &Count { fitting, free, .. } = count;
    if job.spreads {
        let wanted = job.width;
        return match count.claim {
            _ if free >= wanted && !make_up(&count.free_widths, wanted) => {
                Reason::NotMadeUpNow { wanted, free }
            }
            Some(claim) if free >= wanted => {
                Reason::WouldDelay { job: board.claims[claim].job, estimate_s: job.estimate_s }
            }
            _ => Reason::Busy { wanted, width: 1, free, fitting, ahead, first },
        };
    }
    let wanted = job.device_count;
    let at_once = if job.may_span { free } else { count.most_on_one_node };
    match count.claim {
        Some(claim) if at_once >= wanted => {
            Reason::WouldDelay { job: board.claims[claim].job, estimate_s: job.estimate_s }
        }
        _ if free >= wanted && at_once < wanted => {
            Reason::Fragmented { wanted, free, most_on_one_node: at_once }
        }
        _ => Reason::Busy { wanted, width: job.width, free, fitting, ahead, first },
    }
}
