//! Samples in NumPy arrays: which rows train, which validate, of what class.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::cache::{Cache, CacheKey, Mapped, ValueType};
use super::npy::ArrayFile;
use super::source::{ArraySource, ArraySplit};
use super::{Entry, Place, Sides, Skipped, tolerated};
use crate::DataError;
use crate::split::{Split, partition};

/// Opened arrays and the rows in them.
#[derive(Debug)]
pub(super) struct OpenedArrays {
    pub name: String,
    pub classes: usize,
    pub channels: usize,
    pub arrays: Vec<Arc<Mapped>>,
    pub entries: Vec<Entry>,
    pub sides: Sides,
    pub skipped: Vec<Skipped>,
}

/// One array of samples with its labels.
#[derive(Debug)]
pub(crate) struct Part {
    key: String,
    pub map: Arc<Mapped>,
    pub labels: Vec<usize>,
}

/// `[D, H, W, C]` of the samples in an array `[N, D, H, W]` or `[N, D, H, W, C]`.
pub(crate) fn sample_shape(array: &[usize]) -> Option<[usize; 4]> {
    match array {
        [_, d, h, w] => Some([*d, *h, *w, 1]),
        [_, d, h, w, c] => Some([*d, *h, *w, *c]),
        _ => None,
    }
}

pub(super) fn open(source: &ArraySource, root: &Path, cache: &Cache) -> Result<OpenedArrays, DataError> {
    // Joining an absolute path replaces the root.
    let file = ArrayFile::open(&root.join(&source.path))?;
    let (parts, sides) = match &source.split {
        ArraySplit::Medmnist { validation } => {
            let part = |prefix: &str| {
                open_part(&file, &format!("{prefix}_images"), &format!("{prefix}_labels"), cache)
            };
            let (training, validating) = (part("train")?, part(validation.prefix())?);
            let (first, all) = (training.labels.len(), training.labels.len() + validating.labels.len());
            let sides = Sides { training: (0..first).collect(), validation: (first..all).collect() };
            (vec![training, validating], sides)
        }
        ArraySplit::FoldArray { samples, labels, folds, fold } => {
            let part = open_part(&file, samples, labels, cache)?;
            let sides = sides_of_fold(&file, folds, *fold, part.labels.len())?;
            (vec![part], sides)
        }
        ArraySplit::RowFold { samples, labels, fold, folds, seed } => {
            let part = open_part(&file, samples, labels, cache)?;
            let split = Split::Fold { fold: *fold, folds: *folds, seed: *seed };
            let sides = sides_of_rows(part.labels.len(), &split)?;
            (vec![part], sides)
        }
    };
    let channels = common_channels(&file, &parts)?;
    let classes = parts.iter().flat_map(|part| &part.labels).max().map_or(0, |most| most + 1);
    let mut entries = Vec::new();
    let mut broken = Vec::new();
    for (array, part) in parts.iter().enumerate() {
        for (row, reason) in rows_not_finite(&part.map) {
            broken.push((entries.len() + row, Skipped { name: row_name(&part.key, row), reason }));
        }
        entries.extend(part.labels.iter().enumerate().map(|(row, label)| Entry {
            name: row_name(&part.key, row),
            label: *label,
            place: Place::Row { array, row },
        }));
    }
    let (broken, skipped): (Vec<usize>, Vec<Skipped>) = broken.into_iter().unzip();
    tolerated(&file.path, &skipped, source.tolerate)?;
    Ok(OpenedArrays {
        name: file.name(),
        classes,
        channels,
        arrays: parts.into_iter().map(|part| part.map).collect(),
        entries,
        sides: sides.without(&broken),
        skipped,
    })
}

fn row_name(key: &str, row: usize) -> String {
    format!("{key}[{row}]")
}

