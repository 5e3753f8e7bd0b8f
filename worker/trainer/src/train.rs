//! The training loop. It decides nothing: lengths, rates, validations and
//! checkpoints are what the job's specification says.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cakes::cost::cost;
use cakes::frame::{Phase, Quality, Summary, TRAINER_PROTOCOL, TrainerEvent};
use cakes::job::{Task, TrainerJob};
use tch::Device;

use crate::TrainerError;
use crate::data::{Batches, JobData, load};
use crate::evaluate::{Windows, latency_ms, validate};
use crate::loss::segmentation_loss;
use crate::nets::Net;
use crate::optim::{Optimizer, Step};
use crate::report::Reporter;
use crate::{checkpoint, device};

/// Where a job runs and what it may touch.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub device: Device,
    /// Relative data set folders are looked up here.
    pub data_root: &'a Path,
    /// Checkpoints are written below it.
    pub folder: &'a Path,
    /// A checkpoint to go on from.
    pub resume: Option<PathBuf>,
    /// Set to make the job save and stop after its current step.
    pub stop: &'a AtomicBool,
}

/// How a job that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Completed,
    /// Stopped as asked, behind a checkpoint.
    Stopped,
}

/// Throughput is taken over at least so long, or it would jump with every step.
const THROUGHPUT_WINDOW: Duration = Duration::from_secs(1);

/// Runs a job to its end.
///
/// # Errors
/// Everything that ends it badly, with its class.
pub fn run(
    job: &TrainerJob,
    around: &Surroundings<'_>,
    reporter: &mut dyn Reporter,
) -> Result<Ending, TrainerError> {
    job.check().map_err(|error| TrainerError::User(error.to_string()))?;
    reporter.report(&TrainerEvent::Phase(Phase::LoadingData))?;
    let data = load(job, around.data_root, |_, _| ())?;
    reporter.report(&TrainerEvent::Phase(Phase::Building))?;
    let net = Net::new(job.task.network(), job.patch, job.seed, around.device)?;
    let optimizer = Optimizer::new(job.training.optimizer.clone(), &net)?;
    let first = match &around.resume {
        Some(directory) => checkpoint::load(directory, job, &net, &optimizer)?,
        None => 0,
    };
    reporter.report(&TrainerEvent::Ready {
        protocol: TRAINER_PROTOCOL,
        device: device::name(around.device),
        libtorch: checkpoint::libtorch_version().to_owned(),
        param_count: net.param_count(),
        steps_total: job.training.steps_total(),
        epochs_total: job.training.epochs.into(),
        resumed_step: first,
    })?;
    Training {
        job,
        around,
        reporter,
        net,
        optimizer,
        data,
        start: Instant::now(),
        saved_step: (first > 0).then_some(first),
    }
    .run(first)
}

struct Training<'a> {
    job: &'a TrainerJob,
    around: &'a Surroundings<'a>,
    reporter: &'a mut dyn Reporter,
    net: Net,
    optimizer: Optimizer,
    data: JobData,
    start: Instant,
    saved_step: Option<u64>,
}

