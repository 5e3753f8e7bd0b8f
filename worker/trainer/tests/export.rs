//! Exported networks, compared with the trainer by the tools that read them.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use cakes::architecture::Architecture;
use cakes::backbone::{
    Backbone, BlockKind, EncoderDecoder, MiddleLayer, ResnetDepth, VideoResnet, VolumeResnet, VolumeStem,
};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::KernelSet;
use cakes::spec::{ArrayKind, DatasetSpec, PhantomDataset};
use cakes_export::{Format, Options, Trained, export};
use cakes_trainer::predict::{Predictor, npy};
use common::jobs::{CLASSES, Manner, bars_job, newest, run_job, write_bars};
use ndarray::ArrayD;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Device;

/// A program that can import `modules`: the one that CAKES_PYTHON names, or python3 with
/// what the set-up installed. None where it cannot.
fn python(modules: &str) -> Option<Command> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.python/site");
    let command = || match std::env::var_os("CAKES_PYTHON") {
        Some(program) => Command::new(program),
        None => {
            let mut command = Command::new("python3");
            command.env("PYTHONPATH", &installed).env("PYTHONDONTWRITEBYTECODE", "1");
            command
        }
    };
    let output = command().args(["-c", &format!("import {modules}")]).output().ok()?;
    output.status.success().then(command)
}

/// A network of every backbone, and how it is trained.
fn jobs() -> Vec<(&'static str, TrainerJob)> {
    let kernels: Vec<_> = KernelSet::volumetric().iter().collect();
    let retrain = |backbone| Task::Retrain { architecture: Architecture::even(backbone, &kernels).unwrap() };
    let encoder_decoder = |block| {
        let config =
            EncoderDecoder { classes: 4, base_width: 5, levels: 2, block, ..EncoderDecoder::default() };
        TrainerJob {
            dataset: DatasetSpec::Phantoms(PhantomDataset {
                cases: 3,
                validation_cases: 1,
                extent: [16, 16, 16],
                seed: 5,
            }),
            patch: [8, 12, 16],
            ..bars_job(retrain(Backbone::EncoderDecoder(config)), ArrayKind::Volume, 4)
        }
    };
    let volume = |depth, stem, middle| {
        Backbone::VolumeResnet(VolumeResnet {
            input_channels: 1,
            classes: CLASSES as u32,
            depth,
            base_width: 3,
            dropout_percent: 30,
            stem,
            middle,
        })
    };
    let video = |depth| {
        Backbone::VideoResnet(VideoResnet {
            input_channels: 1,
            classes: CLASSES as u32,
            depth,
            base_width: 3,
            dropout_percent: 30,
            middle: MiddleLayer::Searchable,
        })
    };
    let volume_job = |backbone| bars_job(retrain(backbone), ArrayKind::Volume, 3);
    vec![
        ("residual", encoder_decoder(BlockKind::Residual)),
        ("plain", encoder_decoder(BlockKind::Plain)),
        ("volume_18", volume_job(volume(ResnetDepth::R18, VolumeStem::Compact, MiddleLayer::Searchable))),
        ("volume_50", volume_job(volume(ResnetDepth::R50, VolumeStem::Wide, MiddleLayer::Searchable))),
        ("p3d", volume_job(volume(ResnetDepth::R18, VolumeStem::Compact, MiddleLayer::P3d))),
        ("video_18", bars_job(retrain(video(ResnetDepth::R18)), ArrayKind::Video, 3)),
    ]
}

/// Trains a network; its checkpoint.
fn trained(root: &Path, name: &str, job: &TrainerJob) -> PathBuf {
    let folder = root.join(name);
    run_job(&folder, root, job, Manner { loader_threads: 1, ..Manner::default() }).unwrap();
    newest(&folder)
}

/// What the trainer makes of an input: by its fast loops, in the published form, in float64.
#[derive(Clone, Copy)]
struct Answers<'a> {
    scores: &'a Path,
    published: &'a Path,
    exact: &'a Path,
}

/// Writes an input and the trainer's answers.
fn ask_trainer(checkpoint: &Path, job: &TrainerJob, input: &Path, answers: Answers<'_>) {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let [d, h, w] = job.patch.map(|size| size as usize);
    let channels = job.task.backbone().input_channels() as usize;
    let samples = ArrayD::from_shape_fn(vec![2, channels, d, h, w], |_| rng.random_range(-2.0..2.0));
    npy::write(input, &samples).unwrap();
    let mut predictor = Predictor::open(checkpoint, None, Device::Cpu).unwrap();
    npy::write(answers.scores, &predictor.scores(&samples).unwrap().mapv(|score| score as f32)).unwrap();
    // As many threads as the check gives PyTorch: more of them add in another order.
    tch::set_num_threads(1);
    let mut predictor = predictor.in_published_form();
    npy::write(answers.published, &predictor.scores(&samples).unwrap().mapv(|score| score as f32)).unwrap();
    npy::write(answers.exact, &predictor.in_double().unwrap().scores(&samples).unwrap()).unwrap();
}

#[test]
fn exported_networks_compute_what_the_trainer_computes() {
    let Some(_) = python("numpy, onnx, onnxruntime") else {
        eprintln!(
            "left out: python3 cannot import onnx and onnxruntime; cargo xtask setup --tests installs them"
        );
        return;
    };
    let has_torch = python("torch, safetensors").is_some();
    if !has_torch {
        eprintln!("left out: PyTorch's part; name a Python with torch and safetensors in CAKES_PYTHON");
    }
    let root = tempfile::tempdir().unwrap();
    write_bars(&root.path().join("bars"), None);
    for (name, job) in jobs() {
        let checkpoint = trained(root.path(), name, &job);
        let place = |what: &str| root.path().join(format!("{name}-{what}"));
        let (input, scores) = (place("input.npy"), place("scores.npy"));
        let (published, exact) = (place("published.npy"), place("exact.npy"));
        let answers = Answers { scores: &scores, published: &published, exact: &exact };
        ask_trainer(&checkpoint, &job, &input, answers);
        let trained = Trained::from_checkpoint(&checkpoint, None).unwrap();
        let mut exports = Vec::new();
        for fold_norms in [false, true] {
            let options = Options { fold_norms, force: false };
            let onnx = place(&format!("{fold_norms}.onnx"));
            export(&trained, Format::Onnx, options, &onnx).unwrap();
            exports.push(onnx);
            let folder = place(&format!("{fold_norms}-pytorch"));
            export(&trained, Format::Pytorch, options, &folder).unwrap();
            exports.extend(has_torch.then_some(folder));
        }
        if job.dataset.task() == cakes::spec::TaskKind::Segmentation {
            let bundle = place("bundle");
            export(&trained, Format::MonaiBundle, Options::default(), &bundle).unwrap();
            exports.extend(has_torch.then_some(bundle));
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../export/checks/parity.py");
        let mut python = python("onnx").unwrap();
        python.arg(script).arg("--published-form").arg(published).arg("--float64").arg(exact);
        let output = python.args([input, scores]).args(exports).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}");
        assert!(output.status.success(), "{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
}
