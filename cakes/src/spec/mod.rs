//! A search as its user describes it, and the check that makes it trustworthy.
//!
//! The types here are plain data, as read from a file or a request.
//! [`CheckedSearch::new`] is the one gate: whoever holds a [`CheckedSearch`]
//! need not ask again.

mod dataset;
mod inheritance;
mod training;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use dataset::{
    ArrayDataset, ArrayKind, ArraySplit, DatasetSpec, FolderDataset, MedmnistPart, PhantomDataset, TaskKind,
    ValidationSplit, VideoDataset, VideoLayout,
};
pub use training::{
    Augmentation, BatchStatistics, MemoryFormat, OptimizerSpec, Precision, Schedule, TrainingSpec,
};

use crate::Extent;
use crate::architecture::Architecture;
use crate::backbone::Backbone;
use crate::derive::check_budget;
use crate::job::{Task, TrainerJob};
use crate::kernel::{Kernel, KernelSet};
use crate::network::SearchMode;

/// A search: one data set, one backbone, supernets, architectures for several
/// budgets, retrained, beside baselines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchSpec {
    /// What people call it: `[a-z0-9][a-z0-9._-]*`, at most 64 characters.
    pub name: String,
    pub dataset: DatasetSpec,
    pub backbone: Backbone,
    /// Extent of training patches and validation windows, in voxels. MACs and
    /// latencies are those of one patch.
    pub patch: Extent,
    pub supernet: SupernetSpec,
    /// Fractions of what the all-3x3x3 network costs; one architecture for each.
    pub budgets: Vec<f64>,
    /// What budgets are fractions of.
    #[serde(default)]
    pub budget_measure: CostMeasure,
    /// Derived counts are multiples of it, as far as a layer's width allows: thin
    /// branches use a processor badly. The paper's rule is 1.
    #[serde(default = "one")]
    pub count_multiple: u32,
    /// Also derive by the paper's rule, without a budget.
    pub derive_unconstrained: bool,
    pub baselines: Vec<Baseline>,
    pub retrain: RetrainSpec,
}

/// How the supernet is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupernetSpec {
    pub mode: SearchMode,
    pub kernels: KernelSet,
    /// L1 on γ in a cost-priority search, per unit of learning rate, at weight 1
    /// (weights are taps over the sum of all taps). The paper's code has 1e-4.
    pub l1_strength: f64,
    pub training: TrainingSpec,
    pub seed: u64,
    /// Ends the search when the architecture of the paper's rule has been the same
    /// after so many validations in a row; none lets it run to its last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stop_validations: Option<u32>,
    #[serde(default)]
    pub initial_weights: InitialWeights,
}

/// What a network's weights are before its first step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum InitialWeights {
    /// Random, from the job's seed (He et al. 2015).
    #[default]
    Random,
    /// Those of a 2D ResNet, a safetensors file with torchvision's names, inflated
    /// as in the published code. Absolute, or relative to the data root of each worker.
    Imagenet { path: String },
    /// Those of the search's supernet, channel by channel, see [`crate::identity`];
    /// for retrainings.
    Supernet,
}

/// What an architecture is limited in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CostMeasure {
    /// Multiply-accumulates of one patch.
    #[default]
    Mac,
    /// Parameters.
    Param,
    /// Time for one patch, as the trainer of the supernet measured it on its device.
    Latency,
}

impl CostMeasure {
    /// What a budget is a fraction of, in words: `0.5 of latency`.
    pub fn words(self) -> &'static str {
        match self {
            CostMeasure::Mac => "MACs",
            CostMeasure::Param => "params",
            CostMeasure::Latency => "latency",
        }
    }
}

fn one() -> u32 {
    1
}

/// How each architecture is trained from scratch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrainSpec {
    pub training: TrainingSpec,
    /// One job per architecture and seed.
    pub seeds: Vec<u64>,
    #[serde(default)]
    pub initial_weights: InitialWeights,
}

