//! A small search, a worker of few words, and questions to the tables.

use std::collections::BTreeMap;

use cakes::backbone::{Backbone, EncoderDecoder};
use cakes::derive::{LatencyTable, LayerLatency};
use cakes::frame::{ClassificationQuality, Quality, SegmentationQuality};
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::SearchMode;
use cakes::scores::{ChannelScores, LayerScores};
use cakes::spec::{
    Baseline, CheckedSearch, CostMeasure, DatasetSpec, InitialWeights, PhantomDataset, RetrainSpec,
    SearchSpec, SupernetSpec, TrainingSpec,
};
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::worker::Device;
use cakes_coordinator::store::attempts::{
    Acquisition, Answers, CheckpointRef, Completion, Entry, Grant, Outcome, Progress, Receipt, Report,
    Validated, acquire, commit_checkpoint, complete, move_together, report, start,
};
use cakes_coordinator::store::workers::{Registration, register};
use cakes_coordinator::store::{Error, Kept, PgPool, searches};
use cakes_proto::ids::{JobId, LeaseToken, SearchId, WorkerId};
use chrono::Utc;
use uuid::Uuid;

/// A search with these budgets and seeds and the baseline `3x3x3`.
pub fn search_of(budgets: &[f64], seeds: &[u64]) -> CheckedSearch {
    let training = TrainingSpec { epochs: 2, steps_per_epoch: 5, warmup_steps: 2, ..TrainingSpec::default() };
    let spec = SearchSpec {
        name: "small".into(),
        dataset: DatasetSpec::Phantoms(PhantomDataset::default()),
        backbone: Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: 1,
            classes: 4,
            base_width: 4,
            levels: 2,
            ..EncoderDecoder::default()
        }),
        patch: [16, 16, 16],
        supernet: SupernetSpec {
            mode: SearchMode::CostPriority,
            kernels: KernelSet::volumetric(),
            l1_strength: 1e-4,
            training: training.clone(),
            seed: u64::MAX,
            early_stop_validations: None,
            initial_weights: InitialWeights::Random,
        },
        budgets: budgets.to_vec(),
        derive_unconstrained: false,
        baselines: vec![Baseline::C3d],
        retrain: RetrainSpec { training, seeds: seeds.to_vec(), initial_weights: InitialWeights::Random },
        budget_measure: CostMeasure::Mac,
        count_multiple: 1,
    };
    CheckedSearch::new(spec).unwrap()
}

/// The same, retrained from its supernet's weights.
pub fn from_supernet(search: &CheckedSearch) -> CheckedSearch {
    let mut spec = search.spec().clone();
    spec.retrain.initial_weights = InitialWeights::Supernet;
    CheckedSearch::new(spec).unwrap()
}

/// One budget, one seed: a supernet, a baseline, later one retraining.
pub fn small_search() -> CheckedSearch {
    search_of(&[0.5], &[1])
}

/// Scores that rise with a kernel's taps, so that budget 1 is `3x3x3`.
pub fn scores(search: &CheckedSearch) -> ChannelScores {
    let spec = search.spec();
    let layers = spec.backbone.searchable_layers().into_iter().map(|layer| LayerScores {
        scores: spec
            .supernet
            .kernels
            .iter()
            .map(|kernel| vec![kernel.taps() as f32; layer.channels as usize])
            .collect(),
        layer: layer.name,
    });
    ChannelScores::new(spec.backbone.clone(), spec.supernet.kernels.clone(), layers.collect()).unwrap()
}

