//! NumPy arrays.

use std::fs;
use std::path::Path;

use cakes_data::samples::{
    ArraySource, ArraySplit, CacheOptions, MedmnistPart, Normalisation, OpenOptions, SampleId, SampleKind,
    SampleSource, Samples,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{
    arrays, bytes, int64s, medmnist, npy, npz, open, options, real_data, refusal, row_fold,
};

/// An archive with samples `x` and labels `y`.
fn archive(root: &Path, x: Vec<u8>, y: Vec<u8>) -> SampleSource {
    npz(&root.join("set.npz"), &[("x", x), ("y", y)]);
    arrays("set.npz", row_fold(0, 2))
}

fn labels_of(samples: &Samples, ids: &[SampleId]) -> Vec<usize> {
    ids.iter().map(|id| samples.label(*id)).collect()
}

fn counts(samples: &Samples, ids: &[SampleId]) -> Vec<usize> {
    let labels = labels_of(samples, ids);
    (0..samples.classes.len()).map(|class| labels.iter().filter(|label| **label == class).count()).collect()
}

/// All samples of an opened set by name, so that sides do not matter.
fn by_name(samples: &Samples) -> Vec<(String, Vec<f32>)> {
    let ids = samples.training().iter().chain(samples.validation());
    let mut all: Vec<(String, Vec<f32>)> = ids
        .map(|id| {
            let values = samples.load(*id).unwrap().to_array().unwrap();
            (samples.name_of(*id).to_owned(), values.iter().copied().collect())
        })
        .collect();
    all.sort_by(|left, right| left.0.cmp(&right.0));
    all
}

#[test]
fn an_archive_of_medmnist_gives_its_parts() {
    let root = TempDir::new().unwrap();
    let part = |rows: usize, first: u8| {
        let mut body = bytes(&[rows, 2, 3, 4]);
        body[0] = first;
        npy("|u1", false, &[rows, 2, 3, 4], &body)
    };
    let labels = |labels: &[u8]| npy("|u1", false, &[labels.len(), 1], labels);
    let sound = [
        ("train_images", part(3, 201)),
        ("train_labels", labels(&[0, 2, 1])),
        ("val_images", part(2, 202)),
        ("val_labels", labels(&[1, 0])),
        ("test_images", part(1, 203)),
        ("test_labels", labels(&[3])),
    ];
    npz(&root.path().join("set.npz"), &sound);
    let samples = open(&arrays("set.npz", medmnist(MedmnistPart::Val)), root.path()).unwrap();
    assert_eq!((samples.name.as_str(), samples.channels), ("set", 1));
    assert_eq!(samples.classes, ["0", "1", "2"]);
    assert_eq!(labels_of(&samples, samples.training()), [0, 2, 1]);
    assert_eq!(labels_of(&samples, samples.validation()), [1, 0]);
    let first = samples.load(samples.validation()[0]).unwrap();
    let volume = first.to_array().unwrap();
    assert_eq!((volume.dim(), volume[[0, 0, 0, 0]], first.label), ((1, 2, 3, 4), 202.0, 1));
    let tested = open(&arrays("set.npz", medmnist(MedmnistPart::Test)), root.path()).unwrap();
    assert_eq!((tested.classes.len(), labels_of(&tested, tested.validation())), (4, vec![3]));

    npz(&root.path().join("part.npz"), &sound[..2]);
    let error = refusal(&arrays("part.npz", medmnist(MedmnistPart::Val)), root.path());
    assert!(error.contains("part.npz") && error.contains("'val_images'"), "{error}");
    assert!(error.contains("train_images, train_labels"), "{error}");
}

/// The same numbers in every type and order that NumPy writes give the same sample.
#[test]
fn every_number_type_and_order_is_read() {
    let shape = [4, 2, 3, 2];
    let numbers: Vec<i64> = (0..48).map(|at| at * 5 % 97).collect();
    // Fortran order: the first axis varies fastest.
    let turned: Vec<i64> = (0..48)
        .map(|at| {
            let (n, d, h, w) = (at % 4, at / 4 % 2, at / 8 % 3, at / 24);
            numbers[((n * 2 + d) * 3 + h) * 2 + w]
        })
        .collect();
    type Encode = fn(i64) -> Vec<u8>;
    let types: [(&str, Encode); 14] = [
        ("|u1", |n| vec![n as u8]),
        ("|i1", |n| vec![n as u8]),
        ("<i2", |n| (n as i16).to_le_bytes().to_vec()),
        (">i2", |n| (n as i16).to_be_bytes().to_vec()),
        ("<u2", |n| (n as u16).to_le_bytes().to_vec()),
        ("<i4", |n| (n as i32).to_le_bytes().to_vec()),
        (">u4", |n| (n as u32).to_be_bytes().to_vec()),
        ("<i8", |n| n.to_le_bytes().to_vec()),
        (">i8", |n| n.to_be_bytes().to_vec()),
        ("<u8", |n| (n as u64).to_le_bytes().to_vec()),
        ("<f4", |n| (n as f32).to_le_bytes().to_vec()),
        (">f4", |n| (n as f32).to_be_bytes().to_vec()),
        ("<f8", |n| (n as f64).to_le_bytes().to_vec()),
        (">f8", |n| (n as f64).to_be_bytes().to_vec()),
    ];
    let mut expected = None;
    for (descr, encode) in types {
        for (is_fortran, order) in [(false, &numbers), (true, &turned)] {
            let root = TempDir::new().unwrap();
            let body: Vec<u8> = order.iter().flat_map(|number| encode(*number)).collect();
            let y = npy("<i8", false, &[4], &int64s(&[0, 1, 0, 1]));
            let source = archive(root.path(), npy(descr, is_fortran, &shape, &body), y);
            let samples = open(&source, root.path()).unwrap();
            let found = by_name(&samples);
            assert_eq!(found[1].1[0], numbers[12] as f32, "{descr}");
            assert_eq!(&found, expected.get_or_insert(found.clone()), "{descr} fortran {is_fortran}");
        }
    }
}

/// More values than are turned at once, of which a row is no whole part.
#[test]
fn a_large_array_in_fortran_order_is_turned_in_pieces() {
    let shape = [5, 70, 64, 67];
    let values: Vec<u8> = (0..shape.iter().product::<usize>()).map(|at| (at * 7 % 251) as u8).collect();
    let [n, d, h, w] = shape;
    let mut turned = Vec::new();
    for (l, k, j) in (0..w).flat_map(|l| (0..h).flat_map(move |k| (0..d).map(move |j| (l, k, j)))) {
        turned.extend((0..n).map(|i| values[((i * d + j) * h + k) * w + l]));
    }
    let root = TempDir::new().unwrap();
    let y = npy("<i8", false, &[n], &int64s(&[0, 1, 0, 1, 0]));
    let samples = open(&archive(root.path(), npy("|u1", true, &shape, &turned), y), root.path()).unwrap();
    for (row, (name, found)) in by_name(&samples).iter().enumerate() {
        let wanted = &values[row * d * h * w..][..d * h * w];
        assert!(found.iter().zip(wanted).all(|(found, wanted)| *found == f32::from(*wanted)), "{name}");
    }
}

/// Said by the header alone, before anything of the array is read or written.
#[test]
fn an_array_that_the_cache_has_no_room_for_is_refused_with_the_remedy() {
    let root = TempDir::new().unwrap();
    let y = npy("<i8", false, &[4], &int64s(&[0, 1, 0, 1]));
    for is_fortran in [false, true] {
        // 4 * 2 * 2 * 2 values are 128 bytes as float32; the file holds none of them.
        let source = archive(root.path(), npy("<i2", is_fortran, &[4, 2, 2, 2], &[]), y.clone());
        let refused = |limit_bytes: u64| {
            let cache = CacheOptions { limit_bytes, ..options(root.path()).cache };
            let tight = OpenOptions { cache, ..options(root.path()) };
            Samples::open(&source, root.path(), &tight, &|_, _| ()).unwrap_err().to_string()
        };
        let error = refused(127);
        assert!(error.contains("127 bytes") && error.contains("set.npz"), "{error}");
        assert!(error.contains("raise the limit of the cache"), "{error}");
        assert!(refused(128).contains("cut off"));
    }
}

/// Halves: 1, -2, the smallest, the largest below 2, and 65504.
#[test]
fn halves_and_negative_numbers_are_read() {
    let root = TempDir::new().unwrap();
    let y = || npy("<i8", false, &[2], &int64s(&[0, 1]));
    let halves = [0x3c00_u16, 0xc000, 0x0001, 0x3fff, 0x7bff, 0x0000];
    let body: Vec<u8> = halves.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let samples =
        open(&archive(root.path(), npy("<f2", false, &[2, 1, 1, 3], &body), y()), root.path()).unwrap();
    let found = by_name(&samples);
    assert_eq!(found[0].1, [1.0, -2.0, 2_f32.powi(-24)]);
    assert_eq!(found[1].1, [2.0 - 2_f32.powi(-10), 65504.0, 0.0]);
    let body: Vec<u8> = [-3_i16, 300].iter().flat_map(|number| number.to_be_bytes()).collect();
    let source = archive(root.path(), npy(">i2", false, &[2, 1, 1, 1], &body), y());
    let found = by_name(&open(&source, root.path()).unwrap());
    assert_eq!((found[0].1[0], found[1].1[0]), (-3.0, 300.0));
}

#[test]
fn a_folder_of_arrays_is_read_like_an_archive_and_colours_become_channels() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join("set");
    fs::create_dir(&folder).unwrap();
    let body = bytes(&[2, 2, 3, 4, 3]);
    fs::write(folder.join("x.npy"), npy("|u1", false, &[2, 2, 3, 4, 3], &body)).unwrap();
    fs::write(folder.join("y.npy"), npy("<i4", false, &[2, 1], &[1, 0, 0, 0, 0, 0, 0, 0])).unwrap();
    fs::write(folder.join("notes.txt"), "no array").unwrap();
    let samples = open(&arrays("set", row_fold(0, 2)), root.path()).unwrap();
    assert_eq!(samples.channels, 3);
    let (first, values) = &by_name(&samples)[0];
    assert_eq!(first, "x[0]");
    // [C, D, H, W] of [D, H, W, C]: the second value is the next pixel's first colour.
    assert_eq!(values[..2], [f32::from(body[0]), f32::from(body[3])]);
    assert_eq!(values[24], f32::from(body[1]));
}

