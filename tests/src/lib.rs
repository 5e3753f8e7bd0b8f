//! Real processes on one machine, for scenarios about the whole system.
//!
//! ```text
//! scenario ─► Cluster ─► coordinator ─► Postgres (throw-away, or private to the coordinator)
//!                │    ─► workers ─► trainers (libtorch)
//!                └────► Api (gRPC), `cakes` (the command)
//! ```
//!
//! [`scenario`] starts a cluster, runs a body and stops everything again; it
//! fails if a daemon does not end well or a process is left over. Bodies wait
//! for events with deadlines ([`until`]), never for a while.

pub mod abuse;
pub mod api;
pub mod bench;
pub mod binaries;
pub mod browser;
pub mod chaos;
pub mod cluster;
pub mod collector;
pub mod daemon;
pub mod examples;
pub mod exhibit;
pub mod fake;
pub mod leftovers;
pub mod scrape;
pub mod search;
pub mod slurm;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub use api::Api;
pub use cluster::{Cluster, Options};

/// Runs `body` on a new cluster, then stops it.
///
/// # Panics
/// The body or the shutdown fails; with the end of every daemon's log.
pub fn scenario(options: Options, body: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let mut cluster = Cluster::start(options).unwrap_or_else(|error| panic!("{error:?}"));
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(body(&mut cluster)),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = outcome.and_then(|()| cluster.stop()) {
        panic!("{error:?}");
    }
}

/// Asks `probe` until it gives a value.
///
/// # Errors
/// The probe fails, or gives nothing in time.
pub async fn until<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await? {
            return Ok(value);
        }
        if start.elapsed() > within {
            bail!("did not happen within {} s: {what}", within.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
