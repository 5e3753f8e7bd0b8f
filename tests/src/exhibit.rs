//! A coordinator with something to see: searches that fake workers ran with figures
//! that are made up, in the manner of real trainings. The same every time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cakes::derive::derive_per_layer;
use cakes::frame::{Quality, SegmentationQuality};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::Kernel;
use cakes::scores::{ChannelScores, LayerScores};
use cakes_proto::convert::quality_to_wire;
use cakes_proto::v1::report_entry::Entry;
use cakes_proto::v1::{self, FailureClass, JobProgress, LogLine, MetricPoint, SearchState};
use serde_json::{Value, json};

use crate::fake::{Attempt, FakeWorker, NoOp, Transcript, connect};
use crate::{Api, Cluster, until};

/// How long a call whose outcome is unknown is repeated.
const PATIENCE: Duration = Duration::from_secs(60);

/// A line that would be an element if text were taken for markup.
pub const MARKUP: &str = "<img src=x onerror=\"document.title='broken in'\">";

/// What was made.
#[derive(Clone)]
pub struct Exhibit {
    /// A search that has succeeded.
    pub finished: String,
    /// A search whose supernet is being trained, and its job.
    pub running: String,
    pub running_job: Attempt,
    /// Who trains it.
    pub worker: FakeWorker,
    /// A job that has failed for good.
    pub failed_job: String,
}

/// A search like those of the examples.
pub fn search_file(name: &str, epochs: u32) -> Value {
    let training = |epochs: u32| {
        json!({ "epochs": epochs, "steps_per_epoch": 50, "batch_size": 2, "warmup_steps": 10,
            "validate_every_epochs": 1, "checkpoint_every_epochs": 5 })
    };
    let extent = json!({ "depth": 32, "height": 32, "width": 32 });
    json!({
        "request_id": format!("{name}-request"),
        "search": {
            "name": name,
            "dataset": { "phantoms": { "cases": 24, "validation_cases": 6, "extent": extent } },
            "backbone": { "encoder_decoder": { "classes": 4, "base_width": 8, "levels": 3 } },
            "patch": extent,
            "supernet": { "training": training(epochs) },
            "budgets": [0.2, 0.3, 0.45, 0.7],
            "derive_unconstrained": true,
            "baselines": ["c3d", "even_split", "planes"],
            "retrain": { "training": training(epochs), "seeds": [0, 1] },
        }
    })
}

/// A worker for the exhibit.
///
/// # Errors
/// The coordinator refuses it or does not answer.
pub async fn worker(cluster: &Cluster, name: &str) -> Result<FakeWorker> {
    let channel = connect(&cluster.url())?;
    Ok(FakeWorker::register(channel, name, PATIENCE, Arc::new(Transcript::default())).await?)
}

/// Fills a cluster that has no workers.
///
/// # Errors
/// A call is refused, or there is no answer.
pub async fn fill(cluster: &Cluster) -> Result<Exhibit> {
    let api = cluster.api()?;
    let (one, two) = (worker(cluster, "gpu-a").await?, worker(cluster, "gpu-b").await?);
    let finished = finished_search(&api, [&one, &two]).await?;
    let failed_job = failed_search(&api, &two).await?;
    remark(&api, &finished, &failed_job).await?;
    let submitted = api.submit(&search_file("example-running", 40)).await?.search.context("no search")?;
    let mut running_job = next_job(&one).await?;
    let job: TrainerJob = serde_json::from_str(&running_job.trainer_job_json)?;
    one.start(&running_job).await?;
    for epoch in 1..=14 {
        report_epoch(&one, &mut running_job, &job, epoch).await?;
    }
    one.commit(&mut running_job, 10 * u64::from(job.training.steps_per_epoch)).await?;
    Ok(Exhibit { finished, running: submitted.id, running_job, worker: one, failed_job })
}

/// What people attach: labels and notes of a search, of its last retraining and of what that
/// trains.
async fn remark(api: &Api, search: &str, failed_job: &str) -> Result<()> {
    let found = api.search(search).await?;
    let job = found.jobs.last().context("no job")?;
    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let set = labels(&[("owner", "ada"), ("paper", "miccai-2026")]);
    let request = v1::LabelSearchRequest {
        id: search.to_owned(),
        set,
        remove: Vec::new(),
        ..v1::LabelSearchRequest::default()
    };
    api.searches().label_search(request).await?;
    let request = v1::LabelJobRequest {
        id: job.id.clone(),
        set: labels(&[("keep", "")]),
        remove: Vec::new(),
        ..v1::LabelJobRequest::default()
    };
    api.jobs().label_job(request).await?;
    let (author, request_id) = ("ada".to_owned(), String::new());
    let text = "compare with the planes of last week\nbefore anything is published".to_owned();
    let request = v1::AddSearchNoteRequest { id: search.to_owned(), text, author, request_id };
    api.searches().add_search_note(request).await?;
    for (id, text) in [(&job.id, "to be exported for the clinic"), (&failed_job.to_owned(), MARKUP)] {
        let (author, request_id) = ("bob".to_owned(), String::new());
        let request = v1::AddJobNoteRequest { id: id.clone(), text: text.to_owned(), author, request_id };
        api.jobs().add_job_note(request).await?;
    }
    let request = v1::AddArchitectureNoteRequest {
        digest: job.architecture_digest.clone(),
        text: "fastest on the scanner's own machine".to_owned(),
        author: "cleo".to_owned(),
        request_id: String::new(),
    };
    api.architectures().add_architecture_note(request).await?;
    Ok(())
}

