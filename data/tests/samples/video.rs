//! Files of video, decoded by FFmpeg. It must be installed: `cargo xtask setup`
//! sees to that.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cakes_data::samples::ffmpeg::{Decoded, Ffmpeg};
use cakes_data::samples::{OpenOptions, SampleSource, Samples, VideoLayout, VideoSource};
use tempfile::TempDir;

use crate::support::{open, options, real_data, refusal};

/// A file with a moving pattern.
fn film(path: &Path, frames: usize, size: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let source = format!("testsrc=size={size}:rate=25");
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", &source])
        .args(["-frames:v", &frames.to_string(), "-pix_fmt", "yuv420p"])
        .arg(path)
        .status()
        .expect("FFmpeg is installed");
    assert!(status.success());
}

fn decode(path: &Path, channels: usize) -> Result<(Decoded, [usize; 2]), String> {
    let mut size = [0; 2];
    let decoded = Ffmpeg::find().unwrap().decode(path, channels, &mut |frame| {
        assert_eq!(frame.values.len(), frame.height * frame.width * channels);
        size = [frame.height, frame.width];
        Ok(())
    });
    decoded.map(|decoded| (decoded, size)).map_err(|error| error.to_string())
}

fn class_folders(root: &Path, fold: u32, folds: u32) -> SampleSource {
    let layout = VideoLayout::ClassFolders { fold, folds, seed: 1 };
    SampleSource::Video(VideoSource { path: root.to_owned(), layout, tolerate: 0 })
}

#[test]
fn every_frame_comes_once_at_its_size() {
    let root = TempDir::new().unwrap();
    // A name that looks like an option or a protocol is a file all the same.
    for (name, frames) in [("a.mp4", 23), ("-b:c.avi", 7), ("d e.mpeg", 12), ("f.gif", 5)] {
        let path = root.path().join(name);
        let plain = root.path().join(format!("plain.{}", name.rsplit('.').next().unwrap()));
        film(&plain, frames, "48x32");
        fs::rename(&plain, &path).unwrap();
        for channels in [1, 3] {
            let (decoded, size) = decode(&path, channels).unwrap();
            assert_eq!((decoded.frames, size), (frames, [32, 48]), "{name}");
            assert_eq!(decoded.complaint, None, "{name}");
        }
    }
}

/// Frames at uneven times come once each; at an even rate FFmpeg would repeat some.
#[test]
fn a_file_with_uneven_times_gives_its_frames_and_no_copies() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("uneven.mkv");
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc=size=32x32:rate=10"])
        .args(["-frames:v", "8", "-vf", "setpts=N*N/10/TB", "-vsync", "passthrough"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(decode(&path, 1).unwrap().0.frames, 8);
}

#[test]
fn a_file_that_is_no_video_is_named_with_what_ffmpeg_says() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("broken.mp4");
    fs::write(&path, "this is no video").unwrap();
    let error = decode(&path, 3).unwrap_err();
    assert!(error.contains("broken.mp4") && error.contains("Invalid data"), "{error}");
    film(&path, 20, "64x64");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = decode(&path, 3).unwrap_err();
    assert!(error.contains("broken.mp4") && error.contains("cannot be decoded"), "{error}");
    let error = decode(&root.path().join("nowhere.mp4"), 3).unwrap_err();
    assert!(error.contains("nowhere.mp4: cannot be read"), "{error}");
}

