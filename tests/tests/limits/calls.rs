//! How fast callers may call, how much they may have under way, and for how long.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::bearer::Bearer;
use cakes_proto::v1::ListSearchesRequest;
use cakes_proto::v1::search_service_client::SearchServiceClient;
use cakes_tests::abuse::attacks::ABUSER;
use cakes_tests::abuse::wire::connect;
use cakes_tests::scrape::exchange;
use cakes_tests::{Cluster, until};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::callers::{
    A_MOMENT, Client, Lasting, Metrics, PATIENCE, ask, ask_again, client, lasting, operator, told,
};
use super::queue;

pub const LIMITS: &[&str] = &[
    "--metrics-listen",
    "127.0.0.1:0",
    "--max-streams-per-connection",
    "3",
    "--max-calls",
    "8",
    "--max-calls-per-identity",
    "4",
    "--max-call-rate-per-identity",
    "2",
    "--max-call-burst-per-identity",
    "40",
    "--max-watches",
    "2",
    "--max-waiting-jobs",
    "1",
    "--max-open-searches",
    "2",
    "--call-timeout",
    "3s",
];

/// Of them: calls at once of one identity.
const BURST: u32 = 40;

/// When to call again where there is no place now.
const BUSY_PAUSE: Option<Duration> = Some(Duration::from_millis(500));

pub async fn run(cluster: &Cluster) -> Result<()> {
    let metrics = Metrics::of(cluster)?;
    let vera = client(cluster, &operator(cluster, "vera").await?)?;
    rate(cluster, &metrics, &vera).await?;
    streams_of_one_connection(cluster).await?;
    let olga = two(cluster, &operator(cluster, "olga").await?)?;
    under_way_of_one_identity(&metrics, &olga, &vera).await?;
    let otto = two(cluster, &operator(cluster, "otto").await?)?;
    under_way_in_all(&metrics, [&olga, &otto], &vera).await?;
    under_way_of_one_address(cluster, &metrics, &vera).await?;
    // What is queued is asked for by nobody known, who may ask often.
    let search = Box::pin(queue::full(&metrics, &client(cluster, &Bearer::default())?, &vera)).await?;
    queue::watches(&metrics, &search, [&olga[0], &otto[0]], &vera).await?;
    time(cluster, &metrics, &search, &olga[0], &vera).await?;
    page(cluster, &metrics).await
}

/// Two connections of one caller: one has fewer streams than a caller may have calls.
fn two(cluster: &Cluster, who: &Bearer) -> Result<[Client; 2]> {
    Ok([client(cluster, who)?, client(cluster, who)?])
}

/// As many streams as one identity may have.
async fn four([one, other]: &[Client; 2]) -> Result<[Lasting; 4]> {
    Ok([lasting(one).await?, lasting(one).await?, lasting(other).await?, lasting(other).await?])
}

async fn rate(cluster: &Cluster, metrics: &Metrics, vera: &Client) -> Result<()> {
    let anna = client(cluster, &operator(cluster, "anna").await?)?;
    let before = metrics.calls_refused("rate").await?;
    let mut served = 0;
    let refused = loop {
        match ask(&anna).await {
            Ok(()) => served += 1,
            refused => break refused,
        }
        ensure!(served < 20 * BURST, "nothing is refused");
    };
    ensure!(served >= BURST, "refused after {served} calls: {refused:?}");
    let pause = told(refused, "TOO_FAST")?.context("nobody says when to call again")?;
    ensure!(pause <= Duration::from_millis(500), "{pause:?}");
    ask(vera).await?;
    ensure!(metrics.calls_refused("rate").await? == before + 1.0, "it is not counted");
    tokio::time::sleep(pause).await;
    Ok(ask(&anna).await?)
}

async fn streams_of_one_connection(cluster: &Cluster) -> Result<()> {
    let [one, other] = two(cluster, &Bearer::default())?;
    // With the first answer a client learns how many streams its connection may have.
    ask(&one).await?;
    let [first, _second, _third] = [lasting(&one).await?, lasting(&one).await?, lasting(&one).await?];
    let mut waits = pin!(ask(&one));
    let early = timeout(A_MOMENT, waits.as_mut()).await;
    ensure!(early.is_err(), "one stream more than a connection may have: {early:?}");
    ask(&other).await?;
    drop(first);
    Ok(waits.await?)
}

