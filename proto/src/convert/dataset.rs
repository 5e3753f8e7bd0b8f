//! Data sets, both ways.

use cakes::spec::{
    ArrayDataset, ArrayKind, ArraySplit, DatasetSpec, FolderDataset, MedmnistPart, PhantomDataset,
    ValidationSplit, VideoDataset, VideoLayout, Violation,
};

use super::architecture::extent_to_wire;
use super::violation;
use crate::v1;

pub(super) fn dataset_from_wire(wire: Option<v1::Dataset>) -> Result<DatasetSpec, Violation> {
    match wire.and_then(|dataset| dataset.source) {
        None => Err(violation(
            "dataset",
            "give a source, for example {\"folder\": {\"path\": \"hippocampus\"}} or {\"phantoms\": {}}",
        )),
        Some(v1::dataset::Source::Folder(folder)) => Ok(DatasetSpec::Folder(folder_from_wire(folder))),
        Some(v1::dataset::Source::Phantoms(phantoms)) => {
            Ok(DatasetSpec::Phantoms(phantoms_from_wire(phantoms)))
        }
        Some(v1::dataset::Source::Arrays(arrays)) => arrays_from_wire(arrays).map(DatasetSpec::Arrays),
        Some(v1::dataset::Source::Video(video)) => video_from_wire(video).map(DatasetSpec::Video),
    }
}

fn folder_from_wire(wire: v1::FolderDataset) -> FolderDataset {
    use v1::folder_dataset::Validation;
    let validation = match wire.validation {
        Some(Validation::Cases(list)) => ValidationSplit::Cases(list.names),
        Some(Validation::SplitsFile(v1::SplitsFile {})) => ValidationSplit::SplitsFile,
        Some(Validation::Fold(fold)) => {
            ValidationSplit::Fold { fold: fold.fold, folds: fold.folds.unwrap_or(5), seed: fold.seed }
        }
        None => ValidationSplit::Fold { fold: 0, folds: 5, seed: 0 },
    };
    FolderDataset { path: wire.path, validation, pad_small_volumes: wire.pad_small_volumes }
}

fn phantoms_from_wire(wire: v1::PhantomDataset) -> PhantomDataset {
    let default = PhantomDataset::default();
    let cases = wire.cases.unwrap_or(default.cases);
    PhantomDataset {
        cases,
        validation_cases: wire.validation_cases.unwrap_or((cases / 5).max(1)),
        extent: wire.extent.map_or(default.extent, |extent| [extent.depth, extent.height, extent.width]),
        seed: wire.seed,
    }
}

fn arrays_from_wire(wire: v1::ArrayDataset) -> Result<ArrayDataset, Violation> {
    use v1::array_dataset::Split;
    let medmnist = |name: &str| match name {
        "" | "val" => Ok(ArraySplit::Medmnist { validation: MedmnistPart::Val }),
        "test" => Ok(ArraySplit::Medmnist { validation: MedmnistPart::Test }),
        other => Err(violation(
            "dataset.arrays.medmnist.validation",
            format!("'{other}' is no part to validate on; known are val and test"),
        )),
    };
    let split = match wire.split {
        None => medmnist("")?,
        Some(Split::Medmnist(split)) => medmnist(&split.validation)?,
        Some(Split::FoldArray(v1::FoldArray { samples, labels, folds, fold })) => {
            ArraySplit::FoldArray { samples, labels, folds, fold }
        }
        Some(Split::RowFold(v1::RowFold { samples, labels, fold, folds, seed })) => {
            ArraySplit::RowFold { samples, labels, fold, folds: folds.unwrap_or(5), seed }
        }
    };
    let kind = match v1::ArrayKind::try_from(wire.kind) {
        Ok(v1::ArrayKind::Volume | v1::ArrayKind::Unspecified) => ArrayKind::Volume,
        Ok(v1::ArrayKind::Video) => ArrayKind::Video,
        Err(error) => return Err(violation("dataset.arrays.kind", error)),
    };
    Ok(ArrayDataset { path: wire.path, split, kind, tolerate: wire.tolerate })
}

