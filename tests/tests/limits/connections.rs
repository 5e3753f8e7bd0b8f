//! How many connections there may be, how often they may come, and how long each may ask
//! nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;

use anyhow::{Context, Result, ensure};
use cakes_proto::bearer::Bearer;
use cakes_proto::method::Method;
use cakes_tests::abuse::attacks::ABUSER;
use cakes_tests::abuse::coordinator_address;
use cakes_tests::abuse::wire::{
    DATA, END_HEADERS, END_STREAM, HEADERS, begin, connect, frame, head, message, send, until_closed,
};
use cakes_tests::{Cluster, until};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::callers::{A_MOMENT, Metrics, PATIENCE, ask, client, lasting};

pub const LIMITS: &[&str] = &[
    "--metrics-listen",
    "127.0.0.1:0",
    "--max-connections",
    "8",
    "--max-connection-rate-per-address",
    "10",
    "--first-byte-timeout",
    "1s",
    "--first-request-timeout",
    "1s",
    "--idle-timeout",
    "1s",
];

/// Further addresses of this machine.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const OFTEN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4));

/// Connections that are tried before a look at what became of them.
const ROUND: usize = 20;

pub async fn run(cluster: &Cluster) -> Result<()> {
    let (server, metrics) = (coordinator_address(cluster)?, Metrics::of(cluster)?);
    places(cluster, server, &metrics).await?;
    arrivals(cluster, server, &metrics).await?;
    idle(cluster, server, &metrics).await
}

/// With eight places, of which half are for one address.
async fn places(cluster: &Cluster, server: SocketAddr, metrics: &Metrics) -> Result<()> {
    let _of_one = four(ABUSER, server).await?;
    let before = metrics.connections_refused("address").await?;
    let mut fifth = connect(ABUSER, server).await?;
    ensure!(!is_served(&mut fifth).await?, "one address has more than half of a port's connections");
    ensure!(metrics.connections_refused("address").await? == before + 1.0, "it is not counted");

    let [first, _second, _third, _fourth] = four(OTHER, server).await?;
    let ninth = client(cluster, &Bearer::default())?;
    let mut waits = pin!(ask(&ninth));
    let early = timeout(A_MOMENT, waits.as_mut()).await;
    ensure!(early.is_err(), "more connections than there may be: {early:?}");
    let open = metrics.sum("cakes_connections", &[("port", "api")]).await?;
    ensure!(open == 8.0, "{open} connections are open");
    drop(first);
    Ok(waits.await?)
}

async fn four(from: IpAddr, server: SocketAddr) -> Result<[TcpStream; 4]> {
    let one = async || call(from, server, Method::HealthWatch).await;
    Ok([one().await?, one().await?, one().await?, one().await?])
}

/// A connection on which this is called.
async fn call(from: IpAddr, server: SocketAddr, method: Method) -> Result<TcpStream> {
    let mut stream = begin(from, server, None).await?;
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &head(method.path()));
    bytes.extend(frame(DATA, END_STREAM, 1, &message(0, &[])));
    ensure!(send(&mut stream, &bytes).await, "{from} cannot call");
    ensure!(is_served(&mut stream).await?, "{from} is not served");
    Ok(stream)
}

/// Whether the server says anything, instead of closing at once.
async fn is_served(stream: &mut TcpStream) -> Result<bool> {
    let mut first = [0];
    let read = timeout(PATIENCE, stream.read(&mut first)).await.context("neither a word nor an end")?;
    Ok(matches!(read, Ok(1)))
}

/// Whoever comes again and again is sent away for a while.
async fn arrivals(cluster: &Cluster, server: SocketAddr, metrics: &Metrics) -> Result<()> {
    let full = metrics.connections_refused("address").await?;
    let before = metrics.connections_refused("address_rate").await?;
    until("somebody is sent away", PATIENCE, async || {
        for _ in 0..ROUND {
            let mut stream = connect(OFTEN, server).await?;
            // It is no HTTP/2, so the server closes the connection, and its place is free.
            send(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await;
            ensure!(until_closed(&mut stream, PATIENCE).await.is_some(), "a connection stays open");
        }
        Ok((metrics.connections_refused("address_rate").await? > before).then_some(()))
    })
    .await?;
    ensure!(metrics.connections_refused("address").await? == full, "too many at a time, not too often");
    ask(&client(cluster, &Bearer::default())?).await?;
    until("the address may come again", PATIENCE, async || {
        Ok(call(OFTEN, server, Method::HealthWatch).await.ok())
    })
    .await
    .map(drop)
}

/// Whoever asks nothing any more is closed; whoever listens is not.
async fn idle(cluster: &Cluster, server: SocketAddr, metrics: &Metrics) -> Result<()> {
    let listener = client(cluster, &Bearer::default())?;
    let mut listening = lasting(&listener).await?.into_inner();
    listening.message().await?.context("health says nothing")?;
    let before = metrics.connections_refused("idle").await?;
    let mut stream = call(ABUSER, server, Method::ListWorkers).await?;
    ensure!(until_closed(&mut stream, PATIENCE).await.is_some(), "a connection that asks nothing stays open");
    ensure!(metrics.connections_refused("idle").await? == before + 1.0, "it is not counted");
    let news = timeout(A_MOMENT, listening.message()).await;
    ensure!(news.is_err(), "who only listens is told {news:?}");
    call(ABUSER, server, Method::ListWorkers).await.map(drop)
}
