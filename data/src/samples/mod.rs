//! Volumes and clips with one class each.
//!
//! [`Samples::open`] finds the samples, their classes and the split, decodes what
//! must be decoded into the cache, and says at once what cannot be read.
//! A [`SamplePolicy`] makes a network's input of a [`Sample`].
//!
//! A sample is `[C, D, H, W]`; D of a clip is time. It is read frame by frame:
//! a frame is `[H, W, C]`, for volumes it is a slice along D.

pub(crate) mod arrays;
pub mod cache;
mod content;
pub mod ffmpeg;
pub mod frames;
pub mod lists;
pub mod npy;
mod policy;
mod resize;
mod source;
mod video;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::Array4;
use rayon::prelude::*;

use cache::Cache;
pub use cache::CacheOptions;
pub use content::content_files;
pub use policy::{ClipPolicy, Input, Normalisation, SamplePolicy, VolumePolicy, segment_frame};
pub use source::{ArraySource, ArraySplit, MedmnistPart, SampleKind, SampleSource, VideoLayout, VideoSource};

use crate::DataError;
use cache::{CacheKey, Mapped, ValueType};
use frames::FrameFolder;
use video::VideoStore;

/// What opening a data set needs besides its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    pub cache: CacheOptions,
    /// Channels that video is decoded to: 3 for colours, 1 for grey. None for
    /// colours. Arrays have the channels that they have.
    pub channels: Option<usize>,
    /// Frames of video are kept with a shorter side of at most this many pixels;
    /// see [`ClipPolicy::short_side`]. None keeps them as they are.
    pub short_side: Option<usize>,
}

/// Number of a sample in its [`Samples`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId(usize);

/// A sample that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub name: String,
    pub reason: String,
}

/// Samples of one data set, divided into training and validation.
#[derive(Debug)]
pub struct Samples {
    pub name: String,
    /// Names of the classes; numbers where nothing names them.
    pub classes: Vec<String>,
    pub channels: usize,
    pub kind: SampleKind,
    entries: Vec<Entry>,
    training: Vec<SampleId>,
    validation: Vec<SampleId>,
    skipped: Vec<Skipped>,
    arrays: Vec<Arc<Mapped>>,
    video: Option<VideoStore>,
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    label: usize,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// Row of an array.
    Row { array: usize, row: usize },
    /// A file of video.
    File { path: PathBuf, key: CacheKey },
    /// A folder of frames; with a key where it is kept decoded.
    Frames { folder: Arc<FrameFolder>, key: Option<CacheKey> },
    /// Left out.
    Broken,
}

/// Entries of each side, by number.
#[derive(Clone, Debug, Default)]
struct Sides {
    training: Vec<usize>,
    validation: Vec<usize>,
}

impl Sides {
    fn without(mut self, broken: &[usize]) -> Self {
        for side in [&mut self.training, &mut self.validation] {
            side.retain(|entry| !broken.contains(entry));
        }
        self
    }
}

/// Refuses more skipped samples than are tolerated.
fn tolerated(path: &Path, skipped: &[Skipped], tolerate: usize) -> Result<(), DataError> {
    if skipped.len() <= tolerate {
        return Ok(());
    }
    let first: Vec<String> =
        skipped.iter().take(5).map(|sample| format!("{}: {}", sample.name, sample.reason)).collect();
    let more = if skipped.len() > 5 { format!("; and {} more", skipped.len() - 5) } else { String::new() };
    Err(DataError::file(
        path,
        format!(
            "{} sample(s) cannot be used, {tolerate} may be (tolerate): {}{more}",
            skipped.len(),
            first.join("; ")
        ),
    ))
}

const STATISTICS_CLIPS: usize = 1000;
const STATISTICS_FRAMES: usize = 8;

