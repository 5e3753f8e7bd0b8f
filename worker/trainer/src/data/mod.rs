//! The job's data: opened, checked against the job, and made into batches ahead
//! of the loop.
//!
//! | module | does |
//! |---|---|
//! | [`cases`] | labelled volumes, for segmentation |
//! | [`samples`] | volumes and clips with one class each |
//! | [`hash`] | the digest of all files, in the background |
//! | [`ahead`] | threads that make batches before they are needed |

pub mod ahead;
pub mod cases;
pub mod hash;
pub mod samples;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cakes::input::NetworkInput;
use cakes::job::TrainerJob;
use cakes::spec::{Augmentation, DatasetSpec};
use cakes_data::samples::CacheOptions;
use tch::{Device, Tensor};

use crate::TrainerError;
use crate::ranks::Share;
pub use ahead::Ahead;
use cases::Cases;
use samples::ClassSamples;

/// How data is found and read; nothing here changes what a job computes.
#[derive(Clone, Debug)]
pub struct DataOptions<'a> {
    /// Relative data set folders are looked up here.
    pub root: &'a Path,
    /// Threads that make batches.
    pub loader_threads: usize,
    /// Where decoded samples are kept.
    pub cache: CacheOptions,
    /// Where batches are used. For a GPU they are made in pinned memory, from which it
    /// copies while the host goes on.
    pub device: Device,
}

impl<'a> DataOptions<'a> {
    pub fn new(root: &'a Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let loader_threads = Self::loader_threads_for(cores);
        DataOptions { root, loader_threads, cache: CacheOptions::default(), device: Device::Cpu }
    }

    /// Half as many threads as compute, at most 8.
    pub fn loader_threads_for(threads: usize) -> usize {
        (threads / 2).clamp(1, 8)
    }
}

/// The data of a job.
#[derive(Clone, Debug)]
pub enum JobData {
    Cases(Arc<Cases>),
    Samples(Arc<ClassSamples>),
}

/// One batch in host memory.
#[derive(Debug)]
pub struct Batch {
    /// `[N, C, D, H, W]` float.
    pub images: Tensor,
    /// int64, `[N, D, H, W]` for segmentation, `[N]` for classification.
    pub labels: Tensor,
}

impl Batch {
    /// The same batch where `device` copies it from without making anybody wait.
    ///
    /// # Errors
    /// Such memory is exhausted.
    fn ready_for(self, device: Device) -> Result<Self, TrainerError> {
        match device {
            Device::Cuda(_) => Ok(Batch {
                images: self.images.f_pin_memory(device)?,
                labels: self.labels.f_pin_memory(device)?,
            }),
            _ => Ok(self),
        }
    }

    /// Images and labels on `device`. Work that is given to the device afterwards
    /// finds them there; the host does not wait for the copies.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn to(&self, device: Device) -> Result<(Tensor, Tensor), TrainerError> {
        let copy = |tensor: &Tensor| tensor.f_to_device_(device, tensor.f_kind()?, true, false);
        Ok((copy(&self.images)?, copy(&self.labels)?))
    }
}

/// Opens the data set of `job`. `tell` is told what a person should know.
///
/// # Errors
/// A file is wrong, or the data do not fit the job's network or patch.
pub fn load(
    job: &TrainerJob,
    options: &DataOptions<'_>,
    tell: &mut dyn FnMut(&str),
) -> Result<JobData, TrainerError> {
    Ok(match &job.dataset {
        DatasetSpec::Folder(_) | DatasetSpec::Phantoms(_) => {
            JobData::Cases(Arc::new(cases::load(job, options)?))
        }
        DatasetSpec::Arrays(_) | DatasetSpec::Video(_) => {
            JobData::Samples(Arc::new(samples::load(job, options, tell)?))
        }
    })
}

impl JobData {
    /// What the job's network reads.
    pub fn input(&self) -> &NetworkInput {
        match self {
            JobData::Cases(cases) => &cases.input,
            JobData::Samples(samples) => &samples.input,
        }
    }

    /// This process' share of the batches of `steps`, each of which follows from the job's seed and its
    /// step alone, made ahead by `threads` threads.
    pub fn batches(&self, job: &TrainerJob, share: Share, steps: Range<u64>, threads: usize) -> Ahead<Batch> {
        let seed = job.seed;
        match self {
            JobData::Cases(cases) => {
                let cases = cases.clone();
                Ahead::start(threads, steps, move |step| cases.batch(seed, step, share))
            }
            JobData::Samples(samples) => {
                let samples = samples.clone();
                Ahead::start(threads, steps, move |step| samples.batch(seed, step, share))
            }
        }
    }
}

/// Channels of a data set against the job's network.
fn check_channels(dataset: &str, channels: usize, job: &TrainerJob) -> Result<(), TrainerError> {
    let wanted = job.task.backbone().input_channels() as usize;
    if channels == wanted {
        return Ok(());
    }
    Err(TrainerError::User(format!(
        "backbone.input_channels is {wanted}, but the images of '{dataset}' have {channels}"
    )))
}

/// Classes that change places in a mirror, against the job's network.
fn check_swaps(job: &TrainerJob) -> Result<(), TrainerError> {
    let classes = job.task.backbone().classes();
    match job.training.augmentation.flip_swaps.iter().flatten().find(|class| **class >= classes) {
        Some(class) => Err(TrainerError::User(format!(
            "training.augmentation.flip_swaps: {class} is no class; there are 0 to {}",
            classes.saturating_sub(1)
        ))),
        None => Ok(()),
    }
}

fn flip_swaps(augmentation: &Augmentation) -> Vec<[usize; 2]> {
    augmentation.flip_swaps.iter().map(|pair| pair.map(|class| class as usize)).collect()
}

/// `[N, ..]` of N images of equal shape `[C, D, H, W]`, one behind the other.
fn image_tensor(values: &[f32], count: usize, shape: [usize; 4]) -> Result<Tensor, TrainerError> {
    let [c, d, h, w] = shape.map(|size| size as i64);
    Ok(Tensor::f_from_slice(values)?.f_view([count as i64, c, d, h, w])?)
}
