//! Data sets: whatever their files hold, they are read or refused, within their folder.

use std::path::Path;

use cakes_data::msd::MsdFolder;
use cakes_data::nifti_file::{read_volume, to_labels};
use cakes_data::samples::CacheOptions;
use cakes_data::samples::cache::{Cache, CacheKey, ValueType};
use cakes_data::samples::ffmpeg::read_frames;
use cakes_data::samples::frames::{FrameFolder, FramePattern};
use cakes_data::samples::lists::{FRAMES_MAX, read_list, source_of, sources};
use cakes_data::samples::npy::ArrayFile;
use cakes_data::split::{Split, partition};

use crate::choice;
use crate::place::{files, is_one_step, lies_below, with_file, with_folder};

/// Arrays of an archive that are read.
const ARRAYS: usize = 4;

/// A NumPy array.
pub fn npy(bytes: &[u8]) {
    with_file("x.npy", bytes, |path| read_arrays(path.parent().expect("it lies in a folder")));
}

/// An archive of NumPy arrays.
pub fn npz(bytes: &[u8]) {
    with_file("x.npz", bytes, read_arrays);
}

fn read_arrays(path: &Path) {
    let Ok(file) = ArrayFile::open(path) else { return };
    for key in file.keys.iter().take(ARRAYS) {
        let Ok(header) = file.header(key) else { continue };
        if let Ok(numbers) = file.integers(key) {
            assert_eq!(header.shape.first(), Some(&numbers.len()));
        }
        let folder = path.with_file_name("cache");
        let cache = cache(&folder);
        let source = file.file_of(key).expect("the archive has this key");
        let of = CacheKey::of(&[source], "fuzz").expect("the file is there");
        if let Ok(mapped) = cache.get_or_make(of, |out| file.copy_to(key, out)) {
            assert_eq!(mapped.shape, header.shape);
            let values: usize = header.shape.iter().product();
            assert_eq!(mapped.bytes().len(), values * mapped.value_type.size());
        }
        std::fs::remove_dir_all(&folder).expect("a folder of our own can be removed");
    }
}

fn cache(folder: &Path) -> Cache {
    let options = CacheOptions { dir: Some(folder.to_owned()), limit_bytes: 64 << 20 };
    Cache::open(&options).expect("a cache can be made")
}

/// A byte that says whether it is packed, and a volume.
pub fn nifti(bytes: &[u8]) {
    let Some((packed, file)) = choice(bytes) else { return };
    let name = if packed & 1 == 1 { "x.nii.gz" } else { "x.nii" };
    with_file(name, file, |path| {
        let Ok(volume) = read_volume(path) else { return };
        assert!(volume.data.iter().all(|value| value.is_finite()));
        assert!(volume.data.shape().iter().all(|size| *size > 0));
        assert!(
            volume.spacing_mm.iter().all(|spacing| spacing.is_finite() && *spacing > 0.0),
            "{:?}",
            volume.spacing_mm
        );
        if let Ok(labels) = to_labels(path, &volume, 4) {
            assert!(labels.iter().all(|label| *label < 4));
        }
    });
}

/// `dataset.json`, an empty line, `splits.json`.
pub fn decathlon(bytes: &[u8]) {
    let middle = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap_or(bytes.len());
    with_folder(|root| {
        std::fs::write(root.join("dataset.json"), &bytes[..middle]).expect("a file can be written");
        std::fs::write(root.join("splits.json"), &bytes[middle..]).expect("a file can be written");
        let Ok(folder) = MsdFolder::open_unchecked(root) else { return };
        assert!((2..=256).contains(&folder.classes.len()) && folder.channels > 0);
        for case in &folder.cases {
            lies_below(root, &case.image);
            lies_below(root, &case.label);
        }
        let ids: Vec<String> = folder.cases.iter().map(|case| case.id.clone()).collect();
        let file = folder.read_splits().ok();
        for split in [Split::File, Split::Fold { fold: 0, folds: 2, seed: 1 }, Split::Last(1)] {
            let Ok(parts) = partition(&ids, &split, file.as_ref()) else { continue };
            assert!(!parts.training.is_empty() && !parts.validation.is_empty());
            assert!(parts.training.iter().chain(&parts.validation).all(|id| ids.contains(id)));
            assert!(parts.validation.iter().all(|id| !parts.training.contains(id)));
        }
    });
}

