//! Which data a job reads.

use serde::{Deserialize, Serialize};

use super::Violations;
use crate::Extent;

/// Where samples and labels come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DatasetSpec {
    /// Labelled volumes, for segmentation.
    Folder(FolderDataset),
    /// Generated labelled volumes, for segmentation.
    Phantoms(PhantomDataset),
    /// Volumes or clips in NumPy arrays, one class each.
    Arrays(ArrayDataset),
    /// Clips as files or as folders of frames, one class each.
    Video(VideoDataset),
}

impl DatasetSpec {
    /// Whether samples are clips.
    pub fn is_video(&self) -> bool {
        match self {
            DatasetSpec::Folder(_) | DatasetSpec::Phantoms(_) => false,
            DatasetSpec::Arrays(arrays) => arrays.kind == ArrayKind::Video,
            DatasetSpec::Video(_) => true,
        }
    }

    /// Where it lies: absolute, or relative to the data root of each worker; `None` for
    /// generated data. Jobs with one path train on one data set.
    pub fn path(&self) -> Option<&str> {
        match self {
            DatasetSpec::Folder(folder) => Some(&folder.path),
            DatasetSpec::Phantoms(_) => None,
            DatasetSpec::Arrays(arrays) => Some(&arrays.path),
            DatasetSpec::Video(video) => Some(&video.path),
        }
    }

    /// What is to be told of a sample.
    pub fn task(&self) -> TaskKind {
        match self {
            DatasetSpec::Folder(_) | DatasetSpec::Phantoms(_) => TaskKind::Segmentation,
            DatasetSpec::Arrays(_) | DatasetSpec::Video(_) => TaskKind::Classification,
        }
    }
}

/// What a network tells of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// A class for every voxel.
    Segmentation,
    /// One class.
    Classification,
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

/// Volumes or clips in an `.npz` archive or a folder of `.npy` files.
///
/// Arrays of samples are `[N, D, H, W]`, or `[N, D, H, W, C]` with colours;
/// labels are integers `[N]` or `[N, 1]`, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayDataset {
    /// The archive or folder; absolute, or relative to the data root of each worker.
    pub path: String,
    pub split: ArraySplit,
    /// What D is: an axis of space or time.
    pub kind: ArrayKind,
    /// Samples that may be unreadable (values that are not finite); they are
    /// counted, logged and left out.
    pub tolerate: u32,
}

/// What the first axis of a sample is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrayKind {
    /// Depth: patches are cut along it, mirrored and turned like the others.
    #[default]
    Volume,
    /// Time: frames are drawn by segments, all with one crop.
    Video,
}

/// Which arrays, and which of their rows, train and validate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ArraySplit {
    /// `train_images` and `train_labels` train; `val_…` or `test_…` validate, as
    /// in the archives of MedMNIST.
    Medmnist { validation: MedmnistPart },
    /// One array of samples, one of labels, and one that gives every row its
    /// fold: `fold` validates, all others train.
    FoldArray { samples: String, labels: String, folds: String, fold: i64 },
    /// One array of samples and one of labels; fold number `fold` of `folds`
    /// validates, in blocks of neighbouring rows.
    RowFold { samples: String, labels: String, fold: u32, folds: u32, seed: u64 },
}

/// A part of a MedMNIST archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MedmnistPart {
    Val,
    Test,
}

/// Clips as files or as folders of frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoDataset {
    /// Folder that everything else is relative to; absolute, or relative to the
    /// data root of each worker.
    pub path: String,
    pub layout: VideoLayout,
    /// Clips that may be unreadable; they are counted, logged and left out.
    pub tolerate: u32,
}

