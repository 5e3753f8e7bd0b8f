//! Several slots, of several nodes, for a job that takes a wide one where there is one.
//!
//! Their devices make up exactly what the job trains on: a slot is given as a whole. Gradients
//! between nodes cross a network, so one node that has them is liked best, and else the first few of
//! those with the most free devices. Nobody looks for fewer nodes among the others.

use std::cmp::Reverse;

use crate::board::{Board, Use};
use crate::facts::{Device, Job, Node};
use crate::preempt::makes_way;
use crate::shape::Shape;

/// Widths of the devices of a node that may stand for parts of a job.
pub(crate) fn widths_of(node: &Node, memory_mib: u64, width: usize) -> impl Iterator<Item = usize> {
    let is_part = move |device: &&Device| node.joins && device.is_part(memory_mib, width);
    node.devices.iter().filter(is_part).map(|device| device.width)
}

/// Whether some of these make up exactly so many.
pub(crate) fn make_up(widths: &[usize], wanted: usize) -> bool {
    places(widths.iter().copied(), wanted).is_some()
}

/// The slots that the job would start on now.
pub(crate) fn choose(board: &Board<'_>, shape: &Shape, job: &Job) -> Option<Vec<usize>> {
    let end_s = job.estimate_s.map(|estimate_s| board.facts.now_s.saturating_add(estimate_s));
    let usable = |slot: &usize| board.is_usable_part(*slot, job, end_s);
    if let Some(kept) = kept(board, shape, job).filter(|slots| slots.iter().all(usable)) {
        return Some(kept);
    }
    let parts = |node: usize| {
        let mut slots: Vec<usize> = board.slots_of(node).filter(usable).collect();
        slots.sort_by_key(|slot| {
            let slot_facts = &board.slots[*slot];
            (slot_facts.claim.is_some(), Reverse(slot_facts.size.width), slot_facts.size.memory_mib, *slot)
        });
        slots
    };
    let mut nodes: Vec<(usize, Vec<usize>)> = joining(board, shape, job)
        .map(|node| (node, parts(node)))
        .filter(|(_, slots)| !slots.is_empty())
        .collect();
    let width = |slots: &[usize]| slots.iter().map(|slot| board.slots[*slot].size.width).sum::<usize>();
    let on_one = nodes.iter().filter_map(|(node, slots)| {
        let left_over = width(slots).checked_sub(job.width)?;
        Some(((left_over, *node), exactly(board, slots, job.width)?))
    });
    if let Some((_, slots)) = on_one.min_by_key(|(dislike, _)| *dislike) {
        return Some(slots);
    }
    nodes.sort_by_cached_key(|(node, slots)| (Reverse(width(slots)), *node));
    let first = |count: usize| -> Vec<usize> {
        nodes.iter().take(count).flat_map(|(_, slots)| slots.iter().copied()).collect()
    };
    // Most fail on all of them, and only those who do not are worth a closer look.
    exactly(board, &first(nodes.len()), job.width)?;
    (2..=nodes.len()).find_map(|count| exactly(board, &first(count), job.width))
}

/// The slots that are expected to be free together first, and when. Not those that somebody makes
/// way on: for another, who would have to tell the next one to.
pub(crate) fn earliest(board: &Board<'_>, shape: &Shape, job: &Job) -> Option<(u64, Vec<usize>)> {
    let is_cleared =
        |slot: usize| matches!(board.slots[slot].state, Use::Runs(running) if board.is_stopping[running]);
    let open =
        |slot: &usize| board.slots[*slot].claim.is_none() && board.is_part(*slot, job) && !is_cleared(*slot);
    let slots = joining(board, shape, job).flat_map(|node| board.slots_of(node)).filter(open);
    let mut slots: Vec<(u64, usize)> = slots.map(|slot| (board.free_s(slot), slot)).collect();
    slots.sort_unstable();
    let order: Vec<usize> = slots.into_iter().map(|(_, slot)| slot).collect();
    // The first ones that make it up: whatever else does is free no sooner.
    let chosen = exactly(board, &order, job.width)?;
    let start_s = chosen.iter().map(|slot| board.free_s(*slot)).max()?;
    Some((start_s, chosen))
}

