//! Broken and hostile clients against a real coordinator, beside one that goes on calmly.
//!
//! ```text
//!  127.0.0.2 ── raw TCP, HTTP/2 by hand ──► coordinator ◄── gRPC ── calm client, 127.0.0.1
//!            [`attacks`], [`wire`], [`apart`]    │               [`calm`]
//!                                        memory, open files, limits in its metrics
//! ```

mod apart;
pub mod attacks;
mod calm;
pub mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

pub use attacks::Abuse;

use crate::bench::{open_files, rss_mib};
use crate::scrape::{Scrape, said_address};
use crate::{Cluster, until};

/// Time between two looks at what the coordinator uses.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// How long the calm client asks before anything is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// Open files more than before that say nothing: those of a scrape, and of the database.
const FILES_MORE: usize = 8;

/// What one abuse did, and to whom.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub abuse: &'static str,
    /// The abuser's connections, and those that the server closed by itself.
    pub opened: u64,
    pub closed: u64,
    pub slowest_close_s: f64,
    /// Calls and connections that the limit refused which is meant for it.
    pub refused: f64,
    /// Calls of the calm client, those that failed, and how long they took.
    pub calm_calls: usize,
    pub calm_failures: usize,
    pub calm_p50_ms: Option<f64>,
    pub calm_p99_ms: Option<f64>,
    /// Of the coordinator: before, most, and when all abusers had gone.
    pub rss_mib: [f64; 3],
    pub open_files: [usize; 3],
}

/// How an abuse is tried.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of the abuser at a time.
    pub connections: usize,
    pub duration: Duration,
    /// How long the server may leave a connection open that does nothing useful.
    pub patience: Duration,
}

/// Which process abuses.
#[derive(Clone, Debug)]
pub enum Abuser {
    /// This one.
    Here,
    /// One of this program, with the subcommand `abuser`.
    Apart(PathBuf),
}

/// The calm client alone.
///
/// # Errors
/// It could not call, or the coordinator is gone.
pub async fn calm(cluster: &Cluster, duration: Duration) -> Result<Row> {
    // What its calls open anyway, connections to the database above all, is not the abuser's.
    let first = calm::Client::start(&cluster.url())?;
    tokio::time::sleep(WARM_UP).await;
    first.stop().await?;
    measure(cluster, "none", None, async {
        tokio::time::sleep(duration).await;
        Ok(attacks::Tally::default())
    })
    .await
}

/// Abuses the coordinator while the calm client goes on.
///
/// # Errors
/// The rig itself fails, or the coordinator is gone. What the abuse did is in the row.
pub async fn abuse(cluster: &Cluster, abuse: Abuse, plan: &Plan, abuser: &Abuser) -> Result<Row> {
    let server = coordinator_address(cluster)?;
    measure(cluster, abuse.name(), abuse.limit(), async {
        match abuser {
            Abuser::Here => attacks::abuse(abuse, server, plan).await,
            Abuser::Apart(program) => apart::abuse(program, abuse, server, plan).await,
        }
    })
    .await
}

async fn measure(
    cluster: &Cluster,
    name: &'static str,
    limit: Option<(&'static str, &'static str)>,
    abusing: impl Future<Output = Result<attacks::Tally>>,
) -> Result<Row> {
    let pid = cluster.coordinator_pid()?;
    let metrics = said_address(&cluster.coordinator_log()?, "has metrics on http://")?;
    let refused = async || -> Result<f64> {
        let Some((metric, reason)) = limit else { return Ok(0.0) };
        Ok(Scrape::read(&metrics).await?.sum(metric, &[("reason", reason)]).unwrap_or(0.0))
    };
    let refused_before = refused().await?;
    let before = (rss_mib(pid)?, open_files(pid));
    let mut most = before;
    let client = calm::Client::start(&cluster.url())?;
    let sampling = async {
        loop {
            tokio::time::sleep(SAMPLE_INTERVAL).await;
            most = (most.0.max(rss_mib(pid).unwrap_or(0.0)), most.1.max(open_files(pid)));
        }
    };
    let tally = tokio::select! {
        tally = abusing => tally?,
        () = sampling => unreachable!("sampling does not end"),
    };
    let calls = client.stop().await?;
    let settled = until("the abuser's connections are gone", Duration::from_secs(60), async || {
        Ok((open_files(pid) <= before.1 + FILES_MORE).then(|| open_files(pid)))
    });
    let files_after = settled.await.with_context(|| name)?;
    ensure!(calls.took.len() > 0, "the calm client got no answer while there was {name}");
    Ok(Row {
        abuse: name,
        opened: tally.opened,
        closed: tally.closed,
        slowest_close_s: tally.slowest_s,
        refused: refused().await? - refused_before,
        calm_calls: calls.took.len(),
        calm_failures: calls.failures,
        calm_p50_ms: calls.took.percentile_ms(50),
        calm_p99_ms: calls.took.percentile_ms(99),
        rss_mib: [before.0, most.0, rss_mib(pid)?],
        open_files: [before.1, most.1, files_after],
    })
}

/// Where the coordinator's API is.
///
/// # Errors
/// Its URL holds no address.
pub fn coordinator_address(cluster: &Cluster) -> Result<SocketAddr> {
    let url = cluster.url();
    let at = url.split_once("://").map_or(url.as_str(), |(_, at)| at);
    at.parse().with_context(|| format!("'{at}' is no address"))
}
