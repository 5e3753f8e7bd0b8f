//! Keeps jobs from workers whose machine seems to be at fault.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::store::workers::judge_all;
use crate::store::{PgPool, limited};

/// Jobs that a bad machine spoils meanwhile are tried again elsewhere.
const PERIOD: Duration = Duration::from_secs(2);

/// Judges all workers at every tick until stopped.
pub(super) async fn run(pool: PgPool, stop: CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = limited(judge_all(&pool)).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not judge the workers");
        }
    }
}
