//! Folders in the layout of the Medical Segmentation Decathlon.
//!
//! ```text
//! dataset.json   name, modality, labels, training: [{image, label}]
//! imagesTr/      case.nii.gz
//! labelsTr/      case.nii.gz
//! splits.json    optional: {"train": [case, ..], "val": [case, ..]}
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::content::ContentFiles;
use crate::inside::inside;
use crate::split::SplitsFile;
use crate::{DataError, LoadedCase, nifti_file};

/// A folder whose `dataset.json` was read and whose files exist.
#[derive(Clone, Debug)]
pub struct MsdFolder {
    pub root: PathBuf,
    pub name: String,
    /// Names of the classes, background first.
    pub classes: Vec<String>,
    pub channels: usize,
    /// Sorted by id.
    pub cases: Vec<CaseFiles>,
}

/// The files of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseFiles {
    /// File name without ending.
    pub id: String,
    pub image: PathBuf,
    pub label: PathBuf,
}

#[derive(Deserialize)]
struct DatasetJson {
    #[serde(default)]
    name: Option<String>,
    #[serde(alias = "channel_names")]
    modality: Option<BTreeMap<String, serde_json::Value>>,
    labels: BTreeMap<String, serde_json::Value>,
    training: Vec<TrainingEntry>,
}

#[derive(Deserialize)]
struct TrainingEntry {
    image: String,
    label: String,
}

const SPLITS_MISSING: &str = "does not exist; write {\"train\": [..], \"val\": [..]} with the names of \
    the cases, or say \"fold\" in place of \"splits_file\" in the search file, which makes folds without it";

impl MsdFolder {
    /// Reads `dataset.json` and makes sure that the files it names exist.
    ///
    /// # Errors
    /// The folder is missing or empty, `dataset.json` is missing or wrong, or a
    /// file that it names is missing.
    pub fn open(root: &Path) -> Result<Self, DataError> {
        let folder = Self::open_unchecked(root)?;
        let files = folder.cases.iter().flat_map(|case| [&case.image, &case.label]);
        if let Some(missing) = files.into_iter().find(|file| !file.is_file()) {
            return Err(DataError::file(missing, "is named in dataset.json but does not exist"));
        }
        Ok(folder)
    }

    /// Like [`MsdFolder::open`], without looking for the files.
    ///
    /// # Errors
    /// The folder is missing or empty, or `dataset.json` is missing or wrong.
    pub fn open_unchecked(root: &Path) -> Result<Self, DataError> {
        let expected =
            "expected a folder with dataset.json, imagesTr/ and labelsTr/ (Medical Segmentation Decathlon)";
        if !root.is_dir() {
            return Err(DataError::file(root, format!("is no folder; {expected}")));
        }
        let path = root.join("dataset.json");
        if !path.is_file() {
            let mut files = std::fs::read_dir(root)
                .map_err(|error| DataError::io(root, error))?
                .filter_map(|entry| entry.ok().map(|entry| entry.path()));
            let Some(first) = files.next() else {
                return Err(DataError::file(root, format!("is empty; {expected}")));
            };
            let is_archive = |file: &PathBuf| file.extension().is_some_and(|ending| ending == "npz");
            let archive = std::iter::once(first).chain(files).filter(is_archive).min();
            let hint =
                archive.map(|archive| format!("; if you mean arrays, give the file {}", archive.display()));
            let hint = hint.unwrap_or_default();
            return Err(DataError::file(root, format!("has no dataset.json; {expected}{hint}")));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| DataError::io(&path, error))?;
        let json: DatasetJson = serde_json::from_str(&text)
            .map_err(|error| DataError::file(&path, format!("is not as expected: {error}")))?;
        Self::from_json(root, json).map_err(|problem| DataError::file(&path, problem))
    }

