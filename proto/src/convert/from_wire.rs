//! A search description from the wire, with defaults filled in.

use cakes::Extent;
use cakes::backbone::Backbone;
use cakes::derive::check_budget;
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::SearchMode;
use cakes::spec::{
    Augmentation, Baseline, BatchStatistics, CheckedSearch, CostMeasure, DatasetSpec, InitialWeights,
    InvalidSpec, MemoryFormat, OptimizerSpec, Precision, RetrainSpec, Schedule, SearchSpec, SupernetSpec,
    TrainingSpec, Violation,
};

use super::architecture::{backbone_from_wire, extent_from_wire};
use super::dataset::dataset_from_wire;
use super::violation;
use crate::v1;

const DEFAULT_BUDGETS: [f64; 4] = [0.3, 0.4, 0.5, 0.7];
const DEFAULT_L1_STRENGTH: f64 = 0.02;
const DEFAULT_SPACE_OF_CLIPS: &str = "1_2_3d";
const DEFAULT_SPACE_OF_VOLUMES: &str = "volume";

/// A checked search.
///
/// # Errors
/// Everything that is wrong, by field. What cannot be read at all is reported
/// before values are compared with each other.
pub fn search_from_wire(wire: Option<v1::SearchSpec>) -> Result<CheckedSearch, InvalidSpec> {
    let Some(wire) = wire else {
        return Err(InvalidSpec(vec![violation(
            "search",
            "is missing; give name, dataset, backbone and patch",
        )]));
    };
    let dataset = dataset_from_wire(wire.dataset);
    let backbone = backbone_from_wire(wire.backbone);
    let patch = extent_from_wire(wire.patch, "patch");
    let is_video = dataset.as_ref().is_ok_and(DatasetSpec::is_video);
    let supernet = supernet_from_wire(wire.supernet.unwrap_or_default(), is_video);
    let retrain = retrain_from_wire(wire.retrain.unwrap_or_default(), is_video);
    let baselines = baselines_from_wire(&wire.baselines);
    let measure = measure_from_wire(wire.budget_measure);
    match (dataset, backbone, patch, supernet, retrain, baselines, measure) {
        (
            Ok(dataset),
            Ok(backbone),
            Ok(patch),
            Ok(supernet),
            Ok(retrain),
            Ok(baselines),
            Ok(budget_measure),
        ) => {
            let budgets = if wire.budgets.is_empty() && !wire.derive_unconstrained {
                default_budgets(&backbone, &supernet.kernels, patch, budget_measure)
            } else {
                wire.budgets
            };
            CheckedSearch::new(SearchSpec {
                name: wire.name,
                dataset,
                backbone,
                patch,
                supernet,
                budgets,
                derive_unconstrained: wire.derive_unconstrained,
                baselines,
                retrain,
                budget_measure,
                count_multiple: wire.count_multiple.unwrap_or(1),
            })
            .map_err(in_wire_terms)
        }
        (dataset, backbone, patch, supernet, retrain, baselines, measure) => {
            let plan = [supernet.err(), retrain.err(), baselines.err(), measure.err()];
            let found = [dataset.err(), backbone.err(), patch.err()].into_iter().chain(plan);
            Err(InvalidSpec(found.flatten().collect()))
        }
    }
}

/// The usual budgets that some architecture of the search space stays within; all
/// of them where none does, so that the check says why; none of latency, of which
/// nobody knows yet what can be stayed within.
fn default_budgets(
    backbone: &Backbone,
    kernels: &KernelSet,
    patch: Extent,
    measure: CostMeasure,
) -> Vec<f64> {
    if measure == CostMeasure::Latency {
        return Vec::new();
    }
    let fits = |budget: &f64| check_budget(backbone, kernels, patch, measure, *budget).is_ok();
    let fitting: Vec<f64> = DEFAULT_BUDGETS.into_iter().filter(fits).collect();
    if fitting.is_empty() { DEFAULT_BUDGETS.to_vec() } else { fitting }
}

