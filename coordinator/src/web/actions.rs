//! What holders of a token may do. Each action is that of the gRPC API, behind the
//! table of roles, and leaves a row in the record.

use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use cakes_proto::v1;
use cakes_proto::v1::job_service_server::JobService;
use cakes_proto::v1::search_service_server::SearchService;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tonic::{Request, Status};

use super::Web;
use super::access::Caller;
use super::answer::{Failure, json as answer};
use super::views::JobView;
use crate::audit::limits_of_job;
use crate::core::access::{Action, changes};
use crate::core::rights as api;
use crate::grpc::lookup;
use crate::store::read::jobs;

/// Most jobs that one request queues.
const JOBS_MAX: usize = 64;
const REQUEST_ID_CHARS_MAX: usize = 64;

/// Whoever asks the page for something that the API does.
struct OnBehalf(api::Caller);

impl OnBehalf {
    /// A request as if they had called the API themselves.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(self.0.clone());
        request
    }
}

/// The body of a request; an empty one is `{}`.
///
/// # Errors
/// It is not what is expected.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| Failure::invalid("body", error))
}

impl Web {
    /// Does it if the caller's role permits it, and records the answer; also where the
    /// caller has gone meanwhile. That it is begun is recorded before, or it is not done.
    async fn act<F>(
        &self,
        caller: Caller,
        action: Action,
        object: &str,
        work: impl FnOnce(Web, OnBehalf) -> F + Send + 'static,
    ) -> Result<Response, Failure>
    where
        F: Future<Output = Result<Value, Failure>> + Send + 'static,
    {
        self.act_within(String::new(), caller, action, object, work).await
    }

    /// The same for what sets limits, which are recorded, too.
    async fn act_within<F>(
        &self,
        limits: String,
        caller: Caller,
        action: Action,
        object: &str,
        work: impl FnOnce(Web, OnBehalf) -> F + Send + 'static,
    ) -> Result<Response, Failure>
    where
        F: Future<Output = Result<Value, Failure>> + Send + 'static,
    {
        let (web, object) = (self.clone(), object.to_owned());
        let task = self.tasks.spawn(async move {
            let begun = match caller.may(action) {
                Ok(()) if changes(action) => {
                    web.begin(&caller, action.as_str(), &object, &limits).await.map(Some)
                }
                allowed => allowed.map(|()| None),
            };
            let (begun, done) = match begun {
                Ok(begun) => (begun, web.in_turn(work(web.clone(), OnBehalf(caller.of_api()))).await),
                Err(refused) => (None, Err(refused)),
            };
            let outcome = done.as_ref().map(|_| limits.as_str());
            web.record_outcome(&caller, action.as_str(), &object, outcome, begun).await;
            done
        });
        let done = task.await.unwrap_or_else(|error| Err(Failure::broken(&error)))?;
        answer(&HeaderMap::new(), &done)
    }

