//! One job of a trainer: everything that it needs to know, as one JSON file.

use serde::{Deserialize, Serialize};

use crate::Extent;
use crate::architecture::Architecture;
use crate::backbone::{Backbone, Form};
use crate::kernel::KernelSet;
use crate::network::{Network, SearchMode};
use crate::spec::{DatasetSpec, InitialWeights, InvalidSpec, TrainingSpec, check_job};

/// What a trainer is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerJob {
    pub task: Task,
    pub dataset: DatasetSpec,
    /// Extent of a training patch, in voxels. Validation cuts volumes in windows of
    /// this extent along the axes on which they are more than half as long again.
    pub patch: Extent,
    pub training: TrainingSpec,
    #[serde(default)]
    pub initial_weights: InitialWeights,
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
        /// Ends the search when the architecture of the paper's rule has been the
        /// same after so many validations in a row.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        early_stop_validations: Option<u32>,
    },
    /// Train one architecture from scratch.
    Retrain { architecture: Architecture },
}

impl TrainerJob {
    /// Checks everything that can be checked without the data.
    ///
    /// # Errors
    /// All violations, not only the first.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        check_job(self)
    }

    /// [`DatasetSpec::path`] of a job in its JSON form, also of one whose other parts this
    /// version does not understand.
    pub fn data_path(json: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Data {
            dataset: DatasetSpec,
        }
        let data: Data = serde_json::from_str(json).ok()?;
        data.dataset.path().map(str::to_owned)
    }
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

#[cfg(test)]
mod tests {
    use super::TrainerJob;
    use crate::spec::CheckedSearch;
    use crate::spec::tests::small_search;

    #[test]
    fn jobs_of_a_checked_search_are_valid_and_a_spoilt_one_names_its_fields() {
        let mut job = CheckedSearch::new(small_search()).unwrap().supernet_job();
        assert_eq!(job.check(), Ok(()));
        job.patch = [16, 15, 16];
        job.training.batch_size = 0;
        let fields: Vec<String> =
            job.check().unwrap_err().0.into_iter().map(|violation| violation.field).collect();
        assert_eq!(fields, ["patch", "training.batch_size"]);
    }

    #[test]
    fn the_data_of_a_job_are_known_by_their_path_whatever_else_it_says() {
        let path =
            |dataset: &str| TrainerJob::data_path(&format!(r#"{{"of_tomorrow": 1, "dataset": {dataset}}}"#));
        let folder =
            r#"{"folder": {"path": "brains", "validation": "splits_file", "pad_small_volumes": false}}"#;
        assert_eq!(path(folder).as_deref(), Some("brains"));
        let arrays = r#"{"arrays": {"path": "/a.npz", "split": {"medmnist": {"validation": "val"}}, "kind": "volume", "tolerate": 0}}"#;
        assert_eq!(path(arrays).as_deref(), Some("/a.npz"));
        let video = r#"{"video": {"path": "clips", "layout": {"class_folders": {"fold": 0, "folds": 5, "seed": 1}}, "tolerate": 0}}"#;
        assert_eq!(path(video).as_deref(), Some("clips"));
        let generated = serde_json::to_string(&small_search().dataset).unwrap();
        assert_eq!(path(&generated), None);
        assert_eq!(TrainerJob::data_path("{}"), None);
    }
}