#[test]
fn a_fold_array_decides_who_validates() {
    let root = TempDir::new().unwrap();
    let set = |folds: &[i64]| {
        let arrays = [
            ("x", npy("|u1", false, &[4, 1, 2, 2], &bytes(&[4, 1, 2, 2]))),
            ("y", npy("<i8", false, &[4], &int64s(&[0, 1, 1, 0]))),
            ("fold", npy("<i8", false, &[folds.len()], &int64s(folds))),
        ];
        npz(&root.path().join("set.npz"), &arrays);
    };
    let split = |fold: i64| {
        let (samples, labels, folds) = ("x".into(), "y".into(), "fold".into());
        arrays("set.npz", ArraySplit::FoldArray { samples, labels, folds, fold })
    };
    set(&[3, 7, 3, 7]);
    let samples = open(&split(7), root.path()).unwrap();
    let names: Vec<&str> = samples.validation().iter().map(|id| samples.name_of(*id)).collect();
    assert_eq!(names, ["x[1]", "x[3]"]);
    let error = refusal(&split(1), root.path());
    assert!(error.contains("fold 1 leaves nothing for validation") && error.contains("[3, 7]"), "{error}");
    set(&[3, 7, 3]);
    assert!(refusal(&split(7), root.path()).contains("array 'fold': has 3 rows, the samples have 4"));
    set(&[7, 7, 7, 7]);
    assert!(refusal(&split(7), root.path()).contains("leaves nothing for training"));
}

