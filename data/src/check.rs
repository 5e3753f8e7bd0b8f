//! What a data set holds and what is wrong with it.

mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::msd::{CaseFiles, MsdFolder};
use crate::nifti_file::{Volume, read_volume, to_labels};
use crate::split::{Split, partition};
use crate::{DataError, Extent};

pub use samples::{SampleOptions, SampleReport, SplitSummary, check_samples, is_sample_set};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Training refuses the file.
    Error,
    /// Training goes on; a person should look.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub file: String,
    pub problem: String,
}

/// One class over the whole set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassSummary {
    pub name: String,
    /// Cases that hold it.
    pub case_count: usize,
    /// Share of all voxels, 0 to 1.
    pub voxel_share: f64,
}

/// What a folder holds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub name: String,
    pub case_count: usize,
    /// Cases that could be read without an error.
    pub readable_count: usize,
    pub channels: usize,
    pub classes: Vec<ClassSummary>,
    /// Smallest, median and largest size along D, H and W.
    pub extent_min: Extent,
    pub extent_median: Extent,
    pub extent_max: Extent,
    pub spacing_mm_min: [f32; 3],
    pub spacing_mm_max: [f32; 3],
    /// Cases per stored orientation.
    pub orientations: BTreeMap<String, usize>,
    /// Cases per number type of the image.
    pub image_types: BTreeMap<String, usize>,
    pub label_types: BTreeMap<String, usize>,
    /// Over all cases: lowest minimum, median of medians, highest maximum.
    pub intensity_min: f32,
    pub intensity_median: f32,
    pub intensity_max: f32,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

struct CaseFacts {
    extent: Extent,
    spacing_mm: [f32; 3],
    orientation: String,
    image_type: &'static str,
    label_type: &'static str,
    intensity: [f32; 3],
    class_voxels: Vec<u64>,
}

/// Reads every file of a folder. `progress` is told how many cases of how many
/// are done.
///
/// # Errors
/// There is no readable `dataset.json`; all else is a finding of the report.
pub fn check_folder(dir: &Path, mut progress: impl FnMut(usize, usize)) -> Result<Report, DataError> {
    let folder = MsdFolder::open_unchecked(dir)?;
    let mut findings = stray_files(&folder);
    findings.extend(split_mistakes(&folder));
    let mut facts = Vec::with_capacity(folder.cases.len());
    for (index, case) in folder.cases.iter().enumerate() {
        match inspect(case, &folder, &mut findings) {
            Ok(found) => facts.push(found),
            Err(error) => findings.push(finding(Severity::Error, &error)),
        }
        progress(index + 1, folder.cases.len());
    }
    Ok(summarise(&folder, &facts, findings))
}

fn finding(severity: Severity, error: &DataError) -> Finding {
    let file = match error {
        DataError::File { path, .. } | DataError::Io { path, .. } => path.display().to_string(),
        DataError::Case { case, .. } => case.clone(),
        DataError::Sample { sample, .. } => sample.clone(),
        DataError::Split(_) => "splits.json".to_owned(),
        DataError::Program(_) => String::new(),
    };
    Finding { severity, file, problem: error.problem() }
}

/// Files beside those of `dataset.json`, which a user may have forgotten there.
fn stray_files(folder: &MsdFolder) -> Vec<Finding> {
    let listed: BTreeSet<&Path> =
        folder.cases.iter().flat_map(|case| [case.image.as_path(), case.label.as_path()]).collect();
    let mut found = Vec::new();
    for name in ["imagesTr", "labelsTr"] {
        let Ok(entries) = std::fs::read_dir(folder.root.join(name)) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if !hidden && !listed.contains(path.as_path()) {
                found.push(Finding {
                    severity: Severity::Warning,
                    file: path.display().to_string(),
                    problem: "is not listed in dataset.json and will not be used".to_owned(),
                });
            }
        }
    }
    found
}

/// What is wrong with `splits.json`, if there is one.
fn split_mistakes(folder: &MsdFolder) -> Option<Finding> {
    let path = folder.root.join("splits.json");
    if !path.exists() {
        return None;
    }
    let ids: Vec<String> = folder.cases.iter().map(|case| case.id.clone()).collect();
    let error = match folder.read_splits() {
        Ok(file) => partition(&ids, &Split::File, Some(&file)).err()?,
        Err(error) => error,
    };
    let problem = error.problem();
    Some(Finding { severity: Severity::Error, file: path.display().to_string(), problem })
}

fn inspect(
    case: &CaseFiles,
    folder: &MsdFolder,
    findings: &mut Vec<Finding>,
) -> Result<CaseFacts, DataError> {
    let image = read_volume(&case.image)?;
    let label_volume = read_volume(&case.label)?;
    let label = to_labels(&case.label, &label_volume, folder.classes.len())?;
    let (channels, d, h, w) = image.data.dim();
    if channels != folder.channels {
        let problem = format!("has {channels} channels, dataset.json declares {}", folder.channels);
        return Err(DataError::file(&case.image, problem));
    }
    if label.dim() != (d, h, w) {
        let problem = format!("has the extent {:?}, its image has {:?}", label.dim(), (d, h, w));
        return Err(DataError::file(&case.label, problem));
    }
    let mut warn = |file: &Path, problem: &str| {
        let file = file.display().to_string();
        findings.push(Finding { severity: Severity::Warning, file, problem: problem.to_owned() });
    };
    if affine_distance(&image, &label_volume) > 1e-2 {
        warn(&case.label, "has another affine than its image; check that both lie on the same grid");
    }
    let mut class_voxels = vec![0_u64; folder.classes.len()];
    for class in &label {
        class_voxels[usize::from(*class)] += 1;
    }
    if class_voxels[1..].iter().all(|count| *count == 0) {
        warn(&case.label, "holds background only");
    }
    let mut values: Vec<f32> = image.data.iter().copied().collect();
    values.sort_by(f32::total_cmp);
    let intensity = [values[0], values[values.len() / 2], values[values.len() - 1]];
    if intensity[0] == intensity[2] {
        warn(&case.image, "has the same value everywhere");
    }
    Ok(CaseFacts {
        extent: [d, h, w],
        spacing_mm: image.spacing_mm,
        orientation: image.stored_orientation,
        image_type: image.stored_type,
        label_type: label_volume.stored_type,
        intensity,
        class_voxels,
    })
}

