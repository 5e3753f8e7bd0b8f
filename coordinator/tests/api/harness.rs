//! A server for one test, and a worker that does what it is told.

use std::net::SocketAddr;
use std::time::Duration;

use cakes::backbone::SearchableLayer;
use cakes::cost::cost;
use cakes::derive::{LatencyTable, LayerLatency};
use cakes::frame::{ClassificationQuality, Quality, SegmentationQuality};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::Kernel;
use cakes::scores::{ChannelScores, LayerScores};
use cakes::spec::TaskKind;
use cakes_coordinator::accept::{self, Accepting};
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::schedule::Rules;
use cakes_coordinator::core::throttle::Limits;
use cakes_coordinator::grpc::{self, Api};
use cakes_coordinator::reconcile::{self, Bell};
use cakes_coordinator::runtimes::Runtimes;
use cakes_coordinator::shutdown::Shutdown;
use cakes_coordinator::store::{PgPool, Pools};
use cakes_coordinator::web;
use cakes_proto::convert::quality_to_wire;
use cakes_proto::v1::architecture_service_client::ArchitectureServiceClient;
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use cakes_proto::v1::job_service_client::JobServiceClient;
use cakes_proto::v1::search_service_client::SearchServiceClient;
use cakes_proto::v1::worker_service_client::WorkerServiceClient;
use cakes_proto::{WORKER_PROTOCOL, v1};
use pbjson_types::Timestamp;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

/// Longest wait for anything in a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; it stops with the test's runtime.
pub struct Service {
    pub channel: Channel,
    /// Where the API is.
    address: SocketAddr,
    /// Where the web page is.
    pub page: SocketAddr,
    pub shutdown: Shutdown,
}

impl Service {
    pub async fn start(pool: PgPool) -> Self {
        let settings = web::Settings {
            allowed_hosts: Vec::new(),
            requires_token: false,
            is_encrypted: false,
            callers: Limits::default(),
        };
        Self::start_with(pool, settings).await
    }

    /// With settings of the page.
    pub async fn start_with(pool: PgPool, page_settings: web::Settings) -> Self {
        Self::serve(pool, page_settings, false, grpc::Limits::default()).await
    }

    /// With limits of the API.
    pub async fn start_limited(pool: PgPool, limits: grpc::Limits) -> Self {
        let settings = web::Settings {
            allowed_hosts: Vec::new(),
            requires_token: false,
            is_encrypted: false,
            callers: limits.callers,
        };
        Self::serve(pool, settings, false, limits).await
    }

    /// One whose callers must say who they are.
    pub async fn start_for_known(pool: PgPool) -> Self {
        let settings = web::Settings {
            allowed_hosts: Vec::new(),
            requires_token: true,
            is_encrypted: false,
            callers: Limits::default(),
        };
        Self::serve(pool, settings, true, grpc::Limits::default()).await
    }

    async fn serve(
        pool: PgPool,
        page_settings: web::Settings,
        requires_identity: bool,
        limits: grpc::Limits,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pools =
            Pools { control: pool.clone(), renewals: pool.clone(), turnover: pool.clone(), upkeep: pool };
        let (shutdown, bell, policy) = (Shutdown::default(), Bell::new(), Policy::default());
        let webhooks = reconcile::Webhooks { timeout: Duration::from_secs(10), allows_plain: false };
        reconcile::spawn(&pools, policy, Rules::default(), webhooks, &bell, &shutdown.stop, &shutdown.tasks);
        let settings = grpc::Settings {
            policy,
            planning: Rules::default().policy,
            report_interval: Duration::from_secs(2),
            artifact_url: "file:///artifacts/".to_owned(),
            keep_checkpoints: 3,
            allows_plain_webhooks: false,
            requires_identity,
            limits,
        };
        let page_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let page = page_listener.local_addr().unwrap();
        let reader = pools.control.clone();
        let api = Api::new(pools, settings, bell, &shutdown);
        shutdown.tasks.spawn(web::serve(
            Accepting::new(page_listener, "page", accept::Limits::default(), None),
            api.clone(),
            reader,
            page_settings,
            Runtimes::one(),
            shutdown.clone(),
        ));
        let accepting = Accepting::new(listener, "api", accept::Limits::default(), None);
        shutdown.tasks.spawn(grpc::serve(accepting, api, Runtimes::one(), shutdown.clone()));
        Service { channel: connect(address).await, address, page, shutdown }
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Channel {
        connect(self.address).await
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

    pub fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone())
    }

    /// Submits a search and returns it.
    pub async fn submit(&self, request: v1::SubmitSearchRequest) -> v1::Search {
        self.searches().submit_search(request).await.unwrap().into_inner().search.unwrap()
    }

