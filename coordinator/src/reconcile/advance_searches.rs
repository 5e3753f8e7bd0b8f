//! Applies the plan of every open search.

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Bell, PERIOD};
use crate::store::{Error, PgPool, searches};

/// Looks at all open searches at every tick and ring until stopped.
pub(super) async fn run(pool: PgPool, bell: Bell, stop: CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = bell.heard() => {}
        }
        if let Err(error) = pass(&pool).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not look for open searches");
        }
    }
}

/// One look. A search that cannot be advanced does not keep the others.
async fn pass(pool: &PgPool) -> Result<(), Error> {
    for id in searches::open(pool).await? {
        if let Err(error) = searches::advance(pool, id).await {
            tracing::error!(search = %id, error = &error as &dyn std::error::Error, "could not advance a search");
        }
    }
    Ok(())
}
