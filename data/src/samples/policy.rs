//! How a sample becomes a network's input: pure functions of the sample and, in
//! training, of a random stream ([`crate::patch::patch_stream`]) that belongs to
//! it alone, so neither threads nor a restart change it.

use ndarray::{Array4, ArrayViewMut4, s};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::resize::{CropBox, resize_frames};
use super::{FrameValues, Frames, Sample};
use crate::patch::{PatchPolicy, change_intensity, sample_image, swapped};
use crate::{DataError, Extent};

/// What a network is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// `[C, D, H, W]`, normalised, of exactly the policy's extent.
    pub image: Array4<f32>,
    pub label: usize,
}

/// How samples are brought to one range.
#[derive(Clone, Debug, PartialEq)]
pub enum Normalisation {
    /// Mean and deviation of each channel, in stored values.
    Fixed { mean: Vec<f32>, deviation: Vec<f32> },
    /// Zero mean and unit variance over each sample, per channel.
    PerSample,
}

impl Normalisation {
    /// Of the images that published weights were trained on, for bytes.
    pub fn imagenet() -> Self {
        Normalisation::Fixed {
            mean: [0.485, 0.456, 0.406].map(|value| value * 255.0).to_vec(),
            deviation: [0.229, 0.224, 0.225].map(|value| value * 255.0).to_vec(),
        }
    }

    /// From count, sum and sum of squares of each channel.
    pub(super) fn from_sums(sums: &[[f64; 3]]) -> Self {
        let mean = |[count, sum, _]: &[f64; 3]| sum / count.max(1.0);
        let deviation = |of: &[f64; 3]| (of[2] / of[0].max(1.0) - mean(of).powi(2)).max(0.0).sqrt();
        Normalisation::Fixed {
            mean: sums.iter().map(|of| mean(of) as f32).collect(),
            deviation: sums.iter().map(|of| deviation(of) as f32).collect(),
        }
    }

    /// A channel that is the same everywhere becomes all zeros.
    fn apply(&self, image: &mut Array4<f32>) {
        match self {
            Normalisation::PerSample => crate::normalise(image),
            Normalisation::Fixed { mean, deviation } => {
                let channels = image.outer_iter_mut().zip(mean.iter().zip(deviation));
                for (mut channel, (mean, deviation)) in channels {
                    let scale = if *deviation > 0.0 { 1.0 / deviation } else { 0.0 };
                    channel.mapv_inplace(|value| (value - mean) * scale);
                }
            }
        }
    }
}

/// How samples of a data set become inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum SamplePolicy {
    Volume(VolumePolicy),
    Clip(ClipPolicy),
}

impl SamplePolicy {
    /// D, H and W of every input.
    pub fn extent(&self) -> Extent {
        match self {
            SamplePolicy::Volume(policy) => policy.patch.extent,
            SamplePolicy::Clip(policy) => policy.extent,
        }
    }

    /// An input to train on.
    ///
    /// # Errors
    /// The sample cannot be read.
    pub fn train(&self, sample: &Sample, rng: &mut ChaCha8Rng) -> Result<Input, DataError> {
        match self {
            SamplePolicy::Volume(policy) => policy.train(sample, rng),
            SamplePolicy::Clip(policy) => policy.train(sample, rng),
        }
    }

    /// The one input to validate on.
    ///
    /// # Errors
    /// The sample cannot be read.
    pub fn evaluate(&self, sample: &Sample) -> Result<Input, DataError> {
        match self {
            SamplePolicy::Volume(policy) => policy.evaluate(sample),
            SamplePolicy::Clip(policy) => policy.evaluate(sample),
        }
    }
}

/// Patches of volumes: anywhere in training, from the middle in evaluation. A
/// smaller volume is padded with zeros after normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumePolicy {
    /// `foreground_probability` means nothing here.
    pub patch: PatchPolicy,
    pub normalisation: Normalisation,
}

impl VolumePolicy {
    fn train(&self, sample: &Sample, rng: &mut ChaCha8Rng) -> Result<Input, DataError> {
        let volume = self.prepared(sample)?;
        let (image, label) = sample_image(&volume.view(), sample.label, &self.patch, rng);
        Ok(Input { image, label })
    }

