//! How many there are of each, and whether one more may come.

use std::collections::HashMap;
use std::hash::Hash;

/// Counts by key. What nobody holds any more is forgotten.
#[derive(Debug)]
pub struct Crowd<K> {
    counts: HashMap<K, usize>,
    most: usize,
}

impl<K: Eq + Hash + Clone> Crowd<K> {
    /// At most so many of each.
    pub fn new(most: usize) -> Self {
        Crowd { counts: HashMap::new(), most }
    }

    /// Counts one more, unless there are as many as may be.
    #[must_use]
    pub fn enter(&mut self, key: &K) -> bool {
        match self.counts.get_mut(key) {
            Some(count) if *count >= self.most => false,
            Some(count) => {
                *count += 1;
                true
            }
            None if self.most == 0 => false,
            None => {
                self.counts.insert(key.clone(), 1);
                true
            }
        }
    }

    /// One that was counted is gone.
    pub fn leave(&mut self, key: &K) {
        if let Some(count) = self.counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_places_and_leaves_nothing_behind() {
        let mut crowd = Crowd::new(2);
        assert!(crowd.enter(&"a") && crowd.enter(&"a") && crowd.enter(&"b"));
        assert!(!crowd.enter(&"a"));
        crowd.leave(&"a");
        assert!(crowd.enter(&"a"));
        for key in ["a", "a", "b"] {
            crowd.leave(&key);
        }
        crowd.leave(&"b");
        assert!(crowd.counts.is_empty());
        assert!(!Crowd::new(0).enter(&"a"));
    }
}
