//! `cakes dataset check` on samples with one class each.

#[path = "support/npy.rs"]
mod npy;
#[allow(dead_code, reason = "shared with tests that write volumes")]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use npy::write_npy;
use serde_json::Value;
use support::cakes;
use tempfile::tempdir;

/// A list of clips needs no archive to be written: one line, one folder of frames.
#[test]
fn dataset_check_names_unreadable_clips_and_tolerates_as_asked() {
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("clip")).unwrap();
    fs::write(folder.path().join("clip/00001.jpg"), "no image").unwrap();
    let list = folder.path().join("train.txt");
    fs::write(&list, "clip 1 0\n").unwrap();
    let list = list.to_str().unwrap();
    let ran = cakes(&["dataset", "check", list]);
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("clip/00001.jpg: is no readable JPEG"), "{}", ran.stdout);
    let tolerated = cakes(&["dataset", "check", list, "--tolerate", "1", "-o", "json"]);
    assert_eq!(tolerated.code, Some(0), "{}{}", tolerated.stdout, tolerated.stderr);
    let report: Value = serde_json::from_str(&tolerated.stdout).unwrap();
    assert_eq!((&report["sample_count"], &report["readable_count"]), (&1.into(), &0.into()));
    assert_eq!(report["findings"][0]["severity"], "warning");
    fs::write(list, "clip one 0\n").unwrap();
    let wrong = cakes(&["dataset", "check", list]);
    assert_eq!(wrong.code, Some(1), "{}{}", wrong.stdout, wrong.stderr);
}

/// A look at a data set is no training: nothing of it is kept.
#[test]
fn dataset_check_leaves_nothing_behind() {
    let folder = tempdir().unwrap();
    let [data, cache, scratch] = ["data", "cache", "scratch"].map(|name| folder.path().join(name));
    for made in [&data, &cache, &scratch] {
        fs::create_dir(made).unwrap();
    }
    for part in ["train", "val"] {
        write_npy(&data.join(format!("{part}_images.npy")), "(2, 4, 4, 4)", &[7; 128]);
        write_npy(&data.join(format!("{part}_labels.npy")), "(2, 1)", &[0, 1]);
    }
    let check = |scratch: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cakes"));
        command.args(["dataset", "check"]).arg(&data).env("TMPDIR", scratch);
        command.env("XDG_CACHE_HOME", &cache).output().unwrap()
    };
    let output = check(&scratch);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for kept in [&cache, &scratch] {
        assert_eq!(fs::read_dir(kept).unwrap().count(), 0, "{}", kept.display());
    }
    let output = check(&folder.path().join("nowhere"));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("TMPDIR"));
}

#[test]
fn dataset_check_of_a_folder_around_an_archive_names_the_archive() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("adrenal.npz"), "").unwrap();
    let ran = cakes(&["dataset", "check", folder.path().to_str().unwrap()]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("give the file") && ran.stderr.contains("adrenal.npz"), "{}", ran.stderr);
}
