//! Devices that are kept free for a job which cannot start yet.
//!
//! A reservation is kept from round to round, so that a gang gets its devices one by
//! one. Its devices are lent only to jobs that are estimated to end by the moment that
//! was promised first. Where estimates were wrong, that moment passes, and then nothing
//! more is lent: what is in use ends some time, and the job starts.

use std::cmp::Reverse;

use crate::board::{Board, Use};
use crate::facts::Job;
use crate::plan::Reservation;
use crate::shape::Shape;
use crate::spread;

pub(crate) struct Claim {
    pub slots: Vec<usize>,
    pub reservation: Reservation,
}

/// What the job held before, or better devices, or the first it gets.
pub(crate) fn reserve(
    board: &Board<'_>,
    shape: &Shape,
    job: &Job,
    held: Option<&Reservation>,
) -> Option<Claim> {
    let best = earliest(board, shape, job);
    // Of one device, where that is no later.
    let spread = job.spreads.then(|| spread::earliest(board, shape, job)).flatten();
    let spread = spread.filter(|(start_s, _)| may_collect(board, job, *start_s));
    let best = best.into_iter().chain(spread).min_by_key(|(start_s, slots)| (*start_s, slots.len()));
    let held = held.and_then(|held| Some((held, still_fits(board, shape, job, held)?)));
    let Some((held, slots)) = held else {
        let (start_s, slots) = best?;
        return Some(claim(board, job, slots, start_s, 0));
    };
    let now_s = board.facts.now_s;
    let held_s = slots.iter().map(|slot| board.free_s(*slot)).max().unwrap_or(now_s);
    if let Some((start_s, better)) = best
        && held.move_count < board.facts.policy.move_count_max
        && (start_s - now_s) < (held_s - now_s) / 2
    {
        return Some(claim(board, job, better, start_s.min(held.promised_s), held.move_count + 1));
    }
    Some(claim(board, job, slots, held.promised_s, held.move_count))
}

/// Whether devices may stand empty for the job until all that it needs are free.
fn may_collect(board: &Board<'_>, job: &Job, start_s: u64) -> bool {
    let (now_s, policy) = (board.facts.now_s, board.facts.policy);
    let is_soon = start_s.saturating_sub(now_s) <= policy.collect_s;
    is_soon || now_s.saturating_sub(job.submit_s) >= policy.patience_s
}

/// What the job held, if all that is in its way stops already.
pub(crate) fn being_cleared(
    board: &Board<'_>,
    shape: &Shape,
    job: &Job,
    held: &Reservation,
) -> Option<Claim> {
    let slots = still_fits(board, shape, job, held).filter(|_| held.is_being_cleared)?;
    let is_cleared = |slot: &usize| match board.slots[*slot].state {
        Use::Free => true,
        Use::Runs(running) => board.is_stopping[running],
        Use::Placed { .. } => false,
    };
    slots.iter().all(is_cleared).then(|| {
        let mut claim = claim(board, job, slots, held.promised_s, held.move_count);
        claim.reservation.is_being_cleared = true;
        claim
    })
}

fn claim(board: &Board<'_>, job: &Job, slots: Vec<usize>, promised_s: u64, move_count: u32) -> Claim {
    let parts = board.parts(&slots);
    let reservation = Reservation { job: job.id, parts, promised_s, move_count, is_being_cleared: false };
    Claim { slots, reservation }
}

pub(crate) fn still_fits(
    board: &Board<'_>,
    shape: &Shape,
    job: &Job,
    held: &Reservation,
) -> Option<Vec<usize>> {
    let slots = board.slots_at(&held.parts)?;
    let is_unclaimed = |slot: &usize| board.slots[*slot].claim.is_none();
    if job.spreads && spread::is_whole(board, shape, job, &slots) && slots.iter().all(is_unclaimed) {
        return Some(slots);
    }
    let fits = |slot: &usize| {
        let slot = &board.slots[*slot];
        slot.claim.is_none() && slot.fits(job) && shape.nodes_for(job).any(|node| node == slot.node)
    };
    let on_few_enough = held.parts.len() == 1 || job.may_span;
    (slots.len() == job.device_count && on_few_enough && slots.iter().all(fits)).then_some(slots)
}

/// The devices that are expected to be free together first, and when.
fn earliest(board: &Board<'_>, shape: &Shape, job: &Job) -> Option<(u64, Vec<usize>)> {
    let open = |node: usize| {
        let slots = board
            .slots_of(node)
            .filter(|slot| board.slots[*slot].claim.is_none() && board.slots[*slot].fits(job));
        slots.map(|slot| (board.free_s(slot), slot))
    };
    if job.may_span {
        let mut slots: Vec<(u64, usize)> = shape.nodes_for(job).flat_map(open).collect();
        return first(&mut slots, job.device_count);
    }
    let candidates = shape.nodes_for(job).filter_map(|node| {
        let mut slots: Vec<(u64, usize)> = open(node).collect();
        let (start_s, slots) = first(&mut slots, job.device_count)?;
        Some(((start_s, Reverse(board.free_on[node]), node), slots))
    });
    let ((start_s, ..), slots) = candidates.min_by(|(left, _), (right, _)| left.cmp(right))?;
    Some((start_s, slots))
}

fn first(slots: &mut [(u64, usize)], count: usize) -> Option<(u64, Vec<usize>)> {
    slots.sort_unstable();
    let chosen = slots.get(..count)?;
    Some((chosen.last()?.0, chosen.iter().map(|(_, slot)| *slot).collect()))
}
