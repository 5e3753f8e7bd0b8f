use super::*;
use crate::backbone::EncoderDecoder;

/// A small valid search for tests of this crate.
pub(crate) fn small_search() -> SearchSpec {
    let training = TrainingSpec { epochs: 2, steps_per_epoch: 4, warmup_steps: 2, ..TrainingSpec::default() };
    SearchSpec {
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
        budgets: vec![0.5, 0.75],
        budget_measure: CostMeasure::Mac,
        count_multiple: 1,
        derive_unconstrained: false,
        baselines: vec![Baseline::C3d, Baseline::EvenSplit, Baseline::Planes],
        retrain: RetrainSpec { training, seeds: vec![1], initial_weights: InitialWeights::Random },
    }
}

pub(super) fn problems(change: impl FnOnce(&mut SearchSpec)) -> Vec<String> {
    let mut spec = small_search();
    change(&mut spec);
    let InvalidSpec(found) = CheckedSearch::new(spec).expect_err("must be refused");
    found.into_iter().map(|violation| violation.field).collect()
}

#[test]
fn a_valid_search_round_trips_through_json() {
    let checked = CheckedSearch::new(small_search()).unwrap();
    let json = serde_json::to_string(&checked).unwrap();
    assert_eq!(serde_json::from_str::<CheckedSearch>(&json).unwrap(), checked);
    assert_eq!(checked.baselines().len(), 3);
}

#[test]
fn each_mistake_is_named_by_its_field() {
    assert_eq!(problems(|spec| spec.name = "../etc".into()), ["name"]);
    assert_eq!(problems(|spec| spec.patch = [16, 15, 16]), ["patch"]);
    assert_eq!(problems(|spec| spec.budgets = vec![0.5, 0.0]), ["budgets[1]"]);
    assert_eq!(problems(|spec| spec.budgets = vec![-0.5]), ["budgets[0]"]);
    assert_eq!(problems(|spec| spec.budgets = vec![0.01]), ["budgets[0]"]);
    assert_eq!(problems(|spec| spec.budgets = vec![f64::NAN]), ["budgets[0]"]);
    assert_eq!(problems(|spec| spec.budgets.clear()), ["budgets"]);
    let in_time = |budget: f64| {
        move |spec: &mut SearchSpec| {
            (spec.budget_measure, spec.budgets) = (CostMeasure::Latency, vec![budget]);
        }
    };
    assert_eq!(problems(in_time(1.5)), ["budgets[0]"]);
    // What the lightest architecture takes is not known yet.
    let mut early = small_search();
    in_time(0.01)(&mut early);
    assert!(CheckedSearch::new(early).is_ok());
    assert_eq!(problems(|spec| spec.retrain.seeds = vec![1, 1]), ["retrain.seeds"]);
    assert_eq!(problems(|spec| spec.retrain.seeds.clear()), ["retrain.seeds"]);
    assert_eq!(problems(|spec| spec.baselines.push(Baseline::C3d)), ["baselines"]);
    assert_eq!(problems(|spec| spec.supernet.training.warmup_steps = 9), ["supernet.training.warmup_steps"]);
    assert_eq!(problems(|spec| spec.supernet.l1_strength = -1.0), ["supernet.l1_strength"]);
    // 875 for 0.875.
    assert_eq!(
        problems(|spec| spec.retrain.training.augmentation.crop_scales = vec![1.0, 875.0]),
        ["retrain.training.augmentation.crop_scales"]
    );
    let Backbone::EncoderDecoder(config) = small_search().backbone else { panic!() };
    let narrow = Backbone::EncoderDecoder(EncoderDecoder { classes: 3, ..config });
    assert_eq!(problems(|spec| spec.backbone = narrow), ["backbone.encoder_decoder.classes"]);
}

#[test]
fn a_network_without_a_layer_to_search_is_retrained_but_not_searched() {
    let searchable = Backbone::VolumeResnet(crate::backbone::VolumeResnet {
        input_channels: 1,
        classes: 2,
        depth: crate::backbone::ResnetDepth::R18,
        base_width: 4,
        dropout_percent: 0,
        stem: crate::backbone::VolumeStem::Compact,
        middle: crate::backbone::MiddleLayer::Searchable,
    });
    let p3d = searchable.factorised().unwrap();
    let split = ArraySplit::Medmnist { validation: MedmnistPart::Val };
    let arrays = ArrayDataset { path: "a.npz".into(), split, kind: ArrayKind::Volume, tolerate: 0 };
    let search = |backbone: &Backbone| SearchSpec {
        dataset: DatasetSpec::Arrays(arrays.clone()),
        backbone: backbone.clone(),
        budgets: Vec::new(),
        derive_unconstrained: true,
        baselines: vec![Baseline::P3d],
        ..small_search()
    };
    let checked = CheckedSearch::new(search(&searchable)).unwrap();
    let (_, architecture) = checked.baselines().remove(0);
    assert_eq!(checked.retrain_job(architecture, 1).check(), Ok(()));
    let InvalidSpec(found) = CheckedSearch::new(search(&p3d)).unwrap_err();
    assert_eq!(found.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), ["backbone"]);
    let mut job = checked.supernet_job();
    let Task::Supernet { backbone, .. } = &mut job.task else { panic!() };
    *backbone = p3d;
    assert_eq!(job.check().unwrap_err().0[0].field, "task.supernet.backbone");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let fields = problems(|spec| {
        spec.name = String::new();
        spec.patch = [0, 16, 16];
        spec.retrain.training.batch_size = 0;
    });
    assert_eq!(fields, ["name", "patch", "retrain.training.batch_size"]);
}

#[test]
fn misspelt_keys_are_refused() {
    let mut value = serde_json::to_value(small_search()).unwrap();
    value["supernet"]["l1_strenght"] = 1.into();
    let error = serde_json::from_value::<SearchSpec>(value).unwrap_err().to_string();
    assert!(error.contains("l1_strenght") && error.contains("expected one of"), "{error}");
}