    fn evaluate(&self, sample: &Sample) -> Result<Input, DataError> {
        let volume = self.prepared(sample)?;
        let (_, d, h, w) = volume.dim();
        let middle = |size: usize, wanted: usize| (size - wanted) / 2..(size - wanted) / 2 + wanted;
        let [pd, ph, pw] = self.patch.extent;
        let image = volume.slice(s![.., middle(d, pd), middle(h, ph), middle(w, pw)]).to_owned();
        Ok(Input { image, label: sample.label })
    }

    fn prepared(&self, sample: &Sample) -> Result<Array4<f32>, DataError> {
        let mut volume = sample.to_array()?;
        self.normalisation.apply(&mut volume);
        Ok(pad(volume, self.patch.extent))
    }
}

/// Pads with zeros, evenly on both sides, up to `least` along each axis.
fn pad(volume: Array4<f32>, least: Extent) -> Array4<f32> {
    let (channels, d, h, w) = volume.dim();
    let old = [d, h, w];
    let new: Extent = std::array::from_fn(|axis| old[axis].max(least[axis]));
    if new == old {
        return volume;
    }
    let range = |axis: usize| (new[axis] - old[axis]) / 2..(new[axis] - old[axis]) / 2 + old[axis];
    let mut padded = Array4::zeros((channels, new[0], new[1], new[2]));
    padded.slice_mut(s![.., range(0), range(1), range(2)]).assign(&volume);
    padded
}

/// Frames of clips, all with one crop.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipPolicy {
    /// Frames, height and width.
    pub extent: Extent,
    /// Sides of training's crop as shares of those of the largest box of the input's form
    /// that fits in a frame, falling; height and width are at most one entry apart. 1 alone
    /// crops nothing beside that box, in evaluation neither.
    pub crop_scales: Vec<f64>,
    /// Whether half of the training clips are mirrored along W.
    pub mirrors: bool,
    /// Classes that change places when a clip is mirrored.
    pub flip_swaps: Vec<[usize; 2]>,
    /// Largest standard deviation of added noise.
    pub noise_max: f64,
    /// Largest change of contrast (relative) and brightness (absolute).
    pub intensity_change_max: f64,
    pub normalisation: Normalisation,
}

/// The shorter side of a frame before the crop of evaluation, as a multiple of the
/// crop's side (256 pixels for 224).
const EVALUATION_MARGIN: f64 = 256.0 / 224.0;

/// Fixed positions of a crop, in quarters of the room along H and W: the corners,
/// the middles of the sides, the centre, and half way from it to the corners.
const POSITIONS: [[u8; 2]; 13] =
    [[0, 0], [0, 4], [4, 0], [4, 4], [2, 2], [2, 0], [2, 4], [0, 2], [4, 2], [1, 1], [1, 3], [3, 1], [3, 3]];

/// The frame of segment `index` of `segments` at `at` (0 to below 1) of its length.
///
/// Segments are equal parts of the clip as a length of `frames`, so that no frame
/// at its end is out of reach. A clip with fewer frames than segments gives frames
/// evenly, some more than once.
pub fn segment_frame(frames: usize, segments: usize, index: usize, at: f64) -> usize {
    let place = (index as f64 + at) * frames as f64 / segments as f64;
    (place as usize).min(frames.saturating_sub(1))
}

impl ClipPolicy {
    /// What [`super::OpenOptions::short_side`] should be for inputs of `extent`:
    /// the shorter side that evaluation's crop is made for, so that neither it nor
    /// training sees enlarged pixels of a frame that had more.
    pub fn short_side(extent: Extent) -> usize {
        (extent[1].max(extent[2]) as f64 * EVALUATION_MARGIN).ceil() as usize
    }

    fn train(&self, sample: &Sample, rng: &mut ChaCha8Rng) -> Result<Input, DataError> {
        let (frames, segments) = (sample.depth(), self.extent[0]);
        let numbers: Vec<usize> =
            (0..segments).map(|index| segment_frame(frames, segments, index, rng.random::<f64>())).collect();
        let frames = sample.frames(&numbers)?;
        let crop = self.draw_crop(frames.height, frames.width, rng);
        let mut image = self.cut(&frames, crop)?;
        let mut label = sample.label;
        if rng.random_bool(0.5) && self.mirrors {
            image.invert_axis(ndarray::Axis(3));
            image = image.as_standard_layout().into_owned();
            label = swapped(label, &self.flip_swaps);
        }
        change_intensity(&mut image, self.intensity_change_max, self.noise_max, rng);
        Ok(Input { image, label })
    }