async fn under_way_of_one_identity(metrics: &Metrics, olga: &[Client; 2], vera: &Client) -> Result<()> {
    let open = four(olga).await?;
    let before = metrics.calls_refused("concurrency").await?;
    let pause = told(ask(&olga[0]).await, "TOO_MANY_CALLS")?;
    ensure!(pause == BUSY_PAUSE, "{pause:?}");
    ask(vera).await?;
    ensure!(metrics.calls_refused("concurrency").await? == before + 1.0, "it is not counted");
    drop(open);
    ask_again(&olga[0]).await
}

async fn under_way_in_all(metrics: &Metrics, [olga, otto]: [&[Client; 2]; 2], vera: &Client) -> Result<()> {
    let (_of_olga, of_otto) = (four(olga).await?, four(otto).await?);
    let before = metrics.calls_refused("busy").await?;
    let pause = told(ask(vera).await, "BUSY")?;
    ensure!(pause == BUSY_PAUSE, "{pause:?}");
    ensure!(metrics.calls_refused("busy").await? == before + 1.0, "it is not counted");
    drop(of_otto);
    ask_again(vera).await
}

/// Whoever has no name has three quarters of all with everybody else at the address.
async fn under_way_of_one_address(cluster: &Cluster, metrics: &Metrics, vera: &Client) -> Result<()> {
    let nobody = Bearer::default();
    let [one, other] = two(cluster, &nobody)?;
    let open = [
        lasting(&one).await?,
        lasting(&one).await?,
        lasting(&one).await?,
        lasting(&other).await?,
        lasting(&other).await?,
        lasting(&other).await?,
    ];
    let third = client(cluster, &nobody)?;
    let before = metrics.calls_refused("concurrency").await?;
    let pause = told(ask(&third).await, "TOO_MANY_CALLS")?;
    ensure!(pause == BUSY_PAUSE, "{pause:?}");
    ensure!(metrics.calls_refused("concurrency").await? == before + 1.0, "it is not counted");
    ask_again(vera).await?;
    drop(open);
    ask_again(&third).await
}

/// A database that keeps calls waiting does not keep them for ever.
async fn time(
    cluster: &Cluster,
    metrics: &Metrics,
    search: &str,
    olga: &Client,
    vera: &Client,
) -> Result<()> {
    let counted = async |method: &str| {
        metrics.sum("cakes_calls_total", &[("method", method), ("code", "CANCELLED")]).await
    };
    let before = [counted("list_searches").await?, counted("watch_search").await?];
    let mut connection = PgConnection::connect(&cluster.database_url()?).await?;
    let mut lock = connection.begin().await?;
    sqlx::query("lock table search in access exclusive mode").execute(&mut *lock).await?;
    let (listed, watched, asked) = tokio::join!(list(olga), queue::watch(olga, search), ask(vera));
    asked?;
    for answer in [listed, watched.map(drop)] {
        ensure!(answer.as_ref().is_err_and(|status| status.code() == Code::Cancelled), "{answer:?}");
    }
    lock.rollback().await?;
    until("calls that took too long are counted", PATIENCE, async || {
        let now = [counted("list_searches").await?, counted("watch_search").await?];
        Ok((now == before.map(|count| count + 1.0)).then_some(()))
    })
    .await?;
    until("the database answers again", PATIENCE, async || Ok(list(olga).await.ok())).await
}

async fn list(client: &Client) -> Result<(), Status> {
    let mut searches = SearchServiceClient::new(client.clone());
    searches.list_searches(ListSearchesRequest::default()).await.map(drop)
}

/// The page counts by itself, by address.
async fn page(cluster: &Cluster, metrics: &Metrics) -> Result<()> {
    let url = cluster.page_url()?;
    let page: SocketAddr = url.trim_start_matches("http://").parse()?;
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let before = metrics.calls_refused("page").await?;
    let mut served = 0;
    let refusal = loop {
        let (status, text) = visit(local, page).await?;
        if status == 429 {
            break text;
        }
        served += 1;
        ensure!(served < 20 * BURST, "nothing is refused: {status} {text}");
    };
    ensure!(served >= BURST && refusal.contains("TOO_FAST"), "after {served} visits: {refusal}");
    ensure!(visit(ABUSER, page).await?.0 != 429, "another address is refused");
    ensure!(metrics.calls_refused("page").await? == before + 1.0, "it is not counted");
    until("the page answers again", PATIENCE, async || Ok((visit(local, page).await?.0 != 429).then_some(())))
        .await
}

/// Status and body of a page's answer.
async fn visit(from: IpAddr, page: SocketAddr) -> Result<(u16, String)> {
    let mut stream = connect(from, page).await?;
    exchange(&mut stream, &page.to_string(), "GET /api/v1/jobs/x", "Connection: close\r\n").await
}
