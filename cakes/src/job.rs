//! One job of a trainer: everything that it needs to know, as one JSON file.

use serde::{Deserialize, Serialize};

use crate::Extent;
use crate::architecture::Architecture;
use crate::backbone::{Backbone, Form};
use crate::kernel::KernelSet;
use crate::network::{Network, SearchMode};
use crate::spec::{DatasetSpec, TrainingSpec};

/// What a trainer is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerJob {
    pub task: Task,
    pub dataset: DatasetSpec,
    /// Extent of a training patch and of a validation window, in voxels.
    pub patch: Extent,
    pub training: TrainingSpec,
    /// Everything random in the job follows from it.
    pub seed: u64,
}

/// The network to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Task {
    /// Train a supernet and report the scores of its channels.
    Supernet {
        backbone: Backbone,
        mode: SearchMode,
        kernels: KernelSet,
        /// L1 on γ in a cost-priority search, per unit of learning rate.
        l1_strength: f64,
    },
    /// Train one architecture from scratch.
    Retrain { architecture: Architecture },
}

impl Task {
    pub fn backbone(&self) -> &Backbone {
        match self {
            Task::Supernet { backbone, .. } => backbone,
            Task::Retrain { architecture } => architecture.backbone(),
        }
    }

    /// The network that the job trains.
    pub fn network(&self) -> Network {
        match self {
            Task::Supernet { backbone, mode, kernels, .. } => {
                backbone.network(Form::Supernet { mode: *mode, kernels })
            }
            Task::Retrain { architecture } => architecture.network(),
        }
    }
}