/// Names fields as the user wrote them: a choice that is a level of its own in
/// the domain is a field of its parent on the wire.
pub fn in_wire_terms(InvalidSpec(violations): InvalidSpec) -> InvalidSpec {
    let levels = [
        ("dataset.arrays.split.", "dataset.arrays."),
        ("dataset.video.layout.", "dataset.video."),
        ("dataset.folder.validation.cases", "dataset.folder.cases.names"),
        ("dataset.folder.validation.", "dataset.folder."),
        ("supernet.training.optimizer.", "supernet.training."),
        ("supernet.training.schedule.", "supernet.training."),
        ("retrain.training.optimizer.", "retrain.training."),
        ("retrain.training.schedule.", "retrain.training."),
        ("training.optimizer.", "training."),
        ("training.schedule.", "training."),
    ];
    let renamed = violations.into_iter().map(|Violation { field, problem }| {
        let found = levels.iter().find_map(|(domain, wire)| Some((wire, field.strip_prefix(domain)?)));
        Violation {
            field: found.map_or_else(|| field.clone(), |(wire, rest)| format!("{wire}{rest}")),
            problem,
        }
    });
    InvalidSpec(renamed.collect())
}

fn supernet_from_wire(wire: v1::Supernet, is_video: bool) -> Result<SupernetSpec, Violation> {
    let mode = match v1::SearchMode::try_from(wire.mode) {
        Ok(v1::SearchMode::PerformancePriority) => SearchMode::PerformancePriority,
        Ok(v1::SearchMode::CostPriority | v1::SearchMode::Unspecified) => SearchMode::CostPriority,
        Err(error) => return Err(violation("supernet.mode", error)),
    };
    Ok(SupernetSpec {
        mode,
        kernels: kernels_from_wire(&wire.kernels, &wire.space, is_video)?,
        l1_strength: wire.l1_strength.unwrap_or(DEFAULT_L1_STRENGTH),
        training: training_at("supernet.training", wire.training, is_video)?,
        seed: wire.seed,
        early_stop_validations: wire.early_stop_validations,
        initial_weights: weights_from_wire(wire.imagenet_weights),
    })
}

fn weights_from_wire(imagenet: Option<String>) -> InitialWeights {
    imagenet.map_or(InitialWeights::Random, |path| InitialWeights::Imagenet { path })
}

/// A measure of cost; none where the request leaves it to the search.
///
/// # Errors
/// It is unknown to this version.
pub fn measure_if_given(wire: i32) -> Result<Option<CostMeasure>, Violation> {
    match v1::CostMeasure::try_from(wire) {
        Ok(v1::CostMeasure::Unspecified) => Ok(None),
        Ok(v1::CostMeasure::Mac) => Ok(Some(CostMeasure::Mac)),
        Ok(v1::CostMeasure::Param) => Ok(Some(CostMeasure::Param)),
        Ok(v1::CostMeasure::Latency) => Ok(Some(CostMeasure::Latency)),
        Err(error) => Err(violation("measure", error)),
    }
}

fn measure_from_wire(wire: i32) -> Result<CostMeasure, Violation> {
    let measure = measure_if_given(wire).map_err(|found| violation("budget_measure", found.problem));
    Ok(measure?.unwrap_or_default())
}

fn kernels_from_wire(names: &[String], space: &str, is_video: bool) -> Result<KernelSet, Violation> {
    if !names.is_empty() && !space.is_empty() {
        return Err(violation(
            "supernet.space",
            format!("'{space}' and supernet.kernels both say what to search; leave one of them out"),
        ));
    }
    if names.is_empty() {
        let space = match (space, is_video) {
            ("", true) => DEFAULT_SPACE_OF_CLIPS,
            ("", false) => DEFAULT_SPACE_OF_VOLUMES,
            (name, _) => name,
        };
        return KernelSet::named(space).map_err(|error| violation("supernet.space", error));
    }
    let kernels = names.iter().enumerate().map(|(index, name)| {
        name.parse::<Kernel>().map_err(|error| violation(format!("supernet.kernels[{index}]"), error))
    });
    KernelSet::new(kernels.collect::<Result<Vec<_>, _>>()?)
        .map_err(|error| violation("supernet.kernels", error))
}

