//! Whole small jobs: what they report, how they resume, what a checkpoint refuses.

mod common;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, EncoderDecoder};
use cakes::derive::ChannelCosts;
use cakes::frame::{FailureClass, Quality, TrainerEvent};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::SearchMode;
use cakes::spec::{DatasetSpec, InitialWeights, OptimizerSpec, PhantomDataset, Schedule, TrainingSpec};
use cakes_trainer::checkpoint::{Manifest, job_sha256};
use cakes_trainer::folder::{Resume, claim};
use cakes_trainer::train::Ending;
use cakes_trainer::{TrainerError, checkpoint};
use common::jobs::{Finished, Manner, adam_w, bits, newest, run_job};
use sha2::{Digest, Sha256};
use tch::Tensor;
use tempfile::TempDir;

fn backbone() -> Backbone {
    Backbone::EncoderDecoder(EncoderDecoder {
        input_channels: 1,
        classes: 4,
        base_width: 3,
        levels: 2,
        ..EncoderDecoder::default()
    })
}

fn supernet(mode: SearchMode) -> Task {
    Task::Supernet {
        backbone: backbone(),
        mode,
        kernels: KernelSet::volumetric(),
        l1_strength: 0.1,
        early_stop_validations: None,
    }
}

/// Three epochs of two steps on small phantoms.
fn job(task: Task, optimizer: OptimizerSpec) -> TrainerJob {
    TrainerJob {
        task,
        dataset: DatasetSpec::Phantoms(PhantomDataset {
            cases: 4,
            validation_cases: 1,
            extent: [16, 16, 16],
            seed: 5,
        }),
        patch: [8, 12, 16],
        training: TrainingSpec {
            epochs: 3,
            steps_per_epoch: 2,
            optimizer,
            warmup_steps: 2,
            schedule: Schedule::Cosine { final_fraction: 0.1 },
            validate_every_epochs: 2,
            checkpoint_every_epochs: Some(2),
            ..TrainingSpec::default()
        },
        initial_weights: InitialWeights::Random,
        seed: 11,
    }
}

/// Runs a job; with `sections` it is stopped in that training section, counted from 1.
fn run_in(
    folder: &Path,
    job: &TrainerJob,
    resume: Option<PathBuf>,
    sections: Option<u64>,
) -> Result<Finished, TrainerError> {
    let manner = Manner { resume, stop_in_section: sections, loader_threads: 1, ..Manner::default() };
    run_job(folder, Path::new("."), job, manner)
}

#[test]
fn a_supernet_reports_its_course_and_ends_with_scores() {
    let folder = TempDir::new().unwrap();
    let job = job(supernet(SearchMode::CostPriority), adam_w());
    let finished = run_in(folder.path(), &job, None, None).unwrap();
    assert_eq!(finished.ending, Ending::Completed);
    let events = &finished.events;
    let position = |wanted: fn(&TrainerEvent) -> bool| events.iter().position(wanted).expect("the event");
    let ready =
        position(|event| matches!(event, TrainerEvent::Ready { steps_total: 6, resumed_step: 0, .. }));
    let scores = position(|event| matches!(event, TrainerEvent::Scores(_)));
    let checkpoint = position(|event| matches!(event, TrainerEvent::Checkpoint { step: 6, .. }));
    assert!(ready < checkpoint && checkpoint < scores && scores + 1 < events.len());
    let data = position(|event| matches!(event, TrainerEvent::Data(_)));
    assert!(ready < data && data < scores);
    let latency = position(|event| matches!(event, TrainerEvent::Latency(_)));
    let TrainerEvent::Latency(table) = &events[latency] else { unreachable!() };
    assert!(scores < latency && latency + 1 < events.len());
    let costs = ChannelCosts::measured(&backbone(), &KernelSet::volumetric(), table).unwrap();
    assert!(costs.lightest(&KernelSet::volumetric()) > 0 && costs.reference() > 0);
    let validated: Vec<u64> = events
        .iter()
        .filter_map(|event| match event {
            TrainerEvent::Validation { epoch, quality, layers, .. } => {
                let Quality::Segmentation(quality) = quality else { panic!("{quality:?}") };
                assert_eq!((quality.case_count, quality.dice_per_class.len()), (1, 3));
                let searchable = backbone().searchable_layers().into_iter();
                let searchable = searchable.map(|layer| (layer.name, layer.channels));
                assert!(
                    layers.iter().map(|known| (known.layer.clone(), known.channels.width())).eq(searchable)
                );
                Some(*epoch)
            }
            _ => None,
        })
        .collect();
    assert_eq!(validated, [2, 3]);
    let Some(TrainerEvent::Completed(summary)) = events.last() else { panic!("no summary") };
    assert_eq!((summary.step, summary.latency_ms), (6, None));
    assert!(
        events
            .iter()
            .any(|event| matches!(event, TrainerEvent::Step { step: 6, loss, .. } if loss.is_finite()))
    );
}

