//! How long calls took.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::fake::{Kind, Recorder, Refusal, Told};

/// Durations of calls of one kind, in rising order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sorted(Vec<Duration>);

impl Sorted {
    pub fn new(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Sorted(durations)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest duration that at least this percentage of all does not
    /// exceed (nearest rank), in milliseconds; `None` of no durations.
    pub fn percentile_ms(&self, percent: u8) -> Option<f64> {
        let rank = (self.0.len() * usize::from(percent.min(100))).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).map(|duration| duration.as_secs_f64() * 1e3)
    }
}

/// Notes how long answered calls took, while it is told to.
#[derive(Debug, Default)]
pub struct Stopwatch {
    on: AtomicBool,
    took: [Mutex<Vec<Duration>>; Kind::ALL.len()],
    repeated: AtomicU64,
}

impl Stopwatch {
    /// From now on calls are noted, or not.
    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Calls noted so far.
    pub fn taken(&self, kind: Kind) -> Sorted {
        Sorted::new(self.took[kind as usize].lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Calls without an answer, which were sent again.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }
}

impl Recorder for Stopwatch {
    fn told(&self, told: Told) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        match told.answer {
            Ok(_) => {
                let took = &self.took[told.call.kind() as usize];
                took.lock().unwrap_or_else(PoisonError::into_inner).push(told.took);
            }
            Err(Refusal::Unknown { .. }) => {
                self.repeated.fetch_add(1, Ordering::Relaxed);
            }
            // Ends the bench.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(values: impl IntoIterator<Item = u64>) -> Sorted {
        Sorted::new(values.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() {
        let hundred = milliseconds((1..=100).rev());
        assert_eq!(hundred.percentile_ms(50), Some(50.0));
        assert_eq!(hundred.percentile_ms(99), Some(99.0));
        assert_eq!(hundred.percentile_ms(100), Some(100.0));
        assert_eq!(hundred.percentile_ms(0), Some(1.0));
        assert_eq!(milliseconds([7, 3, 5]).percentile_ms(50), Some(5.0));
        // Of few values the highest stands for the last hundredth.
        assert_eq!(milliseconds([7, 3, 5]).percentile_ms(99), Some(7.0));
        assert_eq!(milliseconds([]).percentile_ms(99), None);
    }
}
