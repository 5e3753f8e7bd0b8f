//! What to open: the same that a user can say of a data set for classification.

use std::path::PathBuf;

/// Where samples, their classes and the split come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleSource {
    Arrays(ArraySource),
    Video(VideoSource),
}

/// Volumes or clips in an `.npz` archive or a folder of `.npy` files.
///
/// Samples are `[N, D, H, W]` or `[N, D, H, W, C]`; labels are integers `[N]` or
/// `[N, 1]`, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArraySource {
    /// The archive or folder; absolute, or relative to the root.
    pub path: PathBuf,
    pub split: ArraySplit,
    pub kind: SampleKind,
    /// Samples that may be left out because values are not finite.
    pub tolerate: usize,
}

/// What D of a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// Depth.
    Volume,
    /// Time.
    Clip,
}

/// Which arrays, and which of their rows, train and validate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArraySplit {
    /// `train_images` and `train_labels` train, those of `validation` validate.
    Medmnist { validation: MedmnistPart },
    /// Rows with `fold` in the array `folds` validate, all others train.
    FoldArray { samples: String, labels: String, folds: String, fold: i64 },
    /// Fold number `fold` of `folds` validates, in blocks of neighbouring rows.
    RowFold { samples: String, labels: String, fold: u32, folds: u32, seed: u64 },
}

/// A part of a MedMNIST archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MedmnistPart {
    Val,
    Test,
}

impl MedmnistPart {
    /// The first half of the part's keys.
    pub fn prefix(self) -> &'static str {
        match self {
            MedmnistPart::Val => "val",
            MedmnistPart::Test => "test",
        }
    }
}

/// Clips as files or as folders of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoSource {
    /// The folder that all else is relative to; absolute, or relative to the root.
    pub path: PathBuf,
    pub layout: VideoLayout,
    /// Clips that may be left out because they cannot be read.
    pub tolerate: usize,
}

/// How clips, their classes and the split are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VideoLayout {
    /// `FOLDER FRAMES CLASS` in a line; `pattern` names a frame by its number
    /// from 1, as in `{:05}.jpg`.
    FrameLists { training_list: PathBuf, validation_list: PathBuf, pattern: String },
    /// `FILE CLASS` in a line.
    FileLists { training_list: PathBuf, validation_list: PathBuf },
    /// `CLASS/FILE`; fold number `fold` of `folds` validates.
    ClassFolders { fold: u32, folds: u32, seed: u64 },
}
