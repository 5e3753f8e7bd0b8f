//! The service is brought to another version while it is used.

use std::time::Duration;

use anyhow::{Result, ensure};
use cakes_tests::chaos::rolling::{self, RollingOptions};

/// Two coordinators are replaced and the tables come forward: no call fails that is repeated,
/// no command fails that is not, no job is lost, and nothing is done twice.
#[test]
fn two_coordinators_are_replaced_and_nobody_notices() -> Result<()> {
    let options = RollingOptions {
        workers: 6,
        lease_ttl: Duration::from_secs(8),
        report_interval: Duration::from_millis(500),
        drain_time: Duration::from_secs(1),
        parent: std::env::temp_dir(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(240), Box::pin(rolling::run(&options))).await
    })??;
    println!("{report:#?}");
    ensure!(report.problems.is_empty(), "{report:#?}");
    ensure!(report.unexplained().is_empty(), "{report:#?}");
    let workers = &report.workers;
    ensure!(workers.lease_lost + workers.gap + workers.other == 0, "{report:#?}");
    ensure!(report.refused == 0, "{report:#?}");
    // Both were away, and both were used: otherwise nothing was shown.
    ensure!(report.replaced.len() == 2 && report.resumed >= 2, "{report:#?}");
    ensure!(workers.reports.len() == 2 && workers.reports.values().all(|count| *count > 10), "{report:#?}");
    ensure!(
        report.calls > 100 && report.commands > 10 && report.visits > 300 && report.jobs > 30,
        "{report:#?}"
    );
    Ok(())
}
