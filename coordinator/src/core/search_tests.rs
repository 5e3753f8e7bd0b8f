use cakes::backbone::{
    Backbone, EncoderDecoder, MiddleLayer, ResnetDepth, SearchableLayer, VolumeResnet, VolumeStem,
};
use cakes::derive::LayerLatency;
use cakes::kernel::KernelSet;
use cakes::network::SearchMode;
use cakes::scores::LayerScores;
use cakes::spec::{
    ArrayDataset, ArrayKind, ArraySplit, Baseline, CostMeasure, DatasetSpec, InitialWeights, MedmnistPart,
    PhantomDataset, RetrainSpec, SearchSpec, SupernetSpec, TrainingSpec,
};
use proptest::prelude::*;

use super::*;

fn search(budgets: &[f64], seeds: &[u64]) -> CheckedSearch {
    let training = TrainingSpec { epochs: 2, steps_per_epoch: 4, warmup_steps: 2, ..TrainingSpec::default() };
    let spec = SearchSpec {
        name: "small".into(),
        dataset: DatasetSpec::Phantoms(PhantomDataset::default()),
        backbone: Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: 1,
            classes: 4,
            base_width: 4,
            levels: 2,
            ..EncoderDecoder::default()
        }),
        patch: [16, 16, 16],
        supernet: SupernetSpec {
            mode: SearchMode::CostPriority,
            kernels: KernelSet::volumetric(),
            l1_strength: 1e-4,
            training: training.clone(),
            seed: 1,
            early_stop_validations: None,
            initial_weights: InitialWeights::Random,
        },
        budgets: budgets.to_vec(),
        derive_unconstrained: true,
        // p3d is a residual network's.
        baselines: Baseline::ALL.into_iter().filter(|baseline| *baseline != Baseline::P3d).collect(),
        retrain: RetrainSpec { training, seeds: seeds.to_vec(), initial_weights: InitialWeights::Random },
        budget_measure: CostMeasure::Mac,
        count_multiple: 1,
    };
    CheckedSearch::new(spec).unwrap()
}

/// Scores that rise with a kernel's taps, so that every budget binds, and vary
/// from channel to channel.
fn scores(search: &CheckedSearch) -> ChannelScores {
    let spec = search.spec();
    let score = |taps: u32, channel: u32| ((7 * taps + 3 * channel) % 11) as f32 + taps as f32 / 2.0;
    let layers = spec.backbone.searchable_layers().into_iter().map(|layer| {
        let of = |taps: u32| (0..layer.channels).map(|channel| score(taps, channel)).collect();
        let scores = spec.supernet.kernels.iter().map(|kernel| of(kernel.taps())).collect();
        LayerScores { layer: layer.name, scores }
    });
    ChannelScores::new(spec.backbone.clone(), spec.supernet.kernels.clone(), layers.collect()).unwrap()
}

/// With times of which a part rises with the taps of a kernel: 27 µs for a channel and
/// one for each tap.
fn findings(search: &CheckedSearch) -> Findings {
    let scores = scores(search);
    let price = |kernel: Kernel| (kernel, 1000 * (27 + u64::from(kernel.taps())));
    let known = scores.backbone().searchable_layers();
    let channels: u64 = known.iter().map(|layer| u64::from(layer.channels)).sum();
    let row = |layer: SearchableLayer| LayerLatency {
        layer: layer.name,
        channel_ns: scores.kernels().iter().map(price).collect(),
    };
    let layers = known.into_iter().map(row).collect();
    let latency = LatencyTable { fixed_ns: 500_000, reference_ns: 500_000 + 54_000 * channels, layers };
    Findings { scores, latency: Some(latency) }
}

fn empty(search: CheckedSearch) -> SearchSnapshot {
    SearchSnapshot {
        search,
        state: SearchState::Searching,
        closed: false,
        architectures: Vec::new(),
        jobs: Vec::new(),
        findings: None,
    }
}

