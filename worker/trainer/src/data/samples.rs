//! Volumes and clips with one class each.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use cakes::input::{InputKind, InputNormalisation, NetworkInput};
use cakes::job::TrainerJob;
use cakes::spec;
use cakes_data::patch::patch_stream;
use cakes_data::samples::{
    ArraySource, ArraySplit, ClipPolicy, Input, MedmnistPart, Normalisation, OpenOptions, SampleKind,
    SamplePolicy, SampleSource, Samples, VideoLayout, VideoSource, VolumePolicy,
};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use super::cases::patch_policy;
use super::{Ahead, Batch, DataOptions, check_channels, check_swaps, flip_swaps, image_tensor};
use crate::TrainerError;
use crate::ranks::Share;

/// The samples of a job and what is made of them.
#[derive(Debug)]
pub struct ClassSamples {
    samples: Samples,
    policy: SamplePolicy,
    /// Of the network.
    pub classes: usize,
    pub input: NetworkInput,
    /// Where batches are used.
    device: Device,
}

/// Opens the samples of `job`. `tell` is told what was left out.
///
/// # Errors
/// Samples cannot be read, or do not fit the job's network.
pub fn load(
    job: &TrainerJob,
    options: &DataOptions<'_>,
    tell: &mut dyn FnMut(&str),
) -> Result<ClassSamples, TrainerError> {
    let source = source(&job.dataset)?;
    let extent = job.patch.map(|size| size as usize);
    let open = OpenOptions {
        cache: options.cache.clone(),
        channels: Some(job.task.backbone().input_channels() as usize),
        short_side: Some(ClipPolicy::short_side(extent)),
    };
    let samples = Samples::open(&source, options.root, &open, &progress_lines())?;
    for skipped in samples.skipped() {
        tell(&format!("left out {}: {}", skipped.name, skipped.reason));
    }
    check_fit(&samples, job, tell)?;
    let policy = policy(&samples, job, extent)?;
    let classes = job.task.backbone().classes() as usize;
    let input = input(&samples, &policy, job);
    Ok(ClassSamples { samples, policy, classes, input, device: options.device })
}

fn input(samples: &Samples, policy: &SamplePolicy, job: &TrainerJob) -> NetworkInput {
    let (kind, normalisation, crop_scales) = match policy {
        SamplePolicy::Volume(policy) => (InputKind::Volume, &policy.normalisation, Vec::new()),
        SamplePolicy::Clip(policy) => (InputKind::Clip, &policy.normalisation, policy.crop_scales.clone()),
    };
    NetworkInput {
        dataset: samples.name.clone(),
        kind,
        patch: job.patch,
        normalisation: match normalisation.clone() {
            Normalisation::PerSample => InputNormalisation::PerSample,
            Normalisation::Fixed { mean, deviation } => InputNormalisation::Fixed { mean, deviation },
        },
        classes: samples.classes.clone(),
        crop_scales,
        validation_cases: Vec::new(),
    }
}

/// How often the log hears of a long opening.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Lines in the log while clips are decoded, which may take an hour.
fn progress_lines() -> impl Fn(usize, usize) + Sync {
    let last = Mutex::new(Instant::now());
    move |done, total| {
        let Ok(mut last) = last.try_lock() else { return };
        if last.elapsed() >= PROGRESS_INTERVAL {
            *last = Instant::now();
            eprintln!("{done} of {total} samples are ready");
        }
    }
}

pub(super) fn source(dataset: &spec::DatasetSpec) -> Result<SampleSource, TrainerError> {
    match dataset {
        spec::DatasetSpec::Arrays(arrays) => Ok(SampleSource::Arrays(ArraySource {
            path: arrays.path.clone().into(),
            split: array_split(&arrays.split),
            kind: match arrays.kind {
                spec::ArrayKind::Volume => SampleKind::Volume,
                spec::ArrayKind::Video => SampleKind::Clip,
            },
            tolerate: arrays.tolerate as usize,
        })),
        spec::DatasetSpec::Video(video) => Ok(SampleSource::Video(VideoSource {
            path: video.path.clone().into(),
            layout: video_layout(&video.layout),
            tolerate: video.tolerate as usize,
        })),
        spec::DatasetSpec::Folder(_) | spec::DatasetSpec::Phantoms(_) => {
            Err(TrainerError::User("dataset: its samples have no classes".into()))
        }
    }
}

fn array_split(split: &spec::ArraySplit) -> ArraySplit {
    match split.clone() {
        spec::ArraySplit::Medmnist { validation } => ArraySplit::Medmnist {
            validation: match validation {
                spec::MedmnistPart::Val => MedmnistPart::Val,
                spec::MedmnistPart::Test => MedmnistPart::Test,
            },
        },
        spec::ArraySplit::FoldArray { samples, labels, folds, fold } => {
            ArraySplit::FoldArray { samples, labels, folds, fold }
        }
        spec::ArraySplit::RowFold { samples, labels, fold, folds, seed } => {
            ArraySplit::RowFold { samples, labels, fold, folds, seed }
        }
    }
}

fn video_layout(layout: &spec::VideoLayout) -> VideoLayout {
    match layout.clone() {
        spec::VideoLayout::FrameLists { training_list, validation_list, pattern } => {
            VideoLayout::FrameLists {
                training_list: training_list.into(),
                validation_list: validation_list.into(),
                pattern,
            }
        }
        spec::VideoLayout::FileLists { training_list, validation_list } => VideoLayout::FileLists {
            training_list: training_list.into(),
            validation_list: validation_list.into(),
        },
        spec::VideoLayout::ClassFolders { fold, folds, seed } => {
            VideoLayout::ClassFolders { fold, folds, seed }
        }
    }
}

