//! Clients that are broken or mean harm end at the coordinator's limits, and whoever calls
//! calmly beside them notices nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cakes_proto::v1::{ListWorkersRequest, RegisterRequest, SubmitSearchRequest};
use cakes_proto::{WORKER_PROTOCOL, v1};
use cakes_tests::abuse::attacks::ABUSER;
use cakes_tests::abuse::wire::{connect, send, until_closed};
use cakes_tests::abuse::{Abuse, Abuser, Plan, abuse, calm, coordinator_address};
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::{Cluster, Options, scenario};
use serde_json::{Value, json};
use tonic::Code;

/// Memory of the coordinator that comes and goes by itself, in MiB.
const NOISE_MIB: f64 = 64.0;

/// Memory that it may take while it is abused, in MiB.
const ABUSED_MIB: f64 = 256.0;

const PATIENCE: Duration = Duration::from_secs(15);

/// Short times, so that the test is short; few connections and calls for one address.
const LIMITS: &[&str] = &[
    "--metrics-listen",
    "127.0.0.1:0",
    "--first-byte-timeout",
    "500ms",
    "--first-request-timeout",
    "1s",
    "--stall-timeout",
    "1s",
    "--idle-timeout",
    "2s",
    "--call-timeout",
    "5s",
    "--max-connections-per-address",
    "40",
    "--max-connection-rate-per-address",
    "40",
    "--max-call-rate-per-address",
    "300",
    "--max-call-burst-per-address",
    "300",
];

#[test]
fn every_abuse_ends_at_a_limit_and_calm_clients_go_on() {
    let options = Options { workers: &[], coordinator: LIMITS, ..Options::default() };
    scenario(options, async |cluster| {
        calm(cluster, Duration::from_secs(1)).await?;
        let mut first = None;
        for which in Abuse::ALL {
            let connections = if which == Abuse::Connections { 80 } else { 20 };
            let plan = Plan { connections, duration: Duration::from_secs(1), patience: PATIENCE };
            let row = abuse(cluster, which, &plan, &Abuser::Here).await?;
            println!("{row:?}");
            ensure!(row.calm_failures == 0, "the calm client failed: {row:?}");
            ensure!(!which.must_be_closed() || row.closed == row.opened, "connections stay open: {row:?}");
            ensure!(which.limit().is_none() || row.refused > 0.0, "no limit was seen to act: {row:?}");
            let [before, most, after] = row.rss_mib;
            let start = *first.get_or_insert(before);
            ensure!(most < before + ABUSED_MIB, "memory grows: {row:?}");
            ensure!(after < start + NOISE_MIB, "memory stays taken: {row:?}");
        }
        bombs(cluster).await?;
        names(cluster).await
    });
}

/// Searches whose networks nobody could build are refused at once.
async fn bombs(cluster: &Cluster) -> Result<()> {
    let api = cluster.api()?;
    let many: Vec<u32> = (0..20_000).collect();
    for (path, value) in [
        ("/search/backbone/encoder_decoder/base_width", json!(4_000_000_000_u32)),
        ("/search/backbone/encoder_decoder/base_width", json!(4096)),
        ("/search/backbone/encoder_decoder/levels", json!(4_000_000_000_u32)),
        ("/search/backbone/encoder_decoder/levels", json!(64)),
        ("/search/backbone/encoder_decoder/classes", json!(4_000_000_000_u32)),
        ("/search/patch/depth", json!(4_000_000_000_u32)),
        ("/search/supernet/training/epochs", json!(4_000_000_000_u32)),
        ("/search/retrain/seeds", json!(many)),
        ("/search/budgets", json!(vec![0.5; 20_000])),
    ] {
        let mut file = tiny("bomb", SHORT, SHORT);
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let key = path.rsplit_once('/').map_or(path, |(_, key)| key);
        let Some(Value::Object(fields)) = file.pointer_mut(parent) else {
            anyhow::bail!("there is no {parent} in a search file")
        };
        fields.insert(key.to_owned(), value);
        let request: SubmitSearchRequest = serde_json::from_value(file)?;
        let began = Instant::now();
        let refused = api.searches().submit_search(request).await;
        let code = refused.as_ref().map_err(tonic::Status::code);
        ensure!(code.err() == Some(Code::InvalidArgument), "{path}: {refused:?}");
        ensure!(began.elapsed() < PATIENCE, "{path} took {:?}", began.elapsed());
    }
    Ok(())
}

/// Names that would lead elsewhere as parts of a path are none.
async fn names(cluster: &Cluster) -> Result<()> {
    let api = cluster.api()?;
    let long = "a".repeat(10_000);
    for name in ["../a", "..", "/etc/passwd", "a/b", "a\\b", "a\0b", "%2e%2e%2f", "а", "", ".", long.as_str()]
    {
        let request = RegisterRequest {
            protocol_version: WORKER_PROTOCOL,
            worker_id: name.to_owned(),
            request_id: uuid::Uuid::new_v4().to_string(),
            devices: vec![v1::Device { name: "cpu".to_owned(), count: 1, ..v1::Device::default() }],
            version: "0.1.0".to_owned(),
            ..RegisterRequest::default()
        };
        let refused = api.worker().register(request).await;
        let code = refused.as_ref().map_err(tonic::Status::code);
        ensure!(code.err() == Some(Code::InvalidArgument), "'{name}': {refused:?}");
    }
    Ok(())
}

#[test]
fn handshakes_that_do_not_come_to_an_end_keep_nobody_waiting() {
    const SLOW: &[&str] = &["--first-byte-timeout", "500ms", "--handshake-timeout", "1s"];
    let options = Options { workers: &[], tls: true, coordinator: SLOW, ..Options::default() };
    scenario(options, async |cluster| {
        let server = coordinator_address(cluster)?;
        // A record that says to be the first of a handshake, and half of what it promises.
        let half = [&[0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3][..], &[7; 60]].concat();
        let mut open = Vec::new();
        for number in 0..200 {
            let mut stream = connect(ABUSER, server).await?;
            if number % 2 == 0 {
                send(&mut stream, &half).await;
            }
            open.push(stream);
        }
        let began = Instant::now();
        let api = cluster.api()?;
        api.fleet().list_workers(ListWorkersRequest::default()).await?;
        ensure!(began.elapsed() < PATIENCE, "a handshake waited {:?}", began.elapsed());
        for stream in &mut open {
            ensure!(until_closed(stream, PATIENCE).await.is_some(), "a handshake without an end stays open");
        }
        Ok(())
    });
}
