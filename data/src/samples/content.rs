//! Which files a data set of arrays or clips is made of.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::frames::FramePattern;
use super::lists::{ListedClip, class_folders, read_list};
use super::npy::ArrayFile;
use super::source::{ArraySource, ArraySplit, SampleSource, VideoLayout, VideoSource};
use crate::DataError;
use crate::content::ContentFiles;

/// The files that `source` names; relative paths are looked up under `root`. Clips
/// that are not there are left out, as they may be where some are tolerated.
///
/// # Errors
/// A list, an archive or a folder cannot be read.
pub fn content_files(source: &SampleSource, root: &Path) -> Result<ContentFiles, DataError> {
    match source {
        SampleSource::Arrays(source) => of_arrays(source, root),
        SampleSource::Video(source) => of_video(source, root),
    }
}

fn of_arrays(source: &ArraySource, root: &Path) -> Result<ContentFiles, DataError> {
    let path = root.join(&source.path);
    if !path.is_dir() {
        let file = path.file_name().map(PathBuf::from).unwrap_or_default();
        let root = path.parent().unwrap_or(root).to_owned();
        return Ok(ContentFiles { root, files: BTreeSet::from([file]) });
    }
    let keys: Vec<String> = match &source.split {
        ArraySplit::Medmnist { validation } => ["train", validation.prefix()]
            .iter()
            .flat_map(|part| [format!("{part}_images"), format!("{part}_labels")])
            .collect(),
        ArraySplit::FoldArray { samples, labels, folds, .. } => {
            vec![samples.clone(), labels.clone(), folds.clone()]
        }
        ArraySplit::RowFold { samples, labels, .. } => vec![samples.clone(), labels.clone()],
    };
    let arrays = ArrayFile::open(&path)?;
    for key in &keys {
        arrays.file_of(key)?;
    }
    Ok(ContentFiles { root: path, files: keys.iter().map(|key| format!("{key}.npy").into()).collect() })
}

fn of_video(source: &VideoSource, root: &Path) -> Result<ContentFiles, DataError> {
    let root = root.join(&source.path);
    let mut files = BTreeSet::new();
    let mut listed = |list: &PathBuf, has_frames: bool| {
        files.insert(list.clone());
        read_list(&root.join(list), has_frames)
    };
    let clips: Vec<PathBuf> = match &source.layout {
        VideoLayout::FrameLists { training_list, validation_list, pattern } => {
            let pattern = FramePattern::parse(pattern)?;
            let clips = [listed(training_list, true)?, listed(validation_list, true)?].concat();
            let frames = |clip: &ListedClip| {
                let name = |number| Path::new(&clip.name).join(pattern.name(number));
                (1..=clip.frames.unwrap_or(0)).map(name).collect::<Vec<_>>()
            };
            clips.iter().flat_map(frames).collect()
        }
        VideoLayout::FileLists { training_list, validation_list } => {
            let clips = [listed(training_list, false)?, listed(validation_list, false)?].concat();
            clips.into_iter().map(|clip| clip.name.into()).collect()
        }
        VideoLayout::ClassFolders { .. } => {
            class_folders(&root)?.0.into_iter().map(|clip| clip.name.into()).collect()
        }
    };
    files.extend(clips.into_iter().filter(|clip| root.join(clip).is_file()));
    Ok(ContentFiles { root, files })
}
