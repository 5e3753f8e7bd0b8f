//! Takes jobs from workers that fell silent.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::ticks::Ticks;
use super::{Bell, PERIOD};
use crate::core::lease::{Policy, Sweep, SweepAction, sweep_action};
use crate::metrics::metrics;
use crate::store::{Error, PgPool, attempts, limited};

/// Looks at all leases at every tick until stopped.
pub(super) async fn run(pool: PgPool, policy: Policy, bell: Bell, stop: CancellationToken) {
    let mut sweeper = Sweeper { pool, policy, began: Instant::now(), previous: None };
    let mut ticks = Ticks::every("expire_leases", PERIOD, stop);
    while let Some(()) = ticks.next().await {
        match limited(sweeper.sweep()).await {
            Ok(0) => {}
            // Searches whose job has just failed for good may have ended.
            Ok(expired) => {
                metrics().lease_expiries.add(expired as u64);
                bell.ring();
            }
            Err(error) => {
                ticks.failed();
                tracing::warn!(error = &error as &dyn std::error::Error, "could not look at the leases");
            }
        }
    }
}

struct Sweeper {
    pool: PgPool,
    policy: Policy,
    began: Instant,
    /// The last sweep that went through; nothing that another coordinator needs.
    previous: Option<Sweep>,
}

impl Sweeper {
    /// How many attempts were ended.
    async fn sweep(&mut self) -> Result<usize, Error> {
        let now = Sweep { database: attempts::clock(&self.pool).await?, steady: self.began.elapsed() };
        let ended = match sweep_action(self.previous, now, self.policy.lease_ttl) {
            SweepAction::Reap => attempts::expire_leases(&self.pool, &self.policy).await?,
            SweepAction::Amnesty => {
                let extended = attempts::extend_leases(&self.pool, &self.policy).await?;
                if extended > 0 {
                    tracing::info!(
                        extended,
                        "gave all leases a fresh term: workers may not have been able to renew"
                    );
                }
                0
            }
        };
        self.previous = Some(now);
        Ok(ended)
    }
}
