//! A coordinator on a durable Postgres, with a finished search whose architecture
//! can be retrained as often as wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cakes_proto::v1::{SearchState, SubmitRetrainRequest};
use futures::{StreamExt, TryStreamExt};
use tonic::transport::Channel;

use super::Place;
use super::postgres::Database;
use super::usage::{Cpu, expect_a_disk};
use crate::fake::{FakeWorker, NoOp, Recorder, Transcript, connect};
use crate::search::{SHORT, tiny};
use crate::{Api, Cluster, Options, until};

/// How long a fake worker repeats a call whose outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(60);

/// Jobs that are submitted at a time.
const SUBMITTED_AT_A_TIME: usize = 16;

pub struct Rig {
    pub cluster: Cluster,
    pub database: Database,
    pub api: Api,
    /// What every job of the bench would hand in.
    pub noop: Arc<NoOp>,
    /// A finished job like those of the bench.
    pub finished_job: String,
    search: String,
    digest: String,
    seed: AtomicU64,
}

impl Rig {
    /// Starts everything and runs one small search to its end.
    ///
    /// # Errors
    /// Something does not start or serve, or commits would not wait for a disk.
    pub async fn start(place: &Place, report_interval: Duration) -> Result<Self> {
        expect_a_disk(&place.parent)?;
        let options = Options {
            workers: &[],
            durable: true,
            lease_ttl: Duration::from_secs(60),
            report_interval: Some(report_interval),
            ..Options::default()
        };
        let cluster = Cluster::start_in(&place.parent, options)?;
        let database = Database::of(&cluster)?;
        let settings = "select string_agg(current_setting(name), ' ') from unnest(
            array['fsync', 'synchronous_commit', 'full_page_writes']) name";
        let settings = database.run(settings).await?;
        ensure!(settings.trim() == "on on on", "the database is not durable: {settings}");
        let api = cluster.api()?;
        let (search, digest, noop) = run_search(&api, &cluster.url()).await?;
        let mut rig = Rig {
            cluster,
            database,
            api,
            noop: Arc::new(noop),
            finished_job: String::new(),
            search,
            digest,
            seed: AtomicU64::new(1),
        };
        rig.finished_job = rig.submit(1).await?.pop().context("no job was submitted")?;
        let worker =
            rig.worker(connect(&rig.cluster.url())?, "first", Arc::new(Transcript::default())).await?;
        let mut attempt = worker.acquire().await?.context("the submitted job is not offered")?;
        ensure!(attempt.token.job_id == rig.finished_job, "another job than the submitted one is offered");
        worker.run(&mut attempt, &rig.noop).await?;
        Ok(rig)
    }

    /// Registers a fake worker.
    pub async fn worker(
        &self,
        channel: Channel,
        id: &str,
        recorder: Arc<dyn Recorder>,
    ) -> Result<FakeWorker> {
        Ok(FakeWorker::register(channel, id, PATIENCE, recorder).await?)
    }

    /// Queues jobs through the API, several at a time; their ids.
    pub async fn submit(&self, count: u32) -> Result<Vec<String>> {
        let requests = (0..count).map(|_| SubmitRetrainRequest {
            architecture_digest: self.digest.clone(),
            search_id: self.search.clone(),
            seed: self.seed.fetch_add(1, Ordering::Relaxed),
            ..SubmitRetrainRequest::default()
        });
        let submit = |request: SubmitRetrainRequest| {
            let mut jobs = self.api.jobs();
            async move { jobs.submit_retrain(request).await.map(|job| job.into_inner().id) }
        };
        let submitting = futures::stream::iter(requests).map(submit).buffer_unordered(SUBMITTED_AT_A_TIME);
        Ok(submitting.try_collect().await?)
    }

    /// Succeeded jobs with a result and a metric row each.
    pub async fn succeeded(&self) -> Result<u64> {
        self.database
            .number(
                "select count(*) from job join result on result.job_id = job.id
                 where state = 'succeeded' and exists (select from metric where metric.job_id = job.id)",
            )
            .await
    }

    pub fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu::read(self.cluster.coordinator_pid()?, self.cluster.database_pid()?))
    }
}

/// Runs a search with a fake worker: its id, the digest of one architecture, and
/// the result of that architecture's retraining.
async fn run_search(api: &Api, url: &str) -> Result<(String, String, NoOp)> {
    let mut file = tiny("bench", SHORT, SHORT);
    file["search"]["budgets"] = serde_json::json!([0.5]);
    file["search"]["baselines"] = serde_json::json!([]);
    let search = api.submit(&file).await?.search.context("no search")?.id;
    let transcript = Arc::new(Transcript::default());
    let worker = FakeWorker::register(connect(url)?, "search", PATIENCE, transcript).await?;
    let mut last = None;
    until("the search ends", Duration::from_secs(60), async || {
        while let Some(mut attempt) = worker.acquire().await? {
            let noop = NoOp::of_json(&attempt.trainer_job_json)?;
            worker.run(&mut attempt, &noop).await?;
            last = Some(noop);
        }
        let state = api.search(&search).await?.state();
        if state == SearchState::Failed {
            bail!("the search failed");
        }
        Ok((state == SearchState::Succeeded).then_some(()))
    })
    .await?;
    let jobs = api.search(&search).await?.jobs;
    let digest = jobs.into_iter().map(|job| job.architecture_digest).find(|digest| !digest.is_empty());
    Ok((search, digest.context("the search retrained nothing")?, last.context("the search had no job")?))
}
