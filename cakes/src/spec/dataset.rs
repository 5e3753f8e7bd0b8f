//! Which data a job reads.

use serde::{Deserialize, Serialize};

use super::Violations;
use crate::Extent;

/// Where volumes and labels come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DatasetSpec {
    Folder(FolderDataset),
    Phantoms(PhantomDataset),
}

/// A folder in the layout of the Medical Segmentation Decathlon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderDataset {
    /// Absolute, or relative to the data root of each worker.
    pub path: String,
    pub validation: ValidationSplit,
    /// Pads volumes that are smaller than the patch with zeros after
    /// normalisation; otherwise such a volume is an error.
    pub pad_small_volumes: bool,
}

/// Which cases validate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ValidationSplit {
    /// The cases of these names.
    Cases(Vec<String>),
    /// What `splits.json` beside `dataset.json` says.
    SplitsFile,
    /// Fold number `fold` of `folds`, in blocks of neighbouring names.
    Fold { fold: u32, folds: u32, seed: u64 },
}

/// Generated volumes whose structures need different axes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhantomDataset {
    /// Cases for training and validation together.
    pub cases: u32,
    pub validation_cases: u32,
    pub extent: Extent,
    pub seed: u64,
}

impl PhantomDataset {
    /// Classes of every phantom, background included.
    pub const CLASSES: u32 = 4;
}

impl Default for PhantomDataset {
    fn default() -> Self {
        PhantomDataset { cases: 40, validation_cases: 8, extent: [32, 32, 32], seed: 0 }
    }
}

pub(super) fn check(dataset: &DatasetSpec, found: &mut Violations) {
    match dataset {
        DatasetSpec::Folder(folder) => check_folder(folder, found),
        DatasetSpec::Phantoms(phantoms) => check_phantoms(phantoms, found),
    }
}

fn check_folder(folder: &FolderDataset, found: &mut Violations) {
    let usable = !folder.path.is_empty() && !folder.path.contains('\0') && folder.path.len() <= 4096;
    found.require(usable, "dataset.folder.path", || "give the path of a data set's folder".to_owned());
    match &folder.validation {
        ValidationSplit::Cases(names) => {
            found.require(!names.is_empty(), "dataset.folder.validation.cases", || {
                "name at least one validation case".to_owned()
            });
            let broken = names.iter().find(|name| name.is_empty() || name.contains(['/', '\0']));
            found.require(broken.is_none(), "dataset.folder.validation.cases", || {
                format!("{broken:?} is no name of a case: give file names without folder and ending")
            });
            let is_name = |name: &String| (1..=255).contains(&name.len()) && !name.contains(['/', '\0']);
            found.require(names.iter().all(is_name), "dataset.folder.validation.cases", || {
                "a case is named by its file without folder and ending, at most 255 bytes".to_owned()
            });
        }
        ValidationSplit::SplitsFile => {}
        ValidationSplit::Fold { fold, folds, .. } => {
            found.require((2..=100).contains(folds), "dataset.folder.validation.fold.folds", || {
                format!("must be 2 to 100, got {folds}")
            });
            found.require(fold < folds, "dataset.folder.validation.fold.fold", || {
                format!("folds count from 0, so {fold} is not one of {folds}")
            });
        }
    }
}

fn check_phantoms(phantoms: &PhantomDataset, found: &mut Violations) {
    let PhantomDataset { cases, validation_cases, extent, .. } = phantoms;
    found.require((2..=10_000).contains(cases), "dataset.phantoms.cases", || {
        format!("must be 2 to 10000, got {cases}")
    });
    found.require(
        (1..(*cases).max(2)).contains(validation_cases),
        "dataset.phantoms.validation_cases",
        || {
            format!(
                "must leave at least one case for training: 1 to {}, got {validation_cases}",
                cases.saturating_sub(1)
            )
        },
    );
    found.require(extent.iter().all(|size| (16..=256).contains(size)), "dataset.phantoms.extent", || {
        format!("every axis must be 16 to 256, got {extent:?}")
    });
}
