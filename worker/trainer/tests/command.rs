//! The program itself: what a daemon and a person see when something is wrong.

#[path = "../../../data/tests/common/mod.rs"]
mod files;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, EncoderDecoder};
use cakes::frame::{FailureClass, TrainerCommand, TrainerEvent, decode, encode};
use cakes::job::Task;
use cakes::kernel::Kernel;
use files::{Nifti, folder};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A job on a folder of cases of 8x8x8 voxels.
fn job(data: &Path) -> Value {
    json!({
        "task": {"supernet": {
            "backbone": {"encoder_decoder": {"input_channels": 1, "classes": 2, "base_width": 2, "levels": 2}},
            "mode": "cost_priority", "kernels": ["3x3x3", "1x1x3"], "l1_strength": 0.1,
        }},
        "dataset": {"folder": {"path": data, "validation": {"cases": ["case_00"]}, "pad_small_volumes": false}},
        "patch": [8, 8, 8],
        "training": {
            "epochs": 2, "steps_per_epoch": 2, "batch_size": 1,
            "optimizer": {"sgd": {"learning_rate": 0.01, "momentum": 0.9, "nesterov": true, "weight_decay": 0.0}},
            "warmup_steps": 0, "schedule": {"constant": {}}, "gradient_clip_norm": 1.0,
            "validate_every_epochs": 1, "checkpoint_every_epochs": 1,
            "augmentation": {"foreground_probability": 0.5, "flip_axes": [true, true, true],
                "affine_probability": 0.5, "rotation_degrees_max": 10.0, "scale_change_max": 0.1,
                "noise_max": 0.1, "intensity_change_max": 0.1},
        },
        "seed": 1,
    })
}

