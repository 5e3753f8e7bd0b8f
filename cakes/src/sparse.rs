//! Which of many like events are shown: the first ones, and then few.

use std::time::Duration;

/// The first three, then one in a hundred, none within ten seconds of another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sparse {
    seen: u64,
    /// Number and time of the last one that was taken.
    last: (u64, Duration),
}

impl Sparse {
    const FIRST: u64 = 3;
    const EVERY: u64 = 100;
    const PAUSE: Duration = Duration::from_secs(10);

    /// Whether the next one is shown; `now` is a time since any moment that stays the same.
    pub fn takes(&mut self, now: Duration) -> bool {
        self.seen += 1;
        let (number, at) = self.last;
        let is_far = self.seen >= number + Self::EVERY && now >= at + Self::PAUSE;
        let is_taken = self.seen <= Self::FIRST || is_far;
        if is_taken {
            self.last = (self.seen, now);
        }
        is_taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(count: u64, pause: Duration) -> Vec<u64> {
        let mut sparse = Sparse::default();
        (1..=count).filter(|number| sparse.takes(pause * u32::try_from(*number).unwrap())).collect()
    }

    #[test]
    fn slow_events_are_thinned_by_number_and_fast_ones_by_time() {
        assert_eq!(taken(250, Duration::from_secs(2)), [1, 2, 3, 103, 203]);
        assert_eq!(taken(25_000, Duration::from_millis(1)), [1, 2, 3, 10_003, 20_003]);
    }
}
