//! Folders of frames with lists as TSN's.

use std::fs;
use std::path::Path;

use cakes_data::samples::{
    CacheOptions, ClipPolicy, Normalisation, OpenOptions, SamplePolicy, SampleSource, Samples, VideoLayout,
    VideoSource,
};
use image::{ImageBuffer, Luma, Rgb};
use tempfile::TempDir;

use crate::support::{open, options, refusal};

/// A frame that says its clip and number by its grey value.
fn frame(path: &Path, value: u8, [height, width]: [u32; 2]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    ImageBuffer::from_pixel(width, height, Rgb([value, value, value])).save(path).unwrap();
}

fn clip(root: &Path, name: &str, frames: u8, first: u8) {
    for number in 1..=frames {
        frame(&root.join(name).join(format!("{number:05}.png")), first + number, [6, 8]);
    }
}

/// Three clips to train on and one to validate on; `short` has fewer frames than
/// segments are asked for.
fn set(root: &Path) -> VideoSource {
    clip(root, "a/one", 7, 10);
    clip(root, "two", 5, 40);
    clip(root, "short", 3, 80);
    clip(root, "last", 6, 120);
    fs::write(root.join("train.txt"), "a/one 7 0\ntwo 5 2\nshort 3 1\n").unwrap();
    fs::write(root.join("val.txt"), "last 6 1\n").unwrap();
    VideoSource {
        path: root.to_owned(),
        layout: VideoLayout::FrameLists {
            training_list: "train.txt".into(),
            validation_list: "val.txt".into(),
            pattern: "{:05}.png".into(),
        },
        tolerate: 0,
    }
}

fn source(source: &VideoSource) -> SampleSource {
    SampleSource::Video(source.clone())
}

fn policy(frames: usize) -> SamplePolicy {
    SamplePolicy::Clip(ClipPolicy {
        extent: [frames, 6, 6],
        crop_scales: vec![1.0],
        mirrors: false,
        flip_swaps: Vec::new(),
        noise_max: 0.0,
        intensity_change_max: 0.0,
        normalisation: Normalisation::Fixed { mean: vec![0.0; 3], deviation: vec![1.0; 3] },
    })
}

/// Values of the frames that evaluation takes.
fn evaluated(samples: &Samples, name: &str, frames: usize) -> Vec<f32> {
    let mut ids = samples.training().iter().chain(samples.validation());
    let id = ids.find(|id| samples.name_of(**id) == name).unwrap();
    let input = policy(frames).evaluate(&samples.load(*id).unwrap()).unwrap();
    assert_eq!(input.image.dim(), (3, frames, 6, 6));
    (0..frames).map(|frame| input.image[[2, frame, 3, 3]]).collect()
}

#[test]
fn listed_clips_are_read_kept_or_not() {
    let root = TempDir::new().unwrap();
    let set = set(root.path());
    let tight = CacheOptions { limit_bytes: 500, ..options(root.path()).cache };
    let kept = open(&source(&set), root.path()).unwrap();
    let direct_options = OpenOptions { cache: tight, ..options(root.path()) };
    fs::remove_dir_all(root.path().join("cache")).unwrap();
    let direct = Samples::open(&source(&set), root.path(), &direct_options, &|_, _| ()).unwrap();
    let entries = fs::read_dir(root.path().join("cache")).unwrap().count();
    assert_eq!(entries, 0, "clips that do not fit together are not kept");
    let kept_again = open(&source(&set), root.path()).unwrap();
    for samples in [direct, kept_again] {
        assert_eq!((samples.classes.len(), samples.channels), (3, 3));
        assert_eq!((samples.training().len(), samples.validation().len()), (3, 1));
        assert_eq!(samples.label(samples.validation()[0]), 1);
        // Middles of four equal parts of seven frames: 0.875, 2.625, 4.375, 6.125.
        assert_eq!(evaluated(&samples, "a/one", 4), [11.0, 13.0, 15.0, 17.0]);
        // Three frames for eight segments: spread, not the first one eight times.
        assert_eq!(evaluated(&samples, "short", 8), [81.0, 81.0, 81.0, 82.0, 82.0, 83.0, 83.0, 83.0]);
    }
    drop(kept);
}

