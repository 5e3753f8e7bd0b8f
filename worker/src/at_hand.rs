//! Data sets that lie ready on this machine, as jobs name them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cakes_proto::{DATA_AT_HAND_BYTES_MAX, DATA_AT_HAND_MAX};

/// What trainers of this daemon have read, as far as the coordinator is told of it. What the
/// cache of decoded samples has removed since, for want of space, is still among it.
#[derive(Debug, Default)]
pub struct DataAtHand(Mutex<VecDeque<String>>);

impl DataAtHand {
    /// A trainer has read the data set at `path`.
    pub fn add(&self, path: &str) {
        if path.len() > DATA_AT_HAND_BYTES_MAX {
            return;
        }
        let mut paths = self.paths();
        paths.retain(|known| known != path);
        paths.push_front(path.to_owned());
        paths.truncate(DATA_AT_HAND_MAX);
    }

    pub fn has(&self, path: &str) -> bool {
        self.paths().iter().any(|known| known == path)
    }

    /// Paths, the one read last first.
    pub fn list(&self) -> Vec<String> {
        self.paths().iter().cloned().collect()
    }

    fn paths(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_that_were_used_last_come_first_and_the_coordinator_takes_them_all() {
        let data = DataAtHand::default();
        assert_eq!(data.list(), Vec::<String>::new());
        for path in ["brains", "hearts", "brains"] {
            data.add(path);
        }
        data.add(&"d".repeat(DATA_AT_HAND_BYTES_MAX + 1));
        assert_eq!(data.list(), ["brains", "hearts"]);
        for number in 0..DATA_AT_HAND_MAX - 1 {
            data.add(&format!("set {number}"));
        }
        assert_eq!(data.list().len(), DATA_AT_HAND_MAX);
        assert!(data.has("brains") && !data.has("hearts"));
    }
}