/// Every mistake is named by file, key and row.
#[test]
fn mistakes_are_named_by_file_key_and_row() {
    let x = |shape: &[usize]| npy("|u1", false, shape, &bytes(shape));
    let y = |labels: &[i64]| npy("<i8", false, &[labels.len()], &int64s(labels));
    let good = || (x(&[4, 2, 2, 2]), y(&[0, 1, 0, 1]));
    let cut = |mut file: Vec<u8>| {
        file.truncate(file.len() - 3);
        file
    };
    let cases: Vec<(Vec<u8>, Vec<u8>, &str)> = vec![
        (x(&[4, 2, 2]), good().1, "array 'x': must be [N, D, H, W] or [N, D, H, W, C]"),
        (x(&[4, 2, 0, 2]), good().1, "without empty axes"),
        (x(&[2, 1, 2, 2, 65]), y(&[0, 1]), "65 channels"),
        (good().0, y(&[0, 1, 0]), "array 'y': has 3 labels, 'x' has 4 samples"),
        (good().0, y(&[0, 1, -1, 0]), "array 'y': row 2 holds -1"),
        (good().0, y(&[0, 1, 1 << 40, 0]), "row 2 holds 1099511627776"),
        (good().0, npy("<u8", false, &[4], &[255; 32]), "array 'y': row 0 is out of range"),
        (good().0, npy("<f8", false, &[4], &[0; 32]), "must hold whole numbers, holds float64"),
        (good().0, npy("<i8", false, &[4, 2], &[0; 64]), "must be [N] or [N, 1], is [4, 2]"),
        (npy("|S3", false, &[4, 1, 1, 1], &[0; 12]), good().1, "elements of type '|S3'"),
        (npy("|O", false, &[4, 1, 1, 1], &[0; 32]), good().1, "elements of type '|O'"),
        (cut(x(&[4, 2, 2, 2])), good().1, "array 'x': is cut off or damaged in row 3 of 4"),
        (good().0, cut(good().1), "array 'y': is cut off or damaged in row 3 of 4"),
        (npy("<f4", true, &[4, 2, 2, 2], &[0; 100]), good().1, "is cut off after 100 of 128 bytes"),
        (npy("|u1", false, &[4, 2, 2, 2], &[0; 33]), good().1, "more values than its header says"),
        (npy("|u1", false, &[4, 1 << 40, 1 << 40, 2], &[0; 9]), good().1, "as large as its header says"),
        (npy("|u1", false, &[4, 1 << 14, 1 << 14, 1], &[0; 9]), good().1, "damaged in row 0 of 4"),
        (b"no array".to_vec(), good().1, "array 'x': no readable NumPy header"),
    ];
    for (x, y, problem) in cases {
        let root = TempDir::new().unwrap();
        let error = refusal(&archive(root.path(), x, y), root.path());
        assert!(error.contains(problem) && error.contains("set.npz"), "wanted {problem}, got {error}");
        let left: Vec<_> = fs::read_dir(root.path().join("cache")).unwrap().flatten().collect();
        assert!(left.iter().all(|entry| !entry.path().to_string_lossy().ends_with(".tmp")), "{left:?}");
    }
}