#[test]
fn a_retrained_architecture_reports_costs_and_latency() {
    let folder = TempDir::new().unwrap();
    let architecture = Architecture::even(backbone(), &[Kernel::K333, Kernel::K113]).unwrap();
    let cost = cakes::cost::cost(&architecture.network(), [8, 12, 16]).unwrap();
    let finished = run_in(folder.path(), &job(Task::Retrain { architecture }, adam_w()), None, None).unwrap();
    let Some(TrainerEvent::Completed(summary)) = finished.events.last() else { panic!("no summary") };
    assert_eq!((summary.param_count, summary.mac_count), (cost.param_count, cost.mac_count));
    assert!(summary.latency_ms.is_some_and(|ms| ms > 0.0) && summary.peak_memory_mib > 1.0);
    assert!(!finished.events.iter().any(|event| matches!(event, TrainerEvent::Scores(_))));
}

/// Stopped anywhere and resumed, a job ends with the same bits.
#[test]
fn a_resumed_job_equals_one_that_was_never_stopped() {
    let sgd = OptimizerSpec::Sgd { learning_rate: 0.05, momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
    for (mode, optimizer) in [
        (SearchMode::CostPriority, sgd),
        (SearchMode::CostPriority, adam_w()),
        (SearchMode::PerformancePriority, adam_w()),
    ] {
        let job = job(supernet(mode), optimizer);
        let whole = TempDir::new().unwrap();
        run_in(whole.path(), &job, None, None).unwrap();
        let parts = TempDir::new().unwrap();
        let mut resume = None;
        // In the middle of the first epoch, and at its end.
        for (section, step) in [(1, 1), (2, 2)] {
            let stopped = run_in(parts.path(), &job, resume, Some(section)).unwrap();
            assert_eq!(stopped.ending, Ending::Stopped);
            assert!(newest(parts.path()).ends_with(format!("step-{step:09}")), "section {section}");
            resume = Some(newest(parts.path()));
        }
        let last = run_in(parts.path(), &job, resume, None).unwrap();
        assert_eq!(last.ending, Ending::Completed);
        assert!(last.events.iter().any(|event| matches!(event, TrainerEvent::Ready { resumed_step: 2, .. })));
        let (whole, parts) = (bits(&newest(whole.path())), bits(&newest(parts.path())));
        assert_eq!(whole.keys().collect::<Vec<_>>(), parts.keys().collect::<Vec<_>>());
        for (name, values) in &whole {
            assert!(*values == parts[name], "{name} differs ({mode:?})");
        }
    }
}

/// In both modes; the weights, the optimizer and the scores.
#[test]
fn fifty_steps_repeat_bit_by_bit_with_any_number_of_loader_threads() {
    for mode in [SearchMode::CostPriority, SearchMode::PerformancePriority] {
        let mut job = job(supernet(mode), adam_w());
        (job.training.epochs, job.training.steps_per_epoch) = (1, 50);
        let outcome = |loader_threads| {
            let folder = TempDir::new().unwrap();
            let manner = Manner { loader_threads, ..Manner::default() };
            let finished = run_job(folder.path(), Path::new("."), &job, manner).unwrap();
            let is_scores = |event: &&TrainerEvent| matches!(event, TrainerEvent::Scores(_));
            let scores = finished.events.iter().find(is_scores).cloned();
            assert!(scores.is_some() && newest(folder.path()).ends_with("step-000000050"));
            (bits(&newest(folder.path())), scores)
        };
        let one = outcome(1);
        for threads in [2, 4] {
            let more = outcome(threads);
            assert!(one.0 == more.0, "weights differ ({mode:?}, {threads} threads)");
            assert!(one.1 == more.1, "scores differ ({mode:?}, {threads} threads)");
        }
    }
}

#[test]
fn a_finished_job_resumed_from_its_end_only_reports_again() {
    let folder = TempDir::new().unwrap();
    let job = job(supernet(SearchMode::CostPriority), adam_w());
    let first = run_in(folder.path(), &job, None, None).unwrap();
    let again = run_in(folder.path(), &job, Some(newest(folder.path())), None).unwrap();
    let scores = |events: &[TrainerEvent]| {
        events.iter().find(|event| matches!(event, TrainerEvent::Scores(_))).cloned()
    };
    assert_eq!(scores(&again.events), scores(&first.events));
    assert!(!again.events.iter().any(|event| matches!(event, TrainerEvent::Step { .. })));
}

/// A sound checkpoint of a small job.
fn saved() -> (TempDir, TrainerJob, PathBuf) {
    let folder = TempDir::new().unwrap();
    let job = job(supernet(SearchMode::CostPriority), adam_w());
    run_in(folder.path(), &job, None, Some(1)).unwrap();
    let checkpoint = newest(folder.path());
    (folder, job, checkpoint)
}

fn refusal(folder: &Path, job: &TrainerJob, checkpoint: &Path) -> TrainerError {
    match run_in(folder, job, Some(checkpoint.to_owned()), None) {
        Err(error) => error,
        Ok(_) => panic!("{} must be refused", checkpoint.display()),
    }
}

#[test]
fn a_checkpoint_that_is_damaged_incomplete_or_missing_is_refused() {
    let (folder, job, checkpoint) = saved();
    for name in ["weights.safetensors", "optimizer.safetensors", "manifest.json"] {
        let path = checkpoint.join(name);
        let sound = fs::read(&path).unwrap();
        let mut damaged = sound.clone();
        let middle = damaged.len() / 2;
        // A manifest is noticed where it names other files; a daemon knows its digest.
        let digest = sound.windows(10).position(|text| text == b"\"sha256\": ");
        damaged[digest.map_or(middle, |key| key + 12)] ^= 1;
        for broken in [Some(damaged), Some(sound[..middle].to_vec()), None] {
            match broken {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let error = refusal(folder.path(), &job, &checkpoint);
            assert!(error.to_string().contains(name) || name == "manifest.json", "{error}");
            fs::write(&path, &sound).unwrap();
        }
    }
    assert!(run_in(folder.path(), &job, Some(checkpoint), None).is_ok());
    let missing = refusal(folder.path(), &job, &folder.path().join("none"));
    assert_eq!(missing.class(), FailureClass::Infrastructure);
}

#[test]
fn a_checkpoint_of_another_job_is_refused() {
    let (folder, job, checkpoint) = saved();
    let error = refusal(folder.path(), &TrainerJob { seed: 12, ..job }, &checkpoint);
    assert!(error.to_string().contains("another job"), "{error}");
    assert_eq!(error.class(), FailureClass::User);
}

#[test]
fn a_manifest_says_what_lies_beside_it() {
    let (folder, job, checkpoint) = saved();
    let text = fs::read(checkpoint.join("manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_slice(&text).unwrap();
    assert_eq!((manifest.format, manifest.step, manifest.job_sha256), (1, 1, job_sha256(&job)));
    for file in &manifest.files {
        let bytes = fs::read(checkpoint.join(&file.name)).unwrap();
        assert_eq!((file.bytes, &file.sha256), (bytes.len() as u64, &hex::encode(Sha256::digest(&bytes))));
    }
    let names: Vec<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["weights.safetensors", "optimizer.safetensors"]);
    // Nothing but whole checkpoints lies in the folder.
    let entries: Vec<_> = fs::read_dir(folder.path().join("checkpoints")).unwrap().collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(checkpoint::job_sha256(&job).len(), 64);
}

#[test]
fn a_loss_that_is_not_finite_fails_and_leaves_the_last_checkpoint() {
    let folder = TempDir::new().unwrap();
    let huge = OptimizerSpec::Sgd { learning_rate: 100.0, momentum: 0.9, nesterov: true, weight_decay: 1.0 };
    let mut job = job(supernet(SearchMode::CostPriority), huge);
    job.training.epochs = 200;
    job.training.warmup_steps = 0;
    job.training.gradient_clip_norm = 0.0;
    job.training.schedule = Schedule::Constant {};
    job.training.validate_every_epochs = 200;
    job.training.checkpoint_every_epochs = Some(1);
    let Err(error) = run_in(folder.path(), &job, None, None) else { panic!("must fail") };
    assert_eq!(error.class(), FailureClass::Numeric, "{error}");
    assert!(error.to_string().contains("lower learning rate"), "{error}");
    for tensor in Tensor::read_safetensors(newest(folder.path()).join("weights.safetensors")).unwrap() {
        assert!(tensor.1.isfinite().all().int64_value(&[]) != 0, "{}", tensor.0);
    }
}

/// Steps of the checkpoints that a job reports, each with the time that it took.
fn saved_steps(events: &[TrainerEvent]) -> Vec<u64> {
    let saved = events.iter().filter_map(|event| match event {
        TrainerEvent::Checkpoint { step, stall_s, save_s, .. } => {
            assert!(*stall_s > 0.0 && *save_s > 0.0, "{event:?}");
            Some(*step)
        }
        _ => None,
    });
    saved.collect()
}

#[test]
fn a_job_saves_as_often_as_it_says_or_as_its_machine_fails() {
    let mut job = job(supernet(SearchMode::CostPriority), adam_w());
    let run = |job: &TrainerJob, mean_time_between_failures| {
        let folder = TempDir::new().unwrap();
        let manner = Manner { loader_threads: 1, mean_time_between_failures, ..Manner::default() };
        saved_steps(&run_job(folder.path(), Path::new("."), job, manner).unwrap().events)
    };
    assert_eq!(run(&job, Some(Duration::ZERO)), [4, 6]);
    (job.training.checkpoint_every_epochs, job.training.checkpoint_every_steps) = (None, Some(1));
    assert_eq!(run(&job, None), [1, 2, 3, 4, 5, 6]);
    job.training.checkpoint_every_steps = None;
    assert_eq!(run(&job, Some(Duration::MAX)), [6]);
    // Nothing is known of the time of a save before the first one.
    let often = run(&job, Some(Duration::ZERO));
    assert!(often.starts_with(&[1]) && often.ends_with(&[6]), "{often:?}");
}

#[test]
fn a_run_leaves_as_many_checkpoints_as_it_is_told() {
    let folder = TempDir::new().unwrap();
    let mut job = job(supernet(SearchMode::CostPriority), adam_w());
    (job.training.checkpoint_every_epochs, job.training.checkpoint_every_steps) = (None, Some(1));
    let manner = Manner { loader_threads: 1, keep: NonZeroUsize::new(2), ..Manner::default() };
    run_job(folder.path(), Path::new("."), &job, manner).unwrap();
    let left = fs::read_dir(folder.path().join("checkpoints")).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["step-000000005", "step-000000006"]);
}

#[test]
fn a_save_that_fails_ends_the_training_although_it_goes_on_beside_it() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("checkpoints"), "").unwrap();
    let mut job = job(supernet(SearchMode::CostPriority), adam_w());
    (job.training.epochs, job.training.steps_per_epoch) = (1, 100_000);
    (job.training.checkpoint_every_epochs, job.training.checkpoint_every_steps) = (None, Some(2));
    let Err(error) = run_in(folder.path(), &job, None, None) else { panic!("must fail") };
    assert_eq!(error.class(), FailureClass::Infrastructure, "{error}");
    assert!(error.to_string().contains("cannot write a checkpoint"), "{error}");
}