/// How clips, their classes and the split are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VideoLayout {
    /// Lists with `FOLDER FRAMES CLASS` in a line, as TSN's; `pattern` names a
    /// frame by its number from 1: `{:05}.jpg`.
    FrameLists { training_list: String, validation_list: String, pattern: String },
    /// Lists with `FILE CLASS` in a line; files are decoded by FFmpeg.
    FileLists { training_list: String, validation_list: String },
    /// `CLASS/FILE`: classes are the folders' names in alphabetical order, fold
    /// number `fold` of `folds` validates. Files of one source stay in one fold:
    /// those whose names are equal before the last part, as `_` and `-` divide
    /// them, that ends in a digit (`pat1_132943.mpeg` and `pat1_133043.mpeg`). A
    /// class of one source is dealt out file by file.
    ClassFolders { fold: u32, folds: u32, seed: u64 },
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
        DatasetSpec::Arrays(arrays) => check_arrays(arrays, found),
        DatasetSpec::Video(video) => check_video(video, found),
    }
}

fn is_usable_path(path: &str) -> bool {
    !path.is_empty() && !path.contains('\0') && path.len() <= 4096
}

fn check_fold(fold: u32, folds: u32, field: &str, found: &mut Violations) {
    found.require((2..=100).contains(&folds), &format!("{field}.folds"), || {
        format!("must be 2 to 100, got {folds}")
    });
    found.require(fold < folds, &format!("{field}.fold"), || {
        format!("folds count from 0, so {fold} is not one of {folds}")
    });
}

fn check_arrays(arrays: &ArrayDataset, found: &mut Violations) {
    found.require(is_usable_path(&arrays.path), "dataset.arrays.path", || {
        "give the path of an .npz archive or of a folder of .npy files".to_owned()
    });
    let keys: Vec<(&str, &String)> = match &arrays.split {
        ArraySplit::Medmnist { .. } => Vec::new(),
        ArraySplit::FoldArray { samples, labels, folds, .. } => {
            vec![("fold_array.samples", samples), ("fold_array.labels", labels), ("fold_array.folds", folds)]
        }
        ArraySplit::RowFold { samples, labels, fold, folds, .. } => {
            check_fold(*fold, *folds, "dataset.arrays.split.row_fold", found);
            vec![("row_fold.samples", samples), ("row_fold.labels", labels)]
        }
    };
    for (field, key) in keys {
        let usable = !key.is_empty() && key.len() <= 255 && !key.contains(['/', '\\', '\0']);
        found.require(usable, &format!("dataset.arrays.split.{field}"), || {
            format!("'{key}' names no array: give its key in the archive, without .npy")
        });
    }
}

fn check_video(video: &VideoDataset, found: &mut Violations) {
    found.require(is_usable_path(&video.path), "dataset.video.path", || {
        "give the path of a folder with clips".to_owned()
    });
    let lists = |kind: &str, training: &str, validation: &str, found: &mut Violations| {
        for (field, list) in [("training_list", training), ("validation_list", validation)] {
            found.require(is_usable_path(list), &format!("dataset.video.layout.{kind}.{field}"), || {
                "give the path of a list, relative to the data set's folder".to_owned()
            });
        }
    };
    match &video.layout {
        VideoLayout::FrameLists { training_list, validation_list, pattern } => {
            lists("frame_lists", training_list, validation_list, found);
            let usable = pattern.contains("{:") && pattern.contains('}') && !pattern.contains('/');
            found.require(usable, "dataset.video.layout.frame_lists.pattern", || {
                format!("'{pattern}' must name a frame by its number, for example {{:05}}.jpg")
            });
        }
        VideoLayout::FileLists { training_list, validation_list } => {
            lists("file_lists", training_list, validation_list, found);
        }
        VideoLayout::ClassFolders { fold, folds, .. } => {
            check_fold(*fold, *folds, "dataset.video.layout.class_folders", found);
        }
    }
}

fn check_folder(folder: &FolderDataset, found: &mut Violations) {
    found.require(is_usable_path(&folder.path), "dataset.folder.path", || {
        "give the path of a data set's folder".to_owned()
    });
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
            check_fold(*fold, *folds, "dataset.folder.validation.fold", found);
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
