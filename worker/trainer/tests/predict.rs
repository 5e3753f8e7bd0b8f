//! `cakes-trainer predict`: files in, files out.

mod common;
#[path = "../../../data/tests/common/mod.rs"]
mod files;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, EncoderDecoder, MiddleLayer, ResnetDepth, VideoResnet};
use cakes::frame::{Quality, TrainerEvent};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::Kernel;
use cakes::spec::{ArrayKind, DatasetSpec, FolderDataset, ValidationSplit};
use cakes_data::nifti_file::{read_volume, to_labels};
use cakes_export::{Format, Options, Trained, export};
use common::jobs::{CLASSES, Finished, Manner, bars_job, newest, run_job, write_bars, write_npy};
use files::Nifti;
use ndarray::Array3;

/// Stored axes that run to the left, to the top and to the back, with a spacing and an origin.
fn turned(file: Nifti) -> Nifti {
    Nifti {
        pixdim: [-1.0, 0.8, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0],
        qform_code: 1,
        sform_code: 2,
        quatern: [0.1, 0.2, 0.3, 4.0, 5.0, 6.0],
        srow: [[-0.8, 0.0, 0.05, 12.5], [0.02, 0.0, -1.5, -3.0], [0.0, 2.0, 0.0, 40.25]],
        ..file
    }
}

/// Axes that run to the right, to the front and to the top, as the sform says.
fn straight(file: Nifti) -> Nifti {
    Nifti {
        pixdim: [1.0, 0.8, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0],
        srow: [[0.8, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.5, 0.0]],
        ..file
    }
}

/// The same grid in a file with neither sform nor qform.
fn without_affine(file: Nifti) -> Nifti {
    Nifti { sform_code: 0, ..straight(file) }
}

/// How an image and its label are stored.
type Geometry = [fn(Nifti) -> Nifti; 2];

/// A volume in which a bright ball is class 1, a dark one class 2.
fn write_case(root: &Path, name: &str, extent: [i16; 3], at: f32, geometry: Geometry) -> [PathBuf; 2] {
    let [i, j, k] = extent.map(|size| size as usize);
    let near = |centre: [f32; 3], at: [usize; 3]| {
        let square: f32 = (0..3).map(|axis| (at[axis] as f32 - centre[axis]).powi(2)).sum();
        square < 9.0
    };
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for (z, y, x) in (0..k).flat_map(|z| (0..j).flat_map(move |y| (0..i).map(move |x| (z, y, x)))) {
        let class = if near([at, 5.0, 6.0], [x, y, z]) {
            1
        } else if near([at + 3.0, 12.0, 9.0], [x, y, z]) {
            2
        } else {
            0
        };
        let noise = ((x * 31 + y * 17 + z * 7) % 11) as f32;
        values.push([300.0, 700.0, 50.0][class as usize] + noise);
        labels.push(class);
    }
    let [image, label] = ["imagesTr", "labelsTr"].map(|folder| {
        fs::create_dir_all(root.join(folder)).unwrap();
        root.join(folder).join(name)
    });
    geometry[0](Nifti { big_endian: false, ..Nifti::floats(extent, &values) }).write(&image);
    geometry[1](Nifti::labels(extent, &labels)).write(&label);
    [image, label]
}

const TURNED: [(&str, Geometry); 4] = [
    ("a.nii.gz", [turned, turned]),
    ("b.nii.gz", [turned, turned]),
    ("c.nii.gz", [turned, turned]),
    ("d.nii", [turned, turned]),
];

fn data_set(root: &Path, cases: &[(&str, Geometry)]) -> Vec<[PathBuf; 2]> {
    let files: Vec<[PathBuf; 2]> = cases
        .iter()
        .enumerate()
        .map(|(case, (name, geometry))| {
            write_case(root, name, [13, 18 + case as i16, 16], 4.0 + case as f32, *geometry)
        })
        .collect();
    let entries: Vec<String> = cases
        .iter()
        .map(|(name, _)| format!(r#"{{"image": "imagesTr/{name}", "label": "labelsTr/{name}"}}"#))
        .collect();
    let json = format!(
        r#"{{"name": "balls", "modality": {{"0": "CT"}}, "training": [{}],
            "labels": {{"0": "background", "1": "bright", "2": "dark"}}}}"#,
        entries.join(", ")
    );
    fs::write(root.join("dataset.json"), json).unwrap();
    files
}