#[test]
fn a_truncated_damaged_or_missing_archive_is_named() {
    let root = TempDir::new().unwrap();
    let body: Vec<u8> = (0..4 * 1000).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let x = npy("|u1", false, &[4, 10, 10, 10], &body);
    let source = archive(root.path(), x, npy("<i8", false, &[4], &int64s(&[0, 1, 0, 1])));
    let path = root.path().join("set.npz");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = refusal(&source, root.path());
    assert!(error.contains("set.npz") && error.contains("cut off"), "{error}");
    let mut flipped = whole;
    flipped[600] ^= 0x10;
    fs::write(&path, &flipped).unwrap();
    let error = refusal(&source, root.path());
    assert!(error.contains("array 'x'") && error.contains("damaged"), "{error}");
    fs::remove_file(&path).unwrap();
    assert!(refusal(&source, root.path()).contains("set.npz: cannot be read"));
    fs::create_dir(root.path().join("empty")).unwrap();
    assert!(refusal(&arrays("empty", row_fold(0, 2)), root.path()).contains("holds no .npy array"));
}

#[test]
fn samples_that_are_not_finite_are_left_out_as_far_as_tolerated() {
    let root = TempDir::new().unwrap();
    let mut values = [1.0_f32; 6 * 8];
    values[2 * 8 + 3] = f32::NAN;
    values[5 * 8] = f32::INFINITY;
    values[5 * 8 + 1] = f32::NAN;
    let body: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let y = npy("<i8", false, &[6], &int64s(&[0, 1, 2, 0, 1, 2]));
    let SampleSource::Arrays(source) = archive(root.path(), npy("<f4", false, &[6, 2, 2, 2], &body), y)
    else {
        unreachable!()
    };
    let with = |tolerate: usize| SampleSource::Arrays(ArraySource { tolerate, ..source.clone() });
    let error = refusal(&with(1), root.path());
    assert!(error.contains("2 sample(s) cannot be used, 1 may be"), "{error}");
    assert!(
        error.contains("x[2]: 1 of 8 values are not finite") && error.contains("x[5]: 2 of 8"),
        "{error}"
    );
    let samples = open(&with(2), root.path()).unwrap();
    assert_eq!(samples.training().len() + samples.validation().len(), 4);
    let names: Vec<&str> = samples.skipped().iter().map(|skipped| skipped.name.as_str()).collect();
    assert_eq!(names, ["x[2]", "x[5]"]);
    assert!(by_name(&samples).iter().all(|(_, values)| values.iter().all(|value| value.is_finite())));
    assert_eq!(samples.normalisation().unwrap(), Normalisation::PerSample);
}

#[test]
fn bytes_are_normalised_by_their_training_samples() {
    let root = TempDir::new().unwrap();
    let body: Vec<u8> = [[10, 20], [30, 40], [90, 250], [0, 100]].concat();
    let arrays_in = [
        ("x", npy("|u1", false, &[4, 1, 1, 2], &body)),
        ("y", npy("<i8", false, &[4], &int64s(&[0, 1, 0, 1]))),
        ("f", npy("<i8", false, &[4], &int64s(&[0, 0, 1, 1]))),
    ];
    npz(&root.path().join("set.npz"), &arrays_in);
    let split = ArraySplit::FoldArray { samples: "x".into(), labels: "y".into(), folds: "f".into(), fold: 1 };
    let samples = open(&arrays("set.npz", split), root.path()).unwrap();
    let Normalisation::Fixed { mean, deviation } = samples.normalisation().unwrap() else { panic!() };
    assert_eq!(mean, [25.0]);
    assert!((deviation[0] - 125_f32.sqrt()).abs() < 1e-4, "{deviation:?}");
}

