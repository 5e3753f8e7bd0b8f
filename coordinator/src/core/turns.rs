//! Who is served next, where there are more calls than connections to the database: callers in
//! turn, whoever has how many waiting.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Places, and who waits for one. `T` is how somebody who waits is told.
#[derive(Debug)]
pub struct Turns<K, T> {
    places: usize,
    /// Of one caller.
    most: usize,
    taken: usize,
    callers: HashMap<K, Calls<T>>,
    /// Callers of whom somebody waits, in the order of their turns.
    order: VecDeque<K>,
}

/// Those of one caller.
#[derive(Debug)]
struct Calls<T> {
    served: usize,
    waiting: VecDeque<T>,
}

impl<K: Clone + Eq + Hash, T> Turns<K, T> {
    /// So many are served at a time, and of one caller at most `most`; but a quarter of all places
    /// (of fewer than four, none) is left to others, so that they seldom wait for it.
    pub fn new(places: usize, most: usize) -> Self {
        let places = places.max(1);
        let most = most.min(places - places / 4).max(1);
        Turns { places, most, taken: 0, callers: HashMap::new(), order: VecDeque::new() }
    }

    /// A call comes: it is served at once, and its ticket given back, or it waits.
    pub fn enter(&mut self, caller: &K, ticket: T) -> Option<T> {
        let (most, is_full) = (self.most, self.taken >= self.places);
        if !self.callers.contains_key(caller) {
            self.callers.insert(caller.clone(), Calls { served: 0, waiting: VecDeque::new() });
        }
        let calls = self.callers.get_mut(caller)?;
        if !is_full && calls.served < most {
            calls.served += 1;
            self.taken += 1;
            return Some(ticket);
        }
        if calls.waiting.is_empty() {
            self.order.push_back(caller.clone());
        }
        calls.waiting.push_back(ticket);
        None
    }

    /// A call was served; whose turn it is now. Whoever gets a ticket and finds that nobody
    /// waits for it any more says so with this again.
    pub fn leave(&mut self, caller: &K) -> Option<(K, T)> {
        if let Some(calls) = self.callers.get_mut(caller) {
            calls.served = calls.served.saturating_sub(1);
            self.taken = self.taken.saturating_sub(1);
            if calls.served == 0 && calls.waiting.is_empty() {
                self.callers.remove(caller);
            }
        }
        let most = self.most;
        let has_a_turn = |caller: &K| self.callers.get(caller).is_some_and(|calls| calls.served < most);
        let place = self.order.iter().position(has_a_turn)?;
        let next = self.order.remove(place)?;
        let calls = self.callers.get_mut(&next)?;
        let ticket = calls.waiting.pop_front()?;
        calls.served += 1;
        self.taken += 1;
        if !calls.waiting.is_empty() {
            self.order.push_back(next.clone());
        }
        Some((next, ticket))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whoever_has_one_call_waits_for_one_of_a_flood_and_not_for_all() {
        let mut turns = Turns::new(1, 1);
        assert_eq!(turns.enter(&"flood", 0), Some(0));
        for call in 1..1000 {
            assert_eq!(turns.enter(&"flood", call), None);
        }
        assert_eq!(turns.enter(&"calm", 1000), None);
        assert_eq!(turns.leave(&"flood"), Some(("flood", 1)), "it had come before");
        assert_eq!(turns.leave(&"flood"), Some(("calm", 1000)));
        assert_eq!(turns.leave(&"calm"), Some(("flood", 2)));
    }

    #[test]
    fn a_quarter_is_left_to_others() {
        let mut turns = Turns::new(8, 8);
        let served = (0..100).filter(|call| turns.enter(&"flood", *call).is_some()).count();
        assert_eq!(served, 6);
        assert!(turns.enter(&"calm", 100).is_some() && turns.enter(&"calm", 101).is_some());
        assert!(turns.enter(&"late", 102).is_none());
        assert_eq!(turns.leave(&"calm"), Some(("late", 102)), "the flood has what it may");
        let mut turns = Turns::new(8, 2);
        assert_eq!((0..100).filter(|call| turns.enter(&"flood", *call).is_some()).count(), 2);
    }

    proptest! {
        /// Whatever comes and goes: never more than there is place for, nobody waits beside a free
        /// place that it may have, each is served once, and nothing is left behind.
        #[test]
        fn everybody_is_served_once(
            places in 1_usize..6,
            most in 1_usize..6,
            steps in prop::collection::vec((0_u8..4, any::<bool>()), 0..200),
        ) {
            let mut turns = Turns::new(places, most);
            prop_assert!((1..=most).contains(&turns.most) && (places < 4 || turns.most < places));
            let (mut served, mut all, mut done) = (Vec::new(), 0_u32, BTreeSet::new());
            let end = |turns: &mut Turns<u8, u32>, served: &mut Vec<(u8, u32)>, done: &mut BTreeSet<u32>| {
                let (caller, ticket) = served.remove(0);
                assert!(done.insert(ticket));
                served.extend(turns.leave(&caller));
            };
            for (caller, comes) in steps {
                if comes || served.is_empty() {
                    served.extend(turns.enter(&caller, all).map(|ticket| (caller, ticket)));
                    all += 1;
                } else {
                    end(&mut turns, &mut served, &mut done);
                }
                let most = turns.most;
                prop_assert!(served.len() <= places && turns.taken == served.len());
                for caller in 0..4 {
                    let own = served.iter().filter(|(other, _)| *other == caller).count();
                    let waits = turns.callers.get(&caller).is_some_and(|calls| !calls.waiting.is_empty());
                    prop_assert!(own <= most);
                    prop_assert!(!waits || own == most || served.len() == places);
                }
            }
            while !served.is_empty() {
                end(&mut turns, &mut served, &mut done);
            }
            prop_assert_eq!(done.len(), all as usize);
            prop_assert!(turns.callers.is_empty() && turns.order.is_empty() && turns.taken == 0);
        }
    }
}