/// Maps an array of samples and reads their labels.
pub(crate) fn open_part(
    file: &ArrayFile,
    samples: &str,
    labels: &str,
    cache: &Cache,
) -> Result<Part, DataError> {
    let header = file.header(samples)?;
    let shape = sample_shape(&header.shape).filter(|shape| !shape.contains(&0)).ok_or_else(|| {
        let problem =
            format!("must be [N, D, H, W] or [N, D, H, W, C] without empty axes, is {:?}", header.shape);
        file.wrong(samples, problem)
    })?;
    let rows = header.shape[0];
    let labels_read = read_labels(file, labels)?;
    if labels_read.len() != rows {
        let problem = format!("has {} labels, '{samples}' has {rows} samples", labels_read.len());
        return Err(file.wrong(labels, problem));
    }
    if shape[3] > CHANNELS_MAX {
        let problem = format!(
            "has {} channels in its last axis; [N, D, H, W, C] takes {CHANNELS_MAX} at most",
            shape[3]
        );
        return Err(file.wrong(samples, problem));
    }
    let source = file.file_of(samples)?;
    let key = CacheKey::of(std::slice::from_ref(&source), &format!("array {samples}"))?;
    let map = cache.get_or_make(key, |out| {
        cache.check_fits(header.stored_bytes(), &source)?;
        file.copy_to(samples, out)
    })?;
    Ok(Part { key: samples.to_owned(), map, labels: labels_read })
}

/// More are no channels: an axis is in the wrong place.
const CHANNELS_MAX: usize = 64;

/// Larger labels are no numbers of classes.
const CLASSES_MAX: i64 = 100_000;

fn read_labels(file: &ArrayFile, key: &str) -> Result<Vec<usize>, DataError> {
    let numbers = file.integers(key)?;
    if numbers.is_empty() {
        return Err(file.wrong(key, "is empty"));
    }
    let labels = numbers.into_iter().enumerate().map(|(row, number)| {
        usize::try_from(number).ok().filter(|label| (*label as i64) < CLASSES_MAX).ok_or_else(|| {
            file.wrong(key, format!("row {row} holds {number}; classes count from 0 to below {CLASSES_MAX}"))
        })
    });
    labels.collect()
}

fn sides_of_fold(file: &ArrayFile, key: &str, fold: i64, rows: usize) -> Result<Sides, DataError> {
    let folds = file.integers(key)?;
    if folds.len() != rows {
        return Err(file.wrong(key, format!("has {} rows, the samples have {rows}", folds.len())));
    }
    let (validation, training): (Vec<usize>, Vec<usize>) = (0..rows).partition(|row| folds[*row] == fold);
    if validation.is_empty() || training.is_empty() {
        let mut known = folds;
        known.sort_unstable();
        known.dedup();
        let side = if validation.is_empty() { "validation" } else { "training" };
        let problem = format!("fold {fold} leaves nothing for {side}; there are the folds {known:?}");
        return Err(file.wrong(key, problem));
    }
    Ok(Sides { training, validation })
}

fn sides_of_rows(rows: usize, split: &Split) -> Result<Sides, DataError> {
    let width = rows.to_string().len();
    let ids: Vec<String> = (0..rows).map(|row| format!("{row:0width$}")).collect();
    let found = partition(&ids, split, None)?;
    let numbers = |names: &[String]| names.iter().filter_map(|name| name.parse().ok()).collect();
    Ok(Sides { training: numbers(&found.training), validation: numbers(&found.validation) })
}

fn common_channels(file: &ArrayFile, parts: &[Part]) -> Result<usize, DataError> {
    let mut channels = parts.iter().filter_map(|part| Some((sample_shape(&part.map.shape)?[3], &part.key)));
    let (first, first_key) =
        channels.next().ok_or_else(|| DataError::file(&file.path, "holds no samples"))?;
    match channels.find(|(channels, _)| *channels != first) {
        None => Ok(first),
        Some((other, key)) => {
            Err(file.wrong(key, format!("has {other} channel(s), '{first_key}' has {first}")))
        }
    }
}

/// Rows with values that are not finite, and what is wrong with each.
pub(crate) fn rows_not_finite(map: &Mapped) -> Vec<(usize, String)> {
    let rows = map.shape.first().copied().unwrap_or(0);
    if map.value_type == ValueType::U8 || rows == 0 {
        return Vec::new();
    }
    let values: &[f32] = bytemuck::cast_slice(map.bytes());
    let found =
        values.par_chunks_exact((values.len() / rows).max(1)).enumerate().filter_map(|(row, values)| {
            let count = values.iter().filter(|value| !value.is_finite()).count();
            (count > 0).then(|| (row, format!("{count} of {} values are not finite", values.len())))
        });
    found.collect()
}