/// What the store does with the steps.
fn apply(snapshot: &mut SearchSnapshot, steps: Vec<Step>) {
    let queue =
        |work, label| RecordedJob { work, label, state: JobState::Queued, state_reason: String::new() };
    for step in steps {
        match step {
            Step::EnqueueSupernet => snapshot.jobs.push(queue(Work::Supernet, "supernet".to_owned())),
            Step::Record(derived) => snapshot.architectures.push(RecordedArchitecture {
                origin: derived.origin,
                digest: derived.architecture.digest(),
                retrain: true,
            }),
            Step::EnqueueRetrain { digest, seed, label } => {
                let work = Work::Retrain { digest, seed };
                assert!(snapshot.jobs.iter().all(|job| job.work != work), "{label} is queued twice");
                snapshot.jobs.push(queue(work, label));
            }
            Step::EnterRetraining => snapshot.state = SearchState::Retraining,
            Step::Finish { state, .. } => (snapshot.state, snapshot.closed) = (state, true),
            Step::Close => snapshot.closed = true,
        }
    }
}

fn apply_all(snapshot: &mut SearchSnapshot) {
    let steps = plan(snapshot);
    apply(snapshot, steps);
}

fn end(snapshot: &mut SearchSnapshot, job: usize, state: JobState) {
    snapshot.jobs[job].state = state;
    if snapshot.jobs[job].work == Work::Supernet && state == JobState::Succeeded {
        snapshot.findings = Some(findings(&snapshot.search));
    }
}

#[test]
fn baselines_are_queued_beside_the_supernet_and_the_rest_after_it() {
    let mut snapshot = empty(search(&[0.3, 0.5], &[1, 2]));
    let steps = plan(&snapshot);
    apply(&mut snapshot, steps);
    let labels: Vec<&str> = snapshot.jobs.iter().map(|job| job.label.as_str()).collect();
    assert_eq!(labels[..3], ["supernet", "baseline c3d seed 1", "baseline c3d seed 2"]);
    assert_eq!(snapshot.jobs.len(), 1 + 5 * 2);
    assert!(!snapshot.needs_findings());

    end(&mut snapshot, 0, JobState::Succeeded);
    assert!(snapshot.needs_findings());
    let steps = plan(&snapshot);
    apply(&mut snapshot, steps);
    assert_eq!(snapshot.state, SearchState::Retraining);
    assert_eq!(snapshot.jobs.len(), 1 + (5 + 3 + 3) * 2);
    for label in ["paper rule seed 2", "random like budget 0.3 seed 1", "random like paper rule seed 2"] {
        assert!(snapshot.jobs.iter().any(|job| job.label == label), "{label}");
    }
}

#[test]
fn what_starts_from_the_supernet_waits_for_it() {
    let from_supernet = |search: CheckedSearch| {
        let mut spec = search.spec().clone();
        spec.retrain.initial_weights = InitialWeights::Supernet;
        CheckedSearch::new(spec).unwrap()
    };
    let mut snapshot = empty(from_supernet(search(&[0.5], &[1])));
    apply_all(&mut snapshot);
    assert_eq!(snapshot.jobs.len(), 1, "the supernet alone");
    assert_eq!(plan(&snapshot), []);
    let mut failed = snapshot.clone();
    end(&mut failed, 0, JobState::Failed);
    let steps = plan(&failed);
    assert!(matches!(&steps[..], [Step::Finish { state: SearchState::Failed, .. }]), "{steps:?}");

    end(&mut snapshot, 0, JobState::Succeeded);
    apply_all(&mut snapshot);
    for label in ["baseline c3d seed 1", "budget 0.5 seed 1", "random like budget 0.5 seed 1"] {
        assert!(snapshot.jobs.iter().any(|job| job.label == label), "{label}");
    }
}