fn job(validation: &[&str]) -> TrainerJob {
    let config = EncoderDecoder { classes: 3, base_width: 4, levels: 2, ..EncoderDecoder::default() };
    let kernels = [Kernel::K333, Kernel::K133, Kernel::K311];
    let architecture = Architecture::even(Backbone::EncoderDecoder(config), &kernels).unwrap();
    TrainerJob {
        dataset: DatasetSpec::Folder(FolderDataset {
            path: "balls".into(),
            validation: ValidationSplit::Cases(validation.iter().map(|name| name.to_string()).collect()),
            pad_small_volumes: true,
        }),
        patch: [12, 8, 8],
        ..bars_job(Task::Retrain { architecture }, ArrayKind::Volume, 30)
    }
}

fn predict(arguments: &[&Path], more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cakes-trainer"));
    command.arg("predict").args(arguments).args(["--threads", "1"]).args(more).output().unwrap()
}

/// Header without what describes numbers instead of geometry.
fn geometry(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let mut head = vec![0; 348];
    if path.extension().is_some_and(|ending| ending == "gz") {
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_exact(&mut head).unwrap();
    } else {
        head.copy_from_slice(&bytes[..348]);
    }
    [&head[..68], &head[76..108], &head[123..124], &head[252..328]].concat()
}

fn labels(path: &Path) -> Array3<u8> {
    to_labels(path, &read_volume(path).unwrap(), 3).unwrap()
}

fn dice(left: &Array3<u8>, right: &Array3<u8>, class: u8) -> f64 {
    let count = |of: &Array3<u8>| of.iter().filter(|value| **value == class).count();
    let both = left.iter().zip(right).filter(|(left, right)| **left == class && **right == class).count();
    let either = count(left) + count(right);
    if either == 0 { 1.0 } else { 2.0 * both as f64 / either as f64 }
}

fn last_quality(finished: &Finished) -> f64 {
    let found = finished.events.iter().rev().find_map(|event| match event {
        TrainerEvent::Validation { quality: Quality::Segmentation(found), .. } => Some(found.mean_dice),
        _ => None,
    });
    found.expect("a validation")
}