impl Training<'_> {
    fn run(mut self, first: u64) -> Result<Ending, TrainerError> {
        let training = &self.job.training;
        let (total, per_epoch) = (training.steps_total(), u64::from(training.steps_per_epoch));
        let mut batches = Batches::start(self.job, self.data.training.clone(), first, total);
        let mut throughput = Throughput::new(training.batch_size);
        let mut quality = None;
        self.phase(Phase::Training)?;
        for step in first..total {
            let loss = self.step(step, &mut batches)?;
            let done = step + 1;
            let epoch_ends = done.is_multiple_of(per_epoch);
            throughput.count_step(batches.take_waited());
            self.report_step(step, loss, &throughput)?;
            if epoch_ends {
                let epoch = done / per_epoch;
                quality = if training.validates_after(epoch) { self.validate(done, epoch)? } else { None };
                if training.saves_after(epoch) {
                    self.save(done)?;
                }
                self.phase(Phase::Training)?;
                throughput.restart();
            }
            if self.around.stop.load(Ordering::Relaxed) && done < total {
                self.save(done)?;
                return Ok(Ending::Stopped);
            }
        }
        let quality = match quality {
            Some(quality) => Some(quality),
            None => self.validate(total, training.epochs.into())?,
        };
        match quality {
            Some(quality) => self.finish(total, quality),
            None => {
                self.save(total)?;
                Ok(Ending::Stopped)
            }
        }
    }

    fn step(&mut self, step: u64, batches: &mut Batches) -> Result<f64, TrainerError> {
        let batch = batches.take_next()?;
        let draws = self.net.draw(self.job.seed, step)?;
        let images = batch.images.f_to(self.around.device)?;
        let labels = batch.labels.f_to(self.around.device)?;
        let (loss, gradients) =
            self.net.gradients(&images, &draws, |output| segmentation_loss(output, &labels))?;
        if !loss.is_finite() {
            return Err(TrainerError::Numeric(format!(
                "the loss of step {} is {loss}; try a lower learning rate",
                step + 1
            )));
        }
        let l1_strength = match &self.job.task {
            Task::Supernet { l1_strength, .. } => *l1_strength,
            Task::Retrain { .. } => 0.0,
        };
        self.optimizer.step(
            &mut self.net,
            &gradients,
            Step {
                index: step,
                learning_rate: self.job.training.learning_rate(step),
                clip_norm: self.job.training.gradient_clip_norm,
                l1_strength,
                draws: &draws,
            },
        )?;
        Ok(loss)
    }

    fn report_step(&mut self, step: u64, loss: f64, throughput: &Throughput) -> Result<(), TrainerError> {
        self.reporter.report(&TrainerEvent::Step {
            step: step + 1,
            loss,
            learning_rate: self.job.training.learning_rate(step),
            samples_per_s: throughput.samples_per_s,
            data_wait_share: throughput.data_wait_share,
        })
    }

    /// None if the job was asked to stop meanwhile.
    fn validate(&mut self, step: u64, epoch: u64) -> Result<Option<Quality>, TrainerError> {
        self.phase(Phase::Validating)?;
        let stop = self.around.stop;
        let stride = self.job.task.backbone().total_stride();
        let windows = Windows { patch: self.job.patch, stride };
        let quality =
            validate(&mut self.net, &self.data.validation, windows, |_| !stop.load(Ordering::Relaxed))?;
        if let Some(quality) = &quality {
            self.reporter.report(&TrainerEvent::Validation { step, epoch, quality: quality.clone() })?;
        }
        Ok(quality)
    }

    fn save(&mut self, step: u64) -> Result<(), TrainerError> {
        if self.saved_step == Some(step) {
            return Ok(());
        }
        self.phase(Phase::SavingCheckpoint)?;
        let saved = checkpoint::save(
            &self.around.folder.join("checkpoints"),
            step,
            self.job,
            &self.net,
            &self.optimizer,
        )?;
        self.saved_step = Some(step);
        self.reporter.report(&TrainerEvent::Checkpoint {
            step,
            directory: saved.directory.display().to_string(),
            manifest_sha256: saved.manifest_sha256,
            bytes: saved.bytes,
        })
    }

    fn finish(&mut self, step: u64, quality: Quality) -> Result<Ending, TrainerError> {
        self.save(step)?;
        let latency_ms = match &self.job.task {
            Task::Supernet { backbone, kernels, .. } => {
                let scores = self.net.scores(backbone, kernels)?;
                self.reporter.report(&TrainerEvent::Scores(Box::new(scores)))?;
                None
            }
            Task::Retrain { .. } => {
                self.phase(Phase::MeasuringLatency)?;
                Some(latency_ms(&mut self.net, self.job.patch)?)
            }
        };
        let cost = cost(&self.job.task.network(), self.job.patch)
            .map_err(|error| TrainerError::User(error.to_string()))?;
        self.reporter.report(&TrainerEvent::Completed(Summary {
            step,
            quality,
            param_count: self.net.param_count(),
            mac_count: cost.mac_count,
            latency_ms,
            peak_memory_mib: device::peak_memory_mib(),
            train_duration_s: self.start.elapsed().as_secs_f64(),
        }))?;
        Ok(Ending::Completed)
    }

    fn phase(&mut self, phase: Phase) -> Result<(), TrainerError> {
        self.reporter.report(&TrainerEvent::Phase(phase))
    }
}

/// Speed of the last whole window, or of what there is of the first.
struct Throughput {
    batch_size: u32,
    since: Instant,
    steps: u64,
    waited: Duration,
    samples_per_s: f64,
    data_wait_share: f64,
    has_window: bool,
}

impl Throughput {
    fn new(batch_size: u32) -> Self {
        Throughput {
            batch_size,
            since: Instant::now(),
            steps: 0,
            waited: Duration::ZERO,
            samples_per_s: 0.0,
            data_wait_share: 0.0,
            has_window: false,
        }
    }

    /// `waited`: for the data of this step.
    fn count_step(&mut self, waited: Duration) {
        self.steps += 1;
        self.waited += waited;
        let elapsed = self.since.elapsed();
        let whole = elapsed >= THROUGHPUT_WINDOW;
        if !whole && self.has_window {
            return;
        }
        let elapsed_s = elapsed.as_secs_f64().max(1e-9);
        self.samples_per_s = (self.steps * u64::from(self.batch_size)) as f64 / elapsed_s;
        self.data_wait_share = (self.waited.as_secs_f64() / elapsed_s).min(1.0);
        if whole {
            self.has_window = true;
            self.restart();
        }
    }

    /// Begins a window; validations and checkpoints are no training time.
    fn restart(&mut self) {
        (self.since, self.steps, self.waited) = (Instant::now(), 0, Duration::ZERO);
    }
}
