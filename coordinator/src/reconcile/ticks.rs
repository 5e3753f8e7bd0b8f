//! The beat of a task.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Ticks until the daemon stops. The first comes at once; a task that was late does not
/// hurry after.
pub(super) struct Ticks {
    interval: Interval,
    stop: CancellationToken,
}

impl Ticks {
    pub(super) fn every(period: Duration, stop: CancellationToken) -> Self {
        let mut interval = interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ticks { interval, stop }
    }

    /// Waits for the next; None once the daemon stops.
    pub(super) async fn next(&mut self) -> Option<()> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            _ = self.interval.tick() => Some(()),
        }
    }

    /// The same, or what comes before it.
    pub(super) async fn next_or(&mut self, sooner: impl Future<Output = ()>) -> Option<()> {
        tokio::select! {
            tick = self.next() => tick,
            () = sooner => Some(()),
        }
    }

    /// Does something that may be cut off anywhere; None once the daemon stops.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(work).await
    }
}