/// A network that needs no search, retrained for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// `3x3x3` everywhere.
    C3d,
    /// Channels shared evenly among the kernels of the search space.
    EvenSplit,
    /// Channels shared evenly among `1x3x3`, `3x1x3` and `3x3x1`.
    Planes,
    /// `1x3x3` everywhere.
    C2d,
    /// A `1x3x3` and behind it a `3x1x1` for every `3x3x3` (Qiu et al. 2017); for
    /// residual networks.
    P3d,
    /// Channels shared evenly among `3x1x1`, `1x3x1` and `1x1x3`.
    Axes,
    /// For every derived architecture one whose channels are allocated at random,
    /// at the same cost.
    Random,
}

impl Baseline {
    pub const ALL: [Baseline; 7] = [
        Baseline::C3d,
        Baseline::EvenSplit,
        Baseline::Planes,
        Baseline::C2d,
        Baseline::P3d,
        Baseline::Axes,
        Baseline::Random,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Baseline::C3d => "c3d",
            Baseline::EvenSplit => "even_split",
            Baseline::Planes => "planes",
            Baseline::C2d => "c2d",
            Baseline::P3d => "p3d",
            Baseline::Axes => "axes",
            Baseline::Random => "random",
        }
    }

    /// The architecture; none for one that depends on what a search finds, or
    /// that the backbone cannot express.
    pub fn architecture(self, backbone: &Backbone, space: &KernelSet) -> Option<Architecture> {
        let kernels = match self {
            Baseline::C3d => vec![Kernel::K333],
            Baseline::EvenSplit => space.iter().collect(),
            Baseline::Planes => vec![Kernel::K133, Kernel::K313, Kernel::K331],
            Baseline::C2d => vec![Kernel::K133],
            Baseline::Axes => vec![Kernel::K311, Kernel::K131, Kernel::K113],
            Baseline::P3d => return Architecture::new(backbone.factorised()?, []).ok(),
            Baseline::Random => return None,
        };
        Architecture::even(backbone.clone(), &kernels).ok()
    }
}

/// One thing that is wrong with a specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Path of the field: `retrain.training.epochs`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// Everything that is wrong with a specification; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Violation::to_string).collect::<Vec<_>>().join("\n"))]
pub struct InvalidSpec(pub Vec<Violation>);

/// Collects violations under a path.
pub(crate) struct Violations(Vec<Violation>);

impl Violations {
    pub(crate) fn require(&mut self, holds: bool, field: &str, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { field: field.to_owned(), problem: problem() });
        }
    }

    pub(crate) fn within(&mut self, value: f64, range: std::ops::RangeInclusive<f64>, field: &str) {
        self.require(range.contains(&value), field, || {
            format!("must be {} to {}, got {value}", range.start(), range.end())
        });
    }
}

/// A search that passed every check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SearchSpec", into = "SearchSpec")]
pub struct CheckedSearch(SearchSpec);

impl CheckedSearch {
    /// Checks a whole specification.
    ///
    /// # Errors
    /// All violations, not only the first.
    pub fn new(spec: SearchSpec) -> Result<Self, InvalidSpec> {
        let mut found = Violations(Vec::new());
        check_search(&spec, &mut found);
        if found.0.is_empty() { Ok(CheckedSearch(spec)) } else { Err(InvalidSpec(found.0)) }
    }

    pub fn spec(&self) -> &SearchSpec {
        &self.0
    }

    /// The job that trains the supernet.
    pub fn supernet_job(&self) -> TrainerJob {
        let SearchSpec { dataset, backbone, patch, supernet, .. } = &self.0;
        TrainerJob {
            task: Task::Supernet {
                backbone: backbone.clone(),
                mode: supernet.mode,
                kernels: supernet.kernels.clone(),
                l1_strength: supernet.l1_strength,
                early_stop_validations: supernet.early_stop_validations,
            },
            dataset: dataset.clone(),
            patch: *patch,
            training: supernet.training.clone(),
            initial_weights: supernet.initial_weights.clone(),
            seed: supernet.seed,
        }
    }

    /// The job that trains `architecture` with `seed`.
    pub fn retrain_job(&self, architecture: Architecture, seed: u64) -> TrainerJob {
        TrainerJob {
            task: Task::Retrain { architecture },
            dataset: self.0.dataset.clone(),
            patch: self.0.patch,
            training: self.0.retrain.training.clone(),
            initial_weights: self.0.retrain.initial_weights.clone(),
            seed,
        }
    }

    /// Whether retrainings wait for the supernet and start from its weights.
    pub fn retrains_start_from_supernet(&self) -> bool {
        self.0.retrain.initial_weights == InitialWeights::Supernet
    }

