//! Plans which waiting jobs go first, who makes way, and why the others wait.

use std::time::Instant;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::PERIOD;
use super::ticks::Ticks;
use crate::core::schedule::Rules;
use crate::store::{PgPool, limited, schedule};

/// A round rests so many times as long as it took: of all time it takes a twentieth at
/// most, however many jobs wait.
const REST: u32 = 20;

/// Plans a round at every tick until stopped.
pub(super) async fn run(pool: PgPool, rules: Rules, stop: CancellationToken) {
    let mut ticks = Ticks::every("plan_jobs", PERIOD, stop);
    while let Some(()) = ticks.next().await {
        let began = Instant::now();
        if let Err(error) = limited(schedule::plan(&pool, &rules)).await {
            ticks.failed();
            tracing::warn!(error = &error as &dyn std::error::Error, "could not plan which jobs go first");
        }
        let rest = began.elapsed().saturating_mul(REST).saturating_sub(PERIOD);
        ticks.unless_stopped(sleep(rest)).await;
    }
}
