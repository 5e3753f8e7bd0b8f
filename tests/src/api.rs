//! The API as a client sees it, over real connections.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use cakes_proto::v1::architecture_service_client::ArchitectureServiceClient;
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use cakes_proto::v1::job_service_client::JobServiceClient;
use cakes_proto::v1::search_service_client::SearchServiceClient;
use cakes_proto::v1::worker_service_client::WorkerServiceClient;
use cakes_proto::v1::{
    ExplainJobRequest, ExplainJobResponse, GetParetoFrontRequest, GetSearchRequest, Job, JobKind, JobState,
    ParetoFront, Search, SearchState, SubmitSearchRequest, SubmitSearchResponse,
};
use cakes_tls::client::{ClientFiles, Connector};
use tonic::transport::{Channel, Endpoint};

use crate::until;

/// Clients of all services on one connection, which is made anew when it breaks.
#[derive(Clone, Debug)]
pub struct Api {
    channel: Channel,
}

impl Api {
    pub(crate) fn new(url: &str, files: &ClientFiles) -> Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?.timeout(Duration::from_secs(10));
        Ok(Api { channel: Connector::new(files.clone()).connect_lazy(&endpoint) })
    }

    pub fn searches(&self) -> SearchServiceClient<Channel> {
        SearchServiceClient::new(self.channel.clone())
    }

    pub fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    pub fn architectures(&self) -> ArchitectureServiceClient<Channel> {
        ArchitectureServiceClient::new(self.channel.clone())
    }

    pub fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel.clone())
    }

    pub fn worker(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone())
    }

    /// Submits the content of a search file.
    ///
    /// # Errors
    /// It is refused.
    pub async fn submit(&self, file: &serde_json::Value) -> Result<SubmitSearchResponse> {
        let request: SubmitSearchRequest = serde_json::from_value(file.clone())?;
        Ok(self.searches().submit_search(request).await?.into_inner())
    }

    /// # Errors
    /// There is no such search.
    pub async fn search(&self, id: &str) -> Result<Search> {
        Ok(self
            .searches()
            .get_search(GetSearchRequest { id: id.to_owned(), ..GetSearchRequest::default() })
            .await?
            .into_inner())
    }

    /// # Errors
    /// There is no such search.
    pub async fn front(&self, id: &str) -> Result<ParetoFront> {
        let request = GetParetoFrontRequest { id: id.to_owned() };
        Ok(self.searches().get_pareto_front(request).await?.into_inner())
    }

    /// # Errors
    /// There is no such job.
    pub async fn explain(&self, job: &str) -> Result<ExplainJobResponse> {
        Ok(self.jobs().explain_job(ExplainJobRequest { id: job.to_owned() }).await?.into_inner())
    }

    /// Waits until a job of the search is as wanted. A coordinator that is
    /// away for a moment is waited for.
    ///
    /// # Errors
    /// It does not happen in time, or the search has failed.
    pub async fn until_job(&self, search: &str, what: &str, wanted: impl Fn(&Job) -> bool) -> Result<Job> {
        let mut last = String::new();
        let found = until(what, Duration::from_secs(60), async || {
            let Ok(found) = self.search(search).await else { return Ok(None) };
            last = show(&found);
            if matches!(found.state(), SearchState::Failed | SearchState::Succeeded) {
                bail!("the search is over before {what}");
            }
            Ok(found.jobs.into_iter().find(|job| wanted(job)))
        });
        found.await.with_context(|| last)
    }

    /// Waits until the search has ended as wanted.
    ///
    /// # Errors
    /// It ends otherwise, or not in time.
    pub async fn until_ended(&self, search: &str, wanted: SearchState) -> Result<Search> {
        let is_final =
            |state| matches!(state, SearchState::Succeeded | SearchState::Failed | SearchState::Cancelled);
        let ended = until("the search ends", Duration::from_secs(180), async || {
            let Ok(found) = self.search(search).await else { return Ok(None) };
            Ok(is_final(found.state()).then_some(found))
        })
        .await?;
        if ended.state() != wanted {
            bail!("the search should end as {wanted:?}: {}", show(&ended));
        }
        Ok(ended)
    }
}

/// A running job that could go on from a checkpoint, and is not yet at its end.
pub fn can_be_interrupted(job: &Job) -> bool {
    let progress = job.progress.clone().unwrap_or_default();
    job.state() == JobState::Running
        && progress.checkpoint_step > 0
        && progress.step * 4 < progress.step_count * 3
}

/// State of a search and its jobs, one line each, for messages.
pub fn show(search: &Search) -> String {
    let job = |job: &Job| {
        let progress = job.progress.clone().unwrap_or_default();
        format!(
            "{} {:?} on '{}', attempt {}, step {} (saved {}) {}",
            job.label,
            job.state(),
            job.worker_id,
            job.attempt_count,
            progress.step,
            progress.checkpoint_step,
            job.state_reason
        )
    };
    let jobs: Vec<String> = search.jobs.iter().map(job).collect();
    format!("{} {:?} {}\n  {}", search.id, search.state(), search.state_reason, jobs.join("\n  "))
}

/// The supernet's job.
///
/// # Errors
/// There is none.
pub fn supernet(search: &Search) -> Result<&Job> {
    search.jobs.iter().find(|job| job.kind() == JobKind::Supernet).context("the search has no supernet job")
}
