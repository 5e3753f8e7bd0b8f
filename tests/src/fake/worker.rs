//! The calls of a worker, each repeated until its outcome is known.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cakes_proto::WORKER_PROTOCOL;
use cakes_proto::v1::report_entry::Entry;
use cakes_proto::v1::worker_service_client::WorkerServiceClient;
use cakes_proto::v1::{self, JobProgress, LeaseToken, MetricPoint, ReportEntry};
use tonic::transport::Channel;
use tonic::{Response, Status};
use uuid::Uuid;

use super::{Call, Fact, NoOp, Recorder, Refusal, Request, Servers, Told};

type Client = WorkerServiceClient<Channel>;

const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);

/// A worker that has registered. Cheap to clone: a clone is the same worker.
#[derive(Clone)]
pub struct FakeWorker {
    servers: Servers,
    id: String,
    incarnation: u64,
    report_interval: Duration,
    recorder: Arc<dyn Recorder>,
    patience: Duration,
}

/// A grant, and how far its worker is with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    pub token: LeaseToken,
    /// For the trainer, in the domain's JSON form.
    pub trainer_job_json: String,
    pub resume_from: Option<v1::CheckpointReference>,
    /// Where it alone may write in the artifact store.
    pub prefix: String,
    /// Number of the last entry that the coordinator has.
    pub acked_seq: u64,
    /// The last one, by this attempt or before it: committed, unless it has a size.
    pub checkpoint: Option<v1::CheckpointReference>,
    pub checkpoint_bytes: Option<u64>,
    /// Which part of the job's devices it has; none for all of them.
    pub gang: Option<v1::GangSeat>,
}

impl From<v1::Grant> for Attempt {
    fn from(grant: v1::Grant) -> Self {
        Attempt {
            token: grant.token.unwrap_or_default(),
            trainer_job_json: grant.trainer_job_json,
            checkpoint: grant.resume_from.clone(),
            checkpoint_bytes: None,
            resume_from: grant.resume_from,
            prefix: grant.artifact_prefix,
            acked_seq: 0,
            gang: grant.gang,
        }
    }
}

impl Attempt {
    /// A report without entries.
    fn nothing_new(&self) -> Call {
        Call::Report { first_seq: self.acked_seq + 1, entry_count: 0, step: 0 }
    }

    fn checkpoint_of(&self, step: u64) -> v1::CheckpointReference {
        let key = format!("{}/step-{step:09}", self.prefix);
        v1::CheckpointReference { key, step, manifest_sha256: "ab".repeat(32) }
    }

    /// Makes a checkpoint of a step the one that the completion commits.
    pub fn save_last(&mut self, step: u64) {
        self.checkpoint = Some(self.checkpoint_of(step));
        self.checkpoint_bytes = Some(1);
    }
}

/// What every worker of this kind trains on: nothing, with much memory.
fn device() -> v1::Device {
    v1::Device { name: "cpu".to_owned(), model: "none".to_owned(), memory_mib: 1 << 20, count: 1 }
}

/// The metric entry and the progress of one step.
pub fn step_report(step: u64, step_count: u64) -> (Vec<Entry>, JobProgress) {
    let loss = 1.0 / (step + 1) as f64;
    let values = [("train/loss".to_owned(), loss)].into();
    let entry = Entry::Metric(MetricPoint { step, values, time: Some(chrono::Utc::now().into()) });
    let progress = JobProgress {
        step,
        step_count,
        loss,
        learning_rate: 0.1,
        samples_per_s: 1.0,
        phase: "training".to_owned(),
        ..JobProgress::default()
    };
    (vec![entry], progress)
}

impl FakeWorker {
    /// Registers a start of a worker. Calls whose outcome is unknown are repeated
    /// for `patience`.
    ///
    /// # Errors
    /// It is refused, or there is no answer.
    pub async fn register(
        servers: impl Into<Servers>,
        id: &str,
        patience: Duration,
        recorder: Arc<dyn Recorder>,
    ) -> Result<Self, Refusal> {
        Self::register_labelled(servers, id, &[], patience, recorder).await
    }