    fn from_json(root: &Path, json: DatasetJson) -> Result<Self, String> {
        let classes = class_names(&json.labels)?;
        let mut cases = Vec::with_capacity(json.training.len());
        for entry in &json.training {
            let image = root.join(inside(&entry.image)?);
            let label = root.join(inside(&entry.label)?);
            let id = case_id(&image).ok_or_else(|| format!("'{}' names no file", entry.image))?;
            if !id.starts_with('.') {
                cases.push(CaseFiles { id, image, label });
            }
        }
        cases.sort_by(|left, right| left.id.cmp(&right.id));
        if let Some(pair) = cases.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(format!("lists the case '{}' twice", pair[0].id));
        }
        if cases.is_empty() {
            return Err("lists no training cases; fill \"training\" with {image, label} pairs".into());
        }
        Ok(MsdFolder {
            root: root.to_owned(),
            name: json.name.unwrap_or_else(|| "unnamed".into()),
            classes,
            channels: json.modality.map_or(1, |channels| channels.len().max(1)),
            cases,
        })
    }

    /// `dataset.json` and all that it names.
    pub(crate) fn content_files(&self) -> ContentFiles {
        let inside = |path: &PathBuf| path.strip_prefix(&self.root).ok().map(Path::to_owned);
        let cases = self.cases.iter().flat_map(|case| [&case.image, &case.label]).filter_map(inside);
        ContentFiles {
            root: self.root.clone(),
            files: cases.chain([PathBuf::from("dataset.json")]).collect(),
        }
    }

    /// What `splits.json` says.
    ///
    /// # Errors
    /// The file is missing, with the remedy, or wrong.
    pub fn read_splits(&self) -> Result<SplitsFile, DataError> {
        let path = self.root.join("splits.json");
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => DataError::file(&path, SPLITS_MISSING),
            _ => DataError::io(&path, error),
        })?;
        serde_json::from_str(&text).map_err(|error| {
            DataError::file(
                &path,
                format!("is not as expected ({{\"train\": [..], \"val\": [..]}}): {error}"),
            )
        })
    }

    /// Loads and checks one case.
    ///
    /// # Errors
    /// Everything that is wrong with its files.
    pub fn load(&self, id: &str) -> Result<LoadedCase, DataError> {
        let files = self.cases.iter().find(|case| case.id == id).ok_or_else(|| DataError::Case {
            case: id.to_owned(),
            problem: "is not listed in dataset.json".to_owned(),
        })?;
        let image = nifti_file::read_volume(&files.image)?;
        let label_volume = nifti_file::read_volume(&files.label)?;
        let label = nifti_file::to_labels(&files.label, &label_volume, self.classes.len())?;
        let (channels, d, h, w) = image.data.dim();
        if channels != self.channels {
            let problem = format!("has {channels} channels, dataset.json declares {}", self.channels);
            return Err(DataError::file(&files.image, problem));
        }
        if label.dim() != (d, h, w) {
            let problem = format!(
                "has the extent {:?}, its image {} has {:?}",
                label.dim(),
                files.image.display(),
                (d, h, w)
            );
            return Err(DataError::file(&files.label, problem));
        }
        Ok(LoadedCase { id: files.id.clone(), image: image.data, label, spacing_mm: image.spacing_mm })
    }
}

/// Class names by number. Both `{"0": "background"}` (Decathlon) and
/// `{"background": 0}` (nnU-Net) are read.
fn class_names(labels: &BTreeMap<String, serde_json::Value>) -> Result<Vec<String>, String> {
    let mut by_number = BTreeMap::new();
    for (key, value) in labels {
        let (number, name) = match (key.parse::<u64>(), value) {
            (Ok(number), serde_json::Value::String(name)) => (number, name.clone()),
            (Err(_), serde_json::Value::Number(number)) if number.is_u64() => {
                (number.as_u64().unwrap_or_default(), key.clone())
            }
            _ => return Err(format!("\"labels\": cannot read the entry \"{key}\": {value}")),
        };
        by_number.insert(number, name);
    }
    let contiguous = by_number.keys().copied().eq(0..by_number.len() as u64);
    if !contiguous || !(2..=256).contains(&by_number.len()) {
        return Err("\"labels\" must number 2 to 256 classes from 0 without gaps, background first".into());
    }
    Ok(by_number.into_values().collect())
}

fn case_id(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".gz").unwrap_or(name);
    Some(stem.strip_suffix(".nii").unwrap_or(stem).to_owned())
}
