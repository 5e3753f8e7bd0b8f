//! What is done when. Pure: a seed and a length give one plan.

use std::collections::BTreeMap;
use std::time::Duration;

/// Kinds of faults, by their numbers in the fault matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    F1,
    F2,
    F3,
    F4,
    F7,
    F9,
    F10,
    F11,
    F12,
    F13,
    F15,
    F16,
    F17,
    F18,
    F19,
    F22,
    F23,
    F25,
    F26,
    F36,
    F37,
    F39,
    F40,
    F41,
    F42,
    F43,
    F44,
}

/// Faults of one lane come one after the other, those of different lanes overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The first real worker.
    FirstWorker,
    /// The other real workers, and the store.
    OtherWorkers,
    /// What is wrong with jobs themselves.
    Jobs,
    Coordinators,
    Database,
    Network,
    /// Jobs on slots of several workers.
    Gangs,
}

impl Lane {
    pub const ALL: [Lane; 7] = [
        Lane::FirstWorker,
        Lane::OtherWorkers,
        Lane::Jobs,
        Lane::Coordinators,
        Lane::Database,
        Lane::Network,
        Lane::Gangs,
    ];
}

impl Class {
    pub const ALL: [Class; 27] = [
        Class::F1,
        Class::F2,
        Class::F3,
        Class::F4,
        Class::F7,
        Class::F9,
        Class::F10,
        Class::F11,
        Class::F12,
        Class::F13,
        Class::F15,
        Class::F16,
        Class::F17,
        Class::F18,
        Class::F19,
        Class::F22,
        Class::F23,
        Class::F25,
        Class::F26,
        Class::F36,
        Class::F37,
        Class::F39,
        Class::F40,
        Class::F41,
        Class::F42,
        Class::F43,
        Class::F44,
    ];

    /// The class of a name such as "F12".
    pub fn named(name: &str) -> Option<Self> {
        Class::ALL.into_iter().find(|class| format!("{class:?}").eq_ignore_ascii_case(name))
    }

    pub fn title(self) -> &'static str {
        match self {
            Class::F1 => "worker daemon killed",
            Class::F2 => "trainer killed",
            Class::F3 => "daemon stopped for longer than its lease",
            Class::F4 => "trainer hangs, its daemon does not",
            Class::F7 => "training runs away (not finite)",
            Class::F9 => "coordinator killed",
            Class::F10 => "coordinator restarted in order",
            Class::F11 => "two coordinators grant and reap at once",
            Class::F12 => "Postgres stopped at once and restarted",
            Class::F13 => "Postgres away for longer than a lease",
            Class::F15 => "sockets to Postgres stay open and silent",
            Class::F16 => "connection cut at COMMIT",
            Class::F17 => "workers cut off, and healed",
            Class::F18 => "answers to workers lost, requests not",
            Class::F19 => "one coordinator cut off from Postgres",
            Class::F22 => "calls repeated, late and out of order",
            Class::F23 => "worker's disk full",
            Class::F25 => "artifact store takes nothing",
            Class::F26 => "checkpoint damaged",
            Class::F36 => "job that kills its trainer",
            Class::F37 => "all workers start anew at once",
            Class::F39 => "slow statements take all connections",
            Class::F40 => "clients gone in the middle of calls",
            Class::F41 => "several faults at one moment",
            Class::F42 => "real member of a gang killed",
            Class::F43 => "fake member of a gang killed",
            Class::F44 => "follower of a gang cut off, and healed",
        }
    }

    pub fn lane(self) -> Lane {
        match self {
            Class::F1 | Class::F2 | Class::F3 | Class::F4 => Lane::FirstWorker,
            Class::F23 | Class::F25 | Class::F26 => Lane::OtherWorkers,
            Class::F7 | Class::F36 => Lane::Jobs,
            Class::F9 | Class::F10 | Class::F11 | Class::F37 | Class::F39 | Class::F40 => Lane::Coordinators,
            Class::F12 | Class::F13 | Class::F15 | Class::F16 | Class::F19 => Lane::Database,
            Class::F17 | Class::F18 | Class::F22 | Class::F41 => Lane::Network,
            Class::F42 | Class::F43 | Class::F44 => Lane::Gangs,
        }
    }
}

/// A fault and when it begins, at the earliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub at: Duration,
    pub class: Class,
    /// What else is chosen about it follows from this.
    pub seed: u64,
}

/// Each of `classes` once, in random order, then random ones for the rest of the time.
pub fn plan(seed: u64, length: Duration, classes: &[Class]) -> BTreeMap<Lane, Vec<Planned>> {
    let lane = |lane: Lane| {
        let own: Vec<Class> = classes.iter().copied().filter(|class| class.lane() == lane).collect();
        (!own.is_empty()).then(|| (lane, plan_lane(seed, lane, length, &own)))
    };
    Lane::ALL.into_iter().filter_map(lane).collect()
}

fn plan_lane(seed: u64, lane: Lane, length: Duration, classes: &[Class]) -> Vec<Planned> {
    let mut random = Random::new(seed ^ ((lane as u64 + 1) << 32));
    let mut first = classes.to_vec();
    random.shuffle(&mut first);
    let (mut planned, mut at) = (Vec::new(), Duration::from_millis(random.below(4_000)));
    // In a short time the first round is closer together.
    let gap_ms = (length.as_millis() as u64 / (2 * classes.len() as u64)).clamp(500, 8_000);
    loop {
        let round = planned.len() < first.len();
        if !round && at >= length {
            return planned;
        }
        let class =
            if round { first[planned.len()] } else { classes[random.below(classes.len() as u64) as usize] };
        planned.push(Planned { at, class, seed: random.next() });
        at += Duration::from_millis(gap_ms / 2 + random.below(gap_ms));
    }
}

/// SplitMix64: numbers that follow from a seed, in any version of anything.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Less than `limit`, which is at least 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan_in_which_every_class_has_its_turn() {
        for seed in 0..200 {
            let length = Duration::from_secs(60 + seed);
            let planned = plan(seed, length, &Class::ALL);
            assert_eq!(planned, plan(seed, length, &Class::ALL));
            for class in Class::ALL {
                assert!(planned[&class.lane()].iter().any(|fault| fault.class == class), "{class:?}");
            }
            assert!(planned.values().all(|lane| lane.is_sorted_by_key(|fault| fault.at)));
        }
        let length = Duration::from_secs(180);
        assert_ne!(plan(1, length, &Class::ALL), plan(2, length, &Class::ALL));
        let few: Vec<Class> = plan(1, length, &[Class::F9, Class::F2])
            .into_values()
            .flatten()
            .map(|fault| fault.class)
            .collect();
        assert!(few.iter().all(|class| matches!(class, Class::F9 | Class::F2)), "{few:?}");
    }

    #[test]
    fn a_longer_time_has_more_faults() {
        let count = |minutes: u64| {
            plan(1, Duration::from_secs(60 * minutes), &Class::ALL).values().map(Vec::len).sum::<usize>()
        };
        assert!(count(60) > 5 * count(3), "{} {}", count(60), count(3));
    }
}