#[test]
fn a_folder_belongs_to_one_job() {
    let (folder, job, checkpoint) = saved();
    let out = folder.path();
    // It was not made by `claim`, so it is anybody's.
    assert!(claim(out, &job, Resume::No).unwrap_err().to_string().contains("another folder"));
    let own = out.join("own");
    assert_eq!(claim(&own, &job, Resume::No).unwrap(), None);
    assert_eq!(claim(&own, &job, Resume::No).unwrap(), None);
    assert!(claim(&own, &job, Resume::Latest).unwrap_err().to_string().contains("no checkpoint"));
    let other = TrainerJob { seed: 99, ..job.clone() };
    assert!(claim(&own, &other, Resume::No).unwrap_err().to_string().contains("something else"));
    let moved = own.join("checkpoints").join("step-000000001");
    fs::create_dir_all(own.join("checkpoints")).unwrap();
    fs::rename(&checkpoint, &moved).unwrap();
    let error = claim(&own, &job, Resume::No).unwrap_err();
    assert!(error.to_string().contains("--resume latest"), "{error}");
    assert_eq!(error.class(), FailureClass::User);
    assert_eq!(claim(&own, &job, Resume::Latest).unwrap(), Some(moved.clone()));
    assert_eq!(claim(&own, &job, Resume::From(moved.clone())).unwrap(), Some(moved));
}
