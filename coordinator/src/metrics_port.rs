//! The port of metrics: who may read, and what is read of the database for a scrape.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use cakes_telemetry::serve::{CONNECTIONS_MAX, Refusal, connection};
use tokio::sync::Mutex;
use tonic::Code;

use crate::accept::Accepting;
use crate::core::identity::Certified;
use crate::grpc::Readers;
use crate::metrics::metrics;
use crate::shutdown::Shutdown;
use crate::store::{Pools, read::census};

/// A count serves all who ask within this time: scrapes cost the database the same, however
/// many there are.
const COUNT_LASTS: Duration = Duration::from_secs(5);

/// How long the database may take to count.
const COUNT_TIMEOUT: Duration = Duration::from_secs(8);

pub(crate) const SCRAPES_MAX: usize = CONNECTIONS_MAX;

/// What a scrape needs.
#[derive(Debug)]
pub(crate) struct Port {
    pub pools: Pools,
    pub lease_ttl: Duration,
    pub readers: Readers,
}

/// Serves who is accepted until asked to stop.
pub(crate) async fn serve(mut accepting: Accepting, port: Port, shutdown: Shutdown) {
    let port = Arc::new(Counted { port, at: Mutex::new(None) });
    loop {
        let connected = tokio::select! {
            () = shutdown.stop.cancelled() => return,
            connected = accepting.next() => connected,
        };
        // None never comes: see there.
        let Some(stream) = connected else { return };
        let (port, stop) = (Arc::clone(&port), shutdown.stop.clone());
        shutdown.tasks.spawn(async move {
            let (certified, address) = (stream.certified.clone(), stream.address);
            let activity = stream.activity.clone();
            let answer = |headers| {
                let (under_way, answering) =
                    (activity.begin(), port.answer(certified.clone(), address, headers));
                async move {
                    let answered = answering.await;
                    drop(under_way);
                    answered
                }
            };
            stop.run_until_cancelled(connection(stream, answer)).await;
        });
    }
}

struct Counted {
    port: Port,
    /// When was counted last.
    at: Mutex<Option<Instant>>,
}

impl Counted {
    async fn answer(
        &self,
        certified: Option<Certified>,
        address: std::net::SocketAddr,
        headers: HeaderMap,
    ) -> Result<String, Refusal> {
        self.port.readers.admit(certified, address, &headers).await.map_err(|status| {
            let code = match status.code() {
                Code::PermissionDenied => StatusCode::FORBIDDEN,
                Code::Unavailable | Code::ResourceExhausted => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::UNAUTHORIZED,
            };
            (code, status.message().to_owned())
        })?;
        self.count().await;
        Ok(metrics().text())
    }

    async fn count(&self) {
        let mut at = self.at.lock().await;
        if at.is_some_and(|at| at.elapsed() < COUNT_LASTS) {
            return;
        }
        *at = Some(Instant::now());
        let Port { pools, lease_ttl, .. } = &self.port;
        let metrics = metrics();
        for pool in pools.sizes() {
            metrics.database_connections_max.set([pool.name], f64::from(pool.max));
            metrics.database_connections.set([pool.name, "used"], f64::from(pool.used));
            metrics.database_connections.set([pool.name, "idle"], f64::from(pool.idle));
        }
        let counting = tokio::time::timeout(COUNT_TIMEOUT, async {
            for (name, waited) in pools.waits().await {
                metrics.database_wait_seconds.set([name], waited.as_secs_f64());
            }
            census::take(&pools.control, *lease_ttl).await
        });
        let counts = match counting.await {
            Ok(Ok(counts)) => counts,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "could not count for metrics");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!("could not count for metrics in time");
                Vec::new()
            }
        };
        // There is always the age of the oldest job.
        metrics.database_up.set(if counts.is_empty() { 0.0 } else { 1.0 });
        fill(&counts);
    }
}

/// What is not there any more, or not known, has no value.
fn fill(counts: &[census::Count]) {
    let metrics = metrics();
    let by_one = [
        ("searches", &metrics.searches),
        ("jobs", &metrics.jobs),
        ("waiting", &metrics.jobs_waiting),
        ("workers", &metrics.workers),
    ];
    for (family, gauges) in by_one {
        gauges.clear();
        for count in counts.iter().filter(|count| count.family == family) {
            gauges.set([count.first.clone()], count.value);
        }
    }
    metrics.devices.clear();
    for count in counts.iter().filter(|count| count.family == "devices") {
        metrics.devices.set([kind(&count.first), count.second.clone()], count.value);
    }
    let oldest = counts.iter().find(|count| count.family == "oldest");
    metrics.oldest_wait_seconds.set(oldest.map_or(f64::NAN, |count| count.value));
}

/// Workers name their devices; a label has few values.
fn kind(name: &str) -> String {
    let known = ["cpu", "cuda"].into_iter().find(|known| *known == name);
    known.unwrap_or("other").to_owned()
}
