//! The training loop. It decides nothing: lengths, rates, validations and
//! checkpoints are what the job's specification says.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cakes::architecture::{Architecture, LayerAllocation};
use cakes::backbone::Backbone;
use cakes::cost::cost;
use cakes::derive::{LatencyTable, derive_per_layer};
use cakes::frame::{Phase, Quality, Summary, TRAINER_PROTOCOL, TrainerEvent};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::KernelSet;
use cakes::sparse::Sparse;
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::checkpoint::interval::Interval;
use crate::checkpoint::saver::{Finished, Saver};
use crate::checkpoint::write::Place;
use crate::checkpoint::{EarlyStop, Progress};
use crate::data::hash::{Hashing, News};
use crate::data::{Ahead, Batch, DataOptions, JobData, load};
use crate::evaluate::{Windows, latency_ms, validate};
use crate::loss::{classification_loss, segmentation_loss_over};
use crate::nets::{Net, Numbers, Statistics, take_measured};
use crate::optim::{Optimizer, Step};
use crate::profile::latency_table;
use crate::ranks::{Ranks, Share};
use crate::report::Reporter;
use crate::throughput::Throughput;
use crate::weights::Sources;
use crate::{checkpoint, classify, device, weights};

/// Where a job runs and what it may touch.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub device: Device,
    pub data: DataOptions<'a>,
    /// Checkpoints are written below it.
    pub folder: &'a Path,
    /// A checkpoint to go on from.
    pub resume: Option<PathBuf>,
    /// A checkpoint of the supernet that the job starts from.
    pub supernet: Option<PathBuf>,
    /// How many of its checkpoints are left behind, the newest ones; all without it.
    pub keep: Option<NonZeroUsize>,
    /// Of this machine; decides how often a job saves that does not say it.
    pub mean_time_between_failures: Duration,
    /// Set to make the job save and stop after its current step.
    pub stop: &'a AtomicBool,
    /// Who trains the network together with this process.
    pub ranks: Option<Arc<Ranks>>,
}

/// How a job that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Completed,
    /// Stopped as asked, behind a checkpoint.
    Stopped,
}

/// A validation that was not cut short.
#[derive(Clone, Debug)]
enum Validated {
    Here(Quality),
    /// By the process that leads.
    Elsewhere,
}

/// Samples that are classified together at least: without gradients they take
/// little memory.
const VALIDATION_BATCH_MIN: u32 = 4;

/// How long a training that is done waits for the digest of its data before it says that
/// it is alive.
const HASH_PATIENCE: Duration = Duration::from_secs(5);

/// Training batches that a child's statistics are taken from before a validation.
const CALIBRATION_BATCHES: u64 = 16;

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
    let leads = around.ranks.as_ref().is_none_or(|ranks| ranks.rank() == 0);
    let hashing = if leads { Some(Hashing::start(job, &around.data)?) } else { None };
    reporter.begin("load data", &[])?;
    let data = load(job, &around.data, &mut |text| reporter.note(text))?;
    reporter.end()?;
    reporter.report(&TrainerEvent::Phase(Phase::Building))?;
    reporter.begin("build network", &[])?;
    let net = Net::new(job.task.network(), job.patch, job.seed, around.device)?;
    let net = net.with_numbers(Numbers::of(&job.training)).with_ranks(around.ranks.clone());
    let optimizer = Optimizer::new(job.training.optimizer.clone(), &net)?;
    let progress = match &around.resume {
        Some(directory) => checkpoint::load(directory, job, &net, &optimizer)?,
        None => {
            let sources = Sources { data_root: around.data.root, supernet: around.supernet.as_deref() };
            for note in weights::start_from(&job.initial_weights, sources, job, &net)? {
                reporter.note(&note);
            }
            Progress { step: 0, early_stop: EarlyStop::new(&job.task) }
        }
    };
    let first = progress.step;
    reporter.end()?;
    reporter.report(&TrainerEvent::Ready {
        protocol: TRAINER_PROTOCOL,
        device: device::name(around.device),
        libtorch: checkpoint::libtorch_version().to_owned(),
        param_count: net.param_count(),
        steps_total: job.training.steps_total(),
        epochs_total: job.training.epochs.into(),
        resumed_step: first,
    })?;
    let place = Place::new(around.folder.join("checkpoints"), job).reading(data.input().clone());
    Training {
        job,
        around,
        reporter,
        net,
        optimizer,
        data,
        early_stop: progress.early_stop,
        start: Instant::now(),
        saver: Saver::new(place, around.keep),
        interval: Interval::new(around.mean_time_between_failures),
        snapshot: (first, Instant::now()),
        hashing,
        share: match &around.ranks {
            None => Share::whole(job.training.batch_size),
            Some(ranks) => ranks.share(),
        },
        is_asked_to_stop: false,
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
    early_stop: Option<EarlyStop>,
    start: Instant,
    saver: Saver,
    interval: Interval,
    /// Step of the last one, 0 for none, and when it was taken.
    snapshot: (u64, Instant),
    /// None once it has been told what the data are.
    hashing: Option<Hashing>,
    share: Share,
    /// By what all processes agree on behind each step.
    is_asked_to_stop: bool,
}

