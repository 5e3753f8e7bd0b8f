//! What wrong input and an absent server get.

#[path = "support/npy.rs"]
mod npy;
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use npy::write_npy;
use serde_json::{Value, json};
use support::{Ran, cakes, write_dataset};
use tempfile::tempdir;

fn search() -> Value {
    json!({"search": {
        "name": "p",
        "dataset": {"phantoms": {}},
        "backbone": {"encoder_decoder": {"classes": 4, "base_width": 4, "levels": 2}},
        "patch": {"depth": 16, "height": 16, "width": 16},
    }})
}

/// Submits to an address at which nobody can be, so that what comes back was
/// found before anything was sent.
fn submit(folder: &Path, file: &Value) -> Ran {
    let path = folder.join("search.json");
    fs::write(&path, file.to_string()).unwrap();
    cakes(&["search", "submit", path.to_str().unwrap(), "--server", "http://127.0.0.1:1"])
}

#[test]
fn every_mistake_in_a_search_file_is_named_by_its_field_before_anything_is_sent() {
    let mistakes: [(&str, Value, &str); 13] = [
        ("/search/name", json!("../etc"), "search.name"),
        ("/search/dataset/phantoms/cases", json!(0), "dataset.phantoms.cases"),
        ("/search/backbone/encoder_decoder/classes", json!(5), "search.backbone.encoder_decoder.classes"),
        ("/search/backbone/encoder_decoder/levels", json!(99), "search.backbone.encoder_decoder.levels"),
        ("/search/backbone/encoder_decoder/clases", json!(4), "clases"),
        ("/search/patch/depth", json!(15), "patch"),
        ("/search/patch/depth", json!("many"), "search.patch.depth"),
        ("/search/budgets", json!([0.5, 0.0]), "budgets[1]"),
        ("/search/budgets", json!([-0.5]), "budgets[0]"),
        ("/search/retrain", json!({"training": {"warmup_steps": 100_000}}), "retrain.training.warmup_steps"),
        ("/search/supernet", json!({"kernels": ["3x3x3", "5x5x5"]}), "supernet.kernels[1]"),
        ("/search/supernet", json!({"l1_strenght": 1}), "l1_strenght"),
        ("/search/baselines", json!(["c4d"]), "baselines[0]"),
    ];
    let folder = tempdir().unwrap();
    for (pointer, value, field) in mistakes {
        let mut file = search();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        file.pointer_mut(parent).unwrap()[key] = value;
        let ran = submit(folder.path(), &file);
        assert_eq!(ran.code, Some(2), "{pointer}: {}", ran.stderr);
        assert!(ran.stderr.contains(field), "{pointer}: {}", ran.stderr);
        assert!(ran.stdout.is_empty());
    }
}

#[test]
fn two_mistakes_are_both_said() {
    let folder = tempdir().unwrap();
    let mut file = search();
    file["search"]["name"] = json!("A");
    file["search"]["patch"]["depth"] = json!(3);
    let ran = submit(folder.path(), &file);
    assert_eq!(ran.stderr.lines().filter(|line| line.starts_with("error:")).count(), 2, "{}", ran.stderr);
}

#[test]
fn a_missing_or_unreadable_file_is_named() {
    let folder = tempdir().unwrap();
    let missing = folder.path().join("none.json");
    let ran = cakes(&["search", "submit", missing.to_str().unwrap()]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("none.json"), "{}", ran.stderr);
    let broken = folder.path().join("broken.json");
    fs::write(&broken, "{\"search\": {").unwrap();
    let ran = cakes(&["search", "submit", broken.to_str().unwrap()]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("broken.json: is no JSON"), "{}", ran.stderr);
    let other = folder.path().join("search.toml");
    fs::write(&other, "[search]\nname = \"p\"\n").unwrap();
    let ran = cakes(&["search", "submit", other.to_str().unwrap()]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("search.toml: is no JSON"), "{}", ran.stderr);
    assert!(ran.stderr.contains("write JSON, or YAML in a file that ends in .yaml"), "{}", ran.stderr);
}