#[test]
fn a_random_network_costs_what_its_derived_one_costs_and_is_the_same_for_whoever_plans() {
    let mut snapshot = empty(search(&[0.5], &[1]));
    apply_all(&mut snapshot);
    end(&mut snapshot, 0, JobState::Succeeded);
    let records = |snapshot: &SearchSnapshot| -> Vec<Derived> {
        let steps = plan(snapshot).into_iter();
        steps
            .filter_map(|step| if let Step::Record(derived) = step { Some(*derived) } else { None })
            .collect()
    };
    let both = records(&snapshot);
    let of = |origin: &str| both.iter().find(|derived| derived.origin == origin).unwrap();
    let (derived, random) = (of("budget 0.5"), of("random like budget 0.5"));
    assert_ne!(random.architecture, derived.architecture);
    let gap = derived.cost.mac_count.checked_sub(random.cost.mac_count).expect("never dearer");
    assert!((gap as f64) < 0.01 * derived.cost.mac_count as f64, "{gap}");

    // Whoever comes when the derived one is recorded already draws the same.
    let recorded = Step::Record(Box::new(derived.clone()));
    apply(&mut snapshot, vec![recorded]);
    assert!(snapshot.needs_findings());
    let later = records(&snapshot).into_iter().find(|found| found.origin == random.origin).unwrap();
    assert_eq!(later.architecture, random.architecture);
}

/// Also the random one; what cannot be met, or without times, ends the search with
/// the reason and keeps the rest.
#[test]
fn budgets_of_latency_are_met_by_measured_times_and_fail_with_a_reason() {
    let spec = SearchSpec {
        budget_measure: CostMeasure::Latency,
        baselines: vec![Baseline::C3d, Baseline::Random],
        derive_unconstrained: false,
        ..search(&[0.2, 0.8], &[1]).spec().clone()
    };
    let search = CheckedSearch::new(spec).unwrap();
    let mut snapshot = empty(search.clone());
    apply_all(&mut snapshot);
    end(&mut snapshot, 0, JobState::Succeeded);
    let table = findings(&search).latency.unwrap();
    let found: Vec<Derived> = plan(&snapshot)
        .into_iter()
        .filter_map(|step| if let Step::Record(derived) = step { Some(*derived) } else { None })
        .collect();
    let origins: Vec<&str> = found.iter().map(|derived| derived.origin.as_str()).collect();
    assert_eq!(origins, ["budget 0.8", "random like budget 0.8"]);
    let predicted = found[0].latency.unwrap();
    assert!(predicted.fraction <= 0.8 && predicted.fraction > 0.78, "{predicted:?}");
    assert!((predicted.ms - 1e-6 * table.reference_ns as f64 * predicted.fraction).abs() < 1e-9);
    let random = PredictedLatency::of(&search, &table, &found[1].architecture).unwrap();
    assert!(random.fraction <= predicted.fraction && random.fraction > 0.98 * predicted.fraction);

    let reason = |mut snapshot: SearchSnapshot| {
        apply_all(&mut snapshot);
        for job in 1..snapshot.jobs.len() {
            end(&mut snapshot, job, JobState::Succeeded);
        }
        match plan(&snapshot).pop() {
            Some(Step::Finish { state: SearchState::Failed, reason }) => reason,
            other => panic!("{other:?}"),
        }
    };
    let unreachable = reason(snapshot.clone());
    assert!(unreachable.starts_with("budget 0.2: ") && unreachable.contains("lightest"), "{unreachable}");
    snapshot.findings.as_mut().unwrap().latency = None;
    let unmeasured = reason(snapshot);
    assert!(unmeasured.contains("budget 0.8: ") && unmeasured.contains(NOT_MEASURED), "{unmeasured}");
}

#[test]
fn p3d_is_a_network_of_another_form_at_its_share_of_the_searched_ones_cost() {
    let backbone = Backbone::VolumeResnet(VolumeResnet {
        input_channels: 1,
        classes: 2,
        depth: ResnetDepth::R18,
        base_width: 4,
        dropout_percent: 0,
        stem: VolumeStem::Compact,
        middle: MiddleLayer::Searchable,
    });
    let arrays = ArrayDataset {
        path: "a.npz".into(),
        split: ArraySplit::Medmnist { validation: MedmnistPart::Val },
        kind: ArrayKind::Volume,
        tolerate: 0,
    };
    let spec = SearchSpec {
        backbone,
        dataset: DatasetSpec::Arrays(arrays),
        baselines: vec![Baseline::C3d, Baseline::P3d],
        ..search(&[0.5], &[1]).spec().clone()
    };
    let steps = plan(&empty(CheckedSearch::new(spec).unwrap()));
    let records: Vec<&Derived> = steps
        .iter()
        .filter_map(|step| if let Step::Record(derived) = step { Some(&**derived) } else { None })
        .collect();
    assert_eq!(records[0].origin, "baseline c3d");
    assert!((records[0].mac_fraction - 1.0).abs() < 1e-12 && (records[0].param_fraction - 1.0).abs() < 1e-12);
    // 9 + 3 taps for 27, beside stem, shortcuts and head.
    assert_eq!((records[1].origin.as_str(), records[1].architecture.layers().count()), ("baseline p3d", 0));
    assert!((0.4..0.6).contains(&records[1].mac_fraction), "{}", records[1].mac_fraction);
    assert_eq!(records.len(), 2);
}