impl Samples {
    /// Opens a data set; relative paths are looked up under `root`. `progress` is
    /// told, from several threads, how many samples of how many are decoded.
    ///
    /// Every sample is decoded here once, but for folders of frames that do not fit
    /// into the cache together: of those a frame that is no image is found when it
    /// is asked for, and is an error then.
    ///
    /// # Errors
    /// Files are missing or wrong, more samples than tolerated cannot be read, or
    /// a side of the split is empty.
    pub fn open(
        source: &SampleSource,
        root: &Path,
        options: &OpenOptions,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self, DataError> {
        let cache = Cache::open(&options.cache)?;
        let ids = |side: Vec<usize>| side.into_iter().map(SampleId).collect::<Vec<_>>();
        let samples = match source {
            SampleSource::Arrays(source) => {
                let opened = arrays::open(source, root, &cache)?;
                Samples {
                    name: opened.name,
                    classes: (0..opened.classes).map(|class| class.to_string()).collect(),
                    channels: opened.channels,
                    kind: source.kind,
                    entries: opened.entries,
                    training: ids(opened.sides.training),
                    validation: ids(opened.sides.validation),
                    skipped: opened.skipped,
                    arrays: opened.arrays,
                    video: None,
                }
            }
            SampleSource::Video(source) => {
                let opened = video::open(source, root, cache, options, progress)?;
                Samples {
                    name: opened.name,
                    classes: opened.classes,
                    channels: options.channels.unwrap_or(3),
                    kind: SampleKind::Clip,
                    entries: opened.entries,
                    training: ids(opened.sides.training),
                    validation: ids(opened.sides.validation),
                    skipped: opened.skipped,
                    arrays: Vec::new(),
                    video: Some(opened.store),
                }
            }
        };
        samples.with_both_sides()
    }

    fn with_both_sides(self) -> Result<Self, DataError> {
        if self.training.is_empty() || self.validation.is_empty() {
            return Err(DataError::Split(format!(
                "the split leaves {} samples for training and {} for validation; both need at least one",
                self.training.len(),
                self.validation.len()
            )));
        }
        Ok(self)
    }

    /// Samples to train on, in a fixed order.
    pub fn training(&self) -> &[SampleId] {
        &self.training
    }

    /// Samples to validate on, in a fixed order.
    pub fn validation(&self) -> &[SampleId] {
        &self.validation
    }

    /// What was left out because it cannot be read.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Class of a sample.
    pub fn label(&self, id: SampleId) -> usize {
        self.entries[id.0].label
    }

    /// Name of a sample: its file or folder, or its row in an array.
    pub fn name_of(&self, id: SampleId) -> &str {
        &self.entries[id.0].name
    }

    /// Opens a sample: maps it, without reading it yet.
    ///
    /// # Errors
    /// Its file changed or went since the data set was opened.
    pub fn load(&self, id: SampleId) -> Result<Sample, DataError> {
        let entry = &self.entries[id.0];
        let broken = || DataError::sample(&entry.name, "was left out when the data set was opened");
        let pixels = match &entry.place {
            Place::Row { array, row } => Pixels::of_row(&self.arrays[*array], *row).ok_or_else(broken)?,
            Place::File { path, key } => {
                let store = self.video.as_ref().ok_or_else(broken)?;
                Pixels::of_clip(&store.map_file(path, *key)?).ok_or_else(broken)?
            }
            Place::Frames { folder, key: Some(key) } => {
                let store = self.video.as_ref().ok_or_else(broken)?;
                Pixels::of_clip(&store.map_folder(folder, *key)?).ok_or_else(broken)?
            }
            Place::Frames { folder, key: None } => Pixels::Folder(Arc::clone(folder)),
            Place::Broken => return Err(broken()),
        };
        Ok(Sample { name: entry.name.clone(), label: entry.label, pixels })
    }

    /// How samples are brought to the range that networks are trained in: floats by
    /// mean and deviation of each sample, since their scale is the scanner's; so are
    /// whole numbers that are signed or longer than a byte, which are kept as floats.
    /// Bytes have one range: clips in colours as ImageNet's images, others by mean
    /// and deviation of the training samples.
    ///
    /// # Errors
    /// A sample cannot be read.
    pub fn normalisation(&self) -> Result<Normalisation, DataError> {
        if self.arrays.iter().any(|array| array.value_type == ValueType::F32) {
            return Ok(Normalisation::PerSample);
        }
        if self.kind == SampleKind::Clip && self.channels == 3 {
            return Ok(Normalisation::imagenet());
        }
        self.training_statistics()
    }

    /// Mean and deviation per channel over the training samples: every value of
    /// arrays; of video at most [`STATISTICS_CLIPS`] clips spread evenly, with
    /// [`STATISTICS_FRAMES`] frames each.
    fn training_statistics(&self) -> Result<Normalisation, DataError> {
        let count = self.training.len();
        let kept = if self.video.is_some() { count.min(STATISTICS_CLIPS) } else { count };
        let sums = (0..kept).into_par_iter().map(|index| -> Result<Vec<[f64; 3]>, DataError> {
            let sample = self.load(self.training[index * count / kept])?;
            let depth = sample.depth();
            let frames: Vec<usize> = if self.video.is_some() {
                (0..STATISTICS_FRAMES).map(|at| segment_frame(depth, STATISTICS_FRAMES, at, 0.5)).collect()
            } else {
                (0..depth).collect()
            };
            Ok(sample.frames(&frames)?.channel_sums())
        });
        // In the order of the samples, so that threads do not change the sum.
        let sums = sums.collect::<Result<Vec<_>, _>>()?;
        let mut total = vec![[0.0; 3]; self.channels];
        for sample in &sums {
            for (total, part) in total.iter_mut().zip(sample) {
                for (total, part) in total.iter_mut().zip(part) {
                    *total += part;
                }
            }
        }
        Ok(Normalisation::from_sums(&total))
    }
}

/// A volume or clip, opened.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub label: usize,
    pixels: Pixels,
}