fn video_from_wire(wire: v1::VideoDataset) -> Result<VideoDataset, Violation> {
    use v1::video_dataset::Layout;
    let layout = match wire.layout {
        None => {
            return Err(violation(
                "dataset.video",
                "give frame_lists, file_lists or class_folders, for example {\"class_folders\": {}}",
            ));
        }
        Some(Layout::FrameLists(v1::FrameLists { training_list, validation_list, pattern })) => {
            let pattern = pattern.unwrap_or_else(|| "{:05}.jpg".to_owned());
            VideoLayout::FrameLists { training_list, validation_list, pattern }
        }
        Some(Layout::FileLists(v1::FileLists { training_list, validation_list })) => {
            VideoLayout::FileLists { training_list, validation_list }
        }
        Some(Layout::ClassFolders(v1::ClassFolders { fold, folds, seed })) => {
            VideoLayout::ClassFolders { fold, folds: folds.unwrap_or(5), seed }
        }
    };
    Ok(VideoDataset { path: wire.path, layout, tolerate: wire.tolerate })
}

pub(super) fn dataset_to_wire(dataset: &DatasetSpec) -> v1::dataset::Source {
    match dataset {
        DatasetSpec::Folder(folder) => v1::dataset::Source::Folder(v1::FolderDataset {
            path: folder.path.clone(),
            pad_small_volumes: folder.pad_small_volumes,
            validation: Some(validation_to_wire(&folder.validation)),
        }),
        DatasetSpec::Phantoms(phantoms) => v1::dataset::Source::Phantoms(v1::PhantomDataset {
            cases: Some(phantoms.cases),
            validation_cases: Some(phantoms.validation_cases),
            extent: Some(extent_to_wire(phantoms.extent)),
            seed: phantoms.seed,
        }),
        DatasetSpec::Arrays(arrays) => v1::dataset::Source::Arrays(arrays_to_wire(arrays)),
        DatasetSpec::Video(video) => v1::dataset::Source::Video(video_to_wire(video)),
    }
}

fn validation_to_wire(validation: &ValidationSplit) -> v1::folder_dataset::Validation {
    use v1::folder_dataset::Validation;
    match validation {
        ValidationSplit::Cases(names) => Validation::Cases(v1::CaseList { names: names.clone() }),
        ValidationSplit::SplitsFile => Validation::SplitsFile(v1::SplitsFile {}),
        ValidationSplit::Fold { fold, folds, seed } => {
            Validation::Fold(v1::Fold { fold: *fold, folds: Some(*folds), seed: *seed })
        }
    }
}

fn arrays_to_wire(arrays: &ArrayDataset) -> v1::ArrayDataset {
    use v1::array_dataset::Split;
    let split = match arrays.split.clone() {
        ArraySplit::Medmnist { validation } => {
            let validation = match validation {
                MedmnistPart::Val => "val",
                MedmnistPart::Test => "test",
            };
            Split::Medmnist(v1::MedmnistSplit { validation: validation.to_owned() })
        }
        ArraySplit::FoldArray { samples, labels, folds, fold } => {
            Split::FoldArray(v1::FoldArray { samples, labels, folds, fold })
        }
        ArraySplit::RowFold { samples, labels, fold, folds, seed } => {
            Split::RowFold(v1::RowFold { samples, labels, fold, folds: Some(folds), seed })
        }
    };
    let kind = match arrays.kind {
        ArrayKind::Volume => v1::ArrayKind::Volume,
        ArrayKind::Video => v1::ArrayKind::Video,
    };
    v1::ArrayDataset {
        path: arrays.path.clone(),
        split: Some(split),
        kind: kind.into(),
        tolerate: arrays.tolerate,
    }
}

fn video_to_wire(video: &VideoDataset) -> v1::VideoDataset {
    use v1::video_dataset::Layout;
    let layout = match video.layout.clone() {
        VideoLayout::FrameLists { training_list, validation_list, pattern } => {
            Layout::FrameLists(v1::FrameLists { training_list, validation_list, pattern: Some(pattern) })
        }
        VideoLayout::FileLists { training_list, validation_list } => {
            Layout::FileLists(v1::FileLists { training_list, validation_list })
        }
        VideoLayout::ClassFolders { fold, folds, seed } => {
            Layout::ClassFolders(v1::ClassFolders { fold, folds: Some(folds), seed })
        }
    };
    v1::VideoDataset { path: video.path.clone(), layout: Some(layout), tolerate: video.tolerate }
}