fn baselines_from_wire(names: &[String]) -> Result<Vec<Baseline>, Violation> {
    let known = Baseline::ALL.map(Baseline::name).join(", ");
    let find = |(index, name): (usize, &String)| {
        let found = Baseline::ALL.into_iter().find(|baseline| baseline.name() == name);
        found.ok_or_else(|| {
            violation(format!("baselines[{index}]"), format!("'{name}' is no baseline; known are {known}"))
        })
    };
    names.iter().enumerate().map(find).collect()
}

fn retrain_from_wire(wire: v1::Retrain, is_video: bool) -> Result<RetrainSpec, Violation> {
    Ok(RetrainSpec {
        training: training_at("retrain.training", wire.training, is_video)?,
        seeds: if wire.seeds.is_empty() { vec![0] } else { wire.seeds },
        initial_weights: match (wire.supernet_weights, wire.imagenet_weights) {
            (true, Some(_)) => {
                return Err(violation(
                    "retrain.supernet_weights",
                    "retrain.imagenet_weights says what to start from, too; leave one of them out",
                ));
            }
            (true, None) => InitialWeights::Supernet,
            (false, imagenet) => weights_from_wire(imagenet),
        },
    })
}

/// The training of a section of a search.
fn training_at(path: &str, wire: Option<v1::Training>, is_video: bool) -> Result<TrainingSpec, Violation> {
    training_from_wire(wire.unwrap_or_default(), is_video)
        .map_err(|found| violation(format!("{path}.{}", found.field), found.problem))
}

/// A training with defaults filled in, not checked yet. Clips have other
/// augmentations by default than volumes.
///
/// # Errors
/// A choice is unknown to this version.
pub fn training_from_wire(wire: v1::Training, is_video: bool) -> Result<TrainingSpec, Violation> {
    let default = TrainingSpec::default();
    let epochs = wire.epochs.unwrap_or(default.epochs);
    let steps_per_epoch = wire.steps_per_epoch.unwrap_or(default.steps_per_epoch);
    let tenth = u32::try_from(u64::from(epochs) * u64::from(steps_per_epoch) / 10).unwrap_or(u32::MAX);
    Ok(TrainingSpec {
        epochs,
        steps_per_epoch,
        batch_size: wire.batch_size.unwrap_or(default.batch_size),
        optimizer: wire.optimizer.map_or(default.optimizer, optimizer_from_wire),
        warmup_steps: wire.warmup_steps.unwrap_or(default.warmup_steps.min(tenth)),
        schedule: wire.schedule.map_or(default.schedule, schedule_from_wire),
        gradient_clip_norm: wire.gradient_clip_norm.unwrap_or(default.gradient_clip_norm),
        validate_every_epochs: wire.validate_every_epochs.unwrap_or(default.validate_every_epochs),
        checkpoint_every_epochs: wire.checkpoint_every_epochs,
        checkpoint_every_steps: wire.checkpoint_every_steps,
        augmentation: augmentation_from_wire(wire.augmentation.unwrap_or_default(), is_video),
        precision: match v1::Precision::try_from(wire.precision) {
            Ok(v1::Precision::Float32 | v1::Precision::Unspecified) => Precision::Float32,
            Ok(v1::Precision::Tf32) => Precision::Tf32,
            Ok(v1::Precision::Bf16) => Precision::Bf16,
            Err(error) => return Err(violation("precision", error)),
        },
        memory_format: match v1::MemoryFormat::try_from(wire.memory_format) {
            Ok(v1::MemoryFormat::Contiguous | v1::MemoryFormat::Unspecified) => MemoryFormat::Contiguous,
            Ok(v1::MemoryFormat::ChannelsLast) => MemoryFormat::ChannelsLast,
            Err(error) => return Err(violation("memory_format", error)),
        },
        devices: wire.devices.unwrap_or(default.devices),
        spread: wire.spread,
        batch_statistics: match v1::BatchStatistics::try_from(wire.batch_statistics) {
            Ok(v1::BatchStatistics::Synchronised | v1::BatchStatistics::Unspecified) => {
                BatchStatistics::Synchronised
            }
            Ok(v1::BatchStatistics::Local) => BatchStatistics::Local,
            Err(error) => return Err(violation("batch_statistics", error)),
        },
    })
}