    fn evaluate(&self, sample: &Sample) -> Result<Input, DataError> {
        let (frames, segments) = (sample.depth(), self.extent[0]);
        let numbers: Vec<usize> =
            (0..segments).map(|index| segment_frame(frames, segments, index, 0.5)).collect();
        let frames = sample.frames(&numbers)?;
        let crop = self.evaluation_crop(frames.height, frames.width);
        Ok(Input { image: self.cut(&frames, crop)?, label: sample.label })
    }

    fn cut(&self, frames: &Frames<'_>, crop: CropBox) -> Result<Array4<f32>, DataError> {
        let resized = resize_frames(frames, crop, [self.extent[1], self.extent[2]])?;
        let mut image = channels_first(&resized);
        self.normalisation.apply(&mut image);
        Ok(image)
    }

    /// Height and width of the largest box of the input's form in a frame.
    fn largest_box(&self, height: usize, width: usize) -> [f64; 2] {
        let [_, h, w] = self.extent.map(|size| size as f64);
        let scale = (height as f64 / h).min(width as f64 / w);
        [(h * scale).min(height as f64), (w * scale).min(width as f64)]
    }

    /// A crop of training: height and width are drawn from the scales, at most one
    /// step apart, and one of 13 positions.
    fn draw_crop(&self, height: usize, width: usize, rng: &mut ChaCha8Rng) -> CropBox {
        let largest = self.largest_box(height, width);
        let scales = if self.crop_scales.is_empty() { &[1.0][..] } else { &self.crop_scales };
        let steps = 0..scales.len();
        let pairs: Vec<[usize; 2]> = steps
            .clone()
            .flat_map(|h| steps.clone().filter(move |w| h.abs_diff(*w) <= 1).map(move |w| [h, w]))
            .collect();
        let [h, w] = pairs[rng.random_range(0..pairs.len())];
        let position = POSITIONS[rng.random_range(0..POSITIONS.len())];
        let size = [largest[0] * scales[h], largest[1] * scales[w]];
        place_crop([height, width], size, position)
    }

    /// Sides of evaluation's crop as shares of the largest box of the input's form.
    pub fn evaluation_share(&self) -> f64 {
        if self.crop_scales == [1.0] { 1.0 } else { 1.0 / EVALUATION_MARGIN }
    }

    fn evaluation_crop(&self, height: usize, width: usize) -> CropBox {
        let size = self.largest_box(height, width).map(|side| side * self.evaluation_share());
        place_crop([height, width], size, [2, 2])
    }
}

/// Whole pixels, so that a crop of the input's own size is not blurred.
fn place_crop(frame: [usize; 2], size: [f64; 2], quarters: [u8; 2]) -> CropBox {
    let size: [f64; 2] = std::array::from_fn(|axis| size[axis].round().clamp(1.0, frame[axis] as f64));
    let start: [f64; 2] = std::array::from_fn(|axis| {
        ((frame[axis] as f64 - size[axis]) * f64::from(quarters[axis]) / 4.0).floor()
    });
    CropBox { top: start[0], left: start[1], height: size[0], width: size[1] }
}

/// `[C, D, H, W]` of frames `[H, W, C]`.
pub(super) fn channels_first(frames: &Frames<'_>) -> Array4<f32> {
    let Frames { height, width, channels, values } = frames;
    let depth = values.len();
    let mut image = Array4::zeros((*channels, depth, *height, *width));
    match values {
        FrameValues::U8(frames) => {
            fill(image.view_mut(), frames.iter().map(|frame| frame.iter().map(|value| f32::from(*value))));
        }
        FrameValues::F32(frames) => fill(image.view_mut(), frames.iter().map(|frame| frame.iter().copied())),
    }
    image
}

fn fill(mut image: ArrayViewMut4<f32>, frames: impl Iterator<Item = impl Iterator<Item = f32>>) {
    for (mut places, mut values) in image.axis_iter_mut(ndarray::Axis(1)).zip(frames) {
        let (channels, height, width) = places.dim();
        for h in 0..height {
            for w in 0..width {
                for c in 0..channels {
                    places[[c, h, w]] = values.next().unwrap_or_default();
                }
            }
        }
    }
}
