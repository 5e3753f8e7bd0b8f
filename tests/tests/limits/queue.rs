//! How much may wait, and how many may follow it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::job_service_client::JobServiceClient;
use cakes_proto::v1::search_service_client::SearchServiceClient;
use cakes_proto::v1::{
    CancelSearchRequest, PauseJobRequest, Search, SubmitSearchRequest, WatchSearchRequest,
};
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::until;
use tonic::{Response, Status, Streaming};

use super::callers::{Client, Metrics, PATIENCE, ask, told};

/// When to submit again where the queue is full.
const QUEUE_PAUSE: Option<Duration> = Some(Duration::from_secs(30));

/// With one job that may wait and two searches that may be open; the id of a search that is.
pub async fn full(metrics: &Metrics, nobody: &Client, vera: &Client) -> Result<String> {
    let [first, second, third] = [file("first")?, file("second")?, file("third")?];
    let first = submit(nobody, &first).await?;

    let before = metrics.calls_refused("queue").await?;
    let pause = told(submit(nobody, &second).await, "QUEUE_FULL")?;
    ensure!(pause == QUEUE_PAUSE, "{pause:?}");
    ensure!(metrics.calls_refused("queue").await? == before + 1.0, "it is not counted");
    ask(vera).await?;
    // What is paused does not wait.
    let id = first.jobs.first().context("a search without a job")?.id.clone();
    JobServiceClient::new(nobody.clone())
        .pause_job(PauseJobRequest { id, ..PauseJobRequest::default() })
        .await?;
    let taken =
        until("a second job may wait", PATIENCE, async || Ok(submit(nobody, &second).await.ok())).await?;

    let before = metrics.calls_refused("searches").await?;
    let pause = told(submit(nobody, &third).await, "QUEUE_FULL")?;
    ensure!(pause == QUEUE_PAUSE, "{pause:?}");
    ensure!(metrics.calls_refused("searches").await? == before + 1.0, "it is not counted");
    ask(vera).await?;
    SearchServiceClient::new(nobody.clone())
        .cancel_search(CancelSearchRequest { id: taken.id, ..CancelSearchRequest::default() })
        .await?;
    until("a third search may begin", PATIENCE, async || Ok(submit(nobody, &third).await.ok())).await?;
    Ok(first.id)
}

/// A search of which one job waits at first: baselines would wait beside its supernet.
fn file(name: &str) -> Result<SubmitSearchRequest> {
    let mut described = tiny(name, SHORT, SHORT);
    described["search"]["baselines"] = serde_json::json!([]);
    Ok(serde_json::from_value(described)?)
}

async fn submit(client: &Client, request: &SubmitSearchRequest) -> Result<Search, Status> {
    let mut searches = SearchServiceClient::new(client.clone());
    let answer = searches.submit_search(request.clone()).await?;
    answer.into_inner().search.ok_or_else(|| Status::internal("an answer without the search"))
}

/// With two streams that may follow something, over all callers.
pub async fn watches(
    metrics: &Metrics,
    search: &str,
    [olga, otto]: [&Client; 2],
    vera: &Client,
) -> Result<()> {
    let (of_olga, _of_otto) = (watch(olga, search).await?, watch(otto, search).await?);
    let before = metrics.calls_refused("watches").await?;
    ensure!(told(watch(vera, search).await, "TOO_MANY_STREAMS")?.is_none(), "nobody knows when one ends");
    ensure!(metrics.calls_refused("watches").await? == before + 1.0, "it is not counted");
    ask(vera).await?;
    drop(of_olga);
    until("another stream may follow", PATIENCE, async || Ok(watch(vera, search).await.ok())).await.map(drop)
}

pub async fn watch(client: &Client, search: &str) -> Result<Response<Streaming<Search>>, Status> {
    let mut searches = SearchServiceClient::new(client.clone());
    searches.watch_search(WatchSearchRequest { id: search.to_owned(), ..WatchSearchRequest::default() }).await
}
