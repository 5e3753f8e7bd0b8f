//! One address for several coordinators, as a service has in a cluster.
//!
//! New connections go, in turn, to coordinators whose health service says that they serve.
//! It is asked a few times a second, so that what it said last may be over: whoever is refused
//! then is refused, and not sent elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::fake::connect;
use crate::until;

/// Between two questions to a health service.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

/// What is known of the coordinators.
#[derive(Debug)]
struct Known {
    targets: Vec<(SocketAddr, AtomicBool)>,
    next: AtomicUsize,
    /// Connections that nobody took.
    refused: AtomicU64,
}

/// A listener that leads to whoever serves. It ends with this value.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    known: Arc<Known>,
    task: JoinHandle<()>,
}

impl Balancer {
    /// Listens on a port of this machine alone.
    ///
    /// # Errors
    /// There is no free port, or a coordinator does not serve.
    pub async fn start(targets: &[SocketAddr]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let targets = targets.iter().map(|target| (*target, AtomicBool::new(false))).collect();
        let known = Arc::new(Known { targets, next: AtomicUsize::new(0), refused: AtomicU64::new(0) });
        let task = tokio::spawn(serve(listener, known.clone()));
        let balancer = Balancer { address, known, task };
        for number in 0..balancer.known.targets.len() {
            balancer.until_serving(number, true).await?;
        }
        Ok(balancer)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections that nobody took.
    pub fn refused(&self) -> u64 {
        self.known.refused.load(Ordering::Relaxed)
    }

    /// Waits until a coordinator is known to serve, or not to.
    ///
    /// # Errors
    /// It does not happen in time.
    pub async fn until_serving(&self, number: usize, serves: bool) -> Result<()> {
        ensure!(number < self.known.targets.len(), "there is no coordinator {number}");
        let (_, now) = &self.known.targets[number];
        let what = format!("coordinator {number} is known to {}", if serves { "serve" } else { "stop" });
        until(&what, PATIENCE, async || Ok((now.load(Ordering::Relaxed) == serves).then_some(()))).await
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, known: Arc<Known>) {
    // Probes and connections end with this task.
    let mut tasks = JoinSet::new();
    for number in 0..known.targets.len() {
        tasks.spawn(probe(known.clone(), number));
    }
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else { continue };
        tasks.spawn(pass(client, known.clone()));
    }
}

async fn probe(known: Arc<Known>, number: usize) {
    let (address, serves) = &known.targets[number];
    let Ok(channel) = connect(&format!("http://{address}")) else { return };
    let mut health = HealthClient::new(channel);
    loop {
        let asked = tokio::time::timeout(PROBE_TIMEOUT, health.check(HealthCheckRequest::default())).await;
        let says =
            |status: ServingStatus| matches!(&asked, Ok(Ok(answer)) if answer.get_ref().status() == status);
        serves.store(says(ServingStatus::Serving), Ordering::Relaxed);
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

async fn pass(mut client: TcpStream, known: Arc<Known>) {
    let serving: Vec<SocketAddr> = known
        .targets
        .iter()
        .filter(|(_, serves)| serves.load(Ordering::Relaxed))
        .map(|(address, _)| *address)
        .collect();
    let turn = known.next.fetch_add(1, Ordering::Relaxed);
    let taken = match serving.get(turn % serving.len().max(1)) {
        Some(address) => TcpStream::connect(address).await.ok(),
        None => None,
    };
    let Some(mut server) = taken else {
        known.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