fn affine_distance(left: &Volume, right: &Volume) -> f64 {
    let pairs = left.affine.iter().flatten().zip(right.affine.iter().flatten());
    pairs.map(|(left, right)| (left - right).abs()).fold(0.0, f64::max)
}

fn summarise(folder: &MsdFolder, facts: &[CaseFacts], findings: Vec<Finding>) -> Report {
    let count_by = |key: &dyn Fn(&CaseFacts) -> String| {
        facts.iter().fold(BTreeMap::new(), |mut counts, case| {
            *counts.entry(key(case)).or_insert(0) += 1;
            counts
        })
    };
    let axis = |axis: usize, place: fn(usize) -> usize| {
        let mut sizes: Vec<usize> = facts.iter().map(|case| case.extent[axis]).collect();
        sizes.sort_unstable();
        sizes.get(place(sizes.len())).copied().unwrap_or(0)
    };
    let spacing = |axis: usize, pick: fn(f32, f32) -> f32| {
        facts.iter().map(|case| case.spacing_mm[axis]).reduce(pick).unwrap_or(0.0)
    };
    let mut medians: Vec<f32> = facts.iter().map(|case| case.intensity[1]).collect();
    medians.sort_by(f32::total_cmp);
    let voxels: u64 = facts.iter().flat_map(|case| &case.class_voxels).sum();
    let classes = folder.classes.iter().enumerate().map(|(class, name)| ClassSummary {
        name: name.clone(),
        case_count: facts.iter().filter(|case| case.class_voxels[class] > 0).count(),
        voxel_share: facts.iter().map(|case| case.class_voxels[class]).sum::<u64>() as f64
            / voxels.max(1) as f64,
    });
    Report {
        name: folder.name.clone(),
        case_count: folder.cases.len(),
        readable_count: facts.len(),
        channels: folder.channels,
        classes: classes.collect(),
        extent_min: std::array::from_fn(|index| axis(index, |_| 0)),
        extent_median: std::array::from_fn(|index| axis(index, |count| count / 2)),
        extent_max: std::array::from_fn(|index| axis(index, |count| count.saturating_sub(1))),
        spacing_mm_min: std::array::from_fn(|index| spacing(index, f32::min)),
        spacing_mm_max: std::array::from_fn(|index| spacing(index, f32::max)),
        orientations: count_by(&|case| case.orientation.clone()),
        image_types: count_by(&|case| case.image_type.to_owned()),
        label_types: count_by(&|case| case.label_type.to_owned()),
        intensity_min: facts.iter().map(|case| case.intensity[0]).reduce(f32::min).unwrap_or(0.0),
        intensity_median: medians.get(medians.len() / 2).copied().unwrap_or(0.0),
        intensity_max: facts.iter().map(|case| case.intensity[2]).reduce(f32::max).unwrap_or(0.0),
        findings,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = |map: &BTreeMap<String, usize>| {
            map.iter().map(|(key, count)| format!("{key} ({count})")).collect::<Vec<_>>().join(", ")
        };
        let show = |extent: Extent| format!("{}x{}x{}", extent[0], extent[1], extent[2]);
        writeln!(
            f,
            "{}: {} cases, {} readable, {} channel(s)",
            self.name, self.case_count, self.readable_count, self.channels
        )?;
        writeln!(
            f,
            "  extent       {} to {}, median {}",
            show(self.extent_min),
            show(self.extent_max),
            show(self.extent_median)
        )?;
        writeln!(f, "  spacing      {:?} to {:?} mm", self.spacing_mm_min, self.spacing_mm_max)?;
        writeln!(f, "  orientation  {}", counts(&self.orientations))?;
        writeln!(f, "  image type   {}", counts(&self.image_types))?;
        writeln!(f, "  label type   {}", counts(&self.label_types))?;
        writeln!(
            f,
            "  intensity    {} to {}, median {}",
            self.intensity_min, self.intensity_max, self.intensity_median
        )?;
        writeln!(f, "  classes")?;
        for (number, class) in self.classes.iter().enumerate() {
            let share = class.voxel_share * 100.0;
            writeln!(
                f,
                "    {number:>3}  {:<16} {share:>6.2} % of voxels, in {} cases",
                class.name, class.case_count
            )?;
        }
        write_findings(f, &self.findings)
    }
}

fn write_findings(f: &mut fmt::Formatter<'_>, findings: &[Finding]) -> fmt::Result {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    writeln!(f, "{errors} error(s), {} warning(s)", findings.len() - errors)?;
    for finding in findings {
        let severity = if finding.severity == Severity::Error { "error  " } else { "warning" };
        writeln!(f, "  {severity} {}: {}", finding.file, finding.problem)?;
    }
    Ok(())
}