#[test]
fn a_data_set_that_is_here_is_compared_with_the_search() {
    let folder = tempdir().unwrap();
    write_dataset(folder.path());
    let mut file = search();
    file["search"]["dataset"] = json!({"folder": {"path": folder.path()}});
    let ran = submit(folder.path(), &file);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("has 3 classes") && ran.stderr.contains("backbone.encoder_decoder.classes"),
        "{}",
        ran.stderr
    );

    file["search"]["backbone"]["encoder_decoder"]["classes"] = json!(3);
    let ran = submit(folder.path(), &file);
    assert!(ran.stderr.contains("data set: tiny, 2 cases"), "{}", ran.stderr);
    assert_eq!(ran.code, Some(1), "no coordinator: {}", ran.stderr);

    file["search"]["dataset"] = json!({"folder": {"path": "/nowhere/at/all"}});
    let ran = submit(folder.path(), &file);
    assert!(ran.stderr.contains("is not on this machine"), "{}", ran.stderr);

    file["search"]["dataset"] = json!({"folder": {"path": "below/the/root"}});
    let ran = submit(folder.path(), &file);
    assert!(
        ran.stderr.contains("is not in this folder; workers look for it below their data root"),
        "{}",
        ran.stderr
    );
}

#[test]
fn arrays_and_clips_that_are_here_are_compared_with_the_search() {
    let folder = tempdir().unwrap();
    for part in ["train", "val"] {
        write_npy(&folder.path().join(format!("{part}_images.npy")), "(2, 4, 4, 4)", &[0; 128]);
        write_npy(&folder.path().join(format!("{part}_labels.npy")), "(2, 1)", &[0, 2]);
    }
    let mut file = search();
    file["search"]["dataset"] = json!({"arrays": {"path": folder.path()}});
    file["search"]["backbone"] = json!({"volume_resnet": {"classes": 2, "base_width": 4}});
    let expect = |file: &Value, said: &[&str]| {
        let ran = submit(folder.path(), file);
        for word in said {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
        ran.code
    };
    let wrong = expect(&file, &["backbone.volume_resnet.classes: is 2", "3 classes"]);
    assert_eq!(wrong, Some(2));
    file["search"]["backbone"]["volume_resnet"] = json!({"classes": 3, "base_width": 4, "input_channels": 3});
    expect(&file, &["backbone.volume_resnet.input_channels: is 3", "1 channels"]);
    file["search"]["backbone"]["volume_resnet"]["input_channels"] = json!(1);
    assert_eq!(expect(&file, &["4 samples of 4x4x4, 3 classes"]), Some(1), "no coordinator");
    let folds =
        json!({"samples": "train_images", "labels": "train_labels", "folds": "train_labels", "fold": 7});
    file["search"]["dataset"]["arrays"]["fold_array"] = folds;
    expect(&file, &["dataset.arrays.fold_array.fold", "no row of fold 7"]);

    for class in ["ill", "well"] {
        fs::create_dir_all(folder.path().join("clips").join(class)).unwrap();
        fs::write(folder.path().join("clips").join(class).join("a.mp4"), "x").unwrap();
    }
    file["search"]["dataset"] = json!({"video": {"path": folder.path().join("clips"), "class_folders": {}}});
    file["search"]["backbone"] = json!({"video_resnet": {"classes": 3, "depth": 18, "base_width": 4}});
    expect(&file, &["backbone.video_resnet.classes: is 3", "2 classes"]);
    file["search"]["backbone"]["video_resnet"]["classes"] = json!(2);
    expect(&file, &["2 clips, 2 classes"]);
    file["search"]["dataset"]["video"] =
        json!({"path": folder.path(), "file_lists": {"training_list": "a.txt", "validation_list": "b.txt"}});
    expect(&file, &["dataset.video.file_lists.training_list", "a.txt"]);
}

#[test]
fn an_absent_coordinator_is_said_with_the_remedy() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("http://127.0.0.1:{port}");
    let commands: [&[&str]; 4] =
        [&["search", "list"], &["job", "get", "0198f3a2"], &["worker", "list"], &["arch", "get", "4650aa"]];
    for arguments in commands {
        let ran = cakes(&[arguments, &["--server", &server]].concat());
        assert_eq!(ran.code, Some(1), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(&server) && ran.stderr.contains("cakes-coordinator"), "{}", ran.stderr);
    }
    let ran = cakes(&["search", "list", "--server", "ftp://example"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}