    /// The same with labels of its machine.
    ///
    /// # Errors
    /// It is refused, or there is no answer.
    pub async fn register_labelled(
        servers: impl Into<Servers>,
        id: &str,
        labels: &[(&str, &str)],
        patience: Duration,
        recorder: Arc<dyn Recorder>,
    ) -> Result<Self, Refusal> {
        let mut worker = FakeWorker {
            servers: servers.into(),
            id: id.to_owned(),
            incarnation: 0,
            report_interval: Duration::ZERO,
            recorder,
            patience,
        };
        let request_id = Uuid::new_v4().to_string();
        let request = v1::RegisterRequest {
            protocol_version: WORKER_PROTOCOL,
            worker_id: worker.id.clone(),
            request_id: request_id.clone(),
            devices: vec![device()],
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            joins_gangs: true,
        };
        worker.recorder.sent(&|| Request::Register(request.clone()));
        let send = |mut client: Client| {
            let request = request.clone();
            async move { client.register(request).await }
        };
        let fact = |answer: &v1::RegisterResponse| Fact::Registered { incarnation: answer.incarnation };
        let answer = worker.call(Call::Register { request_id }, None, send, fact).await?;
        worker.incarnation = answer.incarnation;
        worker.report_interval = Duration::from_millis(answer.report_interval_ms);
        Ok(worker)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// How often the coordinator wants reports.
    pub fn report_interval(&self) -> Duration {
        self.report_interval
    }

    /// Asks once for a job.
    ///
    /// # Errors
    /// The incarnation is stale, or there is no answer.
    pub async fn acquire(&self) -> Result<Option<Attempt>, Refusal> {
        let request_id = Uuid::new_v4().to_string();
        let request = v1::AcquireRequest {
            worker_id: self.id.clone(),
            incarnation: self.incarnation,
            request_id: request_id.clone(),
            device: Some(device()),
            data_at_hand: Vec::new(),
        };
        self.recorder.sent(&|| Request::Acquire(request.clone()));
        let send = |mut client: Client| {
            let request = request.clone();
            async move { client.acquire(request).await }
        };
        let fact = |answer: &v1::AcquireResponse| Fact::Granted {
            token: answer.grant.as_ref().and_then(|grant| grant.token.clone()),
        };
        let answer = self.call(Call::Acquire { request_id }, None, send, fact).await?;
        Ok(answer.grant.map(Attempt::from))
    }

    /// Says that the trainer runs; how long the lease lasts.
    ///
    /// # Errors
    /// The lease is lost, or there is no answer.
    pub async fn start(&self, attempt: &Attempt) -> Result<Duration, Refusal> {
        let request = v1::StartRequest { token: Some(attempt.token.clone()) };
        self.recorder.sent(&|| Request::Start(request.clone()));
        let send = |mut client: Client| {
            let request = request.clone();
            async move { client.start(request).await }
        };
        let ttl = |answer: &v1::StartResponse| Duration::from_millis(answer.lease_ttl_ms);
        let fact = |answer: &v1::StartResponse| Fact::Started { lease_ttl: ttl(answer) };
        let answer = self.call(Call::Start, Some(attempt), send, fact).await?;
        Ok(ttl(&answer))
    }

    /// Reports entries behind those that are acknowledged; none of them only
    /// renews the lease.
    ///
    /// # Errors
    /// The lease is lost, entries are missing, or there is no answer.
    pub async fn report(
        &self,
        attempt: &mut Attempt,
        entries: Vec<Entry>,
        progress: JobProgress,
    ) -> Result<v1::DesiredState, Refusal> {
        let first_seq = attempt.acked_seq + 1;
        let call = Call::Report { first_seq, entry_count: entries.len() as u64, step: progress.step };
        let request = v1::ReportRequest {
            token: Some(attempt.token.clone()),
            first_seq,
            entries: entries.into_iter().map(|entry| ReportEntry { entry: Some(entry) }).collect(),
            progress: Some(progress),
            ..v1::ReportRequest::default()
        };
        let answer = self.say(attempt, call, request).await?;
        attempt.acked_seq = answer.ack_seq;
        Ok(answer.desired())
    }

    /// Renews the lease of a member that does not lead; where the ranks meet, if that is known.
    ///
    /// # Errors
    /// The lease is lost, or there is no answer.
    pub async fn renew(&self, attempt: &Attempt) -> Result<(v1::DesiredState, Option<String>), Refusal> {
        let request =
            v1::ReportRequest { token: Some(attempt.token.clone()), ..v1::ReportRequest::default() };
        let answer = self.say(attempt, attempt.nothing_new(), request).await?;
        let address = Some(answer.rendezvous_address.clone()).filter(|address| !address.is_empty());
        Ok((answer.desired(), address))
    }

    /// Tells where the ranks of a gang meet, as its leader.
    ///
    /// # Errors
    /// The lease is lost, or there is no answer.
    pub async fn tell(&self, attempt: &Attempt, address: &str) -> Result<(), Refusal> {
        let request = v1::ReportRequest {
            token: Some(attempt.token.clone()),
            rendezvous_address: address.to_owned(),
            ..v1::ReportRequest::default()
        };
        self.say(attempt, attempt.nothing_new(), request).await.map(drop)
    }

    async fn say(
        &self,
        attempt: &Attempt,
        call: Call,
        request: v1::ReportRequest,
    ) -> Result<v1::ReportResponse, Refusal> {
        self.recorder.sent(&|| Request::Report(request.clone()));
        let send = |mut client: Client| {
            let request = request.clone();
            async move { client.report(request).await }
        };
        let fact = |answer: &v1::ReportResponse| Fact::Stored {
            ack_seq: answer.ack_seq,
            lease_ttl: Duration::from_millis(answer.lease_ttl_ms),
            desired: answer.desired(),
        };
        self.call(call, Some(attempt), send, fact).await
    }

    /// Commits a checkpoint of a step, of which no object exists.
    ///
    /// # Errors
    /// The lease is lost, another checkpoint of the step was committed, or there
    /// is no answer.
    pub async fn commit(&self, attempt: &mut Attempt, step: u64) -> Result<(), Refusal> {
        let checkpoint = attempt.checkpoint_of(step);
        let call = Call::Commit { key: checkpoint.key.clone(), step };
        let request = v1::CommitCheckpointRequest {
            token: Some(attempt.token.clone()),
            checkpoint: Some(checkpoint.clone()),
            bytes: 1,
        };
        self.recorder.sent(&|| Request::Commit(request.clone()));
        self.send_commit(attempt, call, &request).await?;
        attempt.checkpoint = Some(checkpoint);
        Ok(())
    }

    /// Says what only the leader may: that a step was saved. Nobody is given it to send it again.
    ///
    /// # Errors
    /// The member does not lead, which is as it should be, or there is no answer.
    pub async fn overstep(&self, attempt: &Attempt, step: u64) -> Result<(), Refusal> {
        let checkpoint = attempt.checkpoint_of(step);
        let call = Call::Commit { key: checkpoint.key.clone(), step };
        let request = v1::CommitCheckpointRequest {
            token: Some(attempt.token.clone()),
            checkpoint: Some(checkpoint),
            bytes: 1,
        };
        self.send_commit(attempt, call, &request).await
    }

    async fn send_commit(
        &self,
        attempt: &Attempt,
        call: Call,
        request: &v1::CommitCheckpointRequest,
    ) -> Result<(), Refusal> {
        let send = |mut client: Client| {
            let request = request.clone();
            async move { client.commit_checkpoint(request).await }
        };
        self.call(call, Some(attempt), send, |_| Fact::Committed).await.map(drop)
    }

    /// Completes the job with its last checkpoint, which is committed with it if it was
    /// not before.
    ///
    /// # Errors
    /// The lease is lost, the job was cancelled, something is missing, or there
    /// is no answer.
    pub async fn complete(&self, attempt: &Attempt, outcome: &NoOp) -> Result<(), Refusal> {
        let call = Call::Complete {
            last_seq: attempt.acked_seq,
            step: attempt.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step),
        };
        let request = v1::CompleteRequest {
            token: Some(attempt.token.clone()),
            last_seq: attempt.acked_seq,
            checkpoint: attempt.checkpoint.clone(),
            checkpoint_bytes: attempt.checkpoint_bytes,
            result: Some(outcome.result.clone()),
            scores_json: outcome.scores_json.clone(),
            latency_json: outcome.latency_json.clone(),
        };
        self.recorder.sent(&|| Request::Complete(Box::new(request.clone())));
        let send = |mut client: Client| {
            let request = request.clone();
            async move { client.complete(request).await }
        };
        self.call(call, Some(attempt), send, |_| Fact::Completed).await.map(drop)
    }

