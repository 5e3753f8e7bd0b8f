//! What clients ask for: jobs, searches, and their minds changed.
//!
//! Two kinds of jobs wait in one queue. Big ones need more memory than any
//! machine has, so that only fakes, which claim to have it, get them. They were
//! submitted first, so a fake finds one before it comes to the small ones, which
//! are trained by real workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cakes_proto::v1::job_service_client::JobServiceClient;
use cakes_proto::v1::search_service_client::SearchServiceClient;
use cakes_proto::v1::{self, SearchState, SubmitRetrainRequest, SubmitSearchRequest};
use futures::{StreamExt, TryStreamExt};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use uuid::Uuid;

use super::gang::{Crew, LABEL};
use super::history::{History, Wish};
use super::plant::Plant;
use super::schedule::Random;
use crate::fake::{FakeWorker, NoOp, Servers};
use crate::search::{Length, SHORT, tiny, training};
use crate::until;

/// Patches of one step of a job that only fakes can hold.
pub const BIG_BATCH: u32 = 4096;
/// Of a job that ends its trainer at once.
pub const POISON_SEED: u64 = 66_606;
/// Of a training that runs away.
pub const RUNAWAY_RATE: f64 = 99.0;
/// Between two searches.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60);
const CALLS_AT_A_TIME: usize = 12;
/// Longest pause between two tries of a client.
const PAUSE_LONGEST: Duration = Duration::from_secs(2);

/// A finished search whose architecture is retrained.
#[derive(Clone, Debug)]
struct Origin {
    search: String,
    digest: String,
}

/// A client that repeats calls until they are answered.
#[derive(Clone)]
pub struct Client {
    servers: Servers,
}

impl Client {
    pub fn new(servers: Servers) -> Self {
        Client { servers }
    }

    /// Repeats a call whose outcome is unknown.
    ///
    /// # Errors
    /// It is refused.
    pub async fn persist<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut pause = Duration::from_millis(100);
        loop {
            let (server, channel) = self.servers.current();
            let status = match call(channel).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            match status.code() {
                Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Unknown
                | Code::Internal
                | Code::Aborted
                | Code::ResourceExhausted => {}
                _ => return Err(status),
            }
            self.servers.leave(server);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }

    async fn submit_search(&self, request: SubmitSearchRequest) -> Result<String> {
        let call = |channel| {
            let request = request.clone();
            async move { SearchServiceClient::new(channel).submit_search(request).await }
        };
        Ok(self.persist(call).await?.search.context("no search")?.id)
    }

    async fn submit_retrain(&self, request: &SubmitRetrainRequest) -> Result<String, Status> {
        let call = |channel| {
            let request = request.clone();
            async move { JobServiceClient::new(channel).submit_retrain(request).await }
        };
        Ok(self.persist(call).await?.id)
    }

    /// Whether the wish was taken; a state that does not allow it is no fault.
    async fn wish(&self, job: Uuid, wish: Wish) -> Result<bool> {
        let id = job.to_string();
        let call = |channel| {
            let (mut client, id) = (JobServiceClient::new(channel), id.clone());
            async move {
                match wish {
                    Wish::Cancel => {
                        client
                            .cancel_job(v1::CancelJobRequest {
                                id,
                                reason: "chaos".into(),
                                ..v1::CancelJobRequest::default()
                            })
                            .await
                    }
                    Wish::Pause => {
                        client.pause_job(v1::PauseJobRequest { id, ..v1::PauseJobRequest::default() }).await
                    }
                    Wish::Resume => {
                        client
                            .resume_job(v1::ResumeJobRequest { id, ..v1::ResumeJobRequest::default() })
                            .await
                    }
                    Wish::Retry => {
                        client.retry_job(v1::RetryJobRequest { id, ..v1::RetryJobRequest::default() }).await
                    }
                }
            }
        };
        match self.persist(call).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::FailedPrecondition => Ok(false),
            Err(status) => Err(status.into()),
        }
    }
}

/// The people who use the service.
pub struct Clients {
    pub client: Client,
    history: Arc<History>,
    plant: Arc<Plant>,
    small: Origin,
    big: Origin,
    next: AtomicU64,
    tag: u64,
    stopped: AtomicBool,
}

