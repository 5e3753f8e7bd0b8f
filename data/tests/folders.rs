//! Folders of cases, sound and broken, as `cakes dataset check` and a training
//! see them.

mod common;

use std::fs;
use std::path::Path;

use cakes_data::Dataset;
use cakes_data::check::{Severity, check_folder};
use cakes_data::split::Split;
use common::{Nifti, folder};
use tempfile::TempDir;

fn opened(root: &Path) -> Result<Dataset, String> {
    Dataset::open_folder(root).map_err(|error| error.to_string())
}

#[test]
fn a_sound_folder_has_nothing_to_report() {
    let root = TempDir::new().unwrap();
    folder(root.path(), 3);
    let report = check_folder(root.path(), |_, _| ()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.case_count, report.readable_count, report.channels), (3, 3, 1));
    assert_eq!((report.extent_min, report.extent_max), ([8, 8, 8], [8, 8, 8]));
    assert_eq!(report.classes[1].case_count, 3);
    assert!((report.classes[1].voxel_share - 0.5).abs() < 1e-9);
    assert!(report.to_string().contains("0 error(s), 0 warning(s)"));
    let dataset = opened(root.path()).unwrap();
    assert_eq!(dataset.load("case_01").unwrap().label.dim(), (8, 8, 8));
}

#[test]
fn a_missing_empty_or_foreign_folder_says_what_is_expected() {
    let root = TempDir::new().unwrap();
    let expected =
        |error: String| assert!(error.contains("dataset.json") && error.contains("imagesTr"), "{error}");
    expected(opened(&root.path().join("nowhere")).unwrap_err());
    let empty = opened(root.path()).unwrap_err();
    assert!(empty.contains("is empty"), "{empty}");
    fs::write(root.path().join("photo.jpg"), "x").unwrap();
    expected(opened(root.path()).unwrap_err());
}