async fn next_job(worker: &FakeWorker) -> Result<Attempt> {
    until("a job is offered", PATIENCE, async || Ok(worker.acquire().await?)).await
}

async fn finished_search(api: &Api, workers: [&FakeWorker; 2]) -> Result<String> {
    let search = api.submit(&search_file("example-volumes", 30)).await?.search.context("no search")?.id;
    let mut turn = 0_usize;
    until("the search ends", PATIENCE, async || {
        let worker = workers[turn % workers.len()];
        turn += 1;
        if let Some(mut attempt) = worker.acquire().await? {
            run(worker, &mut attempt).await?;
            return Ok(None);
        }
        Ok((api.search(&search).await?.state() == SearchState::Succeeded).then_some(()))
    })
    .await?;
    Ok(search)
}

async fn failed_search(api: &Api, worker: &FakeWorker) -> Result<String> {
    let mut file = search_file("example-wrong-labels", 10);
    file["search"]["baselines"] = json!([]);
    api.submit(&file).await?;
    let mut attempt = next_job(worker).await?;
    worker.start(&attempt).await?;
    let line = LogLine {
        time: Some(chrono::Utc::now().into()),
        attempt: 0,
        text: MARKUP.to_owned(),
        ..LogLine::default()
    };
    worker.report(&mut attempt, vec![Entry::Log(line)], JobProgress::default()).await?;
    let message = format!("case 7 has labels up to 9, but the network tells 4 classes apart {MARKUP}");
    worker.fail(&attempt, FailureClass::User, &message).await?;
    Ok(attempt.token.job_id.clone())
}

/// The whole life of a job.
async fn run(worker: &FakeWorker, attempt: &mut Attempt) -> Result<()> {
    let job: TrainerJob = serde_json::from_str(&attempt.trainer_job_json)?;
    worker.start(attempt).await?;
    for epoch in 1..=job.training.epochs {
        report_epoch(worker, attempt, &job, epoch).await?;
    }
    worker.commit(attempt, job.training.steps_total()).await?;
    let mut outcome = NoOp::of(&job)?;
    let value = final_quality(&job);
    outcome.result = v1::JobResult {
        latency_ms: outcome.result.latency_ms.map(|_| latency_ms(outcome.result.mac_count, &job)),
        peak_memory_mib: 912.0,
        train_duration_s: 214.0,
        param_count: outcome.result.param_count,
        mac_count: outcome.result.mac_count,
        device: "NVIDIA H200".to_owned(),
        ..quality_to_wire(&dice(value))
    };
    if let Some(scores) = scores(&job, 1.0)? {
        outcome.scores_json = serde_json::to_string(&scores)?;
    }
    Ok(worker.complete(attempt, &outcome).await?)
}

