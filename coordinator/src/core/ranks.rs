//! Ranks of waiting jobs: the least is served first. Most jobs have the rank that follows
//! from their priority and their submission; the planner gives others only to the front of
//! the queue, and only where that is in another order.

/// Distance between ranks that are given side by side, so that others find room.
const STEP: i64 = 1024;

/// A waiting job that may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// By which it is served now.
    pub rank: i64,
    /// By which it would be without the planner.
    pub natural: i64,
}

/// New ranks, of places in `jobs`; `None` takes a rank back. Afterwards the jobs of `front`
/// are served in this order, and all others behind them by their natural ranks. As few as
/// possible change: none, if they are in this order already.
pub fn arrange(jobs: &[Ranked], front: &[usize]) -> Vec<(usize, Option<i64>)> {
    let mut is_front = vec![false; jobs.len()];
    for place in front {
        is_front[*place] = true;
    }
    let behind = || (0..jobs.len()).filter(|place| !is_front[*place]);
    let bound = behind().map(|place| jobs[place].natural).min();
    let mut changes: Vec<(usize, Option<i64>)> = behind()
        .filter(|place| jobs[*place].rank != jobs[*place].natural)
        .map(|place| (place, None))
        .collect();
    let ranks: Vec<i64> = front.iter().map(|place| jobs[*place].rank).collect();
    let arranged = between(&ranks, bound).unwrap_or_else(|| evenly(ranks.len(), bound));
    for (place, rank) in front.iter().zip(arranged) {
        if rank != jobs[*place].rank {
            changes.push((*place, (rank != jobs[*place].natural).then_some(rank)));
        }
    }
    changes
}

/// Rising ranks below the bound of which as many as possible are the present ones; `None`
/// if there is no room between those.
fn between(ranks: &[i64], bound: Option<i64>) -> Option<Vec<i64>> {
    let mut arranged = ranks.to_vec();
    let mut ends = kept(ranks, bound);
    ends.push(ranks.len());
    let mut begin: usize = 0;
    for end in ends {
        let low = begin.checked_sub(1).map(|place| arranged[place]);
        let high = arranged.get(end).copied().or(bound);
        let count = i64::try_from(end - begin).ok()?;
        for (number, place) in (1..).zip(begin..end) {
            arranged[place] = match (low, high) {
                (Some(low), Some(high)) => {
                    let gap = (high - low) / (count + 1);
                    (gap > 0).then_some(low + number * gap)?
                }
                (None, Some(high)) => high - (count + 1 - number) * STEP,
                (Some(low), None) => low + number * STEP,
                (None, None) => number * STEP,
            };
        }
        begin = end + 1;
    }
    Some(arranged)
}

fn evenly(count: usize, bound: Option<i64>) -> Vec<i64> {
    let count = i64::try_from(count).unwrap_or(i64::MAX / STEP);
    (0..count).map(|number| bound.unwrap_or(0) - (count - number) * STEP).collect()
}

/// Places of a longest rising series of ranks below the bound.
fn kept(ranks: &[i64], bound: Option<i64>) -> Vec<usize> {
    // Of each length the place of the least last rank, and of each place the one before.
    let mut last: Vec<usize> = Vec::new();
    let mut before = vec![None; ranks.len()];
    for (place, rank) in ranks.iter().enumerate().filter(|(_, rank)| bound.is_none_or(|bound| **rank < bound))
    {
        let length = last.partition_point(|other| ranks[*other] < *rank);
        before[place] = length.checked_sub(1).map(|length| last[length]);
        match last.get_mut(length) {
            Some(end) => *end = place,
            None => last.push(place),
        }
    }
    let mut series: Vec<usize> =
        std::iter::successors(last.last().copied(), |place| before[*place]).collect();
    series.reverse();
    series
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Jobs, some of which the planner has moved, and a front of them in any order.
    fn drawn() -> impl Strategy<Value = (Vec<Ranked>, Vec<usize>)> {
        let job = (0_i64..8, proptest::option::of(-20_i64..20));
        proptest::collection::vec(job, 0..20).prop_flat_map(|drawn| {
            let jobs: Vec<Ranked> = (0..)
                .zip(drawn)
                .map(|(number, (scale, moved))| {
                    let natural = number * STEP - scale * (1 << 44);
                    Ranked { natural, rank: moved.map_or(natural, |moved| moved * STEP / 7) }
                })
                .collect();
            let places: Vec<usize> = (0..jobs.len()).collect();
            let front = proptest::sample::subsequence(places, 0..=jobs.len()).prop_shuffle();
            (Just(jobs), front)
        })
    }

    fn after(jobs: &[Ranked], changes: &[(usize, Option<i64>)]) -> Vec<Ranked> {
        let mut jobs = jobs.to_vec();
        for (place, rank) in changes {
            jobs[*place].rank = rank.unwrap_or(jobs[*place].natural);
        }
        jobs
    }

    proptest! {
        #[test]
        fn the_front_is_served_in_its_order_and_the_others_behind((jobs, front) in drawn()) {
            let after = after(&jobs, &arrange(&jobs, &front));
            let ranks: Vec<i64> = front.iter().map(|place| after[*place].rank).collect();
            prop_assert!(ranks.is_sorted_by(|left, right| left < right), "{ranks:?}");
            for place in (0..jobs.len()).filter(|place| !front.contains(place)) {
                prop_assert_eq!(after[place].rank, jobs[place].natural);
                prop_assert!(ranks.last().is_none_or(|last| *last < after[place].rank));
            }
        }

        #[test]
        fn what_is_in_order_is_left_alone((jobs, front) in drawn()) {
            let after = after(&jobs, &arrange(&jobs, &front));
            prop_assert_eq!(arrange(&after, &front), vec![]);
        }

        /// Who was submitted later waits longer, without a word of the planner.
        #[test]
        fn the_natural_order_needs_no_ranks(count in 0_usize..20, front in 0_usize..20) {
            let job = |number: usize| Ranked { rank: number as i64 * STEP, natural: number as i64 * STEP };
            let jobs: Vec<Ranked> = (0..count).map(job).collect();
            let front: Vec<usize> = (0..front.min(count)).collect();
            prop_assert_eq!(arrange(&jobs, &front), vec![]);
        }
    }

    #[test]
    fn one_that_goes_ahead_moves_alone() {
        let job = |number: i64| Ranked { rank: number * STEP, natural: number * STEP };
        let jobs: Vec<Ranked> = (0..100).map(job).collect();
        let mut front: Vec<usize> = (0..50).collect();
        front.insert(0, 99);
        assert_eq!(arrange(&jobs, &front), vec![(99, Some(-STEP))]);
    }
}
