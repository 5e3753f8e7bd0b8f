//! The best choice within a budget.
//!
//! With M(λ) = max Σ (score − λ · cost) over all choices, every choice x has
//!
//! ```text
//! score(x) = M(λ) + λ · cost(x) − loss(x),      loss(x) ≥ 0, a sum over layers
//! ```
//!
//! so within a budget B and at λ ≥ 0 no choice scores more than M(λ) + λB. The λ
//! at which this bound is lowest is found on the path of prices; what a choice x
//! lacks of it, loss(x) + λ · (B − cost(x)), is its *gap*. A choice near the path
//! has a small gap, and whatever is better has a smaller loss than that: few
//! allocations of each layer, which are joined layer by layer (the core of a
//! multiple-choice knapsack; Pisinger 1995). For λ < 0 the gap counts |λ| for
//! every unit of budget that stays unused.

use super::relaxed::{Choice, Counts, Layer, Problem, Taken, Variant};
use crate::kernel::Kernel;

/// Partial choices that are looked at before the best known one has to do.
const WORK_MAX: usize = 100_000;
/// Gaps that are smaller are rounding.
const ROUNDING: f64 = 1e-9;

pub(super) struct Solution {
    pub choice: Choice,
    pub score: f64,
    pub upper_bound: f64,
    pub is_optimal: bool,
    pub price: f64,
}

/// The best choice of cost at most `budget`, which the lightest choice must not
/// exceed.
pub(super) fn solve(problem: &Problem, budget: u64) -> Solution {
    let heaviest = problem.heaviest();
    if problem.cost(&heaviest) <= budget {
        let score = problem.score(&heaviest);
        let price = if heaviest == problem.choose(0.0) { 0.0 } else { f64::NEG_INFINITY };
        return Solution { choice: heaviest, score, upper_bound: score, is_optimal: true, price };
    }
    let (price, thrifty) = cross(problem, budget, heaviest);
    let bound = problem.value(price);
    let gap = Gap { problem, price, budget, bound };
    let near = gap.improve(thrifty);
    let (choice, is_optimal) = match gap.of(&near) {
        small if small <= gap.rounding() => (near, true),
        known => smallest_gap(&gap, known).map_or((near, false), |best| (best, true)),
    };
    let (score, cost) = (problem.score(&choice), problem.cost(&choice));
    let limit = if price < 0.0 { cost } else { budget };
    let upper_bound = (bound + price * limit as f64).max(score);
    Solution { choice, score, upper_bound, is_optimal, price }
}

/// The price at which the path crosses the budget, and the choice of the path
/// that stays below. The path's ends are straight lines in the plane of cost and
/// score; where they meet a choice that lies above is an end of a shorter one.
fn cross(problem: &Problem, budget: u64, heaviest: Choice) -> (f64, Choice) {
    let rule = problem.choose(0.0);
    let (mut over, mut under) = match problem.cost(&rule) {
        cost if cost == budget => return (0.0, rule),
        cost if cost > budget => (rule, problem.lightest()),
        _ => (heaviest, rule),
    };
    loop {
        let (score_over, score_under) = (problem.score(&over), problem.score(&under));
        let (cost_over, cost_under) = (problem.cost(&over), problem.cost(&under));
        let price = (score_over - score_under) / (cost_over - cost_under) as f64;
        let middle = problem.choose(price);
        let cost = problem.cost(&middle);
        let gain = (problem.score(&middle) - price * cost as f64) - (score_under - price * cost_under as f64);
        // A choice between the two that is not above their line is on it.
        let between = cost > cost_under && cost < cost_over;
        if !between || gain <= ROUNDING * (1.0 + score_over.abs()) * 1e-3 {
            return (price, under);
        }
        if cost > budget { over = middle } else { under = middle }
    }
}

/// Measures choices against the bound at one price.
struct Gap<'a> {
    problem: &'a Problem,
    price: f64,
    budget: u64,
    /// M(λ).
    bound: f64,
}

impl Gap<'_> {
    fn of(&self, choice: &Choice) -> f64 {
        let cost = self.problem.cost(choice);
        let loss = self.bound - (self.problem.score(choice) - self.price * cost as f64);
        loss.max(0.0) + self.unused(cost)
    }

    /// What the unused part of the budget would be worth.
    fn unused(&self, cost: u64) -> f64 {
        self.price.abs() * (self.budget - cost) as f64
    }

    fn rounding(&self) -> f64 {
        ROUNDING * (1.0 + self.bound.abs())
    }

    /// Exchanges blocks within layers, the most profitable exchange first, as long
    /// as the budget allows; of equal ones that which uses up more.
    fn improve(&self, mut choice: Choice) -> Choice {
        let multiple = self.problem.multiple;
        // A unit of cost shrinks the unused part, and at a negative price the loss.
        let worth = if self.price < 0.0 { -2.0 * self.price } else { 0.0 };
        let mut left = self.budget - self.problem.cost(&choice);
        loop {
            let mut best: Option<(f64, u64, usize, Counts)> = None;
            for (index, layer) in self.problem.layers.iter().enumerate() {
                let counts = &choice[index];
                let score = layer.score(counts);
                for (from, into) in dearer_exchanges(layer) {
                    let added = (layer.costs[into] - layer.costs[from]) * u64::from(multiple);
                    if counts[from] < multiple || added > left {
                        continue;
                    }
                    let mut changed = *counts;
                    changed[from] -= multiple;
                    changed[into] += multiple;
                    let gain = layer.score(&changed) - score + worth * added as f64;
                    let better =
                        best.as_ref().is_none_or(|(other, cost, ..)| (gain, added) > (*other, *cost));
                    if gain >= -self.rounding() && better {
                        best = Some((gain, added, index, changed));
                    }
                }
            }
            let Some((_, added, index, changed)) = best else { return choice };
            left -= added;
            choice[index] = changed;
        }
    }
}