/// A byte that says whether frames are counted, and a list of clips; its first line is also
/// taken for the pattern of frames' names. A folder without frames lacks whatever a list says.
pub fn clip_lists(bytes: &[u8]) {
    let Some((kind, list)) = choice(bytes) else { return };
    let has_frames = kind & 1 == 1;
    let first = list.split(|byte| *byte == b'\n').next().and_then(crate::text);
    let pattern = first.and_then(|first| FramePattern::parse(first).ok());
    if let Some(pattern) = &pattern {
        is_one_step(&pattern.name(7));
        assert_ne!(pattern.name(7), pattern.name(8));
    }
    let pattern = pattern.or_else(|| FramePattern::parse("{:05}.jpg").ok()).expect("this is a pattern");
    with_file("list.txt", list, |path| {
        let Ok(clips) = read_list(path, has_frames) else { return };
        let root = Path::new("/data/clips");
        for clip in &clips {
            lies_below(root, &root.join(&clip.name));
            assert_eq!(clip.frames.is_some(), has_frames);
            let Some(frames) = clip.frames else { continue };
            assert!((1..=FRAMES_MAX).contains(&frames));
            let dir = path.parent().expect("it lies in a folder").to_owned();
            let folder = FrameFolder { dir, frames, pattern: pattern.clone(), channels: 3, short_side: None };
            assert!(folder.check().is_err());
        }
        assert_eq!(sources(&clips).len(), clips.len());
        assert!(clips.iter().all(|clip| clip.name.starts_with(source_of(&clip.name))));
    });
}

/// A byte for colours and for a smaller size, and a picture.
pub fn frames(bytes: &[u8]) {
    let Some((flags, picture)) = choice(bytes) else { return };
    let channels = if flags & 1 == 1 { 3 } else { 1 };
    let short_side = (flags & 2 == 2).then_some(8);
    with_file("1.jpg", picture, |path| {
        let folder = FrameFolder {
            dir: path.parent().expect("it lies in a folder").to_owned(),
            frames: 1,
            pattern: FramePattern::parse("{}.jpg").expect("this is a pattern"),
            channels,
            short_side,
        };
        let Ok(read) = folder.read(&[0]) else { return };
        assert!(read.height > 0 && read.width > 0 && read.channels == channels);
        assert!(short_side.is_none_or(|most| read.height.min(read.width) <= most));
    });
}

/// A byte for colours, and what FFmpeg gives.
pub fn video_stream(bytes: &[u8]) {
    let Some((flags, stream)) = choice(bytes) else { return };
    let channels = if flags & 1 == 1 { 3 } else { 1 };
    let mut taken = 0;
    let read = read_frames(Path::new("clip"), stream, channels, &mut |frame| {
        assert_eq!(frame.values.len(), frame.height * frame.width * channels);
        taken += 1;
        Ok(())
    });
    if let Ok(count) = read {
        assert_eq!(count, taken);
    }
}

/// Changes of a kept sample, three bytes each: two for the place, one for the value. A sample
/// that was changed is made anew.
pub fn sample_cache(bytes: &[u8]) {
    let values = [3_u8; 64];
    with_folder(|folder| {
        let source = folder.join("source");
        std::fs::write(&source, b"source").expect("a file can be written");
        let key = CacheKey::of(&[source], "fuzz").expect("the file is there");
        let dir = folder.join("cache");
        let get = || {
            let made = cache(&dir).get_or_make(key, |out| {
                std::io::Write::write_all(out, &values).expect("a file can be written");
                Ok((ValueType::U8, vec![8, 8]))
            });
            let mapped = made.expect("a sample can be made");
            assert_eq!((mapped.bytes(), mapped.shape.as_slice()), (values.as_slice(), [8, 8].as_slice()));
        };
        get();
        let entry = files(&dir).remove(0);
        let mut content = std::fs::read(&entry).expect("the sample is there");
        let (changes, _) = bytes.as_chunks::<3>();
        for [high, low, value] in changes {
            let place = usize::from(u16::from_be_bytes([*high, *low]));
            match content.get_mut(place) {
                Some(byte) => *byte = *value,
                None => content.push(*value),
            }
        }
        // Another file, as whoever damages a disk leaves it.
        std::fs::remove_file(&entry).expect("the sample is there");
        std::fs::write(&entry, content).expect("a file can be written");
        get();
    });
}
