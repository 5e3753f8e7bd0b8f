//! Data sets: reading, checking, splitting, cutting patches, drawing clips.
//!
//! [`samples`] are volumes and clips with one class each, for classification. All
//! else is of labelled volumes, for segmentation. Two sources give the same [`Dataset`]: a folder in the layout of the Medical
//! Segmentation Decathlon ([`msd`], files read by [`nifti_file`], predictions written by
//! [`nifti_labels`]), and
//! generated [`phantom`]s. Everything behind it (patches, augmentation,
//! windows) is a pure function of volumes and a seed, so that the order of
//! threads cannot change a training.
//!
//! Arrays are `[C, D, H, W]` for images and `[D, H, W]` for labels. In volumes
//! read from files D, H and W run along the patient's left-right,
//! posterior-anterior and inferior-superior axes (RAS+).

pub mod check;
pub mod classification;
pub mod content;
mod error;
mod inside;
pub mod msd;
pub mod nifti_file;
pub mod nifti_labels;
pub mod patch;
pub mod phantom;
pub mod samples;
pub mod split;
pub mod window;

use std::path::Path;

use ndarray::{Array3, Array4, Axis};

pub use error::DataError;

/// Depth, height and width in voxels.
pub type Extent = [usize; 3];

/// A set of labelled volumes, loaded case by case.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub name: String,
    /// Names of the classes, background first.
    pub classes: Vec<String>,
    /// Channels of every image.
    pub channels: usize,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Folder(msd::MsdFolder),
    Phantoms(phantom::PhantomSpec),
}

/// One case, checked: finite values, labels within the classes, equal extents.
#[derive(Clone, Debug)]
pub struct LoadedCase {
    pub id: String,
    /// `[C, D, H, W]`
    pub image: Array4<f32>,
    /// `[D, H, W]`, values are class numbers.
    pub label: Array3<u8>,
    pub spacing_mm: [f32; 3],
}

impl Dataset {
    /// Opens a folder in the layout of the Medical Segmentation Decathlon.
    ///
    /// # Errors
    /// The folder or its `dataset.json` is missing, empty or wrong.
    pub fn open_folder(dir: &Path) -> Result<Self, DataError> {
        let folder = msd::MsdFolder::open(dir)?;
        Ok(Dataset {
            name: folder.name.clone(),
            classes: folder.classes.clone(),
            channels: folder.channels,
            source: Source::Folder(folder),
        })
    }

    /// Generated volumes.
    pub fn phantoms(spec: phantom::PhantomSpec) -> Self {
        Dataset {
            name: "phantoms".to_owned(),
            classes: phantom::CLASSES.map(str::to_owned).to_vec(),
            channels: 1,
            source: Source::Phantoms(spec),
        }
    }

    /// Names of all cases, sorted.
    pub fn case_ids(&self) -> Vec<String> {
        match &self.source {
            Source::Folder(folder) => folder.cases.iter().map(|case| case.id.clone()).collect(),
            Source::Phantoms(spec) => (0..spec.cases).map(phantom::case_id).collect(),
        }
    }

    /// Training and validation cases of a split.
    ///
    /// # Errors
    /// The split names unknown cases, leaves a side empty, or its file is missing.
    pub fn split(&self, split: &split::Split) -> Result<split::Partition, DataError> {
        let file = match (&self.source, split) {
            (Source::Folder(folder), split::Split::File) => Some(folder.read_splits()?),
            _ => None,
        };
        split::partition(&self.case_ids(), split, file.as_ref())
    }

    /// The files that it is made of; none of generated volumes.
    pub fn content_files(&self, split: &split::Split) -> Option<content::ContentFiles> {
        let Source::Folder(folder) = &self.source else { return None };
        let mut files = folder.content_files();
        if matches!(split, split::Split::File) {
            files.files.insert("splits.json".into());
        }
        Some(files)
    }

    /// Loads and checks one case.
    ///
    /// # Errors
    /// Everything that is wrong with its files, by file name.
    pub fn load(&self, id: &str) -> Result<LoadedCase, DataError> {
        match &self.source {
            Source::Folder(folder) => folder.load(id),
            Source::Phantoms(spec) => Ok(phantom::generate(spec, phantom::case_index(id, spec)?)),
        }
    }
}

/// Brings every channel of `image` (`[C, D, H, W]`) to zero mean and unit
/// variance over its own volume; a constant channel becomes all zeros.
pub fn normalise(image: &mut Array4<f32>) {
    for mut channel in image.axis_iter_mut(Axis(0)) {
        let count = channel.len().max(1) as f64;
        let mean = channel.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let variance = channel.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
        let deviation = variance.sqrt();
        let scale =
            if deviation > f64::from(f32::EPSILON) * mean.abs().max(1e-30) { 1.0 / deviation } else { 0.0 };
        channel.mapv_inplace(|value| ((f64::from(value) - mean) * scale) as f32);
    }
}

/// Pads a normalised case with zeros and background, evenly on both sides, up
/// to `least` along each axis.
pub fn pad_to_at_least(case: LoadedCase, least: Extent) -> LoadedCase {
    let (channels, d, h, w) = case.image.dim();
    let old = [d, h, w];
    let new: Extent = std::array::from_fn(|axis| old[axis].max(least[axis]));
    if new == old {
        return case;
    }
    let start: Extent = std::array::from_fn(|axis| (new[axis] - old[axis]) / 2);
    let range = |axis: usize| start[axis]..start[axis] + old[axis];
    let mut image = Array4::zeros((channels, new[0], new[1], new[2]));
    image.slice_mut(ndarray::s![.., range(0), range(1), range(2)]).assign(&case.image);
    let mut label = Array3::zeros(new);
    label.slice_mut(ndarray::s![range(0), range(1), range(2)]).assign(&case.label);
    LoadedCase { image, label, ..case }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisation_gives_zero_mean_and_unit_variance_per_channel() {
        let mut image =
            Array4::from_shape_fn(
                (2, 4, 4, 4),
                |(c, d, h, w)| {
                    if c == 0 { 1e6 + (d * 16 + h * 4 + w) as f32 } else { 7.0 }
                },
            );
        normalise(&mut image);
        let first = image.index_axis(Axis(0), 0);
        let mean = first.mean().unwrap();
        let variance = first.mapv(|value| value * value).mean().unwrap();
        assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
        assert!(image.index_axis(Axis(0), 1).iter().all(|value| *value == 0.0));
    }

    #[test]
    fn padding_keeps_the_volume_in_the_middle() {
        let case = LoadedCase {
            id: "x".into(),
            image: Array4::ones((1, 3, 8, 5)),
            label: Array3::ones((3, 8, 5)),
            spacing_mm: [1.0; 3],
        };
        let padded = pad_to_at_least(case, [6, 6, 6]);
        assert_eq!(padded.label.dim(), (6, 8, 6));
        assert_eq!(padded.label.iter().map(|value| u32::from(*value)).sum::<u32>(), 120);
        assert_eq!(padded.image[[0, 1, 0, 0]], 1.0);
        assert_eq!(padded.image[[0, 0, 0, 0]], 0.0);
    }
}