    /// Ends the attempt without a result.
    ///
    /// # Errors
    /// The lease is lost, or there is no answer.
    pub async fn fail(
        &self,
        attempt: &Attempt,
        class: v1::FailureClass,
        message: &str,
    ) -> Result<(), Refusal> {
        let request = v1::FailRequest {
            token: Some(attempt.token.clone()),
            failure_class: class.into(),
            message: message.to_owned(),
        };
        self.recorder.sent(&|| Request::Fail(request.clone()));
        let send = |mut client: Client| {
            let request = request.clone();
            async move { client.fail(request).await }
        };
        self.call(Call::Fail { class }, Some(attempt), send, |_| Fact::Failed).await.map(drop)
    }

    /// Asks what of the attempts of an earlier start is still wanted.
    ///
    /// # Errors
    /// The incarnation is stale, or there is no answer.
    pub async fn reconcile(&self, tokens: Vec<LeaseToken>) -> Result<Vec<v1::Verdict>, Refusal> {
        let request = v1::ReconcileRequest {
            worker_id: self.id.clone(),
            incarnation: self.incarnation,
            tokens: tokens.clone(),
        };
        self.recorder.sent(&|| Request::Reconcile(request.clone()));
        let send = |mut client: Client| {
            let request = request.clone();
            async move { client.reconcile(request).await }
        };
        let fact = |answer: &v1::ReconcileResponse| Fact::Judged { verdicts: answer.verdicts().collect() };
        let answer = self.call(Call::Reconcile { tokens }, None, send, fact).await?;
        Ok(answer.verdicts().collect())
    }