#[derive(Clone, Debug)]
enum Pixels {
    /// `[D, H, W, C]` from value `first` on.
    Mapped { map: Arc<Mapped>, first: usize, shape: [usize; 4] },
    /// Frames that are decoded when they are asked for.
    Folder(Arc<FrameFolder>),
}

impl Pixels {
    fn of_row(map: &Arc<Mapped>, row: usize) -> Option<Self> {
        let shape = arrays::sample_shape(&map.shape)?;
        Some(Pixels::Mapped { map: Arc::clone(map), first: row * shape.iter().product::<usize>(), shape })
    }

    fn of_clip(map: &Arc<Mapped>) -> Option<Self> {
        let shape = map.shape.as_slice().try_into().ok()?;
        Some(Pixels::Mapped { map: Arc::clone(map), first: 0, shape })
    }
}

/// Some frames of a sample, all of one size.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub values: FrameValues<'a>,
}

/// Values of each frame, `[H, W, C]`.
#[derive(Clone, Debug)]
pub enum FrameValues<'a> {
    U8(Vec<Cow<'a, [u8]>>),
    F32(Vec<Cow<'a, [f32]>>),
}

impl Sample {
    /// Frames of a clip, slices of a volume.
    pub fn depth(&self) -> usize {
        match &self.pixels {
            Pixels::Mapped { shape, .. } => shape[0],
            Pixels::Folder(folder) => folder.frames,
        }
    }

    /// Reads frames by number, which may occur more than once.
    ///
    /// # Errors
    /// A frame cannot be read, with its name.
    pub fn frames(&self, numbers: &[usize]) -> Result<Frames<'_>, DataError> {
        match &self.pixels {
            Pixels::Folder(folder) => folder.read(numbers),
            Pixels::Mapped { map, first, shape: [_, height, width, channels] } => {
                let size = height * width * channels;
                let range = |number: &usize| first + number * size..first + (number + 1) * size;
                let values = match map.value_type {
                    ValueType::U8 => FrameValues::U8(
                        numbers.iter().map(|number| Cow::Borrowed(&map.bytes()[range(number)])).collect(),
                    ),
                    ValueType::F32 => {
                        let values: &[f32] = bytemuck::cast_slice(map.bytes());
                        FrameValues::F32(
                            numbers.iter().map(|number| Cow::Borrowed(&values[range(number)])).collect(),
                        )
                    }
                };
                Ok(Frames { height: *height, width: *width, channels: *channels, values })
            }
        }
    }

    /// All of the sample, `[C, D, H, W]`, values as they are stored.
    ///
    /// # Errors
    /// A frame cannot be read.
    pub fn to_array(&self) -> Result<Array4<f32>, DataError> {
        let numbers: Vec<usize> = (0..self.depth()).collect();
        let frames = self.frames(&numbers)?;
        Ok(policy::channels_first(&frames))
    }
}

impl FrameValues<'_> {
    fn len(&self) -> usize {
        match self {
            FrameValues::U8(frames) => frames.len(),
            FrameValues::F32(frames) => frames.len(),
        }
    }
}

impl Frames<'_> {
    /// Count, sum and sum of squares of each channel.
    fn channel_sums(&self) -> Vec<[f64; 3]> {
        let mut sums = vec![[0.0; 3]; self.channels];
        let mut add = |channel: usize, value: f64| {
            let sum = &mut sums[channel];
            *sum = [sum[0] + 1.0, sum[1] + value, sum[2] + value * value];
        };
        match &self.values {
            FrameValues::U8(frames) => {
                for (at, value) in frames.iter().flat_map(|frame| frame.iter().enumerate()) {
                    add(at % self.channels, f64::from(*value));
                }
            }
            FrameValues::F32(frames) => {
                for (at, value) in frames.iter().flat_map(|frame| frame.iter().enumerate()) {
                    add(at % self.channels, f64::from(*value));
                }
            }
        }
        sums
    }
}