/// Reports one epoch: its loss, its validation, what a supernet would become, a line.
///
/// # Errors
/// The call is refused, or there is no answer.
pub async fn report_epoch(
    worker: &FakeWorker,
    attempt: &mut Attempt,
    job: &TrainerJob,
    epoch: u32,
) -> Result<()> {
    let (steps, share) =
        (u64::from(job.training.steps_per_epoch), f64::from(epoch) / f64::from(job.training.epochs));
    let step = u64::from(epoch) * steps;
    let best = final_quality(job);
    let wobble = 0.012 * noise(job.seed, u64::from(epoch), 7);
    let (loss, quality) =
        (1.3 * (-3.2 * share).exp() + 0.18 + wobble, best * (1.0 - (-4.5 * share).exp()) + wobble);
    let metric = |step: u64, values: Vec<(String, f64)>| {
        Entry::Metric(MetricPoint {
            step,
            values: values.into_iter().collect(),
            time: Some(chrono::Utc::now().into()),
        })
    };
    let mut entries: Vec<Entry> = (1..=5)
        .map(|part| {
            let at = step - steps + part * steps / 5;
            let loss = loss * (1.0 + 0.06 * noise(job.seed, at, 3));
            metric(
                at,
                vec![
                    ("train/loss".to_owned(), loss),
                    ("train/learning_rate".to_owned(), 0.01 * (1.0 - share)),
                ],
            )
        })
        .collect();
    let Quality::Segmentation(figures) = dice(quality) else { return Ok(()) };
    let mut validation = vec![("validation/mean_dice".to_owned(), quality)];
    let classes = figures.dice_per_class.iter().zip(1..);
    validation.extend(classes.map(|(dice, class)| (format!("validation/dice_{class}"), *dice)));
    entries.push(metric(step, validation));
    if let Some(scores) = scores(job, share)? {
        for layer in derive_per_layer(&scores)?.layers() {
            let key = |kernel: Kernel| format!("composition/{}/{kernel}", layer.layer);
            entries.push(metric(
                step,
                layer.channels.iter().map(|(kernel, count)| (key(kernel), f64::from(count))).collect(),
            ));
        }
    }
    let text = format!("epoch {epoch}: mean Dice {quality:.4}, loss {loss:.4}");
    entries.push(Entry::Log(LogLine {
        time: Some(chrono::Utc::now().into()),
        attempt: 0,
        text,
        ..LogLine::default()
    }));
    let progress = JobProgress {
        step,
        step_count: job.training.steps_total(),
        loss,
        learning_rate: 0.01 * (1.0 - share),
        samples_per_s: 41.5,
        mean_dice: Some(quality),
        quality: Some(quality),
        quality_metric: "mean_dice".to_owned(),
        remaining_s: Some(380.0 * (1.0 - share)),
        phase: "training".to_owned(),
        checkpoint_step: 0,
    };
    worker.report(attempt, entries, progress).await?;
    Ok(())
}

/// A number from -1 to 1 that follows from three others.
fn noise(seed: u64, first: u64, second: u64) -> f64 {
    let mut state =
        seed ^ first.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ second.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    for _ in 0..3 {
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
    }
    (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

fn dice(mean: f64) -> Quality {
    let mean = mean.clamp(0.0, 1.0);
    let dice_per_class = vec![(mean + 0.03).min(1.0), mean, (mean - 0.03).max(0.0)];
    Quality::Segmentation(SegmentationQuality { mean_dice: mean, dice_per_class, case_count: 6 })
}

/// More taps help less and less, and so do more kinds of kernels.
fn final_quality(job: &TrainerJob) -> f64 {
    let Task::Retrain { architecture } = &job.task else { return 0.86 + 0.004 * noise(job.seed, 1, 1) };
    let counts = architecture.composition();
    let all: f64 = counts.iter().map(|(_, count)| f64::from(*count)).sum();
    let taps: f64 = counts.iter().map(|(kernel, count)| f64::from(kernel.taps()) * f64::from(*count)).sum();
    let kinds = counts.iter().filter(|(_, count)| *count > 0).count() as f64;
    0.88 - 0.09 * (-5.5 * taps / all / 27.0).exp()
        + 0.012 * kinds / 7.0
        + 0.004 * noise(job.seed, taps as u64, 1)
}

fn latency_ms(mac_count: u64, job: &TrainerJob) -> f64 {
    1.2 + mac_count as f64 / 7e7 + 0.15 * noise(job.seed, mac_count, 5)
}

/// Scores as they stand when `share` of a supernet's training is done: at first all
/// alike, at the end with kernels that a layer prefers and many exact zeros.
fn scores(job: &TrainerJob, share: f64) -> Result<Option<ChannelScores>> {
    let Task::Supernet { backbone, kernels, .. } = &job.task else { return Ok(None) };
    let known = backbone.searchable_layers();
    let count = known.len().max(1) as f64;
    let layers = known.into_iter().enumerate().map(|(place, layer)| {
        let depth = place as f64 / count;
        let of_kernel = |kernel: Kernel| {
            let wish = match kernel.taps() {
                27 => 0.75 - 0.5 * depth,
                9 => 0.62,
                3 => 0.35 + 0.4 * depth,
                _ => 0.3,
            };
            let wish = wish + 0.16 * noise(job.seed, place as u64 + 1, kernel.index() as u64 + 11);
            let channel = |channel: u32| {
                let spread = noise(job.seed, u64::from(channel) + 1000 * place as u64, kernel.index() as u64);
                let value = (1.0 - share) * (0.5 + 0.1 * spread) + share * (wish + 0.4 * spread);
                value.max(0.0) as f32
            };
            (0..layer.channels).map(channel).collect::<Vec<f32>>()
        };
        let scores = kernels.iter().map(of_kernel).collect();
        LayerScores { layer: layer.name.clone(), scores }
    });
    Ok(Some(ChannelScores::new(backbone.clone(), kernels.clone(), layers.collect())?))
}
