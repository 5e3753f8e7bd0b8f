//! The job's data: opened, checked against the job, prepared in memory, and
//! batches made ahead of the loop.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use cakes::job::TrainerJob;
use cakes::spec::{DatasetSpec, ValidationSplit};
use cakes_data::patch::{PatchPolicy, PreparedCase, at_least, patch_stream, sample_patch};
use cakes_data::phantom::PhantomSpec;
use cakes_data::split::Split;
use cakes_data::{Dataset, LoadedCase, normalise, pad_to_at_least};
use rand::RngExt;
use tch::Tensor;

use crate::TrainerError;

/// All cases of a job, normalised, in memory.
#[derive(Debug)]
pub struct JobData {
    pub training: Arc<Vec<PreparedCase>>,
    pub validation: Vec<LoadedCase>,
}

/// Opens and loads the data set of `job`. Relative folders are looked up under
/// `data_root`. `progress` is told how many cases of how many are loaded.
///
/// # Errors
/// A file is wrong, or the data do not fit the job's network or patch.
pub fn load(
    job: &TrainerJob,
    data_root: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<JobData, TrainerError> {
    let (dataset, split, pads) = open(&job.dataset, data_root)?;
    check_fit(&dataset, job)?;
    let partition = dataset.split(&split)?;
    let total = partition.training.len() + partition.validation.len();
    let patch = job.patch.map(|size| size as usize);
    let mut done = 0;
    let mut prepare = |id: &String| -> Result<LoadedCase, TrainerError> {
        let mut case = dataset.load(id)?;
        if !pads {
            at_least(&case, patch)?;
        }
        normalise(&mut case.image);
        done += 1;
        progress(done, total);
        Ok(case)
    };
    let training = partition.training.iter().map(|id| {
        let case = pad_to_at_least(prepare(id)?, patch);
        Ok(PreparedCase::new(case, patch)?)
    });
    let training = training.collect::<Result<Vec<_>, TrainerError>>()?;
    let validation = partition.validation.iter().map(&mut prepare).collect::<Result<Vec<_>, _>>()?;
    Ok(JobData { training: Arc::new(training), validation })
}

fn open(spec: &DatasetSpec, data_root: &Path) -> Result<(Dataset, Split, bool), TrainerError> {
    match spec {
        DatasetSpec::Phantoms(phantoms) => {
            let spec = PhantomSpec {
                cases: phantoms.cases as usize,
                extent: phantoms.extent.map(|size| size as usize),
                seed: phantoms.seed,
            };
            Ok((Dataset::phantoms(spec), Split::Last(phantoms.validation_cases as usize), true))
        }
        DatasetSpec::Arrays(_) | DatasetSpec::Video(_) => {
            Err(TrainerError::User("dataset: this trainer only segments".into()))
        }
        DatasetSpec::Folder(folder) => {
            let split = match &folder.validation {
                ValidationSplit::Cases(names) => Split::Named(names.clone()),
                ValidationSplit::SplitsFile => Split::File,
                ValidationSplit::Fold { fold, folds, seed } => {
                    Split::Fold { fold: *fold, folds: *folds, seed: *seed }
                }
            };
            // Joining an absolute path replaces the root.
            Ok((Dataset::open_folder(&data_root.join(&folder.path))?, split, folder.pad_small_volumes))
        }
    }
}

fn check_fit(dataset: &Dataset, job: &TrainerJob) -> Result<(), TrainerError> {
    let backbone = job.task.backbone();
    let (channels, classes) = (backbone.input_channels() as usize, backbone.classes() as usize);
    if dataset.channels != channels {
        return Err(TrainerError::User(format!(
            "backbone.input_channels is {channels}, but the images of '{}' have {}",
            dataset.name, dataset.channels
        )));
    }
    if dataset.classes.len() != classes {
        return Err(TrainerError::User(format!(
            "backbone.classes is {classes}, but '{}' has {} with the background ({})",
            dataset.name,
            dataset.classes.len(),
            dataset.classes.join(", ")
        )));
    }
    Ok(())
}

/// One batch in host memory.
#[derive(Debug)]
pub struct Batch {
    /// `[N, C, D, H, W]` float.
    pub images: Tensor,
    /// `[N, D, H, W]` int64.
    pub labels: Tensor,
}

/// Makes batches on a thread of its own, a few steps ahead of the loop.
#[derive(Debug)]
pub struct Batches {
    receiver: Receiver<Result<Batch, TrainerError>>,
    waited: Duration,
}

/// Batches that are ready before they are needed.
const AHEAD: usize = 4;

impl Batches {
    /// Batches from step `first` up to, not including, `end`.
    pub fn start(job: &TrainerJob, cases: Arc<Vec<PreparedCase>>, first: u64, end: u64) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let (policy, seed, size) = (policy(job), job.seed, u64::from(job.training.batch_size));
        std::thread::spawn(move || {
            for step in first..end {
                // The loop is gone when nobody receives; then so is the need.
                if sender.send(make_batch(&cases, &policy, seed, step, size)).is_err() {
                    break;
                }
            }
        });
        Batches { receiver, waited: Duration::ZERO }
    }

    /// The batch of the next step.
    ///
    /// # Errors
    /// The batch could not be made.
    pub fn take_next(&mut self) -> Result<Batch, TrainerError> {
        let start = Instant::now();
        let batch = self.receiver.recv();
        self.waited += start.elapsed();
        batch.map_err(|_| TrainerError::Report("the thread that makes batches has ended".into()))?
    }

    /// Time waited for batches since the last call.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

fn policy(job: &TrainerJob) -> PatchPolicy {
    let augmentation = &job.training.augmentation;
    PatchPolicy {
        extent: job.patch.map(|size| size as usize),
        foreground_probability: augmentation.foreground_probability,
        flip_axes: augmentation.flip_axes,
        affine_probability: augmentation.affine_probability,
        rotation_degrees_max: augmentation.rotation_degrees_max,
        scale_change_max: augmentation.scale_change_max,
        noise_max: augmentation.noise_max,
        intensity_change_max: augmentation.intensity_change_max,
    }
}

fn make_batch(
    cases: &[PreparedCase],
    policy: &PatchPolicy,
    seed: u64,
    step: u64,
    size: u64,
) -> Result<Batch, TrainerError> {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    let mut channels = 0;
    for index in 0..size {
        let mut stream = patch_stream(seed, step, index);
        let prepared = &cases[stream.random_range(0..cases.len())];
        let patch = sample_patch(prepared, policy, &mut stream);
        channels = patch.image.dim().0;
        images.extend(patch.image.iter().copied());
        labels.extend(patch.label.iter().map(|class| i64::from(*class)));
    }
    let [d, h, w] = policy.extent.map(|size| size as i64);
    Ok(Batch {
        images: Tensor::f_from_slice(&images)?.f_view([size as i64, channels as i64, d, h, w])?,
        labels: Tensor::f_from_slice(&labels)?.f_view([size as i64, d, h, w])?,
    })
}