#[test]
fn equal_architectures_are_trained_once_under_their_first_name() {
    let mut snapshot = empty(search(&[0.5, 0.5], &[1]));
    snapshot.findings = Some(findings(&snapshot.search));
    let steps = plan(&snapshot);
    apply(&mut snapshot, steps);
    end(&mut snapshot, 0, JobState::Succeeded);
    // A budget whose architecture a baseline already is.
    let c3d = snapshot.architectures[0].digest;
    snapshot.architectures.push(RecordedArchitecture {
        origin: "budget 0.5".into(),
        digest: c3d,
        retrain: true,
    });
    let steps = plan(&snapshot);
    apply(&mut snapshot, steps);
    let of_c3d = snapshot.jobs.iter().filter(|job| job.work == Work::Retrain { digest: c3d, seed: 1 });
    assert_eq!(of_c3d.map(|job| job.label.as_str()).collect::<Vec<_>>(), ["baseline c3d seed 1"]);
}

#[test]
fn a_failed_supernet_fails_the_search_with_its_reason_once_the_rest_has_ended() {
    let mut snapshot = empty(search(&[0.5], &[1]));
    let steps = plan(&snapshot);
    apply(&mut snapshot, steps);
    end(&mut snapshot, 0, JobState::Failed);
    snapshot.jobs[0].state_reason = "no such folder".into();
    assert_eq!(plan(&snapshot), []);
    for job in 1..snapshot.jobs.len() {
        end(&mut snapshot, job, JobState::Succeeded);
    }
    let finish =
        Step::Finish { state: SearchState::Failed, reason: "supernet failed: no such folder".into() };
    assert_eq!(plan(&snapshot), [finish]);
}

#[test]
fn a_cancelled_search_is_closed_when_its_last_job_has_stopped() {
    let mut snapshot = empty(search(&[0.5], &[1]));
    let steps = plan(&snapshot);
    apply(&mut snapshot, steps);
    snapshot.state = SearchState::Cancelled;
    assert_eq!(plan(&snapshot), []);
    for job in 0..snapshot.jobs.len() {
        end(&mut snapshot, job, JobState::Cancelled);
    }
    assert_eq!(plan(&snapshot), [Step::Close]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the order in which jobs end and whatever fails: planning twice
    /// is planning once, no job is queued twice, and the search ends, as failed
    /// exactly if some job did not succeed.
    #[test]
    fn every_search_ends(
        picks in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 40),
        budgets in proptest::sample::subsequence(vec![0.4, 0.5, 0.75, 1.0], 0..4),
    ) {
        let mut snapshot = empty(search(&budgets, &[1, 2]));
        for (pick, outcome) in picks {
            let steps = plan(&snapshot);
            apply(&mut snapshot, steps);
            prop_assert_eq!(plan(&snapshot), vec![]);
            let open: Vec<usize> =
                (0..snapshot.jobs.len()).filter(|job| !snapshot.jobs[*job].state.is_final()).collect();
            if open.is_empty() {
                break;
            }
            let state = match outcome {
                0 => JobState::Failed,
                1 => JobState::Cancelled,
                _ => JobState::Succeeded,
            };
            end(&mut snapshot, open[pick.index(open.len())], state);
        }
        let steps = plan(&snapshot);
        apply(&mut snapshot, steps);
        prop_assert!(snapshot.closed);
        let all_succeeded = snapshot.jobs.iter().all(|job| job.state == JobState::Succeeded);
        prop_assert_eq!(snapshot.state == SearchState::Succeeded, all_succeeded);
    }
}
