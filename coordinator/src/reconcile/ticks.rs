//! The beat of a task.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::metrics::metrics;

/// Ticks until the daemon stops. The first comes at once; a task that was late does not
/// hurry after.
pub(super) struct Ticks {
    name: &'static str,
    interval: Interval,
    stop: CancellationToken,
}

impl Ticks {
    pub(super) fn every(name: &'static str, period: Duration, stop: CancellationToken) -> Self {
        let mut interval = interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ticks { name, interval, stop }
    }

    /// Waits for the next; None once the daemon stops.
    pub(super) async fn next(&mut self) -> Option<()> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            _ = self.interval.tick() => {
                self.begin();
                Some(())
            }
        }
    }

    /// The same, or what comes before it.
    pub(super) async fn next_or(&mut self, sooner: impl Future<Output = ()>) -> Option<()> {
        tokio::select! {
            tick = self.next() => tick,
            () = sooner => {
                self.begin();
                Some(())
            }
        }
    }

    fn begin(&self) {
        metrics().reconciler_rounds.add([self.name], 1);
    }

    /// Something of this round did not work.
    pub(super) fn failed(&self) {
        metrics().reconciler_errors.add([self.name], 1);
    }

    /// Does something that may be cut off anywhere; None once the daemon stops.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(work).await
    }
}
