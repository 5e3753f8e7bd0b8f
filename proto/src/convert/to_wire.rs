//! A search description for the wire, every default written out.

use cakes::network::SearchMode;
use cakes::spec::{
    Augmentation, Baseline, BatchStatistics, CostMeasure, InitialWeights, MemoryFormat, OptimizerSpec,
    Precision, Schedule, SearchSpec, SupernetSpec, TrainingSpec,
};

use super::architecture::{backbone_to_wire, extent_to_wire};
use super::dataset::dataset_to_wire;
use crate::v1;

/// The search with all its values.
pub fn search_to_wire(spec: &SearchSpec) -> v1::SearchSpec {
    v1::SearchSpec {
        name: spec.name.clone(),
        dataset: Some(v1::Dataset { source: Some(dataset_to_wire(&spec.dataset)) }),
        backbone: Some(backbone_to_wire(&spec.backbone)),
        patch: Some(extent_to_wire(spec.patch)),
        supernet: Some(supernet_to_wire(&spec.supernet)),
        budgets: spec.budgets.clone(),
        derive_unconstrained: spec.derive_unconstrained,
        baselines: spec.baselines.iter().copied().map(Baseline::name).map(str::to_owned).collect(),
        retrain: Some(v1::Retrain {
            training: Some(training_to_wire(&spec.retrain.training)),
            seeds: spec.retrain.seeds.clone(),
            imagenet_weights: weights_to_wire(&spec.retrain.initial_weights),
            supernet_weights: spec.retrain.initial_weights == InitialWeights::Supernet,
        }),
        budget_measure: measure_to_wire(spec.budget_measure).into(),
        count_multiple: Some(spec.count_multiple),
    }
}

/// A measure of a network's cost.
pub fn measure_to_wire(measure: CostMeasure) -> v1::CostMeasure {
    match measure {
        CostMeasure::Mac => v1::CostMeasure::Mac,
        CostMeasure::Param => v1::CostMeasure::Param,
        CostMeasure::Latency => v1::CostMeasure::Latency,
    }
}

fn supernet_to_wire(supernet: &SupernetSpec) -> v1::Supernet {
    let mode = match supernet.mode {
        SearchMode::PerformancePriority => v1::SearchMode::PerformancePriority,
        SearchMode::CostPriority => v1::SearchMode::CostPriority,
    };
    v1::Supernet {
        mode: mode.into(),
        kernels: supernet.kernels.iter().map(|kernel| kernel.to_string()).collect(),
        space: String::new(),
        l1_strength: Some(supernet.l1_strength),
        training: Some(training_to_wire(&supernet.training)),
        seed: supernet.seed,
        early_stop_validations: supernet.early_stop_validations,
        imagenet_weights: weights_to_wire(&supernet.initial_weights),
    }
}

fn weights_to_wire(weights: &InitialWeights) -> Option<String> {
    match weights {
        InitialWeights::Random | InitialWeights::Supernet => None,
        InitialWeights::Imagenet { path } => Some(path.clone()),
    }
}

fn training_to_wire(training: &TrainingSpec) -> v1::Training {
    v1::Training {
        epochs: Some(training.epochs),
        steps_per_epoch: Some(training.steps_per_epoch),
        batch_size: Some(training.batch_size),
        optimizer: Some(optimizer_to_wire(&training.optimizer)),
        warmup_steps: Some(training.warmup_steps),
        schedule: Some(schedule_to_wire(&training.schedule)),
        gradient_clip_norm: Some(training.gradient_clip_norm),
        validate_every_epochs: Some(training.validate_every_epochs),
        checkpoint_every_epochs: training.checkpoint_every_epochs,
        checkpoint_every_steps: training.checkpoint_every_steps,
        augmentation: Some(augmentation_to_wire(&training.augmentation)),
        precision: match training.precision {
            Precision::Float32 => v1::Precision::Float32,
            Precision::Tf32 => v1::Precision::Tf32,
            Precision::Bf16 => v1::Precision::Bf16,
        }
        .into(),
        memory_format: match training.memory_format {
            MemoryFormat::Contiguous => v1::MemoryFormat::Contiguous,
            MemoryFormat::ChannelsLast => v1::MemoryFormat::ChannelsLast,
        }
        .into(),
        devices: Some(training.devices),
        spread: training.spread,
        batch_statistics: match training.batch_statistics {
            BatchStatistics::Synchronised => v1::BatchStatistics::Synchronised,
            BatchStatistics::Local => v1::BatchStatistics::Local,
        }
        .into(),
    }
}

fn optimizer_to_wire(optimizer: &OptimizerSpec) -> v1::training::Optimizer {
    match *optimizer {
        OptimizerSpec::Sgd { learning_rate, momentum, nesterov, weight_decay } => {
            v1::training::Optimizer::Sgd(v1::Sgd {
                learning_rate: Some(learning_rate),
                momentum: Some(momentum),
                nesterov: Some(nesterov),
                weight_decay: Some(weight_decay),
            })
        }
        OptimizerSpec::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay } => {
            v1::training::Optimizer::AdamW(v1::AdamW {
                learning_rate: Some(learning_rate),
                beta1: Some(beta1),
                beta2: Some(beta2),
                epsilon: Some(epsilon),
                weight_decay: Some(weight_decay),
            })
        }
    }
}

fn schedule_to_wire(schedule: &Schedule) -> v1::training::Schedule {
    match schedule {
        Schedule::Constant {} => v1::training::Schedule::Constant(v1::ConstantSchedule {}),
        Schedule::Step { drop_epochs, factor } => v1::training::Schedule::Step(v1::StepSchedule {
            drop_epochs: drop_epochs.clone(),
            factor: Some(*factor),
        }),
        Schedule::Polynomial { power } => {
            v1::training::Schedule::Polynomial(v1::PolynomialSchedule { power: Some(*power) })
        }
        Schedule::Cosine { final_fraction } => {
            v1::training::Schedule::Cosine(v1::CosineSchedule { final_fraction: Some(*final_fraction) })
        }
    }
}

fn augmentation_to_wire(augmentation: &Augmentation) -> v1::Augmentation {
    let [depth, height, width] = augmentation.flip_axes;
    v1::Augmentation {
        foreground_probability: Some(augmentation.foreground_probability),
        flip_depth: Some(depth),
        flip_height: Some(height),
        flip_width: Some(width),
        affine_probability: Some(augmentation.affine_probability),
        rotation_degrees_max: Some(augmentation.rotation_degrees_max),
        scale_change_max: Some(augmentation.scale_change_max),
        noise_max: Some(augmentation.noise_max),
        intensity_change_max: Some(augmentation.intensity_change_max),
        crop_scales: augmentation.crop_scales.clone(),
        flip_swaps: augmentation
            .flip_swaps
            .iter()
            .map(|[left, right]| v1::ClassPair { left: *left, right: *right })
            .collect(),
    }
}