#[test]
fn grey_frames_have_one_channel_and_the_short_side_asked_for() {
    let root = TempDir::new().unwrap();
    let set = set(root.path());
    let grey = OpenOptions { channels: Some(1), short_side: Some(3), ..options(root.path()) };
    let samples = Samples::open(&source(&set), root.path(), &grey, &|_, _| ()).unwrap();
    assert_eq!(samples.channels, 1);
    let sample = samples.load(samples.training()[0]).unwrap();
    assert_eq!(sample.to_array().unwrap().dim(), (1, 7, 3, 4));
    let Normalisation::Fixed { mean, .. } = samples.normalisation().unwrap() else { panic!() };
    assert!(mean[0] > 11.0 && mean[0] < 83.0, "{mean:?}");
}

#[test]
fn jpeg_frames_and_frames_of_one_grey_channel_are_read() {
    let root = TempDir::new().unwrap();
    let mut set = set(root.path());
    for name in ["a/one", "two", "short", "last"] {
        for number in 1..=7 {
            let path = root.path().join(name).join(format!("{number:05}.jpg"));
            ImageBuffer::from_pixel(16, 12, Luma([100_u8])).save(path).unwrap();
        }
    }
    if let VideoLayout::FrameLists { pattern, .. } = &mut set.layout {
        *pattern = "{:05}.jpg".into();
    }
    let samples = open(&source(&set), root.path()).unwrap();
    let values = samples.load(samples.training()[0]).unwrap().to_array().unwrap();
    assert_eq!(values.dim(), (3, 7, 12, 16));
    assert!(values.iter().all(|value| (value - 100.0).abs() < 3.0));
}

/// Nothing is replaced by another frame or clip: it is named, and left out only
/// where that is tolerated.
#[test]
fn missing_and_unreadable_frames_are_named() {
    type Damage = (&'static str, fn(&Path), &'static str);
    let damages: [Damage; 5] = [
        ("missing frame", |root| fs::remove_file(root.join("two/00004.png")).unwrap(), "first '00004.png'"),
        ("missing folder", |root| fs::remove_dir_all(root.join("two")).unwrap(), "cannot be read"),
        (
            "no image",
            |root| fs::write(root.join("two/00002.png"), "no image").unwrap(),
            "00002.png: is no readable JPEG or PNG image",
        ),
        (
            "cut off",
            |root| {
                let path = root.join("two/00003.png");
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            },
            "00003.png: is no readable JPEG or PNG image",
        ),
        ("another size", |root| frame(&root.join("two/00005.png"), 1, [6, 9]), "frame 4 is 6x9"),
    ];
    for (name, damage, problem) in damages {
        let root = TempDir::new().unwrap();
        let mut set = set(root.path());
        damage(root.path());
        let error = refusal(&source(&set), root.path());
        assert!(error.contains("1 sample(s)") && error.contains("two: "), "{name}: {error}");
        assert!(error.contains(problem), "{name}: {error}");
        set.tolerate = 1;
        let samples = open(&source(&set), root.path()).unwrap();
        assert_eq!((samples.training().len(), samples.skipped().len()), (2, 1), "{name}");
        assert_eq!(samples.skipped()[0].name, "two");
        assert!(samples.skipped()[0].reason.contains(problem), "{name}: {:?}", samples.skipped());
    }
}

#[test]
fn wrong_lists_and_patterns_are_named() {
    let root = TempDir::new().unwrap();
    let set = set(root.path());
    let list = |text: &str| fs::write(root.path().join("val.txt"), text).unwrap();
    list("last 6 1\ntwo 5 2\n");
    let error = refusal(&source(&set), root.path());
    assert!(error.contains("val.txt: lists 'two', which train.txt lists too"), "{error}");
    list("last six 1\n");
    assert!(refusal(&source(&set), root.path()).contains("val.txt: line 1: 'six'"));
    for outside in ["../last", "a/../../last", "/etc"] {
        list(&format!("{outside} 6 1\n"));
        let error = refusal(&source(&set), root.path());
        assert!(error.contains(&format!("line 1: names '{outside}', which is not inside")), "{error}");
    }
    fs::remove_file(root.path().join("val.txt")).unwrap();
    assert!(refusal(&source(&set), root.path()).contains("val.txt: cannot be read"));
    let nowhere = VideoSource { path: root.path().join("nowhere"), ..set.clone() };
    assert!(refusal(&source(&nowhere), root.path()).contains("nowhere: is no folder"));
    let two = OpenOptions { channels: Some(2), ..options(root.path()) };
    let error = Samples::open(&source(&set), root.path(), &two, &|_, _| ()).unwrap_err();
    assert!(error.to_string().contains("1 or 3 channels, 2 were asked for"), "{error}");
}