/// Fewer classes than the network's are no error: a list need not hold all.
fn check_fit(samples: &Samples, job: &TrainerJob, tell: &mut dyn FnMut(&str)) -> Result<(), TrainerError> {
    check_channels(&samples.name, samples.channels, job)?;
    let (wanted, found) = (job.task.backbone().classes() as usize, samples.classes.len());
    let text = format!("backbone.classes is {wanted}, but '{}' has {found} classes", samples.name);
    if found > wanted {
        return Err(TrainerError::User(text));
    }
    if found < wanted {
        tell(&text);
    }
    check_swaps(job)
}

fn policy(samples: &Samples, job: &TrainerJob, extent: [usize; 3]) -> Result<SamplePolicy, TrainerError> {
    let augmentation = &job.training.augmentation;
    let normalisation = samples.normalisation()?;
    Ok(match samples.kind {
        SampleKind::Volume => {
            SamplePolicy::Volume(VolumePolicy { patch: patch_policy(augmentation, extent), normalisation })
        }
        SampleKind::Clip => SamplePolicy::Clip(ClipPolicy {
            extent,
            crop_scales: augmentation.crop_scales.clone(),
            mirrors: augmentation.flip_axes[2],
            flip_swaps: flip_swaps(augmentation),
            noise_max: augmentation.noise_max,
            intensity_change_max: augmentation.intensity_change_max,
            normalisation,
        }),
    })
}

impl ClassSamples {
    /// The batch of a step: every sample once in each pass over the data, in an
    /// order of its own.
    ///
    /// # Errors
    /// A sample cannot be read, named.
    pub(super) fn batch(&self, seed: u64, step: u64, share: Share) -> Result<Batch, TrainerError> {
        let training = self.samples.training();
        let mut pass = Pass::new(training.len());
        let inputs = share.samples().map(|index| {
            let place = step * share.batch_size + index;
            let sample = self.samples.load(training[pass.sample(seed, place)])?;
            Ok(self.policy.train(&sample, &mut patch_stream(seed, step, index))?)
        });
        self.stack(&inputs.collect::<Result<Vec<_>, TrainerError>>()?)
    }

    pub fn validation_count(&self) -> usize {
        self.samples.validation().len()
    }

    /// Validation samples in their order, `size` at a time.
    pub fn validation(self: &std::sync::Arc<Self>, size: usize, threads: usize) -> Ahead<Batch> {
        let (all, own) = (self.validation_count(), self.clone());
        Ahead::start(threads, 0..all.div_ceil(size) as u64, move |batch| {
            let first = batch as usize * size;
            let ids = &own.samples.validation()[first..(first + size).min(all)];
            let inputs = ids.iter().map(|id| Ok(own.policy.evaluate(&own.samples.load(*id)?)?));
            own.stack(&inputs.collect::<Result<Vec<_>, TrainerError>>()?)
        })
    }

    fn stack(&self, inputs: &[Input]) -> Result<Batch, TrainerError> {
        let [d, h, w] = self.policy.extent();
        let values: Vec<f32> = inputs.iter().flat_map(|input| input.image.iter().copied()).collect();
        let labels: Vec<i64> = inputs.iter().map(|input| input.label as i64).collect();
        let batch = Batch {
            images: image_tensor(&values, inputs.len(), [self.samples.channels, d, h, w])?,
            labels: Tensor::f_from_slice(&labels)?,
        };
        batch.ready_for(self.device)
    }
}

/// The order of samples, of one pass at a time.
struct Pass {
    number: Option<u64>,
    order: Vec<usize>,
}

impl Pass {
    fn new(count: usize) -> Self {
        Pass { number: None, order: (0..count).collect() }
    }

    /// The sample at a place of the endless sequence of passes.
    fn sample(&mut self, seed: u64, place: u64) -> usize {
        let count = self.order.len() as u64;
        let number = place / count;
        if self.number != Some(number) {
            self.number = Some(number);
            self.order.sort_unstable();
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6f72_6465_725f_7321);
            rng.set_stream(number);
            self.order.shuffle(&mut rng);
        }
        self.order[(place % count) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_holds_every_sample_once_in_an_order_of_its_own() {
        let mut pass = Pass::new(10);
        let sequence: Vec<usize> = (0..30).map(|place| pass.sample(3, place)).collect();
        for samples in sequence.chunks(10) {
            let mut sorted = samples.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(sequence[..10], sequence[10..20]);
        // From anywhere: a resumed job reads on.
        let again: Vec<usize> = (17..30).map(|place| Pass::new(10).sample(3, place)).collect();
        assert_eq!(again, sequence[17..]);
    }

    #[test]
    fn a_checkpoint_says_what_validation_cuts_out_of_a_frame() {
        for crop_scales in [spec::Augmentation::default().crop_scales, vec![1.0], vec![1.0, 0.875]] {
            let policy = ClipPolicy {
                extent: [4, 8, 8],
                crop_scales: crop_scales.clone(),
                mirrors: false,
                flip_swaps: Vec::new(),
                noise_max: 0.0,
                intensity_change_max: 0.0,
                normalisation: Normalisation::PerSample,
            };
            let input = NetworkInput {
                dataset: String::new(),
                kind: InputKind::Clip,
                patch: [4, 8, 8],
                normalisation: InputNormalisation::PerSample,
                classes: Vec::new(),
                crop_scales,
                validation_cases: Vec::new(),
            };
            assert_eq!(input.evaluation_crop(), Some(policy.evaluation_share()));
        }
    }
}
