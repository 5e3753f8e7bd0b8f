//! How fast a training is, and how long it waits for data.

use std::time::{Duration, Instant};

/// Throughput is taken over at least so long, or it would jump with every step.
const WINDOW: Duration = Duration::from_secs(1);

/// Speed of the last whole window, or of what there is of the first.
#[derive(Debug)]
pub struct Throughput {
    batch_size: u32,
    since: Instant,
    steps: u64,
    waited: Duration,
    pub samples_per_s: f64,
    /// Share of the window in which steps waited for data, 0 to 1.
    pub data_wait_share: f64,
    has_window: bool,
}

impl Throughput {
    pub fn new(batch_size: u32) -> Self {
        Throughput {
            batch_size,
            since: Instant::now(),
            steps: 0,
            waited: Duration::ZERO,
            samples_per_s: 0.0,
            data_wait_share: 0.0,
            has_window: false,
        }
    }

    /// `waited`: for the data of this step.
    pub fn count_step(&mut self, waited: Duration) {
        self.steps += 1;
        self.waited += waited;
        let elapsed = self.since.elapsed();
        let whole = elapsed >= WINDOW;
        if !whole && self.has_window {
            return;
        }
        let elapsed_s = elapsed.as_secs_f64().max(1e-9);
        self.samples_per_s = (self.steps * u64::from(self.batch_size)) as f64 / elapsed_s;
        self.data_wait_share = (self.waited.as_secs_f64() / elapsed_s).min(1.0);
        if whole {
            self.has_window = true;
            self.restart();
        }
    }

    /// Begins a window; validations and checkpoints are no training time.
    pub fn restart(&mut self) {
        (self.since, self.steps, self.waited) = (Instant::now(), 0, Duration::ZERO);
    }
}