/// The slots that the job would get if others made way, and these: of the lowest priorities and the
/// latest starts, where what is free or stops already is not enough.
pub(crate) fn clear(board: &Board<'_>, shape: &Shape, job: &Job) -> Option<(Vec<usize>, Vec<usize>)> {
    let open = |slot: &usize| board.slots[*slot].claim.is_none() && board.is_part(*slot, job);
    let liking = |slot: usize| match board.slots[slot].state {
        Use::Free => Some((0, 0, Reverse(0), slot)),
        Use::Placed { .. } => None,
        Use::Runs(running) if board.is_stopping[running] => Some((1, 0, Reverse(0), slot)),
        Use::Runs(running) => {
            let facts = &board.facts.running[running];
            makes_way(board, running, job).then_some((2, facts.job.priority, Reverse(facts.start_s), slot))
        }
    };
    let slots = joining(board, shape, job).flat_map(|node| board.slots_of(node)).filter(open);
    let mut order: Vec<(i32, i32, Reverse<u64>, usize)> = slots.filter_map(liking).collect();
    order.sort_unstable();
    let order: Vec<usize> = order.into_iter().map(|(.., slot)| slot).collect();
    let chosen = exactly(board, &order, job.width)?;
    let in_the_way = |slot: &usize| match board.slots[*slot].state {
        Use::Runs(running) if !board.is_stopping[running] => Some(running),
        _ => None,
    };
    let mut victims: Vec<usize> = chosen.iter().filter_map(in_the_way).collect();
    victims.sort_unstable();
    victims.dedup();
    Some((chosen, victims))
}

/// Whether slots are parts that make up the job's devices, wherever they are.
pub(crate) fn is_whole(board: &Board<'_>, shape: &Shape, job: &Job, slots: &[usize]) -> bool {
    let is_part = |slot: &usize| {
        board.is_part(*slot, job) && joining(board, shape, job).any(|node| node == board.slots[*slot].node)
    };
    slots.len() > 1
        && slots.iter().all(is_part)
        && slots.iter().map(|slot| board.slots[*slot].size.width).sum::<usize>() == job.width
}

fn kept(board: &Board<'_>, shape: &Shape, job: &Job) -> Option<Vec<usize>> {
    let slots = board.slots_at(&job.kept)?;
    is_whole(board, shape, job, &slots).then_some(slots)
}

fn joining(board: &Board<'_>, shape: &Shape, job: &Job) -> impl Iterator<Item = usize> {
    let nodes: Vec<usize> = shape.nodes_for(job).filter(|node| board.facts.nodes[*node].joins).collect();
    nodes.into_iter()
}

/// Slots whose devices are so many, of the first ones of a list that has such.
fn exactly(board: &Board<'_>, slots: &[usize], wanted: usize) -> Option<Vec<usize>> {
    let widths = slots.iter().map(|slot| board.slots[*slot].size.width);
    Some(places(widths, wanted)?.into_iter().map(|place| slots[place]).collect())
}

/// Places of widths that are so many together, of the first ones that have such.
fn places(widths: impl Iterator<Item = usize>, wanted: usize) -> Option<Vec<usize>> {
    // Place and width by which each sum was reached first; what is before was reached by earlier ones.
    let mut reached: Vec<Option<(usize, usize)>> = vec![None; wanted + 1];
    for (place, width) in widths.enumerate() {
        for sum in (width.max(1)..=wanted).rev() {
            let before = sum - width;
            if reached[sum].is_none() && (before == 0 || reached[before].is_some()) {
                reached[sum] = Some((place, width));
            }
        }
        if reached[wanted].is_some() {
            break;
        }
    }
    let (mut left, mut chosen) = (wanted, Vec::new());
    while left > 0 {
        let (place, width) = reached[left]?;
        chosen.push(place);
        left -= width;
    }
    Some(chosen)
}
