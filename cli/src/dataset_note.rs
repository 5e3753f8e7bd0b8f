//! What is known here about the data set of a search, before anything is sent:
//! headers, labels and names are looked at, no sample is decoded.

use std::path::Path;

use cakes::backbone::Backbone;
use cakes::spec::{
    ArrayDataset, ArraySplit, CheckedSearch, DatasetSpec, FolderDataset, MedmnistPart, VideoDataset,
    VideoLayout,
};
use cakes_data::samples::lists::{class_folders, read_list};
use cakes_data::samples::npy::ArrayFile;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum DatasetNote {
    /// Generated, or found here and usable.
    Usable(String),
    /// Not found here, or not the one that workers will find.
    Elsewhere(String),
    /// Found here under its absolute path, and it will not do.
    Broken(Misfit),
}

/// What will not do, and where to change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Field of the search: `backbone.volume_resnet.classes`.
    pub field: String,
    pub problem: String,
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "errors are passed as they come")]
fn misfit(field: impl Into<String>, problem: impl ToString) -> Misfit {
    Misfit { field: field.into(), problem: problem.to_string() }
}

/// Looks whether the data set of a search is here and fits the backbone.
pub fn look_at_dataset(search: &CheckedSearch) -> DatasetNote {
    let spec = search.spec();
    let path = match &spec.dataset {
        DatasetSpec::Phantoms(phantoms) => {
            let extent = crate::format::extent(phantoms.extent);
            return DatasetNote::Usable(format!("{} generated phantoms of {extent} voxels", phantoms.cases));
        }
        DatasetSpec::Folder(folder) => &folder.path,
        DatasetSpec::Arrays(arrays) => &arrays.path,
        DatasetSpec::Video(video) => &video.path,
    };
    let is_absolute = Path::new(path).is_absolute();
    if !Path::new(path).exists() {
        // What lies below a worker's data root may be here, too.
        return DatasetNote::Elsewhere(if is_absolute {
            format!("'{path}' is not on this machine; workers look for it under this path")
        } else {
            format!("'{path}' is not in this folder; workers look for it below their data root")
        });
    }
    let found = match &spec.dataset {
        DatasetSpec::Phantoms(_) => Ok(String::new()),
        DatasetSpec::Folder(folder) => look_at_folder(folder, &spec.backbone),
        DatasetSpec::Arrays(arrays) => look_at_arrays(arrays, &spec.backbone),
        DatasetSpec::Video(video) => look_at_video(video, &spec.backbone),
    };
    match found {
        Ok(what) => DatasetNote::Usable(what),
        Err(misfit) if is_absolute => DatasetNote::Broken(misfit),
        // The same relative path may be another folder on the workers.
        Err(misfit) => DatasetNote::Elsewhere(format!("{misfit} (on this machine; workers may differ)")),
    }
}

/// Channels and classes that the data have against what the network takes.
fn check_backbone(backbone: &Backbone, channels: usize, classes: usize) -> Result<(), Misfit> {
    let at = |field: &str| format!("backbone.{}.{field}", backbone.family());
    if channels != backbone.input_channels() as usize {
        let problem = format!("is {}, but the data set has {channels} channels", backbone.input_channels());
        return Err(misfit(at("input_channels"), problem));
    }
    if classes != backbone.classes() as usize {
        let problem = format!("is {}, but the data set has {classes} classes", backbone.classes());
        return Err(misfit(at("classes"), problem));
    }
    Ok(())
}

fn look_at_folder(folder: &FolderDataset, backbone: &Backbone) -> Result<String, Misfit> {
    let dataset = cakes_data::Dataset::open_folder(Path::new(&folder.path))
        .map_err(|error| misfit("dataset.folder.path", error))?;
    check_backbone(backbone, dataset.channels, dataset.classes.len())?;
    Ok(format!(
        "{}, {} cases, classes {}",
        dataset.name,
        dataset.case_ids().len(),
        dataset.classes.join(", ")
    ))
}