fn dearer_exchanges(layer: &Layer) -> impl Iterator<Item = (usize, usize)> {
    let kernels = layer.costs.len();
    let pairs = (0..kernels).flat_map(move |from| (0..kernels).map(move |into| (from, into)));
    pairs.filter(|(from, into)| layer.costs[*from] < layer.costs[*into])
}

/// An allocation of one layer that may be part of a better choice.
#[derive(Clone, Copy)]
struct Candidate {
    cost: u64,
    loss: f64,
    counts: Counts,
}

/// A choice for the layers so far.
#[derive(Clone, Copy)]
struct Partial {
    cost: u64,
    loss: f64,
    /// The partial choice before, and the candidate of the last layer.
    from: (u32, u32),
}

/// The choice of the smallest gap, which is `known` or smaller; none when there are
/// too many choices to look at. Small gaps are tried first: there is little to look
/// at, and whatever is found there is the best.
fn smallest_gap(gap: &Gap<'_>, known: f64) -> Option<Choice> {
    let mut work = WORK_MAX;
    for share in [1.0 / 256.0, 1.0 / 64.0, 1.0 / 16.0, 0.25] {
        if let Some(choice) = core(gap, share * known, &mut work)? {
            return Some(choice);
        }
    }
    core(gap, known + gap.rounding(), &mut work)?
}

/// The choice of the smallest gap if it is at most `allowed`; the outer option is
/// none when the work allowed for was done first.
fn core(gap: &Gap<'_>, allowed: f64, work: &mut usize) -> Option<Option<Choice>> {
    let problem = gap.problem;
    let mut layers: Vec<(usize, Vec<Candidate>)> = Vec::with_capacity(problem.layers.len());
    for (index, layer) in problem.layers.iter().enumerate() {
        layers.push((index, candidates(layer, gap, allowed, work)?));
    }
    // Layers of fine steps last: what is left of the budget then leaves little choice.
    let range = |list: &[Candidate]| {
        let costs = || list.iter().map(|candidate| candidate.cost);
        (costs().min().unwrap_or(0), costs().max().unwrap_or(0))
    };
    layers.sort_by_key(|(index, list)| (std::cmp::Reverse(range(list).1 - range(list).0), *index));
    let mut rest: Vec<(u64, u64)> = vec![(0, 0); layers.len() + 1];
    for (position, (_, list)) in layers.iter().enumerate().rev() {
        let (least, most) = range(list);
        rest[position] = (rest[position + 1].0 + least, rest[position + 1].1 + most);
    }
    let mut stages: Vec<Vec<Partial>> = vec![vec![Partial { cost: 0, loss: 0.0, from: (0, 0) }]];
    for (position, (_, list)) in layers.iter().enumerate() {
        let (least, most) = rest[position + 1];
        let mut next = Vec::new();
        for (index, partial) in stages.last()?.iter().enumerate() {
            for (option, candidate) in list.iter().enumerate() {
                let loss = partial.loss + candidate.loss;
                if loss > allowed {
                    break;
                }
                *work = work.checked_sub(1)?;
                let cost = partial.cost + candidate.cost;
                let reach = (cost + most).min(gap.budget);
                if cost + least <= gap.budget && loss + gap.unused(reach) <= allowed {
                    next.push(Partial { cost, loss, from: (index as u32, option as u32) });
                }
            }
        }
        // Of partial choices of one cost the one that has lost least.
        next.sort_by(|left, right| {
            left.cost.cmp(&right.cost).then(left.loss.total_cmp(&right.loss)).then(left.from.cmp(&right.from))
        });
        next.dedup_by_key(|partial| partial.cost);
        next.sort_by(|left, right| left.loss.total_cmp(&right.loss));
        stages.push(next);
    }
    let total = |partial: &Partial| partial.loss + gap.unused(partial.cost);
    let best = stages.last()?.iter().enumerate().min_by(|(_, left), (_, right)| {
        let rounded = |partial: &Partial| (total(partial) / gap.rounding()).round();
        rounded(left).total_cmp(&rounded(right)).then(right.cost.cmp(&left.cost))
    });
    let Some((mut position, _)) = best else { return Some(None) };
    let mut choice: Choice = vec![Counts::default(); problem.layers.len()];
    for (stage, (index, list)) in layers.iter().enumerate().rev() {
        let (before, option) = stages[stage + 1][position].from;
        choice[*index] = list[option as usize].counts;
        position = before as usize;
    }
    Some(Some(choice))
}

