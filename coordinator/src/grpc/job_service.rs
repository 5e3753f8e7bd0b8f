//! Jobs, their logs and their curves.

use cakes::spec::{InitialWeights, Violation};
use cakes_proto::convert::training_from_wire;
use cakes_proto::ids::JobId;
use cakes_proto::v1;
use cakes_proto::v1::job_service_server::JobService;
use tonic::{Request, Response, Status};

use super::paging::{Page, Position, SIZE_MAX, filter, order_by};
use super::search_service::{REASON_CHARS_MAX, request_id_if_given};
use super::status::invalid_field;
use super::stream::{Messages, News, Then, Watched};
use super::{Api, gate, labels, lookup, resume, values, wire};
use crate::core::explain::explain;
use crate::core::filter::JOB_FIELDS;
use crate::core::job::JobState;
use crate::core::retention::Policy;
use crate::store::jobs as writes;
use crate::store::notes::Subject;
use crate::store::read::logs::LogPosition;
use crate::store::read::metrics::CurvePoint;
use crate::store::read::{
    attempts, checkpoint, explain as reasons, jobs, logs, metrics, notes, searches, trainer_job,
};
use crate::store::{PgPool, checkpoints};

/// What masks of jobs choose from.
const JOB: &str = "cakes.v1.Job";
const LOG_LINES_PER_LOOK: i64 = 500;
const POINTS_DEFAULT: i32 = 1000;
const POINTS_MAX: i32 = 10_000;
const KEYS_MAX: usize = 100;
pub(super) const METRIC_KEY_CHARS_MAX: usize = 128;

#[tonic::async_trait]
impl JobService for Api {
    type WatchJobStream = Messages<v1::Job>;
    type StreamJobLogsStream = Messages<v1::LogLine>;