    pub async fn search(&self, id: &str) -> v1::Search {
        self.searches()
            .get_search(v1::GetSearchRequest { id: id.to_owned(), ..v1::GetSearchRequest::default() })
            .await
            .unwrap()
            .into_inner()
    }

    pub async fn job(&self, id: &str) -> v1::Job {
        self.jobs()
            .get_job(v1::GetJobRequest { id: id.to_owned(), ..v1::GetJobRequest::default() })
            .await
            .unwrap()
            .into_inner()
    }
}

async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// A small search with two budgets, two baselines and two seeds.
pub fn small_search() -> v1::SubmitSearchRequest {
    let json = r#"{"search": {
        "name": "small",
        "dataset": {"phantoms": {}},
        "backbone": {"encoder_decoder": {"classes": 4, "base_width": 4, "levels": 2}},
        "patch": {"depth": 16, "height": 16, "width": 16},
        "supernet": {"training": {"epochs": 2, "steps_per_epoch": 5}},
        "budgets": [0.3, 0.6],
        "baselines": ["c3d", "planes"],
        "retrain": {"training": {"epochs": 1, "steps_per_epoch": 5}, "seeds": [1, 2]}
    }}"#;
    serde_json::from_str(json).unwrap()
}

/// A worker that has registered.
pub struct Worker {
    pub client: WorkerServiceClient<Channel>,
    pub id: String,
    pub incarnation: u64,
}

pub fn cpu() -> v1::Device {
    v1::Device { name: "cpu".to_owned(), model: "Abacus".to_owned(), memory_mib: 64_000, count: 1 }
}

pub fn now() -> Option<Timestamp> {
    Some(chrono::Utc::now().into())
}

impl Worker {
    pub async fn register(service: &Service, id: &str) -> Self {
        Worker::register_as(service, id, false).await
    }

    /// One whose slots may train with those of others.
    pub async fn register_joining(service: &Service, id: &str) -> Self {
        Worker::register_as(service, id, true).await
    }

    async fn register_as(service: &Service, id: &str, joins_gangs: bool) -> Self {
        let mut client = service.workers();
        let request = v1::RegisterRequest {
            protocol_version: WORKER_PROTOCOL,
            worker_id: id.to_owned(),
            request_id: Uuid::new_v4().to_string(),
            devices: vec![cpu()],
            version: "0.1.0".to_owned(),
            joins_gangs,
            ..Default::default()
        };
        let answer = client.register(request).await.unwrap().into_inner();
        assert_eq!(answer.artifact_url, "file:///artifacts/");
        assert_eq!(answer.report_interval_ms, 2000);
        Worker { client, id: id.to_owned(), incarnation: answer.incarnation }
    }

    /// One question for a job.
    pub async fn ask(&mut self) -> Option<v1::Grant> {
        let request = v1::AcquireRequest {
            worker_id: self.id.clone(),
            incarnation: self.incarnation,
            request_id: Uuid::new_v4().to_string(),
            device: Some(cpu()),
            data_at_hand: Vec::new(),
        };
        self.client.acquire(request).await.unwrap().into_inner().grant
    }