fn trainer(subcommand: &str, root: &Path, job: &Value) -> Command {
    let spec = root.join("job.json");
    fs::write(&spec, job.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cakes-trainer"));
    command.arg(subcommand).arg(spec).args(["--threads", "1", "--out"]).arg(root.join("out"));
    command.arg("--cache-dir").arg(root.join("cache"));
    command
}

/// Runs an attempt as a daemon does; `commands` are sent to it at once.
fn attempt(root: &Path, job: &Value, commands: &[TrainerCommand]) -> (Option<i32>, Vec<TrainerEvent>) {
    let mut child = trainer("attempt", root, job)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Kept open: its end would end the trainer.
    let mut input = child.stdin.take().unwrap();
    for command in commands {
        input.write_all(&encode(command).unwrap()).unwrap();
    }
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    drop(input);
    let (mut buffer, mut events) = (stdout, Vec::new());
    while let Some(event) = decode::<TrainerEvent>(&mut buffer).unwrap() {
        events.push(event);
    }
    assert!(buffer.is_empty(), "half a frame is left");
    (status.code(), events)
}

/// The message of a job that is refused as the user's mistake.
fn user_error(root: &Path, job: &Value) -> String {
    let (code, events) = attempt(root, job, &[]);
    let Some(TrainerEvent::Failed { class: FailureClass::User, message }) = events.last() else {
        panic!("expected a user error, got {events:?}");
    };
    assert_eq!(code, Some(2), "{message}");
    message.clone()
}

/// A root with a data folder of three cases, and its job.
fn sound() -> (TempDir, Value, Vec<(std::path::PathBuf, std::path::PathBuf)>) {
    let root = TempDir::new().unwrap();
    let files = folder(&root.path().join("data"), 3);
    let job = job(&root.path().join("data"));
    (root, job, files)
}

#[test]
fn a_sound_job_runs_to_its_end_in_frames() {
    let (root, job, _) = sound();
    let (code, events) = attempt(root.path(), &job, &[]);
    assert_eq!(code, Some(0), "{events:?}");
    assert!(matches!(events.last(), Some(TrainerEvent::Completed(_))));
    assert!(events.iter().any(|event| matches!(event, TrainerEvent::Ready { .. })));
}

#[test]
fn a_stop_command_ends_it_behind_a_checkpoint() {
    let (root, job, _) = sound();
    let (code, events) = attempt(root.path(), &job, &[TrainerCommand::Stop]);
    assert_eq!(code, Some(0));
    let Some(TrainerEvent::Checkpoint { step: 1, directory, .. }) = events.last() else {
        panic!("expected a checkpoint at the end, got {events:?}");
    };
    assert!(Path::new(directory).join("manifest.json").is_file());
}

#[test]
fn the_end_of_its_input_ends_it() {
    let (root, mut job, _) = sound();
    job["training"]["epochs"] = 100_000.into();
    let mut child = trainer("attempt", root.path(), &job)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn mistakes_in_the_job_are_named_by_their_fields() {
    let (root, sound, _) = sound();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut job = sound.clone();
        change(&mut job);
        user_error(root.path(), &job)
    };
    let error = with(&|job| job["patch"] = json!([8, 7, 8]));
    assert!(error.contains("patch") && error.contains("use 6 or 8"), "{error}");
    let error = with(&|job| job["training"]["batch_size"] = json!(0));
    assert!(error.contains("training.batch_size"), "{error}");
    let error = with(&|job| job["training"]["epochz"] = json!(0));
    assert!(error.contains("epochz"), "{error}");
    let error = with(&|job| job["training"]["augmentation"]["flip_swaps"] = json!([[1, 2]]));
    assert!(error.contains("flip_swaps: 2 is no class; there are 0 to 1"), "{error}");
    let error = with(&|job| job["seed"] = json!("one"));
    assert!(error.contains("seed"), "{error}");
    let classes =
        |job: &mut Value| job["task"]["supernet"]["backbone"]["encoder_decoder"]["classes"] = json!(3);
    let error = with(&classes);
    assert!(error.contains("backbone.classes is 3") && error.contains("thing"), "{error}");
    let error = with(&|job| job["dataset"]["folder"]["validation"] = json!({"cases": ["case_99"]}));
    assert!(error.contains("case_99"), "{error}");
    let error = with(&|job| job["dataset"]["folder"]["validation"] = json!("splits_file"));
    assert!(error.contains("splits.json"), "{error}");
}

/// Both are JSON with a data set and a patch.
#[test]
fn a_search_file_in_the_place_of_a_job_is_said_to_be_one() {
    let root = TempDir::new().unwrap();
    let search = json!({
        "name": "p", "dataset": {"phantoms": {}}, "patch": {"depth": 16, "height": 16, "width": 16},
        "backbone": {"encoder_decoder": {"classes": 4}},
    });
    for file in [json!({"search": search}), search] {
        let output = trainer("run", root.path(), &file).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        for words in ["job.json: is a search file", "`cakes search submit`", "`cakes job reproduce ID`"] {
            assert!(message.contains(words), "{message}");
        }
    }
}

#[test]
fn a_data_set_that_is_missing_empty_or_broken_is_named_with_the_remedy() {
    let (root, sound, files) = sound();
    let elsewhere = |path: &Path| {
        let mut job = sound.clone();
        job["dataset"]["folder"]["path"] = json!(path);
        user_error(root.path(), &job)
    };
    assert!(elsewhere(&root.path().join("nowhere")).contains("dataset.json"));
    fs::create_dir(root.path().join("empty")).unwrap();
    assert!(elsewhere(&root.path().join("empty")).contains("is empty"));

    let (image, label) = &files[1];
    let (sound_image, sound_label) = (fs::read(image).unwrap(), fs::read(label).unwrap());
    let broken = |wanted: &[&str]| {
        let error = user_error(root.path(), &sound);
        assert!(wanted.iter().all(|words| error.contains(words)), "{error}");
        fs::write(image, &sound_image).unwrap();
        fs::write(label, &sound_label).unwrap();
    };
    fs::write(image, &sound_image[..sound_image.len() / 2]).unwrap();
    broken(&["imagesTr/case_01.nii.gz", "copy it again"]);
    Nifti::floats([8, 8, 8], &[f32::NAN; 512]).write(image);
    broken(&["imagesTr/case_01.nii.gz", "NaN"]);
    Nifti::labels([8, 8, 8], &[3; 512]).write(label);
    broken(&["labelsTr/case_01.nii.gz", "label 3", "0 to 1"]);
    Nifti::labels([8, 8, 4], &[0; 256]).write(label);
    broken(&["labelsTr/case_01.nii.gz", "imagesTr/case_01.nii.gz", "extent"]);
    Nifti::floats([8, 4, 8], &[0.5; 256]).write(image);
    Nifti::labels([8, 4, 8], &[1; 256]).write(label);
    broken(&["case_01", "4 voxels along H", "pad_small_volumes"]);
    fs::remove_file(label).unwrap();
    broken(&["labelsTr/case_01.nii.gz", "does not exist"]);
}

/// A file size limit stands in for a full disk: the first checkpoint fits, the
/// same write fails in the second run.
#[test]
fn a_full_disk_is_the_machines_fault_and_spares_older_checkpoints() {
    let (root, job, _) = sound();
    let (_, events) = attempt(root.path(), &job, &[TrainerCommand::Stop]);
    let Some(TrainerEvent::Checkpoint { directory, .. }) = events.last() else { panic!("no checkpoint") };
    let before = fs::read(Path::new(directory).join("weights.safetensors")).unwrap();
    let command = trainer("run", root.path(), &job);
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    // Claimed by `attempt`, which leaves no job.json; `run` wants one.
    fs::copy(root.path().join("job.json"), root.path().join("out/job.json")).unwrap();
    let script = format!(
        "trap '' XFSZ; ulimit -f 4; exec {} {} --resume {directory}",
        env!("CARGO_BIN_EXE_cakes-trainer"),
        arguments.join(" ")
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let folder = root.path().join("out/checkpoints").display().to_string();
    for part in ["cannot write a checkpoint", "ulimit -f", &folder] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(fs::read(Path::new(directory).join("weights.safetensors")).unwrap(), before);
    let left: Vec<_> = fs::read_dir(root.path().join("out/checkpoints")).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing half-written is left");
}

#[test]
fn a_person_gets_lines_and_files_and_is_told_how_to_go_on() {
    let (root, job, _) = sound();
    let output = trainer("run", root.path(), &job).output().unwrap();
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{lines}");
    assert!(lines.contains("mean Dice") && lines.contains("done:"), "{lines}");
    for name in ["summary.json", "scores.json", "latency.json", "job.json"] {
        assert!(root.path().join("out").join(name).is_file(), "{name}");
    }
    let again = trainer("run", root.path(), &job).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--resume latest"));
    let resumed = trainer("run", root.path(), &job).args(["--resume", "latest"]).output().unwrap();
    assert_eq!(resumed.status.code(), Some(0), "{}", String::from_utf8_lossy(&resumed.stderr));
    let help = Command::new(env!("CARGO_BIN_EXE_cakes-trainer")).args(["run", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("Examples:"));
}

/// A supernet of a narrower network, none, and one that nobody asked for.
#[test]
fn a_supernet_that_is_not_the_networks_is_the_users_mistake() {
    let (root, search, _) = sound();
    let (_, supernet) = attempt(root.path(), &search, &[TrainerCommand::Stop]);
    let Some(TrainerEvent::Checkpoint { directory, .. }) = supernet.last() else { panic!("no checkpoint") };
    let directory = directory.as_str();
    let backbone = |base_width| {
        let config =
            EncoderDecoder { input_channels: 1, classes: 2, base_width, levels: 2, ..Default::default() };
        Backbone::EncoderDecoder(config)
    };
    let retraining = |base_width, initial_weights: &str| {
        let architecture = Architecture::even(backbone(base_width), &[Kernel::K333]).unwrap();
        let mut job = search.clone();
        job["task"] = json!(Task::Retrain { architecture });
        job["initial_weights"] = json!(initial_weights);
        job
    };
    let refused = |job: &Value, supernet: &[&str]| {
        let folder = TempDir::new().unwrap();
        let output = trainer("run", folder.path(), job).args(supernet).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(!folder.path().join("out/checkpoints").exists(), "something was trained");
        message
    };
    let message = refused(&retraining(4, "supernet"), &["--supernet", directory]);
    assert!(message.contains("backbone") && message.contains(directory), "{message}");
    let message = refused(&retraining(2, "supernet"), &[]);
    assert!(message.contains("name its folder with --supernet"), "{message}");
    let message = refused(&retraining(2, "random"), &["--supernet", directory]);
    assert!(message.contains("starts from other weights"), "{message}");
}

/// How the layers of a finished run were computed, and its weights.
fn methods_and_weights(out: &Path) -> (Value, Vec<u8>) {
    let checkpoint = out.join("checkpoints/step-000000004");
    let manifest: Value =
        serde_json::from_slice(&fs::read(checkpoint.join("manifest.json")).unwrap()).unwrap();
    (manifest["methods"].clone(), fs::read(checkpoint.join("weights.safetensors")).unwrap())
}

/// Runs the job in a folder of its own, without anything that was measured before.
fn run_by(root: &Path, name: &str, job: &Value, methods: Option<&Path>) -> (Value, Vec<u8>) {
    let folder = root.join(name);
    fs::create_dir(&folder).unwrap();
    let mut command = trainer("run", &folder, job);
    if let Some(file) = methods {
        command.arg("--methods").arg(file);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    methods_and_weights(&folder.join("out"))
}

/// The methods of one run are given to another one: all of them, also those that no
/// machine would choose, and the bits are the same.
#[test]
fn a_run_with_the_methods_of_another_one_ends_with_the_same_bits() {
    let (root, job, _) = sound();
    let (measured, _) = run_by(root.path(), "measured", &job, None);
    let list = |method: &dyn Fn(&str, &str) -> &'static str| {
        let listed = measured.as_object().unwrap().iter();
        let listed = listed.map(|(what, found)| (what.clone(), json!(method(what, found.as_str().unwrap()))));
        listed.collect::<serde_json::Map<_, _>>()
    };
    let all = [
        ("rows", list(&|_, _| "rows")),
        ("blocked", list(&|_, _| "blocked")),
        ("other", list(&|_, found| if found == "rows" { "blocked" } else { "rows" })),
    ];
    for (name, methods) in all {
        assert!(methods.len() > 6, "{methods:?}");
        let file = root.path().join(format!("{name}.json"));
        fs::write(&file, json!({"methods": methods}).to_string()).unwrap();
        let first = run_by(root.path(), name, &job, Some(&file));
        assert_eq!(first.0, json!(methods), "{name}");
        let manifest = root.path().join(name).join("out/checkpoints/step-000000004/manifest.json");
        let again = run_by(root.path(), &format!("{name} again"), &job, Some(&manifest));
        assert!(again == first, "{name}");
    }
}

#[test]
fn a_file_without_methods_is_named_with_the_remedy() {
    let (root, job, _) = sound();
    let other = root.path().join("other.json");
    let refused = |file: &Path| {
        let output = trainer("run", root.path(), &job).arg("--methods").arg(file).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(&format!("--methods {}", file.display())), "{message}");
        assert!(message.contains("manifest.json of a checkpoint"), "{message}");
        message
    };
    assert!(refused(&root.path().join("none.json")).contains("No such file"));
    for (text, problem) in [
        ("{", "EOF"),
        (r#"{"format": 1}"#, "missing field `methods`"),
        (r#"{"methods": {"cpu": "slowly"}}"#, "unknown variant `slowly`"),
    ] {
        fs::write(&other, text).unwrap();
        let message = refused(&other);
        assert!(message.contains(problem), "{message}");
    }
}
