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

    /// Counts one more and says how many there are then, unless there are as many as may be.
    #[must_use]
    pub fn enter(&mut self, key: &K) -> Option<usize> {
        if self.most == 0 {
            return None;
        }
        match self.counts.get_mut(key) {
            Some(count) if *count >= self.most => None,
            Some(count) => {
                *count += 1;
                Some(*count)
            }
            None => {
                self.counts.insert(key.clone(), 1);
                Some(1)
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
        assert_eq!(["a", "a", "b"].map(|key| crowd.enter(&key)), [Some(1), Some(2), Some(1)]);
        assert_eq!(crowd.enter(&"a"), None);
        crowd.leave(&"a");
        assert_eq!(crowd.enter(&"a"), Some(2));
        for key in ["a", "a", "b"] {
            crowd.leave(&key);
        }
        crowd.leave(&"b");
        assert!(crowd.counts.is_empty());
        assert_eq!(Crowd::new(0).enter(&"a"), None);
    }
}
