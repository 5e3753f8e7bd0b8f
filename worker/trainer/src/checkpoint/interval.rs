//! How often a job saves that leaves it to the machine.
//!
//! What a failure costs is the work since the last checkpoint, half an interval on
//! average; what saving costs is its own time once per interval. The sum is least
//! near √(2 · mean time between failures · time of a save) (Young 1974, Daly 2006).
//! Saving beside the training holds it for less than a save takes, and for no more
//! than [`STALL_SHARE_MAX`] of the time, whatever the failures.

use std::time::Duration;

/// Longest share of the time for which saving may hold the training.
pub const STALL_SHARE_MAX: f64 = 0.035;

/// Time of a save before the first one was measured.
const SAVE_ASSUMED: Duration = Duration::from_millis(50);

/// Time between two checkpoints, from what saving was measured to take.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    mean_time_between_failures: Duration,
    save_s: Option<f64>,
    stall_s: f64,
}

impl Interval {
    pub fn new(mean_time_between_failures: Duration) -> Self {
        Interval { mean_time_between_failures, save_s: None, stall_s: 0.0 }
    }

    /// Takes in a save. One that met other load counts by half.
    pub fn measured(&mut self, save: Duration, stall: Duration) {
        let (save_s, stall_s) = (save.as_secs_f64(), stall.as_secs_f64());
        match self.save_s {
            None => (self.save_s, self.stall_s) = (Some(save_s), stall_s),
            Some(before) => {
                self.save_s = Some((before + save_s) / 2.0);
                self.stall_s = (self.stall_s + stall_s) / 2.0;
            }
        }
    }

    /// From the end of one snapshot to the next.
    pub fn length(&self) -> Duration {
        let save_s = self.save_s.unwrap_or(SAVE_ASSUMED.as_secs_f64());
        let best_s = (2.0 * self.mean_time_between_failures.as_secs_f64() * save_s).sqrt();
        Duration::try_from_secs_f64(best_s.max(self.stall_s / STALL_SHARE_MAX)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn after(mean_time_between_failures: Duration, saves: &[(f64, f64)]) -> f64 {
        let mut interval = Interval::new(mean_time_between_failures);
        for (save_s, stall_s) in saves {
            interval.measured(Duration::from_secs_f64(*save_s), Duration::from_secs_f64(*stall_s));
        }
        interval.length().as_secs_f64()
    }

    #[test]
    fn it_follows_the_time_of_a_save_and_the_failures() {
        assert!((after(DAY, &[(2.0, 0.1)]) - 587.9).abs() < 0.1);
        assert!((after(DAY / 4, &[(2.0, 0.1)]) - 293.9).abs() < 0.1);
        assert!((after(DAY, &[(2.0, 0.1), (6.0, 0.1)]) - after(DAY, &[(4.0, 0.1)])).abs() < 1e-6);
        assert!((60.0..120.0).contains(&after(DAY, &[])), "before the first save was measured");
    }

    #[test]
    fn saving_never_holds_the_training_for_more_than_its_share() {
        // A machine that fails every ten seconds would save all the time.
        let length_s = after(Duration::from_secs(10), &[(0.8, 0.4)]);
        assert!(0.4 / length_s <= STALL_SHARE_MAX + 1e-9, "{length_s}");
        assert_eq!(after(Duration::MAX, &[(0.8, 0.4)]).partial_cmp(&1e9), Some(std::cmp::Ordering::Greater));
    }
}