#[test]
fn segmentations_lie_where_their_volumes_lie_and_have_the_dice_of_the_validation() {
    let root = tempfile::tempdir().unwrap();
    let files = data_set(&root.path().join("balls"), &TURNED);
    let run = root.path().join("run");
    let manner = Manner { loader_threads: 1, ..Manner::default() };
    let finished = run_job(&run, root.path(), &job(&["c", "d"]), manner).unwrap();
    let (checkpoint, out) = (newest(&run), root.path().join("predictions"));
    let validation = &files[2..];
    let [first, second] = [&validation[0][0], &validation[1][0]];
    let output = predict(&[&checkpoint, first, second, Path::new("--out"), &out], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut sum = 0.0;
    for [image, label] in validation {
        let prediction = out.join(image.file_name().unwrap());
        assert_eq!(geometry(&prediction), geometry(image), "{}", prediction.display());
        let (truth, found) = (labels(label), labels(&prediction));
        assert_eq!(read_volume(&prediction).unwrap().stored_type, "uint8");
        assert_eq!(read_volume(&prediction).unwrap().affine, read_volume(image).unwrap().affine);
        sum += (dice(&found, &truth, 1) + dice(&found, &truth, 2)) / 2.0;
    }
    let quality = last_quality(&finished);
    assert!(quality > 0.3, "the balls are found: {quality}");
    assert!((sum / 2.0 - quality).abs() < 1e-12, "{} instead of {quality}", sum / 2.0);

    let again = predict(&[&checkpoint, first, Path::new("--out"), &out], &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"));
    let itself = predict(&[&checkpoint, first, Path::new("--out"), first.parent().unwrap()], &["--force"]);
    assert_eq!(itself.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&itself.stderr).contains("its own prediction"));
}

/// A volume has no frames: what it would be cut and normalised like is no clip.
#[test]
fn a_network_of_clips_takes_arrays_and_refuses_volumes() {
    let root = tempfile::tempdir().unwrap();
    write_bars(&root.path().join("bars"), None);
    let config = VideoResnet {
        input_channels: 1,
        classes: CLASSES as u32,
        depth: ResnetDepth::R18,
        base_width: 2,
        dropout_percent: 0,
        middle: MiddleLayer::Searchable,
    };
    let architecture = Architecture::even(Backbone::VideoResnet(config), &[Kernel::K333]).unwrap();
    let job = bars_job(Task::Retrain { architecture }, ArrayKind::Video, 1);
    let run = root.path().join("run");
    let manner = Manner { loader_threads: 1, ..Manner::default() };
    run_job(&run, root.path(), &job, manner).unwrap();
    let [volume, _] = write_case(root.path(), "a.nii.gz", [13, 18, 16], 4.0, [straight, straight]);
    let output = predict(&[&newest(&run), &volume], &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in ["a.nii.gz: is a volume", "trained on clips", "[N, C, T, H, W]"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(output.stdout.is_empty());
    let clip = root.path().join("clip.npy");
    write_npy(&clip, "<f4", &[1, 1, 4, 16, 16], &[0; 4 * 16 * 16 * 4]);
    let output = predict(&[&newest(&run), &clip], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_bundle_evaluates_to_the_dice_of_the_validation() {
    let python = || Command::new(std::env::var_os("CAKES_PYTHON").unwrap_or("python3".into()));
    let modules = "import fire, ignite, monai, nibabel, torch";
    if !python().args(["-c", modules]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("left out: name a Python with monai[fire,ignite,nibabel] in CAKES_PYTHON");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let no_affine: (&str, Geometry) = ("e.nii.gz", [without_affine, straight]);
    data_set(&root.path().join("balls"), &[&TURNED[..], &[no_affine]].concat());
    let run = root.path().join("run");
    let manner = Manner { loader_threads: 1, ..Manner::default() };
    let finished = run_job(&run, root.path(), &job(&["c", "d", "e"]), manner).unwrap();
    let trained = Trained::from_checkpoint(&newest(&run), None).unwrap();
    let bundle = root.path().join("bundle");
    export(&trained, Format::MonaiBundle, Options::default(), &bundle).unwrap();
    let monai = |config: &str, more: [&Path; 2]| {
        let mut command = python();
        command.current_dir(&bundle).args(["-m", "monai.bundle", "run", "--config_file", config]);
        command.arg("--dataset_dir").arg(more[0]).arg("--output_dir").arg(more[1]).output().unwrap()
    };
    let out = root.path().join("predictions");
    let output = monai("configs/evaluate.json", [&root.path().join("balls"), &out]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let found = text.lines().find_map(|line| line.strip_prefix("mean Dice "));
    let found: f64 = found.and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("a line of Dice");
    let quality = last_quality(&finished);
    // A voxel whose two classes are all but equal may become either.
    assert!((found - quality).abs() < 2e-3, "{found} instead of {quality}");

    let output = monai("configs/inference.json", [&root.path().join("balls/imagesTr"), &out]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["a", "b", "c", "e"] {
        let [prediction, image] = [
            out.join(format!("{name}_seg.nii.gz")),
            root.path().join(format!("balls/imagesTr/{name}.nii.gz")),
        ]
        .map(|path| read_volume(&path).unwrap());
        assert_eq!(prediction.data.dim(), image.data.dim());
        assert_eq!(prediction.stored_orientation, image.stored_orientation);
        for (found, wanted) in prediction.affine.iter().flatten().zip(image.affine.iter().flatten()) {
            assert!((found - wanted).abs() < 1e-4, "{found} {wanted}");
        }
    }
}
