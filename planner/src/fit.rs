//! Where a job starts.

use std::cmp::Reverse;

use crate::board::Board;
use crate::facts::Job;
use crate::shape::Shape;

/// How little a place is liked: fields from the weightiest to the tie-break.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Dislike {
    /// An idle node is broken into that a gang could have had.
    breaks_idle_node: bool,
    missing_data: usize,
    /// Devices that are kept for others, until they are needed.
    borrowed: usize,
    /// Devices of the node that stay free: full nodes leave whole ones to gangs.
    left_over: usize,
    /// Devices of slots that the job has no use for.
    spare_width: usize,
    /// Memory that it has no use for.
    spare_mib: u64,
    node: usize,
}

/// The devices that the job would start on now.
pub(crate) fn choose(board: &Board<'_>, shape: &Shape, job: &Job) -> Option<Vec<usize>> {
    let one_node = shape.nodes_for(job).filter_map(|node| on_one_node(board, job, node));
    let best = one_node.min_by(|(left, _), (right, _)| left.cmp(right)).map(|(_, slots)| slots);
    match best {
        None if job.may_span => on_several(board, shape, job),
        found => found,
    }
}

fn on_one_node(board: &Board<'_>, job: &Job, node: usize) -> Option<(Dislike, Vec<usize>)> {
    let free = board.free_on[node];
    if free < job.device_count {
        return None;
    }
    let mut slots = usable(board, job, node);
    if slots.len() < job.device_count {
        return None;
    }
    slots.truncate(job.device_count);
    let left_over = free - job.device_count;
    let sizes = || slots.iter().map(|slot| board.slots[*slot].size);
    let dislike = Dislike {
        breaks_idle_node: left_over > 0 && free == board.slots_of(node).len(),
        missing_data: missing_data(board, job, node),
        borrowed: slots.iter().filter(|slot| board.slots[**slot].claim.is_some()).count(),
        left_over,
        spare_width: sizes().map(|size| size.width - job.width).sum(),
        spare_mib: sizes().map(|size| size.memory_mib - job.memory_mib).sum(),
        node,
    };
    Some((dislike, slots))
}

/// As few nodes as possible, those with the data first where that does not matter.
fn on_several(board: &Board<'_>, shape: &Shape, job: &Job) -> Option<Vec<usize>> {
    let mut nodes: Vec<(usize, Vec<usize>)> =
        shape.nodes_for(job).map(|node| (node, usable(board, job, node))).collect();
    nodes.sort_by_cached_key(|(node, slots)| (Reverse(slots.len()), missing_data(board, job, *node), *node));
    let mut slots: Vec<usize> = nodes.into_iter().flat_map(|(_, slots)| slots).collect();
    slots.truncate(job.device_count);
    (slots.len() == job.device_count).then_some(slots)
}

/// Devices of the node, those first that others miss least.
fn usable(board: &Board<'_>, job: &Job, node: usize) -> Vec<usize> {
    let end_s = job.estimate_s.map(|estimate_s| board.facts.now_s.saturating_add(estimate_s));
    let mut slots: Vec<usize> =
        board.slots_of(node).filter(|slot| board.is_usable(*slot, job, end_s)).collect();
    slots.sort_by_key(|slot| {
        let size = board.slots[*slot].size;
        (board.slots[*slot].claim.is_some(), size.width, size.memory_mib, *slot)
    });
    slots
}

fn missing_data(board: &Board<'_>, job: &Job, node: usize) -> usize {
    let has = &board.facts.nodes[node].data;
    job.data.iter().filter(|data| !has.contains(data)).count()
}