fn optimizer_from_wire(wire: v1::training::Optimizer) -> OptimizerSpec {
    match wire {
        v1::training::Optimizer::Sgd(sgd) => OptimizerSpec::Sgd {
            learning_rate: sgd.learning_rate.unwrap_or(0.02),
            momentum: sgd.momentum.unwrap_or(0.9),
            nesterov: sgd.nesterov.unwrap_or(true),
            weight_decay: sgd.weight_decay.unwrap_or(3e-5),
        },
        v1::training::Optimizer::AdamW(adam) => OptimizerSpec::AdamW {
            learning_rate: adam.learning_rate.unwrap_or(1e-3),
            beta1: adam.beta1.unwrap_or(0.9),
            beta2: adam.beta2.unwrap_or(0.999),
            epsilon: adam.epsilon.unwrap_or(1e-8),
            weight_decay: adam.weight_decay.unwrap_or(0.01),
        },
    }
}

fn schedule_from_wire(wire: v1::training::Schedule) -> Schedule {
    match wire {
        v1::training::Schedule::Constant(v1::ConstantSchedule {}) => Schedule::Constant {},
        v1::training::Schedule::Step(step) => {
            Schedule::Step { drop_epochs: step.drop_epochs, factor: step.factor.unwrap_or(0.1) }
        }
        v1::training::Schedule::Polynomial(polynomial) => {
            Schedule::Polynomial { power: polynomial.power.unwrap_or(0.9) }
        }
        v1::training::Schedule::Cosine(cosine) => {
            Schedule::Cosine { final_fraction: cosine.final_fraction.unwrap_or(0.0) }
        }
    }
}

