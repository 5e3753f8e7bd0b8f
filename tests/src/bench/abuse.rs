//! What a calm client notices of broken and hostile ones: the time of its calls alone, and
//! beside each abuse.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Place, allow_open_files};
use crate::abuse::{Abuse, Abuser, Plan, Row, abuse, calm};
use crate::{Cluster, Options};

/// With the coordinator's own limits, this is how long it may need to close a connection:
/// most of two minutes for one that takes no answer.
const PATIENCE: Duration = Duration::from_secs(200);

/// Open files beside those of the abuser's connections.
const FILES_OF_ALL_ELSE: u64 = 512;

/// What to measure.
#[derive(Clone, Debug)]
pub struct AbuseOptions {
    /// Of the abuser at a time.
    pub connections: u32,
    /// How long each abuse lasts.
    pub duration: Duration,
    /// Which, in this order.
    pub abuses: Vec<Abuse>,
    pub place: Place,
}

/// Measures, and tells of each row as soon as it is known: first and last the calm client alone.
///
/// # Errors
/// Something fails.
pub async fn run(options: &AbuseOptions, mut tell: impl FnMut(&Row)) -> Result<Vec<Row>> {
    ensure!((1..=20_000).contains(&options.connections), "--connections: must be 1 to 20000");
    ensure!(options.duration >= Duration::from_secs(1), "--seconds: must be at least 1");
    // On both sides of each connection.
    allow_open_files(2 * u64::from(options.connections) + FILES_OF_ALL_ELSE)?;
    let coordinator = &["--metrics-listen", "127.0.0.1:0"];
    let cluster = Cluster::start_in(
        &options.place.parent,
        Options { workers: &[], durable: true, coordinator, ..Options::default() },
    )?;
    // What is allocated once is no leak.
    calm(&cluster, Duration::from_secs(1)).await?;
    let mut rows = vec![calm(&cluster, options.duration).await?];
    tell(&rows[0]);
    let abuser = Abuser::Apart(std::env::current_exe()?);
    for which in options.abuses.iter().copied() {
        let connections = options.connections as usize;
        let plan = Plan { connections, duration: options.duration, patience: PATIENCE };
        let row = abuse(&cluster, which, &plan, &abuser).await?;
        tell(&row);
        rows.push(row);
    }
    rows.push(calm(&cluster, options.duration).await?);
    tell(&rows[rows.len() - 1]);
    Ok(rows)
}
