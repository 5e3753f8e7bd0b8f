//! Channels shared out among groups of places, at the highest total gain.

/// A way to win room in a group: what it gains, and the channel that makes room in
/// another by moving here.
#[derive(Clone, Copy)]
struct Way {
    gain: i64,
    /// The group that the moved channel leaves; none where the new channel comes here.
    moved: Option<(usize, usize)>,
}

/// The channels of each group, rising. `gains[group][channel]` is what a channel earns
/// there; `sizes` sum to the number of channels.
///
/// Channels are added one by one, each along the most valuable chain of moves that
/// ends in a group with room (successive shortest paths; Ahuja, Magnanti and Orlin
/// 1993, chapter 9). The sharing out is the best of the channels so far after each,
/// and equal gains are settled by the order of groups and channels.
pub(super) fn share_out(gains: &[Vec<i64>], sizes: &[usize]) -> Vec<Vec<u32>> {
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); sizes.len()];
    for channel in 0..sizes.iter().sum() {
        let ways = ways(gains, &members, channel);
        let open = (0..sizes.len()).filter(|group| members[*group].len() < sizes[*group]);
        let best = open.fold(None, |best: Option<usize>, group| match best {
            Some(other) if ways[other].gain >= ways[group].gain => Some(other),
            _ => Some(group),
        });
        let Some(mut group) = best else { break };
        while let Some((from, moved)) = ways[group].moved {
            members[from].retain(|member| *member != moved);
            members[group].push(moved);
            group = from;
        }
        members[group].push(channel);
    }
    members
        .into_iter()
        .map(|mut list| {
            list.sort_unstable();
            list.into_iter().map(|channel| channel as u32).collect()
        })
        .collect()
}

/// The most valuable chain from a new channel to each group (Bellman and Ford).
fn ways(gains: &[Vec<i64>], members: &[Vec<usize>], channel: usize) -> Vec<Way> {
    let count = members.len();
    let mut ways: Vec<Way> = gains.iter().map(|gains| Way { gain: gains[channel], moved: None }).collect();
    let moves: Vec<Vec<Option<(i64, usize)>>> = (0..count)
        .map(|from| (0..count).map(|to| best_move(gains, &members[from], from, to)).collect())
        .collect();
    // No chain is longer than there are groups: the members are shared out best, so no
    // ring of moves gains anything.
    for _ in 0..count {
        let mut changed = false;
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
            let Some((gain, moved)) = moves[from][to] else { continue };
            if ways[from].gain + gain > ways[to].gain {
                ways[to] = Way { gain: ways[from].gain + gain, moved: Some((from, moved)) };
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    ways
}

/// The member of a group that gains most, or loses least, by moving to another.
fn best_move(gains: &[Vec<i64>], members: &[usize], from: usize, to: usize) -> Option<(i64, usize)> {
    if from == to {
        return None;
    }
    let gain = |member: &usize| (gains[to][*member] - gains[from][*member], *member);
    members.iter().map(gain).max_by_key(|(gain, member)| (*gain, std::cmp::Reverse(*member)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn total(gains: &[Vec<i64>], groups: &[Vec<u32>]) -> i64 {
        groups.iter().zip(gains).flat_map(|(group, gains)| group.iter().map(|c| gains[*c as usize])).sum()
    }

    /// The most that any sharing out gains, tried one by one.
    fn best(gains: &[Vec<i64>], sizes: &mut [usize], channel: usize) -> i64 {
        if sizes.iter().all(|size| *size == 0) {
            return 0;
        }
        let mut most = i64::MIN;
        for group in 0..sizes.len() {
            if sizes[group] > 0 {
                sizes[group] -= 1;
                most = most.max(gains[group][channel] + best(gains, sizes, channel + 1));
                sizes[group] += 1;
            }
        }
        most
    }

    proptest! {
        #[test]
        fn nothing_gains_more(
            sizes in proptest::collection::vec(1_usize..4, 1..4),
            values in proptest::collection::vec(0_i64..12, 36),
        ) {
            let count: usize = sizes.iter().sum();
            let gains: Vec<Vec<i64>> =
                values.chunks(12).take(sizes.len()).map(|chunk| chunk[..count].to_vec()).collect();
            let groups = share_out(&gains, &sizes);
            prop_assert!(groups.iter().map(Vec::len).eq(sizes.iter().copied()));
            let mut all: Vec<u32> = groups.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..count as u32).collect::<Vec<_>>());
            let mut left = sizes;
            prop_assert_eq!(total(&gains, &groups), best(&gains, &mut left, 0));
        }
    }

    #[test]
    fn equal_gains_are_settled_in_one_way() {
        assert_eq!(share_out(&[vec![1; 5], vec![1; 5]], &[2, 3]), [vec![0, 1], vec![2, 3, 4]]);
    }
}