#[test]
fn mistakes_in_dataset_json_are_named() {
    let root = TempDir::new().unwrap();
    let with = |json: &str| {
        fs::write(root.path().join("dataset.json"), json).unwrap();
        opened(root.path()).unwrap_err()
    };
    assert!(with("{").contains("dataset.json"));
    assert!(with(r#"{"training": []}"#).contains("labels"));
    let labels = r#""labels": {"0": "background", "1": "thing"}"#;
    assert!(with(&format!("{{{labels}, \"training\": []}}")).contains("no training cases"));
    let gap = r#"{"labels": {"0": "background", "2": "thing"}, "training": []}"#;
    assert!(with(gap).contains("without gaps"));
    let outside = format!(r#"{{{labels}, "training": [{{"image": "../secret.nii", "label": "b.nii"}}]}}"#);
    assert!(with(&outside).contains("not inside"));
    let twice = r#"{"image": "imagesTr/a.nii", "label": "labelsTr/a.nii"}"#;
    assert!(with(&format!(r#"{{{labels}, "training": [{twice}, {twice}]}}"#)).contains("twice"));
    assert!(with(&format!(r#"{{{labels}, "training": [{twice}]}}"#)).contains("does not exist"));
}

/// Every broken file is reported, by its name, in one run.
#[test]
fn a_check_finds_every_broken_file() {
    let root = TempDir::new().unwrap();
    let files = folder(root.path(), 6);
    let floats = |extent: [i16; 3]| vec![1.0; extent.iter().map(|size| *size as usize).product()];
    fs::write(&files[0].0, &fs::read(&files[0].0).unwrap()[..60]).unwrap();
    Nifti::floats([8, 8, 7], &floats([8, 8, 7])).write(&files[1].0);
    Nifti::labels([8, 8, 8], &[9; 512]).write(&files[2].1);
    Nifti::floats([8, 8, 8], &[f32::NAN; 512]).write(&files[3].0);
    fs::remove_file(&files[4].1).unwrap();
    fs::write(root.path().join("imagesTr/forgotten.nii.gz"), "x").unwrap();

    let report = check_folder(root.path(), |_, _| ()).unwrap();
    assert_eq!(report.readable_count, 1);
    let problem = |file: &Path| {
        let found = report.findings.iter().find(|finding| finding.file == file.display().to_string());
        found.map(|finding| (finding.severity, finding.problem.clone())).expect("a finding")
    };
    assert!(problem(&files[0].0).1.contains("copy it again"));
    assert!(problem(&files[1].1).1.contains("(8, 8, 8), its image has (8, 8, 7)"));
    assert!(problem(&files[2].1).1.contains("label 9"));
    assert!(problem(&files[3].0).1.contains("512 voxels"));
    assert!(problem(&files[4].1).1.contains("cannot be read"));
    let (severity, text) = problem(&root.path().join("imagesTr/forgotten.nii.gz"));
    assert_eq!(severity, Severity::Warning);
    assert!(text.contains("not listed"));
    assert_eq!(report.findings.len(), 6);
}

#[test]
fn what_looks_odd_but_works_is_a_warning() {
    let root = TempDir::new().unwrap();
    let files = folder(root.path(), 3);
    Nifti::floats([8, 8, 8], &[4.0; 512]).write(&files[0].0);
    Nifti::labels([8, 8, 8], &[0; 512]).write(&files[1].1);
    let mut shifted = Nifti::labels([8, 8, 8], &[1; 512]);
    shifted.srow[0][3] = 3.0;
    shifted.write(&files[2].1);
    let report = check_folder(root.path(), |_, _| ()).unwrap();
    assert!(!report.has_errors());
    let problems: Vec<&str> = report.findings.iter().map(|finding| finding.problem.as_str()).collect();
    assert!(problems[0].contains("same value everywhere"), "{problems:?}");
    assert!(problems[1].contains("background only"), "{problems:?}");
    assert!(problems[2].contains("affine"), "{problems:?}");
}

#[test]
fn a_training_refuses_what_a_check_calls_an_error() {
    let root = TempDir::new().unwrap();
    let files = folder(root.path(), 2);
    let dataset = opened(root.path()).unwrap();
    let load = || dataset.load("case_01").map_err(|error| error.to_string());
    Nifti::labels([8, 8, 4], &[0; 256]).write(&files[1].1);
    let error = load().unwrap_err();
    assert!(
        error.contains("labelsTr/case_01.nii.gz") && error.contains("imagesTr/case_01.nii.gz"),
        "{error}"
    );
    let mut two = Nifti::floats([8, 8, 8], &[0.5; 1024]);
    two.dim = vec![8, 8, 8, 2];
    Nifti::labels([8, 8, 8], &[0; 512]).write(&files[1].1);
    two.write(&files[1].0);
    let error = load().unwrap_err();
    assert!(error.contains("2 channels, dataset.json declares 1"), "{error}");
}

#[test]
fn a_split_comes_from_its_file() {
    let root = TempDir::new().unwrap();
    folder(root.path(), 3);
    let dataset = opened(root.path()).unwrap();
    let missing = dataset.split(&Split::File).unwrap_err().to_string();
    for words in ["splits.json: does not exist", r#"{"train": [..], "val": [..]}"#, r#"say "fold""#] {
        assert!(missing.contains(words), "{missing}");
    }
    let write = |text: &str| fs::write(root.path().join("splits.json"), text).unwrap();
    write(r#"{"train": ["case_00", "case_02"], "val": ["case_01"]}"#);
    assert_eq!(dataset.split(&Split::File).unwrap().validation, ["case_01"]);
    assert!(!check_folder(root.path(), |_, _| ()).unwrap().has_errors());
    write(r#"{"train": ["case_00"], "val": ["case_09"]}"#);
    assert!(dataset.split(&Split::File).unwrap_err().to_string().contains("case_09"));
    let report = check_folder(root.path(), |_, _| ()).unwrap();
    assert!(report.findings[0].file.ends_with("splits.json") && report.has_errors());
    write("[]");
    assert!(dataset.split(&Split::File).unwrap_err().to_string().contains("not as expected"));
}
