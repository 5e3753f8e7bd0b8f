//! What a trained network reads and what its outputs mean: what someone who holds
//! only its weights must know.

use serde::{Deserialize, Serialize};

use crate::Extent;

/// How samples become a network's input, and the names of its outputs. A trainer
/// writes it beside every checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInput {
    /// Name of the data set.
    pub dataset: String,
    pub kind: InputKind,
    /// Extent of a training patch or clip. Volumes to segment are cut in windows of
    /// this extent along the axes on which they are more than half as long again.
    pub patch: Extent,
    pub normalisation: InputNormalisation,
    /// Names of the classes by number, background first for segmentation; numbers
    /// where nothing names them.
    pub classes: Vec<String>,
    /// Of clips: sides of training's crops as shares of those of the largest box of the
    /// patch's form that fits in a frame; 1 alone crops nothing beside that box. Empty for
    /// volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crop_scales: Vec<f64>,
    /// Cases that validated a segmentation, by file name without ending; empty
    /// otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation_cases: Vec<String>,
}

/// The middle 224 of 256, as the published evaluation crops.
const EVALUATION_CROP: f64 = 224.0 / 256.0;

impl NetworkInput {
    /// What validation cuts out of the centre of each frame of a clip: a share of the sides of
    /// the largest box of the patch's form (height to width) that fits in the frame. None for
    /// volumes.
    pub fn evaluation_crop(&self) -> Option<f64> {
        let share = if self.crop_scales == [1.0] { 1.0 } else { EVALUATION_CROP };
        (self.kind == InputKind::Clip).then_some(share)
    }
}

/// What a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// `[C, D, H, W]`, D, H and W along the axes of the patient (RAS+) in files that
    /// say so.
    Volume,
    /// `[C, T, H, W]`
    Clip,
}

/// How values are brought to the range that a network was trained in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum InputNormalisation {
    /// Zero mean and unit variance of each channel over the whole sample.
    PerSample,
    /// Mean and standard deviation of each channel, in stored values.
    Fixed { mean: Vec<f32>, deviation: Vec<f32> },
}