fn look_at_arrays(arrays: &ArrayDataset, backbone: &Backbone) -> Result<String, Misfit> {
    let wrong = |error| misfit("dataset.arrays", error);
    let file =
        ArrayFile::open(Path::new(&arrays.path)).map_err(|error| misfit("dataset.arrays.path", error))?;
    let parts = match &arrays.split {
        ArraySplit::Medmnist { validation } => {
            let validation = match validation {
                MedmnistPart::Val => "val",
                MedmnistPart::Test => "test",
            };
            ["train", validation].map(|part| (format!("{part}_images"), format!("{part}_labels"))).to_vec()
        }
        ArraySplit::FoldArray { samples, labels, folds, fold } => {
            let numbers = file.integers(folds).map_err(wrong)?;
            if !numbers.contains(fold) {
                let problem = format!("array '{folds}' of {} holds no row of fold {fold}", arrays.path);
                return Err(misfit("dataset.arrays.fold_array.fold", problem));
            }
            vec![(samples.clone(), labels.clone())]
        }
        ArraySplit::RowFold { samples, labels, .. } => vec![(samples.clone(), labels.clone())],
    };
    let (mut rows, mut classes, mut extent) = (0_usize, 0_usize, String::new());
    for (samples, labels) in &parts {
        let shape = file.header(samples).map_err(wrong)?.shape;
        let (&[count, depth, height, width] | &[count, depth, height, width, _]) = shape.as_slice() else {
            let problem = format!("'{samples}' must be [N, D, H, W] or [N, D, H, W, C], is {shape:?}");
            return Err(misfit("dataset.arrays", problem));
        };
        let labels = file.integers(labels).map_err(wrong)?;
        let highest = labels.iter().copied().max().and_then(|label| usize::try_from(label).ok()).unwrap_or(0);
        rows += count;
        classes = classes.max(highest + 1);
        extent = format!("{depth}x{height}x{width}");
        let channels = shape.get(4).copied().unwrap_or(1);
        check_backbone(backbone, channels, backbone.classes() as usize)?;
    }
    check_backbone(backbone, backbone.input_channels() as usize, classes)?;
    Ok(format!("{}, {rows} samples of {extent}, {classes} classes", file.name()))
}

fn look_at_video(video: &VideoDataset, backbone: &Backbone) -> Result<String, Misfit> {
    if !matches!(backbone.input_channels(), 1 | 3) {
        let field = format!("backbone.{}.input_channels", backbone.family());
        let problem =
            format!("is {}; video is read in grey (1) or in colours (3)", backbone.input_channels());
        return Err(misfit(field, problem));
    }
    let root = Path::new(&video.path);
    let (count, classes) = match &video.layout {
        VideoLayout::ClassFolders { .. } => {
            let (clips, classes) =
                class_folders(root).map_err(|error| misfit("dataset.video.path", error))?;
            (clips.len(), classes.len())
        }
        VideoLayout::FrameLists { training_list, validation_list, .. } => {
            count_lists(root, [training_list, validation_list], "frame_lists")?
        }
        VideoLayout::FileLists { training_list, validation_list } => {
            count_lists(root, [training_list, validation_list], "file_lists")?
        }
    };
    check_backbone(backbone, backbone.input_channels() as usize, classes)?;
    Ok(format!("{}, {count} clips, {classes} classes", video.path))
}

/// Clips and classes of both lists.
fn count_lists(
    root: &Path,
    [training, validation]: [&String; 2],
    layout: &str,
) -> Result<(usize, usize), Misfit> {
    let (mut count, mut classes) = (0, 0);
    for (field, list) in [("training_list", training), ("validation_list", validation)] {
        let clips = read_list(&root.join(list), layout == "frame_lists")
            .map_err(|error| misfit(format!("dataset.video.{layout}.{field}"), error))?;
        count += clips.len();
        classes = clips.iter().map(|clip| clip.label + 1).fold(classes, usize::max);
    }
    Ok((count, classes))
}