/// Allocations of a layer that lose at most `allowed`, for each cost the one that
/// loses least; by rising loss. None when there are too many.
fn candidates(layer: &Layer, gap: &Gap<'_>, allowed: f64, work: &mut usize) -> Option<Vec<Candidate>> {
    let multiple = gap.problem.multiple;
    let taken: Vec<_> =
        layer.variants.iter().map(|variant| layer.take(variant, gap.price, multiple, |_| true)).collect();
    let most = taken.iter().map(|taken| taken.value).fold(f64::NEG_INFINITY, f64::max);
    let mut found = Vec::new();
    for (variant, taken) in layer.variants.iter().zip(&taken) {
        let behind = most - taken.value;
        if behind > allowed {
            continue;
        }
        let moves = moves(layer, variant, taken, gap.price * f64::from(multiple), allowed - behind);
        let partial = Moved { shift: 0, cost: 0, loss: behind, blocks: [0; Kernel::ALL.len()] };
        for moved in join(&moves, partial, layer, allowed, work)? {
            let blocks = moved.blocks.map(|blocks| blocks as usize);
            let counts = variant.counts(&blocks, multiple);
            found.push(Candidate { cost: layer.cost(&counts), loss: moved.loss, counts });
        }
    }
    found.sort_by(|left, right| {
        left.cost.cmp(&right.cost).then(left.loss.total_cmp(&right.loss)).then(left.counts.cmp(&right.counts))
    });
    found.dedup_by_key(|candidate| candidate.cost);
    found.sort_by(|left, right| left.loss.total_cmp(&right.loss));
    Some(found)
}

/// Numbers of blocks that one kernel may have, and what each loses.
struct Moves {
    kernel: usize,
    /// Blocks, blocks more than the layer's best choice takes, and the loss.
    list: Vec<(u32, i64, f64)>,
}

/// Every block that is taken beyond the best choice of the layer is worth at most
/// its threshold, every one that is left out at least that: both lose the
/// difference.
fn moves(layer: &Layer, variant: &Variant, taken: &Taken, price: f64, allowed: f64) -> Vec<Moves> {
    let threshold = taken.threshold.unwrap_or(0.0);
    let of = |(kernel, blocks): (usize, &Vec<f64>)| {
        let value = |block: usize| blocks[block] - price * layer.costs[kernel] as f64;
        let own = taken.blocks[kernel];
        let mut list = vec![(own as u32, 0, 0.0)];
        let mut loss = 0.0;
        for block in own..blocks.len() {
            loss += (threshold - value(block)).max(0.0);
            if loss > allowed {
                break;
            }
            list.push((block as u32 + 1, (block + 1 - own) as i64, loss));
        }
        loss = 0.0;
        for block in (0..own).rev() {
            loss += (value(block) - threshold).max(0.0);
            if loss > allowed {
                break;
            }
            list.push((block as u32, -((own - block) as i64), loss));
        }
        list.sort_by(|left, right| left.2.total_cmp(&right.2).then(left.0.cmp(&right.0)));
        Moves { kernel, list }
    };
    variant.blocks.iter().enumerate().map(of).collect()
}

/// Blocks of the kernels so far.
#[derive(Clone, Copy)]
struct Moved {
    /// Blocks taken beyond the layer's best choice; 0 in the end.
    shift: i64,
    cost: u64,
    loss: f64,
    blocks: [u32; Kernel::ALL.len()],
}

fn join(moves: &[Moves], start: Moved, layer: &Layer, allowed: f64, work: &mut usize) -> Option<Vec<Moved>> {
    let mut partial = vec![start];
    let mut order: Vec<&Moves> = moves.iter().collect();
    order.sort_by_key(|moves| (moves.list.len(), moves.kernel));
    for (position, Moves { kernel, list }) in order.iter().enumerate() {
        let is_last = position + 1 == order.len();
        let mut next = Vec::new();
        for moved in &partial {
            for (blocks, shift, loss) in list {
                if moved.loss + loss > allowed {
                    break;
                }
                *work = work.checked_sub(1)?;
                let mut more = *moved;
                more.shift += shift;
                more.loss += loss;
                more.cost += layer.costs[*kernel] * u64::from(*blocks);
                more.blocks[*kernel] = *blocks;
                if !is_last || more.shift == 0 {
                    next.push(more);
                }
            }
        }
        next.sort_by(|left, right| {
            let key = |moved: &Moved| (moved.shift, moved.cost);
            key(left)
                .cmp(&key(right))
                .then(left.loss.total_cmp(&right.loss))
                .then(left.blocks.cmp(&right.blocks))
        });
        next.dedup_by_key(|moved| (moved.shift, moved.cost));
        partial = next;
    }
    Some(partial)
}