    async fn submit_retrain(
        &self,
        request: Request<v1::SubmitRetrainRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let (_, extensions, request) = request.into_parts();
        let owner = gate::caller(&extensions)?.owner().map(str::to_owned);
        let pool = self.reader();
        let search = lookup::search(pool, "search_id", &request.search_id).await?;
        self.refuse_outsider_of_search(&extensions, search).await?;
        let training = match request.training {
            // Defaults depend on what is trained on.
            Some(training) => {
                let is_video = searches::get(pool, search).await?.spec.spec().dataset.is_video();
                let wrong =
                    |found: Violation| invalid_field(format!("training.{}", found.field), found.problem);
                Some(training_from_wire(training, is_video).map_err(wrong)?)
            }
            None => None,
        };
        let retrain = writes::Retrain {
            request_id: request_id_if_given(request.request_id)?,
            digest: lookup::architecture(pool, "architecture_digest", &request.architecture_digest).await?,
            search,
            training,
            initial_weights: initial_weights(request.initial_weights)?,
            seed: request.seed,
            labels: labels::checked("labels", request.labels)?,
            owner,
            trace: extensions.get().cloned(),
        };
        self.queue.add_job(self.reader()).await?;
        let id = self
            .write_then_plan(move |pool| async move { writes::submit_retrain(&pool, &retrain).await })
            .await?;
        self.answer(id).await
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        let v1::GetJobRequest { id, read_mask } = request.into_inner();
        let mask = values::read_mask(read_mask, JOB)?;
        let id = lookup::job(self.reader(), "id", &id).await?;
        Ok(Response::new(mask.apply(load(self.reader(), id).await?)))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::Checkpoint>, Status> {
        let id = lookup::job(self.reader(), "id", &request.into_inner().id).await?;
        let found = checkpoint::of_job(self.reader(), id).await?;
        Ok(Response::new(v1::Checkpoint {
            job_id: id.to_string(),
            step: wire::count(found.step),
            artifact_url: self.artifact_url.clone(),
            key: found.key,
            manifest_sha256: found.manifest_sha256,
            bytes: wire::count(found.bytes),
            is_result: found.is_result,
        }))
    }

    async fn list_checkpoints(
        &self,
        request: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let id = lookup::job(self.reader(), "id", &request.into_inner().id).await?;
        self.checkpoints(id).await
    }

    async fn pin_checkpoint(
        &self,
        request: Request<v1::PinCheckpointRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::PinCheckpointRequest { id, step } = request;
        let (id, step) = (lookup::job(self.reader(), "id", &id).await?, values::signed("step", step)?);
        self.refuse_others_job(&extensions, id).await?;
        self.write(move |pool| async move { checkpoints::pin(&pool, id, step).await }).await?;
        self.checkpoints(id).await
    }

    async fn unpin_checkpoint(
        &self,
        request: Request<v1::UnpinCheckpointRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::UnpinCheckpointRequest { id, step } = request;
        let (id, step) = (lookup::job(self.reader(), "id", &id).await?, values::signed("step", step)?);
        self.refuse_others_job(&extensions, id).await?;
        self.write(move |pool| async move { checkpoints::unpin(&pool, id, step).await }).await?;
        self.checkpoints(id).await
    }

    async fn get_trainer_job(
        &self,
        request: Request<v1::GetTrainerJobRequest>,
    ) -> Result<Response<v1::TrainerJob>, Status> {
        let id = lookup::job(self.reader(), "id", &request.into_inner().id).await?;
        let found = trainer_job::of_job(self.reader(), id).await?;
        Ok(Response::new(v1::TrainerJob {
            job_id: id.to_string(),
            job_json: found.job,
            supernet_job_id: found.supernet_job.map(|id| id.to_string()).unwrap_or_default(),
            worker_id: found.worker.unwrap_or_default(),
            worker_version: found.worker_version.unwrap_or_default(),
            device: found.device.unwrap_or_default(),
        }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let v1::ListJobsRequest { search_id, states, page_size, page_token, labels, .. } = request;
        let (mask, order) = (values::read_mask(request.read_mask, JOB)?, order_by(&request.order_by)?);
        let filter = jobs::Filter {
            search: lookup::search_if_given(self.reader(), "search_id", &search_id).await?,
            states: states_from_wire(&states)?,
            labels: labels::checked("labels", labels)?,
            expression: filter(&request.filter, JOB_FIELDS)?,
        };
        let page = Page::new(page_size, SIZE_MAX, &page_token, &format!("jobs {filter:?} {order:?}"))?;
        let behind = page.after.as_ref().map(|position| position.order);
        if let Some(search) = filter.search {
            searches::revision(self.reader(), search).await?;
        }
        let mut found = jobs::page(self.reader(), &filter, order, behind, page.size + 1).await?;
        let next_page_token = page.cut(&mut found, |job| Position { order: job.position, key: Vec::new() });
        let jobs = found.into_iter().map(|job| mask.apply(wire::job(job))).collect();
        Ok(Response::new(v1::ListJobsResponse { jobs, next_page_token }))
    }

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let v1::WatchJobRequest { id, resume_token } = request.into_inner();
        let id = lookup::job(self.reader(), "id", &id).await?;
        let sent_revision = resume::position(id.0, &resume_token)?.map(|[revision]| revision);
        // An unknown id fails the call instead of the stream.
        jobs::revision(self.reader(), id).await?;
        let is_resumed = sent_revision.is_some();
        let watched = WatchedJob { pool: self.reader().clone(), id, sent_revision, is_resumed };
        Ok(Response::new(self.streams.open(watched)?))
    }

    async fn stream_job_logs(
        &self,
        request: Request<v1::StreamJobLogsRequest>,
    ) -> Result<Response<Self::StreamJobLogsStream>, Status> {
        let v1::StreamJobLogsRequest { id, follow, resume_token } = request.into_inner();
        let id = lookup::job(self.reader(), "id", &id).await?;
        let sent = resume::position(id.0, &resume_token)?;
        let sent = sent.map_or_else(LogPosition::default, |[epoch, seq]| LogPosition { epoch, seq });
        jobs::revision(self.reader(), id).await?;
        let watched = WatchedLog { pool: self.reader().clone(), id, follow, sent };
        Ok(Response::new(self.streams.open(watched)?))
    }

    async fn list_metrics(
        &self,
        request: Request<v1::ListMetricsRequest>,
    ) -> Result<Response<v1::ListMetricsResponse>, Status> {
        let v1::ListMetricsRequest { id, keys, point_count_max } = request.into_inner();
        let points = match point_count_max {
            ..0 => {
                return Err(invalid_field(
                    "point_count_max",
                    format!("must be 0 or more, got {point_count_max}"),
                ));
            }
            0 => POINTS_DEFAULT,
            more => more.min(POINTS_MAX),
        };
        if keys.len() > KEYS_MAX {
            return Err(invalid_field("keys", format!("{} are more than {KEYS_MAX}", keys.len())));
        }
        let keys = keys.into_iter().map(|key| values::checked("keys", key, METRIC_KEY_CHARS_MAX));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let id = lookup::job(self.reader(), "id", &id).await?;
        jobs::revision(self.reader(), id).await?;
        let points = metrics::curves(self.reader(), id, &keys, points.into()).await?;
        Ok(Response::new(v1::ListMetricsResponse { curves: curves(points) }))
    }

    async fn explain_job(
        &self,
        request: Request<v1::ExplainJobRequest>,
    ) -> Result<Response<v1::ExplainJobResponse>, Status> {
        let pool = self.reader();
        let id = lookup::job(pool, "id", &request.into_inner().id).await?;
        let job = jobs::get(pool, id).await?;
        let facts = reasons::facts(pool, &job, self.rules()).await?;
        let attempts = attempts::of_job(pool, id).await?;
        Ok(Response::new(v1::ExplainJobResponse {
            explanation: explain(&facts),
            queue_position: facts.queue_position,
            attempts: attempts.into_iter().map(wire::attempt).collect(),
            estimated_train_s: facts.estimate.map(|estimate| estimate.train_s as f64),
            estimated_by_count: facts.estimate.map_or(0, |estimate| estimate.by.count()),
            job: Some(wire::job(job)),
        }))
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Result<Response<v1::Job>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::CancelJobRequest { id, reason, etag } = request;
        let reason = values::checked("reason", reason, REASON_CHARS_MAX)?;
        let id = lookup::job(self.reader(), "id", &id).await?;
        self.refuse_others_job(&extensions, id).await?;
        let seen = values::as_seen(id, &etag)?;
        self.write_then_plan(move |pool| async move { writes::cancel(&pool, seen, &reason).await }).await?;
        self.answer(id).await
    }

    async fn label_job(&self, request: Request<v1::LabelJobRequest>) -> Result<Response<v1::Job>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::LabelJobRequest { id, set, remove, etag } = request;
        let change = labels::change(set, remove)?;
        let id = lookup::job(self.reader(), "id", &id).await?;
        self.refuse_others_job(&extensions, id).await?;
        let seen = values::as_seen(id, &etag)?;
        self.write(move |pool| async move { writes::label(&pool, seen, &change).await }).await?;
        self.answer(id).await
    }

    async fn add_job_note(
        &self,
        request: Request<v1::AddJobNoteRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::AddJobNoteRequest { id, text, author, request_id } = request;
        let id = lookup::job(self.reader(), "id", &id).await?;
        self.refuse_outsider_of_job(&extensions, id).await?;
        self.add_note(Subject::Job(id), text, author, request_id).await?;
        self.answer(id).await
    }

    async fn pause_job(&self, request: Request<v1::PauseJobRequest>) -> Result<Response<v1::Job>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::PauseJobRequest { id, etag } = request;
        let id = lookup::job(self.reader(), "id", &id).await?;
        self.refuse_others_job(&extensions, id).await?;
        let seen = values::as_seen(id, &etag)?;
        self.write(move |pool| async move { writes::pause(&pool, seen).await }).await?;
        self.answer(id).await
    }