/// A program in the place of FFmpeg.
fn program(root: &Path, script: &str) -> Ffmpeg {
    let path = root.join("program");
    fs::write(&path, format!("#!/bin/sh\ncase \"$*\" in *'-h long'*) exit 0;; esac\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    // Another test's thread may hold the file open for a moment while it forks.
    loop {
        match Ffmpeg::at(path.clone()) {
            Err(error) if error.to_string().contains("Text file busy") => continue,
            found => return found.unwrap(),
        }
    }
}

#[test]
fn a_program_that_hangs_babbles_or_is_missing_is_ended_and_named() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("a.mp4");
    fs::write(&file, "x").unwrap();
    let says = |script: &str, limit: Duration| {
        let ffmpeg = program(root.path(), script).with_time_limit(limit);
        ffmpeg.decode(&file, 1, &mut |_| Ok(())).unwrap_err().to_string()
    };
    let long = Duration::from_secs(60);
    let hangs = says("exec sleep 600", Duration::from_millis(100));
    assert!(hangs.contains("was not decoded within 0.1 s"), "{hangs}");
    assert!(says("echo this is no image", long).contains("did not give a PNM image"));
    assert!(says("printf 'P5\\n4 4\\n255\\nab'", long).contains("in the middle of frame 0"));
    assert!(says("printf 'P5\\n99999999 4\\n255\\nab'", long).contains("did not give a PNM image"));
    assert!(says("exit 0", long).contains("holds no frame of video"));
    let fails = says("printf 'P5\\n1 1\\n255\\na'; echo first >&2; echo 'last words' >&2; exit 3", long);
    assert!(fails.contains("last words") && fails.contains('3') && !fails.contains("first"), "{fails}");
    let endless = says("while :; do printf 'P5\\n1 1\\n255\\nab'; done", long);
    assert!(endless.contains("did not give a PNM image"), "{endless}");
    let missing = Ffmpeg::at(PathBuf::from("/nowhere/ffmpeg")).unwrap_err().to_string();
    assert!(missing.contains("apt-get install") && missing.contains("CAKES_FFMPEG"), "{missing}");
}

#[test]
fn folders_of_classes_are_decoded_once_and_keep_sources_together() {
    let root = TempDir::new().unwrap();
    let set = root.path().join("set");
    for (class, file) in [
        ("walk", "ann_1.mp4"),
        ("walk", "ann_2.mp4"),
        ("walk", "bob_1.mp4"),
        ("run", "ann_3.mp4"),
        ("run", "cid_1.mp4"),
        ("run", "cid_2.mp4"),
    ] {
        film(&set.join(class).join(file), 6, "64x48");
    }
    fs::write(set.join("walk/.hidden"), "x").unwrap();
    let small = OpenOptions { short_side: Some(24), ..options(root.path()) };
    let mut validated = BTreeMap::new();
    for fold in 0..2 {
        let samples = Samples::open(&class_folders(&set, fold, 2), root.path(), &small, &|_, _| ()).unwrap();
        assert_eq!(samples.classes, ["run", "walk"]);
        for id in samples.validation() {
            validated.insert(samples.name_of(*id).to_owned(), fold);
            assert_eq!(samples.load(*id).unwrap().to_array().unwrap().dim(), (3, 6, 24, 32));
        }
    }
    assert_eq!(validated.len(), 6);
    assert_eq!(validated["walk/ann_1.mp4"], validated["walk/ann_2.mp4"]);
    assert_eq!(validated["walk/ann_1.mp4"], validated["run/ann_3.mp4"]);
    assert_eq!(validated["run/cid_1.mp4"], validated["run/cid_2.mp4"]);
    assert_eq!(fs::read_dir(root.path().join("cache")).unwrap().count(), 6);
}

#[test]
fn files_in_lists_are_read_and_broken_ones_tolerated_as_asked() {
    let root = TempDir::new().unwrap();
    film(&root.path().join("a.mp4"), 5, "32x32");
    film(&root.path().join("b.mp4"), 5, "32x32");
    fs::write(root.path().join("c.mp4"), "no video").unwrap();
    fs::write(root.path().join("train.txt"), "a.mp4 0\nc.mp4 1\ngone.mp4 1\n").unwrap();
    fs::write(root.path().join("val.txt"), "b.mp4 1\n").unwrap();
    let source = |tolerate: usize| {
        let layout =
            VideoLayout::FileLists { training_list: "train.txt".into(), validation_list: "val.txt".into() };
        SampleSource::Video(VideoSource { path: root.path().to_owned(), layout, tolerate })
    };
    let error = refusal(&source(1), root.path());
    assert!(
        error.contains("2 sample(s)") && error.contains("c.mp4: ") && error.contains("gone.mp4: "),
        "{error}"
    );
    let samples = open(&source(2), root.path()).unwrap();
    assert_eq!((samples.training().len(), samples.skipped().len()), (1, 2));
    let tight = OpenOptions {
        cache: cakes_data::samples::CacheOptions { limit_bytes: 3000, dir: Some(root.path().join("tight")) },
        ..options(root.path())
    };
    let error = Samples::open(&source(2), root.path(), &tight, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("raise the limit of the cache"), "{error}");
}

/// The counts of the manifest, which another decoder found.
#[test]
fn lung_videos_have_the_frames_that_their_manifest_counts() {
    let Some(dir) = real_data("lung_ultrasound") else { return };
    let manifest = fs::read_to_string(dir.join("manifest.tsv")).unwrap();
    let counts: BTreeMap<&str, usize> = manifest
        .lines()
        .skip(1)
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .map(|fields| (fields[1], fields[3].parse().unwrap()))
        .collect();
    let cache = TempDir::new().unwrap();
    let small = OpenOptions { channels: Some(1), short_side: Some(64), ..options(cache.path()) };
    let source = class_folders(&dir.join("videos"), 0, 3);
    let samples = Samples::open(&source, cache.path(), &small, &|_, _| ()).unwrap();
    assert_eq!(samples.classes, ["covid", "regular"]);
    let ids: Vec<_> = samples.training().iter().chain(samples.validation()).collect();
    assert_eq!(ids.len(), 36);
    let wrong: Vec<String> = ids
        .iter()
        .map(|id| (samples.name_of(**id), samples.load(**id).unwrap().depth()))
        .filter(|(name, frames)| counts[name] != *frames)
        .map(|(name, frames)| format!("{name}: {frames}, not {}", counts[name]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Patient 1's six clips are on one side, as the other sources' are.
    let of_patient = |ids: &[cakes_data::samples::SampleId], patient: &str| {
        ids.iter().filter(|id| samples.name_of(**id).contains(patient)).count()
    };
    for patient in ["pat1Image", "pat2Image", "pat3Image", "pat4Image", "volpecelli", "Reg_Image"] {
        let (training, validation) =
            (of_patient(samples.training(), patient), of_patient(samples.validation(), patient));
        assert!(training == 0 || validation == 0, "{patient}: {training} and {validation}");
        assert!(training + validation > 3);
    }
}
