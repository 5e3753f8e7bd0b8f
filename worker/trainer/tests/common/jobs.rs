//! Runs of whole small jobs, and small data sets of classes.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cakes::backbone::{Backbone, EncoderDecoder};
use cakes::frame::{Phase, TrainerEvent};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::KernelSet;
use cakes::network::SearchMode;
use cakes::spec::{
    ArrayDataset, ArrayKind, ArraySplit, Augmentation, DatasetSpec, InitialWeights, OptimizerSpec,
    PhantomDataset, Schedule, TrainingSpec,
};
use cakes_data::samples::CacheOptions;
use cakes_trainer::TrainerError;
use cakes_trainer::data::DataOptions;
use cakes_trainer::report::Reporter;
use cakes_trainer::train::{Ending, Surroundings, run};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

/// Keeps all events and notes; asks for a stop behind a step.
#[derive(Default)]
struct Recorder<'a> {
    events: Vec<TrainerEvent>,
    notes: Vec<String>,
    stop_behind: Option<(u64, &'a AtomicBool)>,
}

impl Reporter for Recorder<'_> {
    fn report(&mut self, event: &TrainerEvent) -> Result<(), TrainerError> {
        // Counted by validations and checkpoints too, which always come.
        if let (TrainerEvent::Phase(Phase::Training), Some((left, stop))) = (event, &mut self.stop_behind) {
            *left -= 1;
            stop.store(*left == 0, Ordering::Relaxed);
        }
        self.events.push(event.clone());
        Ok(())
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

pub struct Finished {
    pub ending: Ending,
    pub events: Vec<TrainerEvent>,
    pub notes: Vec<String>,
}

/// How a job is run.
#[derive(Clone, Default)]
pub struct Manner {
    pub resume: Option<PathBuf>,
    pub supernet: Option<PathBuf>,
    /// Stops it in that training section, counted from 1.
    pub stop_in_section: Option<u64>,
    pub loader_threads: usize,
    /// Checkpoints that are left behind; all without it.
    pub keep: Option<NonZeroUsize>,
    /// Of the machine; a day without it.
    pub mean_time_between_failures: Option<Duration>,
}

/// Runs a job in `folder`, its data looked up below `root`.
pub fn run_job(
    folder: &Path,
    root: &Path,
    job: &TrainerJob,
    manner: Manner,
) -> Result<Finished, TrainerError> {
    tch::set_num_threads(1);
    let stop = AtomicBool::new(false);
    let mut recorder =
        Recorder { stop_behind: manner.stop_in_section.map(|count| (count, &stop)), ..Recorder::default() };
    let cache = CacheOptions { dir: Some(folder.join("cache")), ..CacheOptions::default() };
    let data = DataOptions { loader_threads: manner.loader_threads, cache, ..DataOptions::new(root) };
    let around = Surroundings {
        device: Device::Cpu,
        data,
        folder,
        resume: manner.resume,
        supernet: manner.supernet,
        keep: manner.keep,
        mean_time_between_failures: manner.mean_time_between_failures.unwrap_or(Duration::from_secs(86_400)),
        stop: &stop,
        ranks: None,
    };
    let ending = run(job, &around, &mut recorder)?;
    Ok(Finished { ending, events: recorder.events, notes: recorder.notes })
}

pub fn newest(folder: &Path) -> PathBuf {
    let mut steps: Vec<PathBuf> =
        fs::read_dir(folder.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    steps.sort();
    steps.pop().expect("a checkpoint")
}

/// All tensors of a checkpoint, bit by bit.
pub fn bits(checkpoint: &Path) -> BTreeMap<String, Vec<u8>> {
    ["weights.safetensors", "optimizer.safetensors"]
        .iter()
        .flat_map(|file| Tensor::read_safetensors(checkpoint.join(file)).unwrap())
        .map(|(name, tensor)| {
            let values: Vec<f32> = Vec::try_from(tensor.reshape([-1])).unwrap();
            (name, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect()
}

/// An array in NumPy's format, version 1.
pub fn write_npy(path: &Path, kind: &str, shape: &[usize], bytes: &[u8]) {
    let shape: String = shape.iter().map(|size| format!("{size},")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(bytes);
    fs::write(path, file).unwrap();
}

pub const CLASSES: usize = 3;
pub const SAMPLES: usize = 48;
const SIZE: [usize; 3] = [8, 20, 18];

/// Noisy volumes, or clips, with a bright bar along the axis that is their class;
/// as floats, `spoilt` holding a value that is not finite.
pub fn write_bars(folder: &Path, spoilt: Option<usize>) {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let [d, h, w] = SIZE;
    let mut values: Vec<f32> = Vec::new();
    for sample in 0..SAMPLES {
        let class = sample % CLASSES;
        let middle: [usize; 3] = SIZE.map(|size| rng.random_range(size / 4..size - size / 4));
        for (z, y, x) in (0..d).flat_map(|z| (0..h).flat_map(move |y| (0..w).map(move |x| (z, y, x)))) {
            let near = |axis: usize, at: usize| axis == class || at.abs_diff(middle[axis]) < 2;
            let bright = near(0, z) && near(1, y) && near(2, x);
            values.push(f32::from(u8::from(bright)) * 4.0 + rng.random_range(-0.5..0.5));
        }
        if spoilt == Some(sample) {
            *values.last_mut().unwrap() = f32::NAN;
        }
    }
    fs::create_dir_all(folder).unwrap();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    write_npy(&folder.join("images.npy"), "<f4", &[SAMPLES, d, h, w], &bytes);
    let labels: Vec<u8> = (0..SAMPLES).flat_map(|sample| ((sample % CLASSES) as i64).to_le_bytes()).collect();
    write_npy(&folder.join("labels.npy"), "<i8", &[SAMPLES], &labels);
    let folds: Vec<u8> = (0..SAMPLES).flat_map(|sample| (sample as i64 / 3 % 4).to_le_bytes()).collect();
    write_npy(&folder.join("folds.npy"), "<i8", &[SAMPLES], &folds);
}

/// What [`write_bars`] wrote into `bars` below the root.
pub fn bars(kind: ArrayKind) -> DatasetSpec {
    DatasetSpec::Arrays(ArrayDataset {
        path: "bars".into(),
        split: ArraySplit::FoldArray {
            samples: "images".into(),
            labels: "labels".into(),
            folds: "folds".into(),
            fold: 0,
        },
        kind,
        tolerate: 0,
    })
}

pub fn adam_w() -> OptimizerSpec {
    OptimizerSpec::AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
}

/// Searches kernels on tiny phantoms, drawing one for each channel and step.
pub fn phantoms_job(base_width: u32, steps: u32, l1_strength: f64, early_stop: Option<u32>) -> TrainerJob {
    let backbone =
        EncoderDecoder { input_channels: 1, classes: 4, base_width, levels: 2, ..EncoderDecoder::default() };
    let task = Task::Supernet {
        backbone: Backbone::EncoderDecoder(backbone),
        mode: SearchMode::PerformancePriority,
        kernels: KernelSet::volumetric(),
        l1_strength,
        early_stop_validations: early_stop,
    };
    let phantoms = PhantomDataset { cases: 3, validation_cases: 1, extent: [16, 16, 16], seed: 5 };
    let mut job = bars_job(task, ArrayKind::Volume, steps);
    (job.dataset, job.patch) = (DatasetSpec::Phantoms(phantoms), [8, 12, 16]);
    job
}

/// A job on bars that validates and saves at its end only.
pub fn bars_job(task: Task, kind: ArrayKind, steps: u32) -> TrainerJob {
    let augmentation = match kind {
        ArrayKind::Volume => Augmentation::default(),
        ArrayKind::Video => Augmentation::video(),
    };
    TrainerJob {
        task,
        dataset: bars(kind),
        patch: [4, 16, 16],
        training: TrainingSpec {
            epochs: 1,
            steps_per_epoch: steps,
            batch_size: 3,
            optimizer: adam_w(),
            warmup_steps: steps.min(2),
            schedule: Schedule::Cosine { final_fraction: 0.1 },
            validate_every_epochs: 1,
            checkpoint_every_epochs: Some(1),
            augmentation,
            ..TrainingSpec::default()
        },
        initial_weights: InitialWeights::Random,
        seed: 11,
    }
}
