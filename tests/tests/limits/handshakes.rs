//! How many TLS handshakes go on at a time, for how long, and how many connections one
//! certificate is good for.

use std::sync::Arc;

use anyhow::{Result, ensure};
use cakes_proto::v1::ListProjectsRequest;
use cakes_tests::abuse::attacks::ABUSER;
use cakes_tests::abuse::coordinator_address;
use cakes_tests::abuse::wire::{connect, send, until_closed};
use cakes_tests::cluster::certificates::{HOST, files_in};
use cakes_tests::{Api, Cluster, until};
use cakes_tls::client::ClientFiles;
use cakes_tls::rustls::pki_types::ServerName;
use cakes_tls::tokio_rustls::TlsConnector;
use tonic::Status;

use super::callers::{Metrics, PATIENCE};

pub const LIMITS: &[&str] = &[
    "--metrics-listen",
    "127.0.0.1:0",
    "--max-handshakes",
    "4",
    "--handshake-timeout",
    "1s",
    "--max-connections-per-identity",
    "2",
];

/// Handshakes that do not go on, of an address that may have one at a time.
const HALF: usize = 6;

pub async fn run(cluster: &Cluster) -> Result<()> {
    cluster.run_pki(&["issue", "user", "vera", "--role", "viewer"])?;
    let of_vera = files_in(&cluster.pki().join("users/vera"));
    let metrics = Metrics::of(cluster)?;
    handshakes(cluster, &metrics, &of_vera).await?;
    identities(cluster, &metrics, &of_vera).await
}

async fn ask(api: &Api) -> Result<(), Status> {
    api.fleet().list_projects(ListProjectsRequest::default()).await.map(drop)
}

/// A quarter of all handshakes are for one address; more of it wait, and are closed as those
/// are that take too long.
async fn handshakes(cluster: &Cluster, metrics: &Metrics, of_vera: &ClientFiles) -> Result<()> {
    let server = coordinator_address(cluster)?;
    let slow = metrics.connections_refused("slow_handshake").await?;
    let waited = metrics.connections_refused("handshakes").await?;
    // A record that says to be the first of a handshake, and a part of what it promises.
    let part = [&[0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3][..], &[7; 60]].concat();
    let mut open = Vec::new();
    for _ in 0..HALF {
        let mut stream = connect(ABUSER, server).await?;
        ensure!(send(&mut stream, &part).await, "a handshake is closed at its beginning");
        open.push(stream);
    }
    ask(&cluster.api_with(of_vera)?).await?;
    for stream in &mut open {
        ensure!(until_closed(stream, PATIENCE).await.is_some(), "a handshake without an end stays open");
    }
    let slow = metrics.connections_refused("slow_handshake").await? - slow;
    let waited = metrics.connections_refused("handshakes").await? - waited;
    ensure!(slow >= 1.0 && waited >= 1.0, "{slow} handshakes took too long, {waited} waited too long");
    ensure!(slow + waited == HALF as f64, "{slow} handshakes took too long, {waited} waited too long");

    let connector = TlsConnector::from(Arc::new(of_vera.config()?));
    connector.connect(ServerName::try_from(HOST)?, connect(ABUSER, server).await?).await?;
    Ok(())
}

/// One certificate is good for two connections.
async fn identities(cluster: &Cluster, metrics: &Metrics, of_vera: &ClientFiles) -> Result<()> {
    let (one, two, three) = (cluster.api()?, cluster.api()?, cluster.api()?);
    ask(&one).await?;
    ask(&two).await?;
    let before = metrics.connections_refused("identity").await?;
    ensure!(ask(&three).await.is_err(), "a certificate has more connections than it may");
    ensure!(metrics.connections_refused("identity").await? > before, "it is not counted");
    let vera = cluster.api_with(of_vera)?;
    ask(&vera).await?;
    drop(two);
    until("another connection is taken", PATIENCE, async || Ok(ask(&three).await.ok())).await?;
    // Who was there before has lost nothing by it.
    Ok(ask(&one).await?)
}