    /// The whole life of a granted job, with one report.
    ///
    /// # Errors
    /// One of its calls is refused, or there is no answer.
    pub async fn run(&self, attempt: &mut Attempt, outcome: &NoOp) -> Result<(), Refusal> {
        self.start(attempt).await?;
        let (entries, progress) = step_report(outcome.step_count, outcome.step_count);
        self.report(attempt, entries, progress).await?;
        attempt.save_last(outcome.step_count);
        self.complete(attempt, outcome).await
    }

    async fn call<T, F>(
        &self,
        call: Call,
        attempt: Option<&Attempt>,
        send: impl Fn(Client) -> F,
        fact: impl Fn(&T) -> Fact,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (began, mut pause) = (Instant::now(), PAUSE_FIRST);
        loop {
            let sent_at = Instant::now();
            let (server, channel) = self.servers.current();
            let answer = send(Client::new(channel)).await.map(Response::into_inner).map_err(Refusal::from);
            self.recorder.told(Told {
                worker: self.id.clone(),
                incarnation: self.incarnation,
                server,
                token: attempt.map(|attempt| attempt.token.clone()),
                call: call.clone(),
                sent_at,
                took: sent_at.elapsed(),
                answer: answer.as_ref().map(&fact).map_err(Refusal::clone),
            });
            match answer {
                Err(Refusal::Unknown { .. }) if began.elapsed() + pause < self.patience => {}
                answer => return answer,
            }
            self.servers.leave(server);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }
}