impl Clients {
    /// Runs two small searches with a fake, so that there is something to retrain.
    ///
    /// # Errors
    /// They do not end.
    pub async fn start(plant: Arc<Plant>, history: Arc<History>, seed: u64) -> Result<Arc<Self>> {
        let client = Client::new(Plant::servers(&plant.client_proxies, 0)?);
        let small = first_search(&client, &plant, &history, "small", 16).await?;
        let big = first_search(&client, &plant, &history, "big", 64).await?;
        let clients = Clients {
            client,
            history,
            plant,
            small,
            big,
            next: AtomicU64::new(1),
            tag: seed,
            stopped: AtomicBool::new(false),
        };
        Ok(Arc::new(clients))
    }

    /// No new jobs from now on.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn request(&self) -> (u64, String) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number, format!("chaos-{}-{number}", self.tag))
    }

    /// Queues a job that only fakes can hold.
    ///
    /// # Errors
    /// It is refused.
    pub async fn submit_big(&self, steps: u32) -> Result<Uuid> {
        let training = json!({ "epochs": 1, "steps_per_epoch": steps, "batch_size": BIG_BATCH });
        let (seed, request_id) = self.request();
        self.submit(&self.big, training, seed, request_id).await
    }

    /// Queues a job that trains for seconds.
    ///
    /// # Errors
    /// It is refused.
    pub async fn submit_small(&self, length: Length) -> Result<Uuid> {
        let (seed, request_id) = self.request();
        self.submit(&self.small, training(length), seed, request_id).await
    }

    /// Queues a job that ends every trainer.
    ///
    /// # Errors
    /// It is refused.
    pub async fn submit_poison(&self) -> Result<Uuid> {
        let (_, request_id) = self.request();
        self.submit(&self.small, training(SHORT), POISON_SEED, request_id).await
    }

    /// Queues a job whose loss is not finite after some steps.
    ///
    /// # Errors
    /// It is refused.
    pub async fn submit_runaway(&self) -> Result<Uuid> {
        let mut training = training(Length { epochs: 8, steps_per_epoch: 10, checkpoint_every_epochs: 1 });
        training["sgd"] = json!({ "learning_rate": 100.0, "weight_decay": 1.0 });
        training["constant"] = json!({});
        training["gradient_clip_norm"] = json!(0.0);
        training["warmup_steps"] = json!(0);
        let (seed, request_id) = self.request();
        self.submit(&self.small, training, seed, request_id).await
    }

    /// A request for a small job, for whoever wants to send it by himself.
    ///
    /// # Errors
    /// The description is malformed.
    pub fn small_request(&self) -> Result<SubmitRetrainRequest> {
        let (seed, request_id) = self.request();
        retrain(
            &self.big,
            json!({ "epochs": 1, "steps_per_epoch": 4, "batch_size": BIG_BATCH }),
            seed,
            request_id,
        )
    }

    async fn submit(
        &self,
        origin: &Origin,
        training: serde_json::Value,
        seed: u64,
        request_id: String,
    ) -> Result<Uuid> {
        self.submit_request(&retrain(origin, training, seed, request_id)?).await
    }

    /// Submits until it is acknowledged.
    ///
    /// # Errors
    /// It is refused.
    pub async fn submit_request(&self, request: &SubmitRetrainRequest) -> Result<Uuid> {
        let id = self.client.submit_retrain(request).await.context("submit a job")?;
        self.history.submitted(&request.request_id, false, &id);
        if request.seed.is_multiple_of(5) {
            // A client that has lost its answer asks again.
            let again = self.client.submit_retrain(request).await.context("submit a job again")?;
            self.history.submitted(&request.request_id, false, &again);
        }
        id.parse().context("a job's id is no UUID")
    }

    async fn submit_search(&self) -> Result<String> {
        let (number, request_id) = self.request();
        let mut file = tiny(&format!("chaos-{number}"), SHORT, SHORT);
        file["request_id"] = json!(request_id);
        file["search"]["budgets"] = json!([0.5]);
        file["search"]["baselines"] = json!([]);
        let id = self.client.submit_search(serde_json::from_value(file)?).await?;
        self.history.submitted(&request_id, true, &id);
        Ok(id)
    }

    /// Sees to it that a search whose jobs are spread over this crew has not ended. Real workers are
    /// enough for one if there are two.
    ///
    /// # Errors
    /// It is refused, or the database fails.
    pub async fn keep_gang(&self, crew: Crew) -> Result<()> {
        if crew == Crew::Real && self.plant.sizes.workers < 2 {
            return Ok(());
        }
        let statement = "select exists (
            select from search where end_time is null and worker_labels ->> $1::text = $2
        )";
        let query = sqlx::query_scalar(statement).bind(LABEL).bind(crew.label());
        let is_there: bool = query.fetch_one(&self.plant.pool).await?;
        if is_there {
            return Ok(());
        }
        let (number, request_id) = self.request();
        let file = serde_json::from_value(crew.search(number, &request_id))?;
        let id = self.client.submit_search(file).await?;
        self.history.submitted(&request_id, true, &id);
        Ok(())
    }

    /// Wishes something of a job until it is answered.
    ///
    /// # Errors
    /// It is refused for another reason than the job's state.
    pub async fn wish(&self, job: Uuid, wish: Wish) -> Result<bool> {
        let taken = self.client.wish(job, wish).await.with_context(|| format!("{wish:?} {job}"))?;
        if taken {
            self.history.wished(job, wish);
        }
        Ok(taken)
    }

    /// Keeps the queue filled until stopped.
    ///
    /// # Errors
    /// A submission is refused.
    pub async fn submit_on(self: Arc<Self>) -> Result<()> {
        let mut random = Random::new(self.tag ^ 0xc11e);
        let mut last_search: Option<Instant> = None;
        while !self.is_stopped() {
            let waiting = self.small_waiting().await.unwrap_or(i64::MAX);
            for _ in waiting..=self.plant.sizes.workers as i64 {
                self.submit_small(work_length(&mut random)).await?;
            }
            // Behind all others: what counts is that it is acknowledged.
            self.submit_big(40).await?;
            if last_search.is_none_or(|last| last.elapsed() > SEARCH_INTERVAL) {
                self.submit_search().await?;
                for crew in Crew::ALL {
                    match self.keep_gang(crew).await {
                        // The database is away: at the next time.
                        Err(error) if error.is::<sqlx::Error>() => {}
                        kept => kept?,
                    }
                }
                last_search = Some(Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    /// Queues big jobs, several at a time, before all others.
    ///
    /// # Errors
    /// One is refused.
    pub async fn fill(&self, count: usize) -> Result<()> {
        let mut random = Random::new(self.tag ^ 0xf111);
        let lengths: Vec<u32> = (0..count).map(|_| 40 + random.below(40) as u32).collect();
        let submitting = futures::stream::iter(lengths).map(|steps| self.submit_big(steps));
        submitting.buffer_unordered(CALLS_AT_A_TIME).try_for_each(|_| async { Ok(()) }).await
    }

    /// Small jobs that wait.
    async fn small_waiting(&self) -> Result<i64> {
        let statement = "select count(*) from job where state = 'queued' and not spreads and memory_mib < $1";
        Ok(sqlx::query_scalar(statement).bind(BIG_MIB).fetch_one(&self.plant.pool).await?)
    }

    /// Changes minds about random jobs until stopped.
    ///
    /// # Errors
    /// A wish is refused for another reason than the job's state.
    pub async fn change_minds(self: Arc<Self>) -> Result<()> {
        let mut random = Random::new(self.tag ^ 0x3117d);
        while !self.is_stopped() {
            tokio::time::sleep(Duration::from_millis(300 + random.below(1_200))).await;
            let wish = match random.below(8) {
                0 => Wish::Cancel,
                1 | 2 => Wish::Pause,
                3..=5 => Wish::Resume,
                _ => Wish::Retry,
            };
            let states: &[&str] = match wish {
                Wish::Cancel | Wish::Pause => &["queued", "leased", "running"],
                Wish::Resume => &["paused", "pausing"],
                Wish::Retry => &["failed", "cancelled"],
            };
            let job = self.random_job(states, &mut random).await;
            if let Ok(Some(job)) = job {
                self.wish(job, wish).await?;
            }
        }
        Ok(())
    }

    /// A job that was submitted alone, in one of these states.
    async fn random_job(&self, states: &[&str], random: &mut Random) -> Result<Option<Uuid>> {
        let statement = "select id from job where state = any($1) and search_id is null and seed <> $2
            and numeric_count = 0
            order by md5(id::text || $3) limit 1";
        let states: Vec<String> = states.iter().map(|state| (*state).to_owned()).collect();
        Ok(sqlx::query_scalar(statement)
            .bind(states)
            .bind(POISON_SEED as i64)
            .bind(random.next().to_string())
            .fetch_optional(&self.plant.pool)
            .await?)
    }

    /// Lets all that waits come to its end: paused jobs are resumed, most of the
    /// waiting big ones cancelled.
    ///
    /// # Errors
    /// A wish is refused for another reason than the job's state.
    pub async fn wind_up(&self) -> Result<()> {
        let queued =
            "select id from job where state = 'queued' and memory_mib > $1 order by position offset 10";
        let queued: Vec<Uuid> = sqlx::query_scalar(queued).bind(BIG_MIB).fetch_all(&self.plant.pool).await?;
        let cancelling = futures::stream::iter(queued).map(|job| self.wish(job, Wish::Cancel));
        cancelling.buffer_unordered(CALLS_AT_A_TIME).try_for_each(|_| async { Ok(()) }).await?;
        self.resume_all().await
    }

    /// # Errors
    /// A wish is refused for another reason than the job's state.
    pub async fn resume_all(&self) -> Result<()> {
        let paused = "select id from job where state in ('paused', 'pausing')";
        let paused: Vec<Uuid> = sqlx::query_scalar(paused).fetch_all(&self.plant.pool).await?;
        for job in paused {
            self.wish(job, Wish::Resume).await?;
        }
        Ok(())
    }
}

/// More than any machine has that runs this, less than fakes claim to have.
const BIG_MIB: i64 = 100_000;

fn work_length(random: &mut Random) -> Length {
    Length { epochs: 4 + random.below(4) as u32, steps_per_epoch: 10, checkpoint_every_epochs: 1 }
}

fn retrain(
    origin: &Origin,
    training: serde_json::Value,
    seed: u64,
    request_id: String,
) -> Result<SubmitRetrainRequest> {
    Ok(SubmitRetrainRequest {
        request_id,
        architecture_digest: origin.digest.clone(),
        search_id: origin.search.clone(),
        training: Some(serde_json::from_value(training).context("a training's description")?),
        seed,
        ..SubmitRetrainRequest::default()
    })
}

/// Runs a search with a fake worker.
async fn first_search(
    client: &Client,
    plant: &Plant,
    history: &Arc<History>,
    name: &str,
    extent: u32,
) -> Result<Origin> {
    let mut file = tiny(&format!("first-{name}"), SHORT, SHORT);
    let extent = json!({ "depth": extent, "height": extent, "width": extent });
    file["search"]["dataset"]["phantoms"]["extent"] = extent.clone();
    file["search"]["patch"] = extent;
    file["search"]["budgets"] = json!([0.5]);
    file["search"]["baselines"] = json!([]);
    let request_id = format!("first-{name}");
    file["request_id"] = json!(request_id);
    let search = client.submit_search(serde_json::from_value(file)?).await?;
    history.submitted(&request_id, true, &search);
    let servers = Plant::servers(&plant.client_proxies, 0)?;
    let patience = Duration::from_secs(60);
    let worker = FakeWorker::register(servers, &format!("first-{name}"), patience, history.clone()).await?;
    let found = until("the first search ends", Duration::from_secs(120), async || {
        while let Some(mut attempt) = worker.acquire().await? {
            let noop = NoOp::of_json(&attempt.trainer_job_json)?;
            worker.run(&mut attempt, &noop).await?;
        }
        let call = |channel| {
            let request = v1::GetSearchRequest { id: search.clone(), ..v1::GetSearchRequest::default() };
            async move { SearchServiceClient::new(channel).get_search(request).await }
        };
        let found = client.persist(call).await?;
        if found.state() == SearchState::Failed {
            bail!("the first search failed: {}", found.state_reason);
        }
        Ok((found.state() == SearchState::Succeeded).then_some(found))
    })
    .await?;
    let digest = found.jobs.into_iter().map(|job| job.architecture_digest).find(|digest| !digest.is_empty());
    let digest = digest.context("the first search retrained nothing")?;
    ensure!(!search.is_empty(), "the first search has no id");
    Ok(Origin { search, digest })
}
