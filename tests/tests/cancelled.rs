//! Cancelling a search that trains.

use std::time::Duration;

use anyhow::{Context, ensure};
use cakes_proto::v1::{JobState, ListWorkersRequest, SearchState};
use cakes_tests::search::{LONG, Length, SHORT, tiny};
use cakes_tests::{Options, scenario, until};

#[test]
fn a_cancelled_search_leaves_workers_idle_within_seconds() {
    let options = Options { workers: &["a"], ..Options::default() };
    scenario(options, async |cluster| {
        let api = cluster.api()?;
        let endless = Length { epochs: 1000, ..LONG };
        let search = api.submit(&tiny("cancelled", endless, SHORT)).await?.search.context("no search")?;
        api.until_job(&search.id, "the supernet trains", |job| {
            job.state() == JobState::Running
                && job.progress.as_ref().is_some_and(|progress| progress.step > 0)
        })
        .await?;
        ensure!(cluster.trainers().len() == 1, "{:?}", cluster.trainers());

        let finished = cluster.cakes(&["search", "cancel", &search.id]).await?;
        ensure!(finished.code == Some(0), "{finished:?}");
        api.until_ended(&search.id, SearchState::Cancelled).await?;
        until(
            "all is cancelled, no trainer is left and the worker is idle",
            Duration::from_secs(60),
            async || {
                let jobs = api.search(&search.id).await?.jobs;
                if !jobs.iter().all(|job| job.state() == JobState::Cancelled) {
                    return Ok(None);
                }
                let workers = api.fleet().list_workers(ListWorkersRequest {}).await?.into_inner().workers;
                let idle = workers.iter().all(|worker| worker.job_ids.is_empty());
                Ok((idle && cluster.trainers().is_empty()).then_some(()))
            },
        )
        .await?;

        // The worker takes the next search.
        let mut next = tiny("next", SHORT, SHORT);
        next["search"]["budgets"] = serde_json::json!([0.5]);
        next["search"]["baselines"] = serde_json::json!([]);
        let next = api.submit(&next).await?.search.context("no search")?;
        api.until_ended(&next.id, SearchState::Succeeded).await?;
        Ok(())
    });
}