    /// Asks until there is a job.
    pub async fn acquire(&mut self) -> v1::Grant {
        let asking = async {
            loop {
                if let Some(grant) = self.ask().await {
                    return grant;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("a job to do")
    }

    pub async fn start(&mut self, grant: &v1::Grant) {
        self.client.start(v1::StartRequest { token: grant.token.clone() }).await.unwrap();
    }

    /// Reports a step with a line of log, as entries `first_seq` and the next.
    pub async fn report(
        &mut self,
        grant: &v1::Grant,
        first_seq: u64,
        step: u64,
        line: &str,
    ) -> Result<v1::ReportResponse, Status> {
        use v1::report_entry::Entry;
        let loss = 1.0 / step as f64;
        let values = [("train/loss".to_owned(), loss), ("train/learning_rate".to_owned(), 0.01)];
        let metric = v1::MetricPoint { step, values: values.into(), time: now() };
        let log = v1::LogLine { time: now(), attempt: 0, text: line.to_owned(), ..v1::LogLine::default() };
        let entries = [Entry::Metric(metric), Entry::Log(log)];
        let progress = v1::JobProgress {
            step,
            step_count: trainer_job(grant).training.steps_total(),
            loss,
            learning_rate: 0.01,
            samples_per_s: 12.0,
            phase: "training".to_owned(),
            ..v1::JobProgress::default()
        };
        let request = v1::ReportRequest {
            token: grant.token.clone(),
            first_seq,
            entries: entries.map(|entry| v1::ReportEntry { entry: Some(entry) }).into(),
            progress: Some(progress),
            ..v1::ReportRequest::default()
        };
        Ok(self.client.report(request).await?.into_inner())
    }

    pub async fn commit(&mut self, grant: &v1::Grant, step: u64) -> v1::CheckpointReference {
        let checkpoint = v1::CheckpointReference {
            key: format!("{}/step-{step:09}", grant.artifact_prefix),
            step,
            manifest_sha256: "ab".repeat(32),
        };
        let request = v1::CommitCheckpointRequest {
            token: grant.token.clone(),
            checkpoint: Some(checkpoint.clone()),
            bytes: 1000,
        };
        self.client.commit_checkpoint(request).await.unwrap();
        checkpoint
    }

    /// Completes a started job of which `last_seq` entries are reported.
    pub async fn complete(&mut self, grant: &v1::Grant, last_seq: u64, quality: f64) {
        let job = trainer_job(grant);
        let checkpoint = self.commit(grant, job.training.steps_total()).await;
        let request = v1::CompleteRequest {
            token: grant.token.clone(),
            last_seq,
            checkpoint: Some(checkpoint),
            checkpoint_bytes: None,
            result: Some(result(&job, quality)),
            scores_json: scores(&job)
                .map_or_else(String::new, |scores| serde_json::to_string(&scores).unwrap()),
            latency_json: latency(&job)
                .map_or_else(String::new, |table| serde_json::to_string(&table).unwrap()),
        };
        self.client.complete(request).await.unwrap();
    }

    /// The whole life of an attempt.
    pub async fn run(&mut self, grant: &v1::Grant, quality: f64) {
        self.start(grant).await;
        let last = trainer_job(grant).training.steps_total();
        self.report(grant, 1, 1, "first step").await.unwrap();
        self.report(grant, 3, last, "last step").await.unwrap();
        self.complete(grant, 4, quality).await;
    }
}

pub fn trainer_job(grant: &v1::Grant) -> TrainerJob {
    serde_json::from_str(&grant.trainer_job_json).unwrap()
}

pub fn job_id(grant: &v1::Grant) -> String {
    grant.token.as_ref().unwrap().job_id.clone()
}

/// What a job is compared by; the other figures follow from it.
fn quality(job: &TrainerJob, value: f64) -> Quality {
    match job.task.backbone().task() {
        TaskKind::Segmentation => Quality::Segmentation(SegmentationQuality {
            mean_dice: value,
            dice_per_class: vec![value - 0.1, value, value + 0.1],
            case_count: 8,
        }),
        TaskKind::Classification => Quality::Classification(ClassificationQuality {
            top1: value,
            top5: 1.0,
            balanced_accuracy: value - 0.1,
            auc: Some(value + 0.1),
            recall_per_class: vec![Some(value), None],
            loss: 0.5,
            sample_count: 98,
        }),
    }
}

fn result(job: &TrainerJob, value: f64) -> v1::JobResult {
    let cost = cost(&job.task.network(), job.patch).unwrap();
    v1::JobResult {
        param_count: cost.param_count,
        mac_count: cost.mac_count,
        latency_ms: matches!(job.task, Task::Retrain { .. }).then_some(cost.mac_count as f64 / 1e6),
        peak_memory_mib: 700.0,
        train_duration_s: 3.0,
        ..quality_to_wire(&quality(job, value))
    }
}

/// Scores that differ between channels: later channels and heavier kernels count more.
fn scores(job: &TrainerJob) -> Option<ChannelScores> {
    let Task::Supernet { backbone, kernels, .. } = &job.task else { return None };
    let layers = backbone.searchable_layers().into_iter().map(|layer| LayerScores {
        scores: kernels
            .iter()
            .map(|kernel| {
                (1..=layer.channels).map(|channel| (channel * kernel.taps()) as f32 / 9.0).collect()
            })
            .collect(),
        layer: layer.name,
    });
    Some(ChannelScores::new(backbone.clone(), kernels.clone(), layers.collect()).unwrap())
}

/// Times of which a part rises with the taps of a kernel; 1 ms for the all-`3x3x3` network.
fn latency(job: &TrainerJob) -> Option<LatencyTable> {
    let Task::Supernet { backbone, .. } = &job.task else { return None };
    let known = backbone.searchable_layers();
    let channels: u64 = known.iter().map(|layer| u64::from(layer.channels)).sum();
    let price = |kernel: Kernel| (kernel, 800_000 * (9 + u64::from(kernel.taps())) / 36 / channels);
    let row = |layer: SearchableLayer| LayerLatency {
        layer: layer.name,
        channel_ns: Kernel::ALL.into_iter().map(price).collect(),
    };
    let layers = known.into_iter().map(row).collect();
    Some(LatencyTable { fixed_ns: 200_000, reference_ns: 1_000_000, layers })
}

/// Fields that a refused request names.
pub fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations =
        details.bad_request().map(|request| request.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

/// The machine-readable reason of a status.
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// The status of a call that must be refused with this code.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code) -> Status {
    let status = result.expect_err("must be refused");
    assert_eq!(status.code(), code, "{status:?}");
    status
}
