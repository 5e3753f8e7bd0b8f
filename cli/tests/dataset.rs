//! `cakes dataset check` on samples with one class each.

#[allow(dead_code, reason = "shared with tests that write volumes")]
mod support;

use std::fs;

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