/// Times of the supernet of these scores, which rise with taps more slowly than MACs:
/// a channel takes 9 µs and one for every tap of its kernel.
pub fn times(scores: &ChannelScores) -> LatencyTable {
    let channel_ns: BTreeMap<Kernel, u64> =
        Kernel::ALL.into_iter().map(|kernel| (kernel, 1000 * (9 + u64::from(kernel.taps())))).collect();
    let known = scores.backbone().searchable_layers();
    let channels: u64 = known.iter().map(|layer| u64::from(layer.channels)).sum();
    LatencyTable {
        fixed_ns: 100_000,
        reference_ns: 100_000 + 36_000 * channels,
        layers: known
            .into_iter()
            .map(|layer| LayerLatency { layer: layer.name, channel_ns: channel_ns.clone() })
            .collect(),
    }
}

pub async fn submit(pool: &PgPool, search: &CheckedSearch) -> SearchId {
    searches::submit(pool, search, &searches::Terms::default(), None).await.unwrap()
}

/// A registered daemon.
#[derive(Clone)]
pub struct Worker {
    pub id: WorkerId,
    pub incarnation: i64,
}

pub async fn worker(pool: &PgPool, name: &str) -> Worker {
    worker_with(pool, name, "").await
}

/// With labels: `gpu=h200,site=basel`.
pub async fn worker_with(pool: &PgPool, name: &str, labels: &str) -> Worker {
    let id: WorkerId = name.parse().unwrap();
    let registration = Registration {
        worker: id.clone(),
        request_id: Uuid::new_v4(),
        devices: vec![cpu()],
        labels: labels.parse().unwrap(),
        joins_gangs: false,
        version: "1.0.0".into(),
    };
    let incarnation = register(pool, &registration).await.unwrap();
    Worker { id, incarnation }
}

pub fn cpu() -> Device {
    Device { name: "cpu".into(), model: "test".into(), memory_mib: 100_000, count: 1 }
}

impl Worker {
    pub fn wish(&self) -> Acquisition {
        Acquisition {
            worker: self.id.clone(),
            incarnation: self.incarnation,
            request_id: Uuid::new_v4(),
            device: cpu(),
            data_at_hand: Vec::new(),
        }
    }

    pub async fn acquire(&self, pool: &PgPool) -> Option<Grant> {
        acquire(pool, &Policy::default(), &self.wish()).await.unwrap()
    }

    /// Acquires the next job and starts it.
    pub async fn begin(&self, pool: &PgPool) -> Grant {
        let grant = self.acquire(pool).await.expect("a job waits");
        start(pool, &Policy::default(), grant.token).await.unwrap();
        grant
    }
}

/// A report of `count` metric entries from `first_seq`, at `step`.
pub fn report_of(token: LeaseToken, first_seq: i64, count: i64, step: i64) -> Report {
    let entry = |seq: i64| Entry::Metric {
        step,
        values: vec![("train/loss".into(), seq as f64), ("train/learning_rate".into(), f64::NAN)],
        time: Utc::now(),
    };
    let progress = Progress {
        step,
        step_count: 10,
        loss: 0.5,
        learning_rate: 0.1,
        samples_per_s: 3.0,
        quality: Some(Validated { value: 0.7, metric: "mean_dice".into() }),
        remaining_s: Some(1.0),
        phase: "training".into(),
    };
    let entries = (first_seq..first_seq + count).map(entry).collect();
    Report { token, first_seq, entries, progress: Some(progress) }
}

pub async fn tell(pool: &PgPool, message: &Report) -> Result<Receipt, Error> {
    report(pool, &Policy::default(), message).await
}

pub fn checkpoint_of(grant: &Grant, step: i64) -> CheckpointRef {
    CheckpointRef {
        key: format!("{}/step-{step:09}", grant.artifact_prefix),
        step,
        manifest_sha256: format!("{step:064x}"),
    }
}

/// Commits a checkpoint of an attempt.
pub async fn save(pool: &PgPool, grant: &Grant, step: i64) -> CheckpointRef {
    let checkpoint = checkpoint_of(grant, step);
    commit_checkpoint(pool, grant.token, &checkpoint, 1000).await.unwrap();
    checkpoint
}