    /// Checks a retraining that is like those of the search but not one of them.
    ///
    /// # Errors
    /// All violations, not only the first.
    pub fn check_retrain(&self, job: &TrainerJob) -> Result<(), InvalidSpec> {
        job.check()?;
        inheritance::check_retrain(&self.0, job)
    }

    /// Baselines that were asked for, with their architectures; [`Baseline::Random`]
    /// has none before something is derived.
    pub fn baselines(&self) -> Vec<(Baseline, Architecture)> {
        let SearchSpec { backbone, supernet, baselines, .. } = &self.0;
        let named =
            |baseline: &Baseline| Some((*baseline, baseline.architecture(backbone, &supernet.kernels)?));
        baselines.iter().filter_map(named).collect()
    }
}

impl TryFrom<SearchSpec> for CheckedSearch {
    type Error = InvalidSpec;

    fn try_from(spec: SearchSpec) -> Result<Self, Self::Error> {
        CheckedSearch::new(spec)
    }
}

impl From<CheckedSearch> for SearchSpec {
    fn from(search: CheckedSearch) -> Self {
        search.0
    }
}

/// Whether `name` may name a search: it appears in paths, keys and commands.
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= 64
        && bytes.first().is_some_and(|byte| allowed(*byte))
        && bytes.iter().all(|byte| allowed(*byte) || matches!(byte, b'.' | b'_' | b'-'))
}

/// Voxels of the largest patch that is accepted.
const PATCH_VOXELS_MAX: u64 = 1 << 27;

fn check_search(spec: &SearchSpec, found: &mut Violations) {
    found.require(is_valid_name(&spec.name), "name", || {
        format!(
            "'{}' must have 1 to 64 characters of a-z, 0-9, '.', '_', '-', and begin with a letter or digit",
            spec.name
        )
    });
    dataset::check(&spec.dataset, found);
    let backbone_fits = check_backbone(&spec.backbone, &spec.dataset, spec.patch, found);
    check_l1_strength(spec.supernet.l1_strength, "supernet.l1_strength", found);
    training::check(&spec.supernet.training, "supernet.training", found);
    training::check(&spec.retrain.training, "retrain.training", found);
    for (weights, field) in [
        (&spec.supernet.initial_weights, "supernet.initial_weights"),
        (&spec.retrain.initial_weights, "retrain.initial_weights"),
    ] {
        check_initial_weights(weights, &spec.backbone, field, found);
    }
    inheritance::check(spec, found);
    let early_stop = spec.supernet.early_stop_validations;
    found.require(early_stop.is_none_or(|count| count >= 2), "supernet.early_stop_validations", || {
        "must be at least 2, or be left out".to_owned()
    });
    check_plan(spec, backbone_fits, found);
}

fn check_initial_weights(weights: &InitialWeights, backbone: &Backbone, field: &str, found: &mut Violations) {
    let InitialWeights::Imagenet { path } = weights else { return };
    found.require(!path.is_empty() && path.len() <= 4096, &format!("{field}.path"), || {
        "give the path of a safetensors file".to_owned()
    });
    found.require(backbone.task() == TaskKind::Classification, field, || {
        format!("weights of a 2D ResNet fit residual networks, not {}", backbone.family())
    });
}

fn check_backbone(backbone: &Backbone, dataset: &DatasetSpec, patch: Extent, found: &mut Violations) -> bool {
    let before = found.0.len();
    if let Err(error) = backbone.check() {
        let field = format!("backbone.{}.{}", backbone.family(), error.field);
        found.require(false, &field, || error.problem);
        return false;
    }
    let voxels = patch.iter().fold(1_u64, |product, size| product.saturating_mul(u64::from(*size)));
    found.require(voxels <= PATCH_VOXELS_MAX, "patch", || {
        format!("{voxels} voxels are more than {PATCH_VOXELS_MAX}")
    });
    if let Err(problem) = backbone.check_extent(patch) {
        found.require(false, "patch", || problem);
    }
    let (channels, classes) = (backbone.input_channels(), backbone.classes());
    found.require(backbone.task() == dataset.task(), "backbone", || {
        let (family, example) = match dataset.task() {
            TaskKind::Segmentation => ("a class for every voxel", "encoder_decoder"),
            TaskKind::Classification => ("one class for a sample", "video_resnet or volume_resnet"),
        };
        format!("the data set asks for {family}, which {} does not give; use {example}", backbone.family())
    });
    if let (DatasetSpec::Phantoms(_), Backbone::EncoderDecoder(_)) = (dataset, backbone) {
        found.require(channels == 1, "backbone.encoder_decoder.input_channels", || {
            format!("phantoms have 1 channel, the backbone takes {channels}")
        });
        found.require(classes == PhantomDataset::CLASSES, "backbone.encoder_decoder.classes", || {
            format!(
                "phantoms have {} classes with the background, the backbone gives {classes}",
                PhantomDataset::CLASSES
            )
        });
    }
    found.0.len() == before
}

