//! Whole small jobs on samples with classes.

mod common;

use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, MiddleLayer, ResnetDepth, VideoResnet, VolumeResnet, VolumeStem};
use cakes::derive::derive_per_layer;
use cakes::frame::{ClassificationQuality, FailureClass, Quality, TrainerEvent};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::SearchMode;
use cakes::spec::{ArrayKind, DatasetSpec};
use cakes_trainer::checkpoint::Manifest;
use cakes_trainer::train::Ending;
use common::jobs::{CLASSES, Finished, Manner, bars_job, bits, newest, run_job, write_bars};
use tempfile::TempDir;

fn video() -> Backbone {
    Backbone::VideoResnet(VideoResnet {
        input_channels: 1,
        classes: CLASSES as u32,
        depth: ResnetDepth::R18,
        base_width: 2,
        dropout_percent: 30,
        middle: MiddleLayer::Searchable,
    })
}

fn volume(base_width: u32) -> Backbone {
    Backbone::VolumeResnet(VolumeResnet {
        input_channels: 1,
        classes: CLASSES as u32,
        depth: ResnetDepth::R18,
        base_width,
        dropout_percent: 30,
        stem: VolumeStem::Compact,
        middle: MiddleLayer::Searchable,
    })
}

fn supernet(backbone: Backbone, mode: SearchMode) -> Task {
    Task::Supernet {
        backbone,
        mode,
        kernels: KernelSet::new([Kernel::K333, Kernel::K133, Kernel::K311]).unwrap(),
        l1_strength: 0.1,
        early_stop_validations: None,
    }
}

fn retrain(backbone: Backbone) -> Task {
    Task::Retrain { architecture: Architecture::even(backbone, &[Kernel::K333, Kernel::K133]).unwrap() }
}

/// A folder with bars, and room for runs.
fn bars_root() -> TempDir {
    let root = TempDir::new().unwrap();
    write_bars(&root.path().join("bars"), None);
    root
}

fn run_to_end(root: &TempDir, job: &TrainerJob, loader_threads: usize) -> (TempDir, Finished) {
    let folder = TempDir::new().unwrap();
    let manner = Manner { loader_threads, ..Manner::default() };
    let finished = run_job(folder.path(), root.path(), job, manner).unwrap();
    assert_eq!(finished.ending, Ending::Completed);
    (folder, finished)
}