pub fn segmentation(mean_dice: f64) -> Quality {
    let dice_per_class = vec![mean_dice - 0.1, mean_dice, mean_dice + 0.1];
    Quality::Segmentation(SegmentationQuality { mean_dice, dice_per_class, case_count: 4 })
}

pub fn classification(top1: f64) -> Quality {
    Quality::Classification(ClassificationQuality {
        top1,
        top5: 1.0,
        balanced_accuracy: 0.5,
        auc: None,
        recall_per_class: vec![Some(0.25), None, Some(0.75)],
        loss: 1.5,
        sample_count: 20,
    })
}

pub fn completion(checkpoint: CheckpointRef, scores: Option<ChannelScores>) -> Completion {
    let outcome = Outcome {
        quality: segmentation(0.8),
        param_count: 1000,
        mac_count: 2000,
        latency_ms: Some(1.5),
        peak_memory_mib: 300.0,
        train_duration_s: 12.0,
    };
    let latency = scores.as_ref().map(times);
    Completion { last_seq: 0, checkpoint, checkpoint_bytes: None, outcome, scores, latency }
}

/// Saves and completes a started attempt without reports.
pub async fn finish(pool: &PgPool, grant: &Grant, search: &CheckedSearch) {
    let checkpoint = save(pool, grant, 10).await;
    let supernet = kind(pool, grant.token.job).await == "supernet";
    let completion = completion(checkpoint, supernet.then(|| scores(search)));
    complete(pool, grant.token, &completion).await.unwrap();
}

pub async fn state(pool: &PgPool, job: JobId) -> String {
    ask(pool, "select state from job where id = $1", job.0).await
}

pub async fn reason(pool: &PgPool, job: JobId) -> String {
    ask(pool, "select state_reason from job where id = $1", job.0).await
}

async fn kind(pool: &PgPool, job: JobId) -> String {
    ask(pool, "select kind from job where id = $1", job.0).await
}

pub async fn search_state(pool: &PgPool, search: SearchId) -> String {
    ask(pool, "select state from search where id = $1", search.0).await
}

async fn ask(pool: &PgPool, statement: &'static str, id: Uuid) -> String {
    sqlx::query_scalar(statement).bind(id).fetch_one(pool).await.unwrap()
}

/// Wishes in one transaction.
pub async fn acquire_together(pool: &PgPool, wishes: &[Acquisition]) -> Answers<Option<Grant>> {
    let (kept, wishes) = (Kept::new(pool.clone()), wishes.iter().collect::<Vec<_>>());
    move_together(&kept, &Policy::default(), &[], &wishes).await.unwrap().1
}

/// Opens all connections of the pool, so that calls at once are at once.
pub async fn open_connections(pool: &PgPool) {
    let naps = (0..pool.options().get_max_connections())
        .map(|_| async { sqlx::query("select pg_sleep(0.1)").execute(pool).await.unwrap() });
    futures::future::join_all(naps).await;
}

/// Rows of a `select count(*)`.
pub async fn count(pool: &PgPool, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
}

/// Lets every lease run out.
pub async fn let_leases_run_out(pool: &PgPool) {
    let statement = "update attempt_lease set deadline = clock_timestamp() - interval '1 second'";
    sqlx::query(statement).execute(pool).await.unwrap();
}

/// Everything that a stale caller could have changed, as one text.
pub async fn picture(pool: &PgPool) -> String {
    sqlx::query_scalar(
        "select concat(
             (select string_agg(to_jsonb(job)::text, ',' order by id) from job),
             (select string_agg(to_jsonb(attempt)::text, ',' order by job_id, epoch) from attempt),
             (select string_agg(to_jsonb(attempt_lease)::text, ',' order by job_id) from attempt_lease),
             (select string_agg(to_jsonb(job_progress)::text, ',' order by job_id) from job_progress),
             (select count(*) from metric), (select count(*) from log_line),
             (select count(*) from checkpoint), (select count(*) from result),
             (select count(*) from event))",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}
