//! What `cakes dataset check` says of samples with one class each.

use std::fs;
use std::path::Path;

use cakes_data::check::{SampleOptions, SampleReport, Severity, check_samples, is_sample_set};
use tempfile::TempDir;

use crate::support::{bytes, int64s, npy, npz, options, real_data};

fn check(path: &Path, root: &Path, tolerate: usize) -> Result<SampleReport, String> {
    assert!(is_sample_set(path));
    let options = SampleOptions { tolerate, pattern: "{:02}.png".into(), cache: options(root).cache };
    check_samples(path, &options, &|_, _| ()).map_err(|error| error.to_string())
}

#[test]
fn arrays_are_described_by_part_and_class() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("set.npz");
    let x = |rows: usize| npy("|u1", false, &[rows, 2, 3, 4], &bytes(&[rows, 2, 3, 4]));
    let y = |labels: &[i64]| npy("<i8", false, &[labels.len()], &int64s(labels));
    let parts = [
        ("train_images", x(3)),
        ("train_labels", y(&[0, 2, 2])),
        ("test_images", x(2)),
        ("test_labels", y(&[2, 0])),
    ];
    npz(&path, &parts);
    let report = check(&path, root.path(), 0).unwrap();
    assert_eq!((report.sample_count, report.readable_count), (5, 5));
    assert_eq!((report.splits[0].name.as_str(), &report.splits[0].class_counts), ("train", &vec![1, 0, 2]));
    assert_eq!((report.splits[1].name.as_str(), &report.splits[1].class_counts), ("test", &vec![1, 0, 1]));
    assert_eq!((report.sizes["2x3x4"], report.value_types["uint8"], report.depth_max), (5, 5, 2));
    assert_eq!(report.findings.len(), 1);
    assert!(report.findings[0].problem.contains("class 1 has no sample"), "{:?}", report.findings);
    assert!(!report.has_errors() && report.to_string().contains("5 samples, 5 readable, 3 classes"));

    let mut values = [2.5_f32; 3 * 8];
    values[9] = f32::NAN;
    let body: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let arrays =
        [("x", npy("<f4", false, &[3, 2, 2, 2], &body)), ("label", y(&[0, 1, 0])), ("fold", y(&[7, 8, 7]))];
    npz(&path, &arrays);
    let report = check(&path, root.path(), 0).unwrap();
    assert!(report.has_errors());
    assert!(report.findings[0].file.ends_with("set.npz: x[1]"), "{:?}", report.findings);
    assert_eq!((report.readable_count, report.value_min, report.value_max), (2, 2.5, 2.5));
    let folds: Vec<&str> = report.splits.iter().map(|split| split.name.as_str()).collect();
    assert_eq!(folds, ["fold 7", "fold 8"]);
    assert!(!check(&path, root.path(), 1).unwrap().has_errors());

    npz(&path, &[("x", x(2)), ("names", y(&[0, 1]))]);
    let error = check(&path, root.path(), 0).unwrap_err();
    assert!(error.contains("names, x") && error.contains("train_images"), "{error}");
    npz(&path, &[("x", x(2)), ("y", y(&[0, -1]))]);
    let report = check(&path, root.path(), 0).unwrap();
    assert!(report.has_errors() && report.findings[0].problem.contains("row 1 holds -1"), "{report}");
}

/// A part that no training could open is no sample that it could leave out.
#[test]
fn samples_are_tolerated_and_parts_that_cannot_be_opened_are_not() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("set.npz");
    let body: Vec<u8> = [1.0, f32::NAN, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let x = || npy("<f4", false, &[3, 1, 1, 1], &body);
    let y = |labels: &[i64]| npy("<i8", false, &[labels.len()], &int64s(labels));
    let parts = [
        ("train_images", x()),
        ("train_labels", y(&[0, 1, 0])),
        ("val_images", x()),
        ("val_labels", y(&[0, 1])),
    ];
    npz(&path, &parts);
    let report = check(&path, root.path(), 1).unwrap();
    let found: Vec<(Severity, &str)> =
        report.findings.iter().map(|finding| (finding.severity, finding.problem.as_str())).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].0 == Severity::Warning && found[0].1.contains("not finite"), "{found:?}");
    assert!(found[1].0 == Severity::Error && found[1].1.contains("has 2 labels"), "{found:?}");
}

#[test]
fn a_file_of_json_is_told_from_a_list_of_clips() {
    let root = TempDir::new().unwrap();
    for name in ["dataset.json", "search.json"] {
        let path = root.path().join(name);
        fs::write(&path, "{\n  \"name\": \"lungs\"\n}\n").unwrap();
        let error = check(&path, root.path(), 0).unwrap_err();
        assert!(error.contains(name) && error.contains("is JSON, no list of clips"), "{error}");
        assert!(error.contains("give the data set's folder"), "{error}");
    }
    let list = root.path().join("train.txt");
    fs::write(&list, "clip\n").unwrap();
    assert!(check(&list, root.path(), 0).unwrap_err().contains("line 1: 'clip' is not 'FILE CLASS'"));
}

#[test]
fn every_broken_clip_of_a_list_is_named() {
    let root = TempDir::new().unwrap();
    for clip in ["a", "b", "c"] {
        fs::create_dir(root.path().join(clip)).unwrap();
        for number in 1..=3 {
            let path = root.path().join(clip).join(format!("{number:02}.png"));
            image::ImageBuffer::from_pixel(8, 6, image::Rgb([9_u8, 20, 30])).save(path).unwrap();
        }
    }
    fs::remove_file(root.path().join("b/02.png")).unwrap();
    fs::write(root.path().join("c/03.png"), "no image").unwrap();
    let list = root.path().join("train.txt");
    fs::write(&list, "a 3 0\nb 3 1\nc 3 1\nd 3 1\n").unwrap();
    let report = check(&list, root.path(), 2).unwrap();
    assert_eq!(
        (report.layout, report.sample_count, report.readable_count),
        ("list of folders of frames", 4, 1)
    );
    assert_eq!(
        (report.sizes["6x8"], report.depth_min, report.value_min, report.value_max),
        (1, 3, 9.0, 30.0)
    );
    let said = report.to_string();
    for problem in ["first '02.png'", "c/03.png: is no readable", "d: cannot be read"] {
        assert!(said.contains(problem), "{said}");
    }
    assert!(report.has_errors());
    let tolerated = check(&list, root.path(), 3).unwrap();
    assert!(!tolerated.has_errors());
    assert!(tolerated.findings.iter().all(|finding| finding.severity == Severity::Warning));
}

#[test]
fn real_data_have_no_errors() {
    let root = TempDir::new().unwrap();
    if let Some(dir) = real_data("adrenalmnist3d") {
        let report = check(&dir.join("adrenalmnist3d.npz"), root.path(), 0).unwrap();
        assert_eq!((report.sample_count, report.findings.len()), (1584, 0));
        assert_eq!(report.splits[2].class_counts, [229, 69]);
    }
    if let Some(dir) = real_data("lung_ultrasound") {
        let report = check(&dir.join("clips.npz"), root.path(), 0).unwrap();
        assert_eq!((report.sample_count, report.splits.len(), report.findings.len()), (112, 5, 0));
        let report = check(&dir.join("videos"), root.path(), 0).unwrap();
        assert_eq!((report.sample_count, report.readable_count, report.has_errors()), (36, 36, false));
        assert_eq!(report.splits[0].class_counts, [7, 29]);
    }
}
