//! Whether the daemon can serve, for `grpc.health.v1`: as a whole (the empty
//! name) and per service.

use std::time::Duration;

use cakes_proto::v1::architecture_service_server::SERVICE_NAME as ARCHITECTURES;
use cakes_proto::v1::fleet_service_server::SERVICE_NAME as FLEET;
use cakes_proto::v1::job_service_server::SERVICE_NAME as JOBS;
use cakes_proto::v1::search_service_server::SERVICE_NAME as SEARCHES;
use cakes_proto::v1::worker_service_server::SERVICE_NAME as WORKERS;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::store::{PgPool, read};

const NAMES: [&str; 6] = ["", SEARCHES, JOBS, ARCHITECTURES, FLEET, WORKERS];

/// Time between two questions to the database.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long the database may think about its answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Makes every name known, as serving: the database has just answered.
pub(super) async fn begin(reporter: &HealthReporter) {
    report(reporter, ServingStatus::Serving).await;
}

/// Keeps the report true: serving while the database answers, not serving from
/// the moment that the daemon is asked to stop.
pub(super) async fn watch(reporter: HealthReporter, pool: PgPool, draining: CancellationToken) {
    let mut serving = true;
    loop {
        let asking = tokio::time::timeout(PATIENCE, read::ping(&pool));
        let Some(answer) = draining.run_until_cancelled(asking).await else { break };
        let serves = matches!(answer, Ok(Ok(())));
        if serving != serves {
            if !serves {
                tracing::warn!("the database does not answer; the health service says so");
            }
            report(&reporter, if serves { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
            serving = serves;
        }
        if draining.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_none() {
            break;
        }
    }
    report(&reporter, ServingStatus::NotServing).await;
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    for name in NAMES {
        reporter.set_service_status(name, status).await;
    }
}
