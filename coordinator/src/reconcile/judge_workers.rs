//! Keeps jobs from workers whose machine seems to be at fault.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::ticks::Ticks;
use crate::store::workers::judge_all;
use crate::store::{PgPool, limited};

/// Jobs that a bad machine spoils meanwhile are tried again elsewhere.
const PERIOD: Duration = Duration::from_secs(2);

/// Judges all workers at every tick until stopped.
pub(super) async fn run(pool: PgPool, stop: CancellationToken) {
    let mut ticks = Ticks::every("judge_workers", PERIOD, stop);
    while let Some(()) = ticks.next().await {
        if let Err(error) = limited(judge_all(&pool)).await {
            ticks.failed();
            tracing::warn!(error = &error as &dyn std::error::Error, "could not judge the workers");
        }
    }
}
