//! What a data set of samples with one class each holds and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use super::{Finding, Severity, finding};
use crate::DataError;
use crate::samples::arrays::{Part, open_part, rows_not_finite, sample_shape};
use crate::samples::cache::{Cache, ValueType};
use crate::samples::ffmpeg::Ffmpeg;
use crate::samples::frames::{FrameFolder, FramePattern};
use crate::samples::lists::{ListedClip, class_folders, read_list, sources};
use crate::samples::npy::ArrayFile;
use crate::samples::{CacheOptions, FrameValues};

/// What is known of a data set beside its files.
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// Samples that may be unreadable without being an error.
    pub tolerate: usize,
    /// How frames of a list are named.
    pub pattern: String,
    /// Where arrays are kept decoded, as in a training.
    pub cache: CacheOptions,
}

impl Default for SampleOptions {
    fn default() -> Self {
        SampleOptions { tolerate: 0, pattern: "{:05}.jpg".to_owned(), cache: CacheOptions::default() }
    }
}

/// Samples of one part or fold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SplitSummary {
    pub name: String,
    pub sample_count: usize,
    /// Samples of each class.
    pub class_counts: Vec<usize>,
}

/// What a data set holds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SampleReport {
    pub name: String,
    /// `arrays`, `class folders`, `list of files` or `list of folders of frames`.
    pub layout: &'static str,
    pub sample_count: usize,
    /// Samples that could be read without an error.
    pub readable_count: usize,
    pub classes: Vec<String>,
    pub splits: Vec<SplitSummary>,
    /// Samples per size: `28x28x28` of arrays, height and width of clips.
    pub sizes: BTreeMap<String, usize>,
    /// Frames of clips, or slices: fewest, median and most.
    pub depth_min: usize,
    pub depth_median: usize,
    pub depth_max: usize,
    /// Samples per number type.
    pub value_types: BTreeMap<String, usize>,
    pub value_min: f32,
    pub value_max: f32,
    pub findings: Vec<Finding>,
}

