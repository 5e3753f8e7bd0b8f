//! `cakes top`: what runs, what waits and why.

use std::time::Duration;

use cakes_proto::v1;
use chrono::Utc;
use clap::Args;

use super::repeat::{self, Repeat};
use crate::args::GlobalArguments;
use crate::client::{Client, rpc};
use crate::error::{CommandError, Outcome};
use crate::output;
use crate::tables::{self, Picture, Waiting};

#[derive(Debug, Args)]
pub struct TopArguments {
    /// Print once and end.
    #[arg(long, conflicts_with = "interval")]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = repeat::seconds)]
    interval: Duration,
}

/// Jobs of a kind that are asked for.
const JOBS_MAX: i32 = 1000;
/// Waiting jobs whose reason is asked for.
const EXPLAINED_MAX: usize = 5;
/// Searches that are looked through for those that go on.
const SEARCHES_MAX: i32 = 100;

/// # Errors
/// The coordinator is away from the beginning, or the output cannot be written.
pub async fn run(global: &GlobalArguments, arguments: &TopArguments) -> Result<Outcome, CommandError> {
    let client = Client::connect(global).await?;
    let repeat = Repeat { watch: (!arguments.once).then_some(arguments.interval) };
    let table = |picture: &Picture| tables::top(picture, Utc::now(), output::terminal_width());
    repeat::print(global.output, repeat, async || look(&client).await, table).await
}

async fn look(client: &Client) -> Result<Picture, CommandError> {
    use v1::JobState::{Cancelling, Leased, Pausing, Queued, Running};
    let workers =
        rpc!(client, fleet.list_workers, "FleetService/ListWorkers", v1::ListWorkersRequest {})?.workers;
    let mut active = jobs(client, &[Leased, Running, Cancelling, Pausing], "").await?.jobs;
    active.sort_by(|a, b| (&a.worker_id, &a.label).cmp(&(&b.worker_id, &b.label)));
    // Of a long queue its front; a coordinator of an earlier version lists the newest first.
    let mut queued = jobs(client, &[Queued], "create_time").await?;
    queued.jobs.sort_by_key(|job| job.create_time.as_ref().map(|time| (time.seconds, time.nanos)));
    let mut waiting = Vec::new();
    for (index, job) in queued.jobs.into_iter().enumerate() {
        let mut reason = job.state_reason.clone();
        if index < EXPLAINED_MAX {
            let request = v1::ExplainJobRequest { id: job.id.clone() };
            reason = rpc!(client, jobs.explain_job, "JobService/ExplainJob", request)?.explanation;
        }
        waiting.push(Waiting { job, reason });
    }
    let request = v1::ListSearchesRequest { page_size: SEARCHES_MAX, ..Default::default() };
    let mut searches = rpc!(client, searches.list_searches, "SearchService/ListSearches", request)?.searches;
    searches.retain(|search| search.end_time.is_none());
    Ok(Picture { workers, active, waiting, more_wait: !queued.next_page_token.is_empty(), searches })
}

async fn jobs(
    client: &Client,
    states: &[v1::JobState],
    order_by: &str,
) -> Result<v1::ListJobsResponse, CommandError> {
    let request = v1::ListJobsRequest {
        states: states.iter().map(|state| i32::from(*state)).collect(),
        page_size: JOBS_MAX,
        order_by: order_by.to_owned(),
        ..Default::default()
    };
    rpc!(client, jobs.list_jobs, "JobService/ListJobs", request)
}