impl Training<'_> {
    fn run(mut self, first: u64) -> Result<Ending, TrainerError> {
        let ending = self.train(first);
        if ending.is_err()
            && let Ok(finished) = self.saver.wait()
        {
            // Sound, however the training ended. What ended it is told, not this.
            let _ = self.report_saved(finished);
        }
        ending
    }

    fn train(&mut self, first: u64) -> Result<Ending, TrainerError> {
        let training = &self.job.training;
        let (total, per_epoch) = (training.steps_total(), u64::from(training.steps_per_epoch));
        self.check_same(first)?;
        let threads = self.around.data.loader_threads;
        let mut batches = self.data.batches(self.job, self.share, first..total, threads);
        let mut throughput = Throughput::new(training.batch_size);
        let mut quality = None;
        let mut done = first;
        // The checkpoint may have been written while that validation was running.
        if first.is_multiple_of(per_epoch) && first > 0 && training.validates_after(first / per_epoch) {
            self.observe_architecture(first)?;
        }
        self.phase(Phase::Training)?;
        let mut shown = Sparse::default();
        let mut is_in_epoch = false;
        while done < total && !self.is_settled() {
            if !std::mem::replace(&mut is_in_epoch, true) {
                self.reporter.begin("epoch", &[("cakes.epoch", done / per_epoch + 1)])?;
            }
            let is_shown = shown.takes(self.start.elapsed());
            if is_shown {
                self.reporter.begin("training step", &[("cakes.step", done + 1)])?;
            }
            let loss = self.step(done, &mut batches)?;
            self.report_measuring()?;
            if is_shown {
                self.reporter.end()?;
            }
            done += 1;
            let epoch_ends = done.is_multiple_of(per_epoch);
            throughput.count_step(batches.take_waited());
            self.report_step(done, loss, &throughput)?;
            if epoch_ends {
                let epoch = done / per_epoch;
                quality = if training.validates_after(epoch) { self.validate(done, epoch)? } else { None };
                if quality.is_some() {
                    self.observe_architecture(done)?;
                }
            }
            let waited = self.save_if_due(done)?;
            let ends = done == total || self.is_settled();
            if epoch_ends || ends {
                self.reporter.end()?;
                is_in_epoch = false;
            }
            if epoch_ends || waited {
                self.phase(Phase::Training)?;
                throughput.restart();
            }
            if self.stops() && !ends {
                if is_in_epoch {
                    self.reporter.end()?;
                }
                self.save_and_wait(done)?;
                return Ok(Ending::Stopped);
            }
        }
        let quality = match quality {
            Some(quality) => Some(quality),
            None => self.validate(done, done / per_epoch)?,
        };
        match quality {
            Some(Validated::Here(quality)) => self.finish(done, quality),
            Some(Validated::Elsewhere) => Ok(Ending::Completed),
            None => {
                self.save_and_wait(done)?;
                Ok(Ending::Stopped)
            }
        }
    }

    /// Whether this process validates, saves and reports.
    fn leads(&self) -> bool {
        self.around.ranks.as_ref().is_none_or(|ranks| ranks.rank() == 0)
    }

    /// Whether the job was asked to stop; where several processes train, all of them stop
    /// behind the same step.
    fn stops(&self) -> bool {
        match &self.around.ranks {
            None => self.around.stop.load(Ordering::Relaxed),
            Some(_) => self.is_asked_to_stop,
        }
    }

    /// Looks whether all processes stand at the same step with the same parameters.
    fn check_same(&self, step: u64) -> Result<(), TrainerError> {
        let Some(ranks) = &self.around.ranks else { return Ok(()) };
        let mut numbers = vec![step as f64];
        for param in self.net.params().values() {
            numbers.push(param.tensor.f_detach()?.f_sum(Kind::Double)?.f_double_value(&[])?);
        }
        ranks.check_same(&numbers)
    }

    /// Whether the search has made up its mind.
    fn is_settled(&self) -> bool {
        self.early_stop.as_ref().is_some_and(|early_stop| early_stop.stability.is_reached())
    }

    /// Counts the architecture of the paper's rule behind the validation of `step`,
    /// once.
    fn observe_architecture(&mut self, step: u64) -> Result<(), TrainerError> {
        if self.early_stop.as_ref().is_none_or(|early_stop| early_stop.observed_step >= step) {
            return Ok(());
        }
        let (Some(architecture), Some(early_stop)) = (self.derive()?, self.early_stop.as_mut()) else {
            return Ok(());
        };
        early_stop.observed_step = step;
        if early_stop.stability.observe(&architecture) {
            let count = early_stop.stability.unchanged();
            self.reporter.note(&format!(
                "the derived architecture was the same after {count} validations; the search ends at step {step}"
            ));
        }
        Ok(())
    }

    /// The architecture of the paper's rule as the scores stand; none of a retraining.
    fn derive(&self) -> Result<Option<Architecture>, TrainerError> {
        let Task::Supernet { backbone, kernels, .. } = &self.job.task else { return Ok(None) };
        let scores = self.net.scores(backbone, kernels)?;
        derive_per_layer(&scores).map(Some).map_err(|error| TrainerError::Report(error.to_string()))
    }

    fn derived_now(&self) -> Result<Vec<LayerAllocation>, TrainerError> {
        Ok(self.derive()?.map_or_else(Vec::new, |architecture| architecture.layers().collect()))
    }

    fn step(&mut self, step: u64, batches: &mut Ahead<Batch>) -> Result<f64, TrainerError> {
        let batch = batches.take_next()?;
        let draws = self.net.draw(self.job.seed, step)?;
        let (images, labels) = batch.to(self.around.device)?;
        let ranks = self.around.ranks.clone();
        let loss = |output: &Tensor| {
            let own = match &self.data {
                JobData::Cases(_) => segmentation_loss_over(ranks.as_deref(), output, &labels),
                JobData::Samples(_) => classification_loss(output, &labels),
            }?;
            Ok(if ranks.is_some() { own * self.share.weight() } else { own })
        };
        let (mut loss, gradients) = self.net.gradients(&images, &draws, loss)?;
        if let Some(ranks) = &ranks {
            let asks = f64::from(u8::from(self.around.stop.load(Ordering::Relaxed)));
            let all = ranks.sum_of(&[loss, asks])?;
            (loss, self.is_asked_to_stop) = (all[0], all[1] > 0.0);
        }
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

    /// Tells how long methods were measured since this was asked last.
    fn report_measuring(&mut self) -> Result<(), TrainerError> {
        match take_measured() {
            (0, _) => Ok(()),
            (count, length) => self.reporter.took("measure methods", length, &[("cakes.methods", count)]),
        }
    }

    /// Tells what is known of the data after `limit` at the most; whether that is all.
    fn report_data(&mut self, limit: Duration) -> Result<bool, TrainerError> {
        let Some(hashing) = &self.hashing else { return Ok(true) };
        match hashing.wait(limit) {
            None => {}
            Some(News::Progress(text)) => self.reporter.note(&text),
            Some(News::Failed(text)) => {
                self.hashing = None;
                self.reporter.note(&text);
            }
            Some(News::Found(content)) => {
                self.hashing = None;
                self.reporter.report(&TrainerEvent::Data(content))?;
            }
        }
        Ok(self.hashing.is_none())
    }

    fn report_step(&mut self, done: u64, loss: f64, throughput: &Throughput) -> Result<(), TrainerError> {
        self.report_data(Duration::ZERO)?;
        self.reporter.report(&TrainerEvent::Step {
            step: done,
            loss,
            learning_rate: self.job.training.learning_rate(done - 1),
            samples_per_s: throughput.samples_per_s,
            data_wait_share: throughput.data_wait_share,
        })
    }

    /// None if the job was asked to stop meanwhile.
    fn validate(&mut self, step: u64, epoch: u64) -> Result<Option<Validated>, TrainerError> {
        self.phase(Phase::Validating)?;
        self.reporter.begin("validate", &[("cakes.epoch", epoch), ("cakes.step", step)])?;
        let validated = self.validate_now(step, epoch)?;
        self.report_measuring()?;
        self.reporter.end()?;
        Ok(validated)
    }

    fn validate_now(&mut self, step: u64, epoch: u64) -> Result<Option<Validated>, TrainerError> {
        self.check_same(step)?;
        let stop = self.around.stop;
        let keep_going = |_| !stop.load(Ordering::Relaxed);
        let trained = self.recalibrate()?;
        let quality = match &self.data {
            _ if !self.leads() => None,
            JobData::Cases(cases) => {
                let stride = self.job.task.backbone().total_stride();
                let windows = Windows { patch: self.job.patch, stride };
                validate(&mut self.net, &cases.validation, windows, keep_going)?
            }
            JobData::Samples(samples) => {
                let size = self.job.training.batch_size.max(VALIDATION_BATCH_MIN) as usize;
                let threads = self.around.data.loader_threads;
                classify::validate(&mut self.net, samples, size, threads, keep_going)?
            }
        };
        if let Some(trained) = trained {
            self.net.restore_statistics(&trained)?;
        }
        if let Some(quality) = &quality {
            let (quality, layers) = (quality.clone(), self.derived_now()?);
            self.reporter.report(&TrainerEvent::Validation { step, epoch, quality, layers })?;
        }
        let Some(ranks) = &self.around.ranks else { return Ok(quality.map(Validated::Here)) };
        // The others wait here.
        let is_there = ranks.sum_of(&[f64::from(u8::from(quality.is_some()))])?[0] > 0.0;
        self.is_asked_to_stop |= !is_there;
        Ok(is_there.then(|| quality.map_or(Validated::Elsewhere, Validated::Here)))
    }

    /// Gives a supernet whose steps run other children the statistics of the child
    /// that validation runs, from the first batches of the training; returns those of
    /// the training, which validation must not change.
    fn recalibrate(&mut self) -> Result<Option<Statistics>, TrainerError> {
        if !self.net.draws_kernels() {
            return Ok(None);
        }
        let mut draws = self.net.best_draw()?;
        // As the statistics are computed in training mode, dropouts drop.
        draws.masks = Some(self.net.mask_seed(self.job.seed, 0));
        let Surroundings { device, stop, ranks, .. } = self.around;
        let count = CALIBRATION_BATCHES.min(self.job.training.steps_total());
        let threads = self.around.data.loader_threads;
        let mut batches = self.data.batches(self.job, self.share, 0..count, threads);
        // Who asks for a stop gets no validation either; several processes do the same.
        let images = (0..count)
            .take_while(|_| ranks.is_some() || !stop.load(Ordering::Relaxed))
            .map(|_| Ok(batches.take_next()?.images.f_to(*device)?));
        self.net.recalibrate(&draws, images).map(Some)
    }

    /// Begins a checkpoint behind `step` if it is time for one, and reports one that
    /// has been written meanwhile. Whether the training waited for the one before.
    fn save_if_due(&mut self, step: u64) -> Result<bool, TrainerError> {
        if !self.leads() {
            return Ok(false);
        }
        let training = &self.job.training;
        let is_due = match training.checkpoint_interval_steps() {
            Some(_) => training.saves_after(step),
            None => self.snapshot.1.elapsed() >= self.interval.length(),
        };
        if is_due && step < training.steps_total() {
            return self.save(step);
        }
        let finished = self.saver.take_finished()?;
        self.report_saved(finished)?;
        Ok(false)
    }

    /// Begins a checkpoint behind `step`. One save is under way at most: whoever asks
    /// for the next before it has ended gets both, and waits; whether it did.
    fn save(&mut self, step: u64) -> Result<bool, TrainerError> {
        let finished = self.saver.take_finished()?;
        self.report_saved(finished)?;
        if self.snapshot.0 == step && step > 0 {
            return Ok(false);
        }
        let waits = self.saver.is_busy();
        if waits {
            self.phase(Phase::SavingCheckpoint)?;
        }
        let progress = Progress { step, early_stop: self.early_stop.clone() };
        let before = self.saver.begin(progress, &self.net, &self.optimizer)?;
        self.snapshot = (step, Instant::now());
        self.report_saved(before)?;
        Ok(waits)
    }

    /// A checkpoint behind `step` that stands on disk.
    fn save_and_wait(&mut self, step: u64) -> Result<(), TrainerError> {
        if !self.leads() {
            return Ok(());
        }
        self.phase(Phase::SavingCheckpoint)?;
        self.save(step)?;
        let finished = self.saver.wait()?;
        self.report_saved(finished)
    }

    fn report_saved(&mut self, finished: Option<Finished>) -> Result<(), TrainerError> {
        let Some(Finished { step, saved, stall, save }) = finished else { return Ok(()) };
        self.interval.measured(save, stall);
        self.reporter.took("save checkpoint", save, &[("cakes.step", step)])?;
        self.reporter.report(&TrainerEvent::Checkpoint {
            step,
            directory: saved.directory.display().to_string(),
            manifest_sha256: saved.manifest_sha256,
            bytes: saved.bytes,
            stall_s: stall.as_secs_f64(),
            save_s: save.as_secs_f64(),
        })
    }

    fn finish(&mut self, step: u64, quality: Quality) -> Result<Ending, TrainerError> {
        self.save_and_wait(step)?;
        while !self.report_data(HASH_PATIENCE)? {
            // A sign of life: a large data set takes longer than a section may.
            self.phase(Phase::LoadingData)?;
            if self.around.stop.load(Ordering::Relaxed) {
                return Ok(Ending::Stopped);
            }
        }
        self.reporter.begin("measure latency", &[])?;
        let latency_ms = match &self.job.task {
            Task::Supernet { backbone, kernels, .. } => {
                let scores = self.net.scores(backbone, kernels)?;
                self.reporter.report(&TrainerEvent::Scores(Box::new(scores)))?;
                let Some(table) = self.latency_table(backbone, kernels)? else {
                    return Ok(Ending::Stopped);
                };
                self.reporter.report(&TrainerEvent::Latency(Box::new(table)))?;
                None
            }
            Task::Retrain { .. } => {
                self.phase(Phase::MeasuringLatency)?;
                Some(latency_ms(&mut self.net, self.job.patch)?)
            }
        };
        self.reporter.end()?;
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

    /// None if the job was asked to stop meanwhile; its last checkpoint is written.
    fn latency_table(
        &mut self,
        backbone: &Backbone,
        kernels: &KernelSet,
    ) -> Result<Option<LatencyTable>, TrainerError> {
        let Training { job, around, reporter, .. } = self;
        let build = |network, extent| {
            let net = Net::new(network, extent, job.seed, around.device)?;
            Ok(net.with_numbers(Numbers::of(&job.training)))
        };
        // Each question is a sign of progress.
        let goes_on = || {
            reporter.report(&TrainerEvent::Phase(Phase::MeasuringLatency))?;
            Ok(!around.stop.load(Ordering::Relaxed))
        };
        latency_table(backbone, kernels, job.patch, build, goes_on)
    }

    fn phase(&mut self, phase: Phase) -> Result<(), TrainerError> {
        self.reporter.report(&TrainerEvent::Phase(phase))
    }
}