    async fn resume_job(&self, request: Request<v1::ResumeJobRequest>) -> Result<Response<v1::Job>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::ResumeJobRequest { id, etag, cost_limit_device_hours } = request;
        let limit = values::cost_limit(
            "cost_limit_device_hours",
            cost_limit_device_hours,
            "and the job keeps the limit that it has",
        )?;
        let id = lookup::job(self.reader(), "id", &id).await?;
        self.refuse_others_job(&extensions, id).await?;
        let seen = values::as_seen(id, &etag)?;
        self.write(move |pool| async move { writes::resume(&pool, seen, limit).await }).await?;
        self.answer(id).await
    }

    async fn retry_job(&self, request: Request<v1::RetryJobRequest>) -> Result<Response<v1::Job>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::RetryJobRequest { id, etag } = request;
        let id = lookup::job(self.reader(), "id", &id).await?;
        self.refuse_others_job(&extensions, id).await?;
        let seen = values::as_seen(id, &etag)?;
        self.write_then_plan(move |pool| async move { writes::retry(&pool, seen).await }).await?;
        self.answer(id).await
    }
}

impl Api {
    /// The checkpoints as they are now.
    async fn checkpoints(&self, id: JobId) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let policy = Policy { newest: self.keep_checkpoints, is_pressed: false };
        let found = checkpoint::list(self.reader(), id, policy).await?;
        let checkpoints = found.into_iter().map(wire::checkpoint).collect();
        Ok(Response::new(v1::ListCheckpointsResponse { job_id: id.to_string(), checkpoints }))
    }

    /// The job as it is now.
    async fn answer(&self, id: JobId) -> Result<Response<v1::Job>, Status> {
        Ok(Response::new(load(self.reader(), id).await?))
    }
}