fn augmentation_from_wire(wire: v1::Augmentation, is_video: bool) -> Augmentation {
    let default = if is_video { Augmentation::video() } else { Augmentation::default() };
    let [depth, height, width] = default.flip_axes;
    Augmentation {
        foreground_probability: wire.foreground_probability.unwrap_or(default.foreground_probability),
        flip_axes: [
            wire.flip_depth.unwrap_or(depth),
            wire.flip_height.unwrap_or(height),
            wire.flip_width.unwrap_or(width),
        ],
        affine_probability: wire.affine_probability.unwrap_or(default.affine_probability),
        rotation_degrees_max: wire.rotation_degrees_max.unwrap_or(default.rotation_degrees_max),
        scale_change_max: wire.scale_change_max.unwrap_or(default.scale_change_max),
        noise_max: wire.noise_max.unwrap_or(default.noise_max),
        intensity_change_max: wire.intensity_change_max.unwrap_or(default.intensity_change_max),
        crop_scales: if wire.crop_scales.is_empty() { default.crop_scales } else { wire.crop_scales },
        flip_swaps: wire.flip_swaps.iter().map(|pair| [pair.left, pair.right]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::search_to_wire;

    fn parse(json: &str) -> v1::SubmitSearchRequest {
        serde_json::from_str(json).unwrap()
    }

    const SHORTEST: &str = r#"{"search": {"name": "p", "dataset": {"phantoms": {}},
        "backbone": {"encoder_decoder": {"classes": 4}}, "patch": {"depth": 32, "height": 32, "width": 32}}}"#;

    #[test]
    fn the_shortest_search_is_filled_with_defaults_and_round_trips() {
        let search = search_from_wire(parse(SHORTEST).search).unwrap();
        assert_eq!(search.spec().budgets, DEFAULT_BUDGETS);
        assert_eq!(search.spec().supernet.kernels, KernelSet::volumetric());
        assert_eq!(search_from_wire(Some(search_to_wire(search.spec()))).unwrap(), search);
    }

    #[test]
    fn retrainings_start_from_one_thing() {
        let with = |retrain: &str| {
            parse(&SHORTEST.replacen("\"name\"", &format!("\"retrain\": {retrain}, \"name\""), 1)).search
        };
        let search = search_from_wire(with(r#"{"supernet_weights": true}"#)).unwrap();
        assert!(search.retrains_start_from_supernet());
        assert_eq!(search_from_wire(Some(search_to_wire(search.spec()))).unwrap(), search);
        let both = with(r#"{"supernet_weights": true, "imagenet_weights": "r18.safetensors"}"#);
        let InvalidSpec(found) = search_from_wire(both).unwrap_err();
        assert_eq!(found[0].field, "retrain.supernet_weights");
    }

    #[test]
    fn misspelt_keys_are_refused_with_their_name() {
        let json = SHORTEST.replace("\"name\"", "\"nmae\"");
        let error = serde_json::from_str::<v1::SubmitSearchRequest>(&json).unwrap_err().to_string();
        assert!(error.contains("nmae"), "{error}");
    }

    #[test]
    fn what_is_missing_is_listed_with_an_example() {
        let InvalidSpec(found) = search_from_wire(parse(r#"{"search": {"name": "x"}}"#).search).unwrap_err();
        let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["dataset", "backbone", "patch"]);
        assert!(search_from_wire(None).is_err());
    }

    #[test]
    fn a_mistake_is_named_by_the_path_in_the_file() {
        let fields = |json: &str| -> Vec<String> {
            let InvalidSpec(found) = search_from_wire(parse(json).search).unwrap_err();
            found.into_iter().map(|violation| violation.field).collect()
        };
        assert_eq!(fields(&SHORTEST.replace("4}", "5}")), ["backbone.encoder_decoder.classes"]);
        let with = |field: &str| SHORTEST.replacen("\"name\"", &format!("{field}, \"name\""), 1);
        let adam = r#""retrain": {"training": {"adam_w": {"epsilon": -1}}}"#;
        assert_eq!(fields(&with(adam)), ["retrain.training.adam_w.epsilon"]);
        let step = r#""supernet": {"training": {"step": {"factor": 0}}}"#;
        assert_eq!(fields(&with(step)), ["supernet.training.step.factor"]);
        let folder = r#"{"folder": {"path": "x", "cases": {"names": []}}}"#;
        let three_classes = SHORTEST.replace("4}", "3}");
        let no_case = three_classes.replace(r#"{"phantoms": {}}"#, folder);
        assert_eq!(fields(&no_case), ["dataset.folder.cases.names"]);
        let fold = r#"{"folder": {"path": "x", "fold": {"fold": 7}}}"#;
        let no_fold = three_classes.replace(r#"{"phantoms": {}}"#, fold);
        assert_eq!(fields(&no_fold), ["dataset.folder.fold.fold"]);
    }

    #[test]
    fn a_search_space_has_a_name_or_a_list_and_clips_have_another_default() {
        let space = |change: &str| {
            let json = SHORTEST.replacen("\"name\"", &format!("{change} \"name\""), 1);
            search_from_wire(parse(&json).search).map(|search| search.spec().supernet.kernels.clone())
        };
        assert_eq!(space("").unwrap(), KernelSet::named("volume").unwrap());
        let named = space(r#""supernet": {"space": "2_3d"},"#).unwrap();
        assert_eq!(named.iter().collect::<Vec<_>>(), [Kernel::K333, Kernel::K133]);
        // A space whose lightest network is above a usual budget leaves that out.
        let json = SHORTEST.replacen("\"name\"", r#""supernet": {"space": "2_3d"}, "name""#, 1);
        assert_eq!(search_from_wire(parse(&json).search).unwrap().spec().budgets, [0.4, 0.5, 0.7]);
        for wrong in
            [r#""supernet": {"space": "4d"},"#, r#""supernet": {"space": "2_3d", "kernels": ["3x3x3"]},"#]
        {
            let InvalidSpec(found) = space(wrong).unwrap_err();
            assert_eq!(found[0].field, "supernet.space", "{wrong}");
        }
        let clips = r#"{"search": {"name": "c", "dataset": {"video": {"path": "v", "class_folders": {}}},
            "backbone": {"video_resnet": {"classes": 3}}, "patch": {"depth": 8, "height": 64, "width": 64}}}"#;
        let search = search_from_wire(parse(clips).search).unwrap();
        assert_eq!(search.spec().supernet.kernels, KernelSet::named("1_2_3d").unwrap());
    }

    #[test]
    fn budgets_of_latency_must_be_given() {
        let with = |fields: &str| {
            let json = SHORTEST.replacen("\"name\"", &format!("{fields}, \"name\""), 1);
            search_from_wire(parse(&json).search)
        };
        let measure = r#""budget_measure": "COST_MEASURE_LATENCY""#;
        let InvalidSpec(found) = with(measure).unwrap_err();
        assert_eq!(found[0].field, "budgets");
        assert!(found[0].problem.contains("latency"), "{}", found[0]);
        // What may turn out to be out of reach is no mistake yet.
        let search = with(&format!(r#"{measure}, "budgets": [0.1]"#)).unwrap();
        assert_eq!(search.spec().budget_measure, CostMeasure::Latency);
        assert_eq!(search_from_wire(Some(search_to_wire(search.spec()))).unwrap(), search);
    }

    #[test]
    fn numbers_and_layout_of_a_gpu_round_trip_and_unknown_ones_are_named() {
        let training = r#"{"training": {"precision": "PRECISION_BF16",
            "memory_format": "MEMORY_FORMAT_CHANNELS_LAST"}}"#;
        let with = |section: &str| {
            parse(&SHORTEST.replacen("\"name\"", &format!("\"{section}\": {training}, \"name\""), 1)).search
        };
        let search = search_from_wire(with("retrain")).unwrap();
        let retrain = &search.spec().retrain.training;
        assert_eq!((retrain.precision, retrain.memory_format), (Precision::Bf16, MemoryFormat::ChannelsLast));
        assert_eq!(search.spec().supernet.training.precision, Precision::Float32);
        assert_eq!(search_from_wire(Some(search_to_wire(search.spec()))).unwrap(), search);
        let supernet = search_from_wire(with("supernet")).unwrap();
        assert_eq!(supernet.spec().supernet.training.precision, Precision::Bf16);
        // Of a later version.
        let mut wire = with("retrain").unwrap();
        wire.retrain.as_mut().unwrap().training.as_mut().unwrap().precision = 77;
        let InvalidSpec(found) = search_from_wire(Some(wire)).unwrap_err();
        assert_eq!(found[0].field, "retrain.training.precision");
    }

    #[test]
    fn unknown_kernels_and_baselines_are_named() {
        let mut wire = parse(SHORTEST).search.unwrap();
        wire.supernet =
            Some(v1::Supernet { kernels: vec!["3x3x3".into(), "5x5x5".into()], ..Default::default() });
        wire.baselines = vec!["c4d".into()];
        let InvalidSpec(found) = search_from_wire(Some(wire)).unwrap_err();
        assert_eq!(found[0].field, "supernet.kernels[1]");
        assert_eq!(found[1].field, "baselines[0]");
    }
}