    /// Without a limit of time: what was begun is answered for.
    async fn in_turn<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        // The semaphore is never closed.
        let _permit = self.questions.acquire().await.map_err(|_| Failure::overloaded())?;
        work.await
    }

    async fn job_view(&self, id: &str) -> Result<JobView, Failure> {
        let id = lookup::job(&self.pool, "id", id).await?;
        Ok(JobView::from(jobs::get(&self.pool, id).await?))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

pub(super) async fn cancel_job(
    State(web): State<Web>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let object = id.clone();
    web.act(caller, Action::CancelJob, &object, async move |web: Web, by: OnBehalf| {
        let Reason { reason } = read(&body)?;
        let request = v1::CancelJobRequest { id: id.clone(), reason, ..v1::CancelJobRequest::default() };
        let cancelled = web.api.cancel_job(by.request(request)).await;
        let job = match cancelled {
            Ok(_) => web.job_view(&id).await?,
            Err(status) => return Err(ended_first(&web, &id, status.into()).await),
        };
        Ok(json!({ "job": job }))
    })
    .await
}

/// Says so where the job has ended before it could be cancelled.
async fn ended_first(web: &Web, id: &str, refused: Failure) -> Failure {
    if refused.code() != "WRONG_STATE" {
        return refused;
    }
    match web.job_view(id).await {
        Ok(job) if job.end_time.is_some() => {
            let message = format!("the job completed first: it has {}, and nothing was cancelled", job.state);
            Failure::new(StatusCode::CONFLICT, "WRONG_STATE", message)
        }
        _ => refused,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resumption {
    /// New limit of what it may take; as it was without one.
    cost_limit_device_hours: Option<f64>,
}

pub(super) async fn resume_job(
    State(web): State<Web>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let object = id.clone();
    let request = read::<Resumption>(&body).map(|Resumption { cost_limit_device_hours }| {
        v1::ResumeJobRequest { id: id.clone(), cost_limit_device_hours, ..v1::ResumeJobRequest::default() }
    });
    let limits = request.as_ref().map(limits_of_job).unwrap_or_default();
    web.act_within(limits, caller, Action::ResumeJob, &object, async move |web: Web, by: OnBehalf| {
        web.api.resume_job(by.request(request?)).await?;
        Ok(json!({ "job": web.job_view(&id).await? }))
    })
    .await
}

/// What a person wishes of a job, without more words.
#[derive(Clone, Copy)]
pub(super) enum JobWish {
    Pause,
    Retry,
}

impl JobWish {
    fn action(self) -> Action {
        match self {
            JobWish::Pause => Action::PauseJob,
            JobWish::Retry => Action::RetryJob,
        }
    }

    async fn tell(self, web: &Web, by: &OnBehalf, id: String) -> Result<(), Status> {
        match self {
            JobWish::Pause => web
                .api
                .pause_job(by.request(v1::PauseJobRequest { id, ..v1::PauseJobRequest::default() }))
                .await
                .map(drop),
            JobWish::Retry => web
                .api
                .retry_job(by.request(v1::RetryJobRequest { id, ..v1::RetryJobRequest::default() }))
                .await
                .map(drop),
        }
    }

    /// The handler of the wish.
    pub(super) async fn handle(
        self,
        State(web): State<Web>,
        Extension(caller): Extension<Caller>,
        Path(id): Path<String>,
        body: Bytes,
    ) -> Result<Response, Failure> {
        let object = id.clone();
        web.act(caller, self.action(), &object, async move |web: Web, by: OnBehalf| {
            let Nothing {} = read(&body)?;
            self.tell(&web, &by, id.clone()).await?;
            Ok(json!({ "job": web.job_view(&id).await? }))
        })
        .await
    }
}

pub(super) async fn cancel_search(
    State(web): State<Web>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let object = id.clone();
    web.act(caller, Action::CancelSearch, &object, async move |web: Web, by: OnBehalf| {
        let Reason { reason } = read(&body)?;
        let cancelled = web
            .api
            .cancel_search(by.request(v1::CancelSearchRequest {
                id,
                reason,
                ..v1::CancelSearchRequest::default()
            }))
            .await?;
        let search = cancelled.into_inner();
        let live = search.jobs.iter().filter(|job| job.end_time.is_none()).count();
        Ok(json!({ "search": { "id": search.id, "state": "cancelled", "live_count": live } }))
    })
    .await
}

/// What to derive from the scores of a search's supernet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Wish {
    /// Fractions of what the all-3x3x3 network costs.
    budgets: Vec<f64>,
    /// Also by the paper's rule.
    unconstrained: bool,
    /// What budgets are fractions of; the search's own without it.
    measure: Option<v1::CostMeasure>,
    count_multiple: Option<u32>,
}

impl Wish {
    fn request(self, id: String, validate_only: bool) -> v1::DeriveArchitecturesRequest {
        let Wish { budgets, unconstrained, measure, count_multiple } = self;
        let measure = measure.unwrap_or_default().into();
        v1::DeriveArchitecturesRequest { id, budgets, unconstrained, measure, count_multiple, validate_only }
    }
}

pub(super) async fn preview_derivation(
    State(web): State<Web>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let object = id.clone();
    web.act(caller, Action::PreviewDerivation, &object, async move |web: Web, by: OnBehalf| {
        let request = read::<Wish>(&body)?.request(id, true);
        let mut found = web.api.derive_architectures(by.request(request)).await?.into_inner();
        without_layer_costs(&mut found);
        Ok(json!(found))
    })
    .await
}

fn without_layer_costs(found: &mut v1::DeriveArchitecturesResponse) {
    for cost in found.architectures.iter_mut().filter_map(|architecture| architecture.cost.as_mut()) {
        cost.layers.clear();
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retrainings {
    derive: Wish,
    seeds: Vec<u64>,
    /// A repetition of the request gets the jobs of the first.
    request_id: String,
}

impl Retrainings {
    fn check(&self) -> Result<(), Failure> {
        let count = self.derive.budgets.len() + usize::from(self.derive.unconstrained);
        if self.seeds.is_empty() {
            return Err(Failure::invalid("seeds", "give at least one"));
        }
        if count * self.seeds.len() > JOBS_MAX {
            let problem = format!(
                "{count} architectures with {} seeds are more than {JOBS_MAX} jobs; ask several times",
                self.seeds.len()
            );
            return Err(Failure::invalid("seeds", problem));
        }
        let is_name = |char: char| char.is_ascii_alphanumeric() || char == '-';
        if !(1..=REQUEST_ID_CHARS_MAX).contains(&self.request_id.len())
            || !self.request_id.chars().all(is_name)
        {
            let problem = format!("must be 1 to {REQUEST_ID_CHARS_MAX} letters, digits and -");
            return Err(Failure::invalid("request_id", problem));
        }
        Ok(())
    }
}

/// Derives, and queues a retraining of each architecture, as `cakes search derive
/// --retrain` does.
pub(super) async fn queue_retrainings(
    State(web): State<Web>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let object = id.clone();
    web.act(caller, Action::QueueRetrainings, &object, async move |web: Web, by: OnBehalf| {
        let wish: Retrainings = read(&body)?;
        wish.check()?;
        let Retrainings { derive, seeds, request_id } = wish;
        let request = by.request(derive.request(id.clone(), false));
        let mut derived = web.api.derive_architectures(request).await?.into_inner();
        without_layer_costs(&mut derived);
        let mut digests: Vec<_> = derived.architectures.iter().map(|found| found.digest.clone()).collect();
        digests.sort_unstable();
        digests.dedup();
        let mut queued = Vec::new();
        for digest in digests {
            for seed in &seeds {
                let request = v1::SubmitRetrainRequest {
                    request_id: format!("web-{request_id}-{}-{seed}", &digest[..12.min(digest.len())]),
                    search_id: id.clone(),
                    architecture_digest: digest.clone(),
                    seed: *seed,
                    ..v1::SubmitRetrainRequest::default()
                };
                let job = web.api.submit_retrain(by.request(request)).await?.into_inner();
                queued.push(web.job_view(&job.id).await?);
            }
        }
        Ok(json!({ "derived": derived, "jobs": queued }))
    })
    .await
}