/// A supernet needs something to choose from.
fn check_searchable(backbone: &Backbone, field: &str, found: &mut Violations) {
    found.require(!backbone.searchable_layers().is_empty(), field, || {
        "has no layer to search: its middle layers are p3d; use searchable ones, and p3d as a baseline"
            .to_owned()
    });
}

fn check_l1_strength(l1_strength: f64, field: &str, found: &mut Violations) {
    found.within(l1_strength, 0.0..=10.0, field);
}

/// Everything that is wrong with a single job, by its own field names.
pub(crate) fn check_job(job: &TrainerJob) -> Result<(), InvalidSpec> {
    let mut found = Violations(Vec::new());
    dataset::check(&job.dataset, &mut found);
    let backbone_fits = check_backbone(job.task.backbone(), &job.dataset, job.patch, &mut found);
    check_initial_weights(&job.initial_weights, job.task.backbone(), "initial_weights", &mut found);
    if let Task::Supernet { backbone, l1_strength, .. } = &job.task {
        inheritance::check_supernet(&job.initial_weights, "initial_weights", &mut found);
        if backbone_fits {
            check_searchable(backbone, "task.supernet.backbone", &mut found);
        }
        check_l1_strength(*l1_strength, "task.supernet.l1_strength", &mut found);
    }
    training::check(&job.training, "training", &mut found);
    if found.0.is_empty() { Ok(()) } else { Err(InvalidSpec(found.0)) }
}

fn check_plan(spec: &SearchSpec, backbone_fits: bool, found: &mut Violations) {
    found.require(spec.budgets.len() <= 64, "budgets", || format!("at most 64, got {}", spec.budgets.len()));
    found.require(!spec.budgets.is_empty() || spec.derive_unconstrained, "budgets", || {
        let measure = spec.budget_measure.words();
        format!("give at least one fraction of the all-3x3x3 network's {measure}, for example [0.25, 0.5]")
    });
    if backbone_fits {
        check_searchable(&spec.backbone, "backbone", found);
    }
    for (index, budget) in spec.budgets.iter().enumerate().filter(|_| backbone_fits) {
        if let Err(error) =
            check_budget(&spec.backbone, &spec.supernet.kernels, spec.patch, spec.budget_measure, *budget)
        {
            found.require(false, &format!("budgets[{index}]"), || error.to_string());
        }
    }
    let mut baselines = spec.baselines.clone();
    baselines.sort_unstable();
    baselines.dedup();
    found.require(baselines.len() == spec.baselines.len(), "baselines", || "one is listed twice".to_owned());
    let factorised = spec.backbone.factorised().is_some();
    found.require(factorised || !spec.baselines.contains(&Baseline::P3d), "baselines", || {
        format!("p3d is a residual network's; {} has none", spec.backbone.family())
    });
    found.require((1..=64).contains(&spec.count_multiple), "count_multiple", || {
        format!("must be 1 to 64, got {}", spec.count_multiple)
    });
    let mut seeds = spec.retrain.seeds.clone();
    seeds.sort_unstable();
    seeds.dedup();
    found.require((1..=64).contains(&spec.retrain.seeds.len()), "retrain.seeds", || {
        format!("give 1 to 64 seeds, got {}", spec.retrain.seeds.len())
    });
    found.require(seeds.len() == spec.retrain.seeds.len(), "retrain.seeds", || {
        "one is listed twice".to_owned()
    });
}

#[cfg(test)]
pub(crate) mod tests;