/// Whatever else a clip in colours holds has a range of its own: 0 to 1, or a scanner's.
#[test]
fn clips_in_colours_are_normalised_as_images_only_where_they_are_bytes() {
    let kinds = [
        ("|u1", 1, Normalisation::imagenet()),
        ("<f4", 4, Normalisation::PerSample),
        ("<u2", 2, Normalisation::PerSample),
        ("|i1", 1, Normalisation::PerSample),
    ];
    for (descr, size, expected) in kinds {
        let root = TempDir::new().unwrap();
        let x = npy(descr, false, &[4, 1, 2, 1, 3], &vec![0_u8; 24 * size]);
        let mut source = archive(root.path(), x, npy("<i8", false, &[4], &int64s(&[0, 1, 0, 1])));
        if let SampleSource::Arrays(source) = &mut source {
            source.kind = SampleKind::Clip;
        }
        assert_eq!(open(&source, root.path()).unwrap().normalisation().unwrap(), expected, "{descr}");
    }
}

#[test]
fn adrenal_shapes_are_those_of_their_readme() {
    let Some(dir) = real_data("adrenalmnist3d") else { return };
    let cache = TempDir::new().unwrap();
    for (file, size) in [("adrenalmnist3d.npz", 28), ("adrenalmnist3d_64.npz", 64)] {
        let parts = [(MedmnistPart::Val, vec![76, 22]), (MedmnistPart::Test, vec![229, 69])];
        for (part, validation) in parts {
            let samples = open(&arrays(dir.join(file), medmnist(part)), cache.path()).unwrap();
            assert_eq!((samples.classes.len(), samples.channels), (2, 1));
            assert_eq!(counts(&samples, samples.training()), [929, 259]);
            assert_eq!(counts(&samples, samples.validation()), validation);
            let volume = samples.load(samples.validation()[0]).unwrap().to_array().unwrap();
            assert_eq!(volume.dim(), (1, size, size, size));
            assert!(volume.iter().all(|value| *value == 0.0 || *value == 255.0));
        }
    }
}

#[test]
fn lung_clips_are_those_of_their_readme() {
    let Some(dir) = real_data("lung_ultrasound") else { return };
    let cache = TempDir::new().unwrap();
    let split = |fold: i64| ArraySplit::FoldArray {
        samples: "frames".into(),
        labels: "label".into(),
        folds: "fold".into(),
        fold,
    };
    let mut validated = [0; 3];
    for fold in 0..5 {
        let mut source = arrays(dir.join("clips.npz"), split(fold));
        if let SampleSource::Arrays(source) = &mut source {
            source.kind = SampleKind::Clip;
        }
        let samples = open(&source, cache.path()).unwrap();
        assert_eq!(samples.training().len() + samples.validation().len(), 112);
        for (total, count) in validated.iter_mut().zip(counts(&samples, samples.validation())) {
            *total += count;
        }
        let clip = samples.load(samples.training()[0]).unwrap().to_array().unwrap();
        assert_eq!(clip.dim(), (1, 32, 96, 96));
        assert!(matches!(samples.normalisation().unwrap(), Normalisation::Fixed { .. }));
    }
    // 20 covid, 36 pneumonia, 56 regular; the largest class is one half.
    assert_eq!(validated.iter().sum::<usize>(), 112);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn row_folds_are_disjoint_and_together_complete(rows in 6_usize..40, folds in 2_u32..5) {
        let root = TempDir::new().unwrap();
        let labels: Vec<i64> = (0..rows as i64).map(|row| row % 2).collect();
        let x = npy("|u1", false, &[rows, 1, 1, 1], &bytes(&[rows, 1, 1, 1]));
        npz(&root.path().join("set.npz"), &[("x", x), ("y", npy("<i8", false, &[rows], &int64s(&labels)))]);
        let mut seen = Vec::new();
        for fold in 0..folds {
            let samples = open(&arrays("set.npz", row_fold(fold, folds)), root.path()).unwrap();
            let validation = samples.validation().iter().map(|id| samples.name_of(*id).to_owned());
            seen.extend(validation);
            prop_assert_eq!(samples.training().len() + samples.validation().len(), rows);
        }
        seen.sort();
        seen.dedup();
        prop_assert_eq!(seen.len(), rows);
    }
}
