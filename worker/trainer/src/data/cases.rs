//! Labelled volumes: normalised, in memory, patches drawn from them.

use std::path::Path;

use cakes::input::{InputKind, InputNormalisation, NetworkInput};
use cakes::job::TrainerJob;
use cakes::spec::{Augmentation, DatasetSpec, ValidationSplit};
use cakes_data::patch::{PatchPolicy, PreparedCase, at_least, patch_stream, sample_patch};
use cakes_data::phantom::PhantomSpec;
use cakes_data::split::Split;
use cakes_data::{Dataset, LoadedCase, normalise, pad_to_at_least};
use rand::RngExt;
use tch::{Device, Tensor};

use super::{Batch, DataOptions, check_channels, check_swaps, flip_swaps, image_tensor};
use crate::TrainerError;
use crate::ranks::Share;

/// All cases of a job, normalised, in memory.
#[derive(Debug)]
pub struct Cases {
    training: Vec<PreparedCase>,
    pub validation: Vec<LoadedCase>,
    pub input: NetworkInput,
    policy: PatchPolicy,
    /// Where batches are used.
    device: Device,
}

/// Opens and loads the cases of `job`.
///
/// # Errors
/// A file is wrong, or the data do not fit the job's network or patch.
pub fn load(job: &TrainerJob, options: &DataOptions<'_>) -> Result<Cases, TrainerError> {
    let (dataset, split, pads) = open(&job.dataset, options.root)?;
    check_fit(&dataset, job)?;
    let partition = dataset.split(&split)?;
    let patch = job.patch.map(|size| size as usize);
    let prepare = |id: &String| -> Result<LoadedCase, TrainerError> {
        let mut case = dataset.load(id)?;
        if !pads {
            at_least(&case, patch)?;
        }
        normalise(&mut case.image);
        Ok(case)
    };
    let training = partition.training.iter().map(|id| {
        let case = pad_to_at_least(prepare(id)?, patch);
        Ok(PreparedCase::new(case, patch)?)
    });
    let training = training.collect::<Result<Vec<_>, TrainerError>>()?;
    let validation = partition.validation.iter().map(prepare).collect::<Result<Vec<_>, _>>()?;
    let policy = patch_policy(&job.training.augmentation, patch);
    let input = input(&dataset, job, partition.validation);
    Ok(Cases { training, validation, input, policy, device: options.device })
}

fn input(dataset: &Dataset, job: &TrainerJob, validation: Vec<String>) -> NetworkInput {
    let has_files = matches!(job.dataset, DatasetSpec::Folder(_));
    NetworkInput {
        dataset: dataset.name.clone(),
        kind: InputKind::Volume,
        patch: job.patch,
        normalisation: InputNormalisation::PerSample,
        classes: dataset.classes.clone(),
        crop_scales: Vec::new(),
        validation_cases: if has_files { validation } else { Vec::new() },
    }
}

pub(super) fn open(spec: &DatasetSpec, data_root: &Path) -> Result<(Dataset, Split, bool), TrainerError> {
    match spec {
        DatasetSpec::Phantoms(phantoms) => {
            let spec = PhantomSpec {
                cases: phantoms.cases as usize,
                extent: phantoms.extent.map(|size| size as usize),
                seed: phantoms.seed,
            };
            Ok((Dataset::phantoms(spec), Split::Last(phantoms.validation_cases as usize), true))
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
        DatasetSpec::Arrays(_) | DatasetSpec::Video(_) => {
            Err(TrainerError::User("dataset: holds no labelled volumes".into()))
        }
    }
}

fn check_fit(dataset: &Dataset, job: &TrainerJob) -> Result<(), TrainerError> {
    check_channels(&dataset.name, dataset.channels, job)?;
    let classes = job.task.backbone().classes() as usize;
    if dataset.classes.len() != classes {
        return Err(TrainerError::User(format!(
            "backbone.classes is {classes}, but '{}' has {} with the background ({})",
            dataset.name,
            dataset.classes.len(),
            dataset.classes.join(", ")
        )));
    }
    check_swaps(job)
}

pub(super) fn patch_policy(augmentation: &Augmentation, extent: [usize; 3]) -> PatchPolicy {
    PatchPolicy {
        extent,
        foreground_probability: augmentation.foreground_probability,
        flip_axes: augmentation.flip_axes,
        flip_swaps: flip_swaps(augmentation),
        affine_probability: augmentation.affine_probability,
        rotation_degrees_max: augmentation.rotation_degrees_max,
        scale_change_max: augmentation.scale_change_max,
        noise_max: augmentation.noise_max,
        intensity_change_max: augmentation.intensity_change_max,
    }
}

impl Cases {
    /// A process' share of the batch of a step.
    ///
    /// # Errors
    /// Memory is exhausted.
    pub(super) fn batch(&self, seed: u64, step: u64, share: Share) -> Result<Batch, TrainerError> {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        let mut channels = 0;
        for index in share.samples() {
            let mut stream = patch_stream(seed, step, index);
            let prepared = &self.training[stream.random_range(0..self.training.len())];
            let patch = sample_patch(prepared, &self.policy, &mut stream);
            channels = patch.image.dim().0;
            images.extend(patch.image.iter().copied());
            labels.extend(patch.label.iter().map(|class| i64::from(*class)));
        }
        let [d, h, w] = self.policy.extent;
        let batch = Batch {
            images: image_tensor(&images, share.count as usize, [channels, d, h, w])?,
            labels: Tensor::f_from_slice(&labels)?.f_view([
                share.count as i64,
                d as i64,
                h as i64,
                w as i64,
            ])?,
        };
        batch.ready_for(self.device)
    }
}