/// The job with its notes.
async fn load(pool: &PgPool, id: JobId) -> Result<v1::Job, Status> {
    let job = jobs::get(pool, id).await?;
    let notes = wire::notes(notes::of(pool, Subject::Job(id)).await?);
    Ok(v1::Job { notes, ..wire::job(job) })
}

/// None for those of the search.
fn initial_weights(wire: i32) -> Result<Option<InitialWeights>, Status> {
    match v1::InitialWeights::try_from(wire) {
        Ok(v1::InitialWeights::Unspecified) => Ok(None),
        Ok(v1::InitialWeights::Random) => Ok(Some(InitialWeights::Random)),
        Ok(v1::InitialWeights::Supernet) => Ok(Some(InitialWeights::Supernet)),
        Err(_) => Err(invalid_field("initial_weights", format!("{wire} is nothing to start from"))),
    }
}

fn states_from_wire(states: &[i32]) -> Result<Vec<JobState>, Status> {
    let known = |(index, state): (usize, &i32)| {
        wire::job_state_from_wire(*state)
            .ok_or_else(|| invalid_field(format!("states[{index}]"), format!("{state} is no state of a job")))
    };
    states.iter().enumerate().map(known).collect()
}

/// Points in the order of key and step, as one curve per key.
fn curves(points: Vec<CurvePoint>) -> Vec<v1::MetricCurve> {
    let mut curves: Vec<v1::MetricCurve> = Vec::new();
    for point in points {
        let step = wire::count(point.step);
        match curves.last_mut().filter(|curve| curve.key == point.key) {
            Some(curve) => {
                curve.steps.push(step);
                curve.values.push(point.value);
            }
            None => {
                curves.push(v1::MetricCurve { key: point.key, steps: vec![step], values: vec![point.value] })
            }
        }
    }
    curves
}

struct WatchedJob {
    pool: PgPool,
    id: JobId,
    sent_revision: Option<i64>,
    /// Nothing was sent yet, and what went before may have been the end.
    is_resumed: bool,
}

impl Watched for WatchedJob {
    type Message = v1::Job;

    async fn look(&mut self) -> Result<News<v1::Job>, Status> {
        // Read before the job, which may be newer and is then sent once more.
        let revision = jobs::revision(&self.pool, self.id).await?;
        if self.sent_revision == Some(revision) {
            // Later a revision tells of the end.
            let asks = std::mem::take(&mut self.is_resumed);
            let has_ended = asks && jobs::get(&self.pool, self.id).await?.state.is_final();
            let then = if has_ended { Then::End } else { Then::Wait };
            return Ok(News { messages: Vec::new(), then });
        }
        let mut job = load(&self.pool, self.id).await?;
        job.resume_token = resume::token(self.id.0, [revision]);
        self.sent_revision = Some(revision);
        self.is_resumed = false;
        let is_final = wire::job_state_from_wire(job.state).is_some_and(JobState::is_final);
        let then = if is_final { Then::End } else { Then::Wait };
        Ok(News { messages: vec![job], then })
    }
}

struct WatchedLog {
    pool: PgPool,
    id: JobId,
    follow: bool,
    sent: LogPosition,
}

impl Watched for WatchedLog {
    type Message = v1::LogLine;

    async fn look(&mut self) -> Result<News<v1::LogLine>, Status> {
        // Asked before the lines are read: what a job writes before it ends is
        // then among them.
        let ends = !self.follow || jobs::get(&self.pool, self.id).await?.state.is_final();
        let lines = logs::after(&self.pool, self.id, self.sent, LOG_LINES_PER_LOOK).await?;
        let then = match lines.last() {
            Some(last) => {
                self.sent = last.at;
                Then::LookAgain
            }
            None if ends => Then::End,
            None => Then::Wait,
        };
        let messages = lines.into_iter().map(|line| wire::log_line(self.id, line)).collect();
        Ok(News { messages, then })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_become_one_curve_per_key() {
        let point = |key: &str, step, value| CurvePoint { key: key.to_owned(), step, value };
        let curves = curves(vec![point("a", 1, 0.5), point("a", 3, 0.25), point("b", 1, 2.0)]);
        assert_eq!(curves.len(), 2);
        assert_eq!(
            (curves[0].steps.as_slice(), curves[0].values.as_slice()),
            (&[1, 3][..], &[0.5, 0.25][..])
        );
        assert_eq!(curves[1].key, "b");
    }
}