impl SampleReport {
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// What one readable sample is.
struct Facts {
    depth: usize,
    size: String,
    value_type: String,
    range: [f32; 2],
}

/// Whether a path is a data set of this kind: an `.npz` archive, a folder of `.npy`
/// files, a folder of folders with video, or a list.
pub fn is_sample_set(path: &Path) -> bool {
    if !path.is_dir() {
        return path.is_file();
    }
    if path.join("dataset.json").exists() {
        return false;
    }
    let is_video = |file: &PathBuf| {
        let ending = file.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        ending.is_some_and(|ending| VIDEO_ENDINGS.contains(&ending.as_str()))
    };
    let inside = entries(path);
    inside.iter().any(|file| file.extension().is_some_and(|ending| ending == "npy"))
        || inside.iter().any(|folder| folder.is_dir() && entries(folder).iter().any(is_video))
}

const VIDEO_ENDINGS: [&str; 13] =
    ["avi", "flv", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "ts", "webm", "wmv"];

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Reads every sample of a data set. `progress` is told, from several threads, how
/// many samples of how many are done.
///
/// # Errors
/// It holds no samples at all or FFmpeg is missing; all else is a finding of the
/// report.
pub fn check_samples(
    path: &Path,
    options: &SampleOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<SampleReport, DataError> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let Checked { mut report, mut broken } = if path.is_file() && ending.as_deref() != Some("npz") {
        check_list(path, options, progress)?
    } else if path.is_file() || entries(path).iter().any(|file| file.extension() == Some("npy".as_ref())) {
        check_arrays(path, options, progress)?
    } else {
        check_class_folders(path, progress)?
    };
    if broken.len() <= options.tolerate {
        for finding in &mut broken {
            finding.severity = Severity::Warning;
        }
    }
    report.findings.splice(0..0, broken);
    Ok(report)
}

/// A report, and apart from it the samples that cannot be read: they alone can be
/// tolerated.
struct Checked {
    report: SampleReport,
    broken: Vec<Finding>,
}

/// Arrays of samples and their labels by their keys: the parts of MedMNIST, else
/// the one array that can be samples with the one that can be its labels.
fn parts_of(file: &ArrayFile) -> Result<Vec<(String, String, String)>, DataError> {
    let has = |key: &String| file.keys.contains(key);
    let medmnist = ["train", "val", "test"]
        .map(|part| (part.to_owned(), format!("{part}_images"), format!("{part}_labels")));
    let medmnist: Vec<_> =
        medmnist.into_iter().filter(|(_, images, labels)| has(images) && has(labels)).collect();
    if !medmnist.is_empty() {
        return Ok(medmnist);
    }
    let samples = file
        .keys
        .iter()
        .find(|key| file.header(key).is_ok_and(|header| sample_shape(&header.shape).is_some()));
    let labels = ["label", "labels", "y", "target", "targets", "class", "classes"].map(str::to_owned);
    match (samples, labels.iter().find(|key| has(key))) {
        (Some(samples), Some(labels)) => Ok(vec![("all".to_owned(), samples.clone(), labels.clone())]),
        _ => Err(DataError::file(
            &file.path,
            format!(
                "holds the arrays {}; expected are train_images with train_labels as in MedMNIST, or an array \
                 [N, D, H, W] with one named label, labels, y, target or class",
                file.keys.join(", ")
            ),
        )),
    }
}

fn check_arrays(
    path: &Path,
    options: &SampleOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Checked, DataError> {
    let file = ArrayFile::open(path)?;
    let cache = Cache::open(&options.cache)?;
    let mut report = SampleReport { name: file.name(), layout: "arrays", ..SampleReport::default() };
    let (mut facts, mut labelled, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    let parts = parts_of(&file)?;
    for (done, (name, samples, labels)) in parts.iter().enumerate() {
        match open_part(&file, samples, labels, &cache) {
            Err(error) => report.findings.push(finding(Severity::Error, &error)),
            Ok(part) => {
                report.sample_count += part.labels.len();
                let not_finite = rows_not_finite(&part.map);
                broken.extend(not_finite.iter().map(|(row, reason)| Finding {
                    severity: Severity::Error,
                    file: format!("{}: {samples}[{row}]", path.display()),
                    problem: reason.clone(),
                }));
                let type_name = file.header(samples)?.element.name();
                facts.extend(facts_of_rows(&part, &type_name, &not_finite));
                labelled.extend(splits_of(&file, name, &part, parts.len() == 1));
            }
        }
        progress(done + 1, parts.len());
    }
    let classes = labelled.iter().map(|(_, label)| label + 1).max().unwrap_or(0);
    report.classes = (0..classes).map(|class| class.to_string()).collect();
    count_splits(&mut report, &labelled);
    summarise(&mut report, &facts);
    Ok(Checked { report, broken })
}

fn facts_of_rows(part: &Part, type_name: &str, broken: &[(usize, String)]) -> Vec<Facts> {
    let Some([d, h, w, c]) = sample_shape(&part.map.shape) else { return Vec::new() };
    let size = if c == 1 { format!("{d}x{h}x{w}") } else { format!("{d}x{h}x{w}, {c} channels") };
    let row = d * h * w * c;
    let ranges: Vec<[f32; 2]> = match part.map.value_type {
        ValueType::U8 => part.map.bytes().par_chunks_exact(row).map(byte_range).collect(),
        ValueType::F32 => {
            let values: &[f32] = bytemuck::cast_slice(part.map.bytes());
            let range = |values: &[f32]| {
                let pick = |pick: fn(f32, f32) -> f32| values.iter().copied().reduce(pick).unwrap_or(0.0);
                [pick(f32::min), pick(f32::max)]
            };
            values.par_chunks_exact(row).map(range).collect()
        }
    };
    let sound = ranges.into_iter().enumerate().filter(|(row, _)| !broken.iter().any(|(bad, _)| bad == row));
    let facts = sound.map(|(_, range)| Facts {
        depth: d,
        size: size.clone(),
        value_type: type_name.to_owned(),
        range,
    });
    facts.collect()
}

fn byte_range(values: &[u8]) -> [f32; 2] {
    let least = values.iter().copied().min().unwrap_or(0);
    [f32::from(least), f32::from(values.iter().copied().max().unwrap_or(0))]
}

/// Split and label of each row; of a single array by its folds, where it has some.
fn splits_of(file: &ArrayFile, name: &str, part: &Part, is_single: bool) -> Vec<(String, usize)> {
    let key = ["fold", "folds"].into_iter().find(|key| file.keys.iter().any(|known| known == key));
    let folds = key.filter(|_| is_single).and_then(|key| file.integers(key).ok());
    let folds = folds.filter(|folds| folds.len() == part.labels.len());
    let split = |row: usize| folds.as_ref().map_or(name.to_owned(), |folds| format!("fold {}", folds[row]));
    part.labels.iter().enumerate().map(|(row, label)| (split(row), *label)).collect()
}

fn count_splits(report: &mut SampleReport, labelled: &[(String, usize)]) {
    let classes = report.classes.len();
    for (name, label) in labelled {
        let at = report.splits.iter().position(|split| split.name == *name).unwrap_or_else(|| {
            let class_counts = vec![0; classes];
            report.splits.push(SplitSummary { name: name.clone(), sample_count: 0, class_counts });
            report.splits.len() - 1
        });
        report.splits[at].sample_count += 1;
        report.splits[at].class_counts[*label] += 1;
    }
    if report.splits.iter().all(|split| split.name.starts_with("fold ")) {
        report.splits.sort_by(|left, right| left.name.cmp(&right.name));
    }
    for (class, name) in report.classes.iter().enumerate() {
        if report.splits.iter().all(|split| split.class_counts[class] == 0) {
            report.findings.push(Finding {
                severity: Severity::Warning,
                file: report.name.clone(),
                problem: format!("class {name} has no sample; do classes count from 0?"),
            });
        }
    }
}

fn check_class_folders(path: &Path, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Checked, DataError> {
    let (clips, classes) = class_folders(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut report = SampleReport { name, layout: "class folders", classes, ..SampleReport::default() };
    let sources = sources(&clips);
    for (label, class) in report.classes.iter().enumerate() {
        let of_class = || clips.iter().zip(&sources).filter(|(clip, _)| clip.label == label);
        if of_class().count() > 1 && of_class().all(|(clip, source)| clip.name == *source) {
            report.findings.push(Finding {
                severity: Severity::Warning,
                file: path.join(class).display().to_string(),
                problem:
                    "names no sources in its files' names, so folds deal them out one by one; if several \
                          show one person, give lists"
                        .to_owned(),
            });
        }
    }
    let broken = check_files(&mut report, path, &clips, progress)?;
    Ok(Checked { report, broken })
}

fn check_list(
    path: &Path,
    options: &SampleOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Checked, DataError> {
    let root = path.parent().unwrap_or(Path::new(""));
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // A list of folders is also one of files whose names end in a number.
    let folders =
        read_list(path, true).ok().filter(|clips| clips.iter().any(|clip| root.join(&clip.name).is_dir()));
    let is_frames = folders.is_some();
    let clips = folders.map_or_else(|| read_list(path, false), Ok);
    let clips = clips.map_err(|error| if is_json(path) { no_list(path) } else { error })?;
    let classes = clips.iter().map(|clip| clip.label + 1).max().unwrap_or(0);
    let mut report = SampleReport {
        name,
        layout: if is_frames { "list of folders of frames" } else { "list of files" },
        classes: (0..classes).map(|class| class.to_string()).collect(),
        ..SampleReport::default()
    };
    let broken = if is_frames {
        let pattern = FramePattern::parse(&options.pattern)?;
        let read = |clip: &ListedClip| read_folder(root, clip, &pattern).map(|facts| (facts, None));
        check_clips(&mut report, root, &clips, progress, &read)?
    } else {
        check_files(&mut report, root, &clips, progress)?
    };
    Ok(Checked { report, broken })
}

/// Whether a file looks like JSON: `dataset.json` itself, a search file.
fn is_json(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim_start().starts_with(['{', '[']))
}

fn no_list(path: &Path) -> DataError {
    let problem =
        "is JSON, no list of clips; give the data set's folder, for example the one with dataset.json";
    DataError::file(path, problem)
}

fn read_folder(root: &Path, clip: &ListedClip, pattern: &FramePattern) -> Result<Facts, DataError> {
    let folder = FrameFolder {
        dir: root.join(&clip.name),
        frames: clip.frames.unwrap_or(0),
        pattern: pattern.clone(),
        channels: 3,
        short_side: None,
    };
    folder.check()?;
    let mut size = None;
    let mut range = [255.0_f32, 0.0];
    for number in 0..folder.frames {
        let frame = folder.read(&[number])?;
        let own = [frame.height, frame.width];
        let first = *size.get_or_insert(own);
        if own != first {
            let problem = format!("is {}x{}, frames before it are {}x{}", own[0], own[1], first[0], first[1]);
            return Err(DataError::file(&folder.file(number), problem));
        }
        if let FrameValues::U8(values) = &frame.values {
            widen(&mut range, values.iter().map(|values| byte_range(values)));
        }
    }
    let [height, width] = size.unwrap_or_default();
    Ok(Facts {
        depth: folder.frames,
        size: format!("{height}x{width}"),
        value_type: "uint8".to_owned(),
        range,
    })
}

fn widen(range: &mut [f32; 2], others: impl Iterator<Item = [f32; 2]>) {
    *range = others.fold(*range, |all, one| [all[0].min(one[0]), all[1].max(one[1])]);
}

fn check_files(
    report: &mut SampleReport,
    root: &Path,
    clips: &[ListedClip],
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Finding>, DataError> {
    let ffmpeg = Ffmpeg::find()?;
    let read = |clip: &ListedClip| {
        let mut size = None;
        let mut range = [255.0_f32, 0.0];
        let path = root.join(&clip.name);
        let decoded = ffmpeg.decode(&path, 3, &mut |frame| {
            let own = [frame.height, frame.width];
            let first = *size.get_or_insert(own);
            widen(&mut range, std::iter::once(byte_range(frame.values)));
            if own == first { Ok(()) } else { Err(DataError::file(&path, "changes the size of its frames")) }
        })?;
        let [height, width] = size.unwrap_or_default();
        let size = format!("{height}x{width}");
        Ok((Facts { depth: decoded.frames, size, value_type: "uint8".to_owned(), range }, decoded.complaint))
    };
    check_clips(report, root, clips, progress, &read)
}

/// Facts of a clip, and what was odd in reading it.
type ReadClip<'a> = dyn Fn(&ListedClip) -> Result<(Facts, Option<String>), DataError> + Sync + 'a;

/// Reads every clip into the report; what cannot be read is returned.
fn check_clips(
    report: &mut SampleReport,
    root: &Path,
    clips: &[ListedClip],
    progress: &(dyn Fn(usize, usize) + Sync),
    read: &ReadClip<'_>,
) -> Result<Vec<Finding>, DataError> {
    let done = AtomicUsize::new(0);
    let found: Vec<_> = clips
        .par_iter()
        .map(|clip| {
            let found = read(clip);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, clips.len());
            found
        })
        .collect();
    let (mut facts, mut broken) = (Vec::new(), Vec::new());
    for (clip, found) in clips.iter().zip(found) {
        match found {
            Err(error @ DataError::Program(_)) => return Err(error),
            Err(error) => broken.push(finding(Severity::Error, &error)),
            Ok((one, complaint)) => {
                facts.push(one);
                let file = root.join(&clip.name).display().to_string();
                report.findings.extend(complaint.map(|line| Finding {
                    severity: Severity::Warning,
                    file,
                    problem: format!("was decoded, but FFmpeg says: {line}"),
                }));
            }
        }
    }
    report.sample_count = clips.len();
    let labelled: Vec<(String, usize)> = clips.iter().map(|clip| ("all".to_owned(), clip.label)).collect();
    count_splits(report, &labelled);
    summarise(report, &facts);
    Ok(broken)
}

fn summarise(report: &mut SampleReport, facts: &[Facts]) {
    let mut depths: Vec<usize> = facts.iter().map(|one| one.depth).collect();
    depths.sort_unstable();
    let depth = |at: usize| depths.get(at).copied().unwrap_or(0);
    (report.depth_min, report.depth_median) = (depth(0), depth(depths.len() / 2));
    report.depth_max = depth(depths.len().saturating_sub(1));
    report.readable_count = facts.len();
    for one in facts {
        *report.sizes.entry(one.size.clone()).or_insert(0) += 1;
        *report.value_types.entry(one.value_type.clone()).or_insert(0) += 1;
    }
    report.value_min = facts.iter().map(|one| one.range[0]).reduce(f32::min).unwrap_or(0.0);
    report.value_max = facts.iter().map(|one| one.range[1]).reduce(f32::max).unwrap_or(0.0);
}

impl fmt::Display for SampleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = |map: &BTreeMap<String, usize>| {
            map.iter().map(|(key, count)| format!("{key} ({count})")).collect::<Vec<_>>().join(", ")
        };
        writeln!(
            f,
            "{}: {}, {} samples, {} readable, {} classes",
            self.name,
            self.layout,
            self.sample_count,
            self.readable_count,
            self.classes.len()
        )?;
        writeln!(f, "  size         {}", counts(&self.sizes))?;
        writeln!(f, "  depth        {} to {}, median {}", self.depth_min, self.depth_max, self.depth_median)?;
        writeln!(f, "  value type   {}", counts(&self.value_types))?;
        writeln!(f, "  values       {} to {}", self.value_min, self.value_max)?;
        for split in &self.splits {
            let classes = self.classes.iter().zip(&split.class_counts);
            let classes: Vec<String> = classes.map(|(name, count)| format!("{name} ({count})")).collect();
            writeln!(f, "  {:<12} {} samples: {}", split.name, split.sample_count, classes.join(", "))?;
        }
        super::write_findings(f, &self.findings)
    }
}