fn quality(finished: &Finished) -> ClassificationQuality {
    match finished.events.last() {
        Some(TrainerEvent::Completed(summary)) => match &summary.quality {
            Quality::Classification(quality) => quality.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_network_learns_to_tell_bars_apart_and_reports_how_well() {
    let root = bars_root();
    let mut job = bars_job(retrain(volume(4)), ArrayKind::Volume, 120);
    job.patch = [8, 16, 16];
    job.training.augmentation.affine_probability = 0.0;
    let (_folder, finished) = run_to_end(&root, &job, 2);
    let quality = quality(&finished);
    assert_eq!((quality.sample_count, quality.recall_per_class.len()), (12, CLASSES));
    assert!(quality.top1 >= 10.0 / 12.0, "{quality:?}");
    assert!(quality.auc.is_some_and(|auc| auc > 0.9) && quality.top5 == 1.0, "{quality:?}");
    let Some(TrainerEvent::Completed(summary)) = finished.events.last() else { panic!() };
    let Task::Retrain { architecture } = &job.task else { panic!() };
    let cost = cakes::cost::cost(&architecture.network(), job.patch).unwrap();
    assert_eq!((summary.param_count, summary.mac_count), (cost.param_count, cost.mac_count));
    assert!(summary.latency_ms.is_some());
}

/// Weights, running statistics and optimizer after 50 steps, and the scores.
#[test]
fn the_number_of_loader_threads_changes_no_bit() {
    let root = bars_root();
    for (task, kind) in [
        (supernet(volume(2), SearchMode::CostPriority), ArrayKind::Volume),
        (supernet(video(), SearchMode::PerformancePriority), ArrayKind::Video),
    ] {
        let job = bars_job(task, kind, 50);
        let scores = |finished: &Finished| {
            finished.events.iter().find(|event| matches!(event, TrainerEvent::Scores(_))).cloned()
        };
        let (one_folder, one) = run_to_end(&root, &job, 1);
        let (four_folder, four) = run_to_end(&root, &job, 4);
        let (one_bits, four_bits) = (bits(&newest(one_folder.path())), bits(&newest(four_folder.path())));
        assert!(one_bits.len() > 50 && one_bits == four_bits);
        assert!(scores(&one).is_some() && scores(&one) == scores(&four));
        assert_eq!(quality(&one), quality(&four));
        let other = TrainerJob { seed: 12, ..job };
        let (other_folder, _) = run_to_end(&root, &other, 1);
        assert_ne!(bits(&newest(other_folder.path())), one_bits, "the seed matters");
    }
}

#[test]
fn a_resumed_classification_equals_one_that_was_never_stopped() {
    let root = bars_root();
    let mut job = bars_job(retrain(video()), ArrayKind::Video, 5);
    job.training.epochs = 2;
    let (whole, _) = run_to_end(&root, &job, 2);
    let folder = TempDir::new().unwrap();
    let stop = Manner { stop_in_section: Some(1), ..Manner::default() };
    let stopped = run_job(folder.path(), root.path(), &job, stop).unwrap();
    assert_eq!(stopped.ending, Ending::Stopped);
    let resume = Manner { resume: Some(newest(folder.path())), ..Manner::default() };
    assert_eq!(run_job(folder.path(), root.path(), &job, resume).unwrap().ending, Ending::Completed);
    assert_eq!(bits(&newest(whole.path())), bits(&newest(folder.path())));
}

/// A search whose scores cannot move any more: its L1 is too strong.
fn settled_job(validations: u32) -> TrainerJob {
    let mut task = supernet(volume(2), SearchMode::CostPriority);
    if let Task::Supernet { early_stop_validations, l1_strength, .. } = &mut task {
        (*early_stop_validations, *l1_strength) = (Some(validations), 10.0);
    }
    let mut job = bars_job(task, ArrayKind::Volume, 4);
    job.training.optimizer = cakes::spec::OptimizerSpec::Sgd {
        learning_rate: 1.0,
        momentum: 0.0,
        nesterov: false,
        weight_decay: 0.0,
    };
    job.training.gradient_clip_norm = 1e-6;
    job.training.warmup_steps = 0;
    job.training.epochs = 10;
    job
}

#[test]
fn a_search_ends_when_its_architecture_stays_the_same() {
    let root = bars_root();
    let job = settled_job(3);
    let (folder, finished) = run_to_end(&root, &job, 1);
    let Some(TrainerEvent::Completed(summary)) = finished.events.last() else { panic!() };
    assert_eq!(summary.step, 12, "three validations of ten");
    assert!(newest(folder.path()).ends_with("step-000000012"));
    let scores = finished.events.iter().find_map(|event| match event {
        TrainerEvent::Scores(scores) => Some(scores),
        _ => None,
    });
    assert!(derive_per_layer(scores.unwrap()).is_ok());
    assert!(finished.notes.iter().any(|note| note.contains("ends at step 12")), "{:?}", finished.notes);
    // From its last checkpoint it only reports again.
    let resume = Manner { resume: Some(newest(folder.path())), ..Manner::default() };
    let again = run_job(folder.path(), root.path(), &job, resume).unwrap();
    assert!(!again.events.iter().any(|event| matches!(event, TrainerEvent::Step { .. })));
    assert!(matches!(again.events.last(), Some(TrainerEvent::Completed(again)) if again.step == 12));
}

/// Wherever it was stopped, in the middle of a validation too.
#[test]
fn a_resumed_search_ends_where_an_uninterrupted_one_does() {
    let root = bars_root();
    let job = settled_job(3);
    for section in 1..=3 {
        let folder = TempDir::new().unwrap();
        let stop = Manner { stop_in_section: Some(section), ..Manner::default() };
        assert_eq!(run_job(folder.path(), root.path(), &job, stop).unwrap().ending, Ending::Stopped);
        let resume = Manner { resume: Some(newest(folder.path())), ..Manner::default() };
        let finished = run_job(folder.path(), root.path(), &job, resume).unwrap();
        assert!(
            matches!(finished.events.last(), Some(TrainerEvent::Completed(summary)) if summary.step == 12)
        );
        // As if the validation behind step 4 had been interrupted.
        let first = folder.path().join("checkpoints").join("step-000000004");
        let text = std::fs::read(first.join("manifest.json")).unwrap();
        let mut manifest: Manifest = serde_json::from_slice(&text).unwrap();
        manifest.early_stop = cakes_trainer::checkpoint::EarlyStop::new(&job.task);
        std::fs::write(first.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        let resume = Manner { resume: Some(first), ..Manner::default() };
        let finished = run_job(folder.path(), root.path(), &job, resume).unwrap();
        assert!(
            matches!(finished.events.last(), Some(TrainerEvent::Completed(summary)) if summary.step == 12)
        );
    }
}

#[test]
fn unreadable_samples_are_refused_or_left_out_and_named() {
    let root = TempDir::new().unwrap();
    write_bars(&root.path().join("bars"), Some(13));
    let mut job = bars_job(retrain(volume(2)), ArrayKind::Volume, 1);
    let folder = TempDir::new().unwrap();
    let Err(error) = run_job(folder.path(), root.path(), &job, Manner::default()) else { panic!("refused") };
    assert!(error.to_string().contains("images[13]") && error.to_string().contains("finite"), "{error}");
    assert_eq!(error.class(), FailureClass::User);
    let DatasetSpec::Arrays(arrays) = &mut job.dataset else { panic!() };
    arrays.tolerate = 1;
    let (_folder, finished) = run_to_end(&root, &job, 1);
    assert!(finished.notes.iter().any(|note| note.contains("images[13]")), "{:?}", finished.notes);
}

#[test]
fn data_that_do_not_fit_the_network_are_named_by_field() {
    let root = bars_root();
    let refusal = |change: &dyn Fn(&mut VolumeResnet, &mut TrainerJob)| {
        let Backbone::VolumeResnet(mut config) = volume(2) else { panic!() };
        let mut job = bars_job(retrain(volume(2)), ArrayKind::Volume, 1);
        change(&mut config, &mut job);
        job.task = retrain(Backbone::VolumeResnet(config));
        let folder = TempDir::new().unwrap();
        match run_job(folder.path(), root.path(), &job, Manner::default()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("must be refused"),
        }
    };
    let error = refusal(&|config, _| config.classes = 2);
    assert!(error.contains("backbone.classes is 2") && error.contains("3 classes"), "{error}");
    let error = refusal(&|config, _| config.input_channels = 3);
    assert!(error.contains("backbone.input_channels is 3"), "{error}");
    let error = refusal(&|_, job| job.training.augmentation.flip_swaps = vec![[0, 7]]);
    assert!(error.contains("flip_swaps") && error.contains('7'), "{error}");
    let missing = |_: &mut VolumeResnet, job: &mut TrainerJob| {
        let DatasetSpec::Arrays(arrays) = &mut job.dataset else { panic!() };
        arrays.path = "nowhere".into();
    };
    assert!(refusal(&missing).contains("nowhere"));
}
