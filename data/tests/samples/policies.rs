//! Inputs of networks: of the right size and label, from the seed alone.

use cakes_data::patch::{PatchPolicy, patch_stream};
use cakes_data::samples::{
    ClipPolicy, Normalisation, SampleKind, SamplePolicy, SampleSource, Samples, VolumePolicy, segment_frame,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{arrays, int64s, npy, npz, open, row_fold};

/// Clips `[N, T, H, W]` whose pixel says its frame and column: 16·t + w.
fn clips(root: &TempDir, [frames, height, width]: [usize; 3]) -> Samples {
    let clip = |_: usize| {
        (0..frames * height * width)
            .map(|at| (at / (height * width) * 16 + at % width) as u8)
            .collect::<Vec<u8>>()
    };
    let body: Vec<u8> = (0..4).flat_map(clip).collect();
    let x = npy("|u1", false, &[4, frames, height, width], &body);
    npz(&root.path().join("set.npz"), &[("x", x), ("y", npy("<i8", false, &[4], &int64s(&[0, 1, 2, 3])))]);
    let mut source = arrays("set.npz", row_fold(0, 2));
    if let SampleSource::Arrays(source) = &mut source {
        source.kind = SampleKind::Clip;
    }
    open(&source, root.path()).unwrap()
}

fn as_stored() -> Normalisation {
    Normalisation::Fixed { mean: vec![0.0], deviation: vec![1.0] }
}

fn clip_policy(extent: [usize; 3]) -> ClipPolicy {
    ClipPolicy {
        extent,
        crop_scales: vec![1.0],
        mirrors: false,
        flip_swaps: Vec::new(),
        noise_max: 0.0,
        intensity_change_max: 0.0,
        normalisation: as_stored(),
    }
}

fn patch_policy(extent: [usize; 3]) -> PatchPolicy {
    PatchPolicy {
        extent,
        foreground_probability: 0.0,
        flip_axes: [false; 3],
        flip_swaps: Vec::new(),
        affine_probability: 0.0,
        rotation_degrees_max: 15.0,
        scale_change_max: 0.2,
        noise_max: 0.0,
        intensity_change_max: 0.0,
    }
}

#[test]
fn a_frame_of_every_segment_and_every_frame_at_some_time() {
    let root = TempDir::new().unwrap();
    let samples = clips(&root, [11, 6, 6]);
    let sample = samples.load(samples.training()[0]).unwrap();
    let policy = SamplePolicy::Clip(clip_policy([4, 6, 6]));
    let mut seen = vec![false; 11];
    for step in 0..300 {
        let input = policy.train(&sample, &mut patch_stream(3, step, 0)).unwrap();
        assert_eq!(input.image.dim(), (1, 4, 6, 6));
        let frames: Vec<usize> = (0..4).map(|t| input.image[[0, t, 2, 0]] as usize / 16).collect();
        for (segment, frame) in frames.iter().enumerate() {
            let bounds = segment as f64 * 2.75 - 1.0..(segment + 1) as f64 * 2.75;
            assert!(bounds.contains(&(*frame as f64)), "{frames:?}");
            seen[*frame] = true;
        }
    }
    // 11 frames in 4 segments: the last three are lost where lengths are cut down.
    assert!(seen.iter().all(|seen| *seen), "{seen:?}");
}

#[test]
fn a_mirrored_clip_changes_sides_and_label() {
    let root = TempDir::new().unwrap();
    let samples = clips(&root, [4, 6, 6]);
    let policy = ClipPolicy { mirrors: true, flip_swaps: vec![[0, 1], [3, 2]], ..clip_policy([4, 6, 6]) };
    let policy = SamplePolicy::Clip(policy);
    let mut mirrored = 0;
    for id in samples.training().iter().chain(samples.validation()) {
        let sample = samples.load(*id).unwrap();
        for step in 0..50 {
            let input = policy.train(&sample, &mut patch_stream(1, step, 0)).unwrap();
            let is_mirrored = input.image[[0, 0, 0, 0]] > input.image[[0, 0, 0, 5]];
            let swapped = [1, 0, 3, 2][sample.label];
            assert_eq!(input.label, if is_mirrored { swapped } else { sample.label });
            mirrored += usize::from(is_mirrored);
        }
        assert_eq!(policy.evaluate(&sample).unwrap().label, sample.label);
    }
    assert!((60..140).contains(&mirrored), "{mirrored} of 200");
}

/// Along D, which runs from left to right in volumes; no other axis changes the label.
#[test]
fn a_volume_that_is_mirrored_along_d_changes_sides_and_label() {
    let root = TempDir::new().unwrap();
    let samples = clips(&root, [4, 6, 6]);
    let flip_swaps = vec![[0, 1], [3, 2]];
    let patch = PatchPolicy { flip_axes: [true, false, true], flip_swaps, ..patch_policy([4, 6, 6]) };
    let policy = SamplePolicy::Volume(VolumePolicy { patch, normalisation: as_stored() });
    let (mut along_d, mut along_w) = (0, 0);
    for id in samples.training().iter().chain(samples.validation()) {
        let sample = samples.load(*id).unwrap();
        for step in 0..50 {
            let input = policy.train(&sample, &mut patch_stream(1, step, 0)).unwrap();
            let is_mirrored = input.image[[0, 0, 0, 0]] > input.image[[0, 3, 0, 0]];
            let swapped = [1, 0, 3, 2][sample.label];
            assert_eq!(input.label, if is_mirrored { swapped } else { sample.label });
            along_d += usize::from(is_mirrored);
            along_w += usize::from(input.image[[0, 0, 0, 0]] > input.image[[0, 0, 0, 5]]);
        }
        assert_eq!(policy.evaluate(&sample).unwrap().label, sample.label);
    }
    assert!((60..140).contains(&along_d), "{along_d} of 200");
    assert!((60..140).contains(&along_w), "{along_w} of 200");
}

/// The middle 224 of 256, as the published evaluation crops.
#[test]
fn evaluation_crops_the_middle_unless_training_crops_nothing() {
    let root = TempDir::new().unwrap();
    let samples = clips(&root, [2, 8, 16]);
    let sample = samples.load(samples.training()[0]).unwrap();
    let whole = SamplePolicy::Clip(clip_policy([2, 8, 8])).evaluate(&sample).unwrap();
    assert_eq!(whole.image.slice(ndarray::s![0, 0, 3, ..]).to_vec(), [4., 5., 6., 7., 8., 9., 10., 11.]);
    let cropping = ClipPolicy { crop_scales: vec![1.0, 0.875], ..clip_policy([2, 7, 7]) };
    let cropped = SamplePolicy::Clip(cropping).evaluate(&sample).unwrap();
    assert_eq!(cropped.image.slice(ndarray::s![0, 0, 3, ..]).to_vec(), [4., 5., 6., 7., 8., 9., 10.]);
    assert_eq!((ClipPolicy::short_side([8, 224, 224]), ClipPolicy::short_side([8, 56, 112])), (256, 128));
}

#[test]
fn small_volumes_are_padded_and_large_ones_cut_in_the_middle() {
    let root = TempDir::new().unwrap();
    let samples = clips(&root, [4, 8, 8]);
    let sample = samples.load(samples.training()[0]).unwrap();
    let normalisation = Normalisation::Fixed { mean: vec![-100.0], deviation: vec![1.0] };
    let policy = |extent| {
        let patch = patch_policy(extent);
        SamplePolicy::Volume(VolumePolicy { patch, normalisation: normalisation.clone() })
    };
    let padded = policy([6, 4, 4]).evaluate(&sample).unwrap().image;
    assert_eq!(padded.dim(), (1, 6, 4, 4));
    assert!(padded.slice(ndarray::s![.., 0, .., ..]).iter().all(|value| *value == 0.0));
    assert_eq!(padded[[0, 1, 0, 0]], 102.0);
    let trained = policy([6, 4, 4]).train(&sample, &mut patch_stream(0, 0, 0)).unwrap().image;
    assert_eq!(trained.dim(), (1, 6, 4, 4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn segments_cover_all_frames_in_order(frames in 1_usize..200, segments in 1_usize..40, at in 0.0_f64..1.0) {
        let chosen: Vec<usize> = (0..segments).map(|index| segment_frame(frames, segments, index, at)).collect();
        prop_assert!(chosen.is_sorted() && chosen.iter().all(|frame| *frame < frames));
        if frames >= segments {
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", chosen);
        } else {
            // No frame comes more than once more often than another.
            let times = |frame: usize| chosen.iter().filter(|other| **other == frame).count();
            let all: Vec<usize> = (0..frames).map(times).collect();
            prop_assert!(all.iter().max().unwrap() - all.iter().min().unwrap() <= 1, "{:?}", all);
        }
        let last = segment_frame(frames, segments, segments - 1, 1.0 - 1e-9);
        prop_assert_eq!(last, frames - 1);
    }

    #[test]
    fn an_input_has_its_extent_and_depends_on_its_stream_alone(
        seed in any::<u64>(), extent in proptest::array::uniform3(1_usize..12), is_volume in any::<bool>(),
    ) {
        let root = TempDir::new().unwrap();
        let samples = clips(&root, [6, 9, 7]);
        let sample = samples.load(samples.training()[0]).unwrap();
        let normalisation = samples.normalisation().unwrap();
        let policy = if is_volume {
            let patch = PatchPolicy {
                flip_axes: [true; 3], affine_probability: 0.5, noise_max: 0.1, intensity_change_max: 0.1,
                ..patch_policy(extent)
            };
            SamplePolicy::Volume(VolumePolicy { patch, normalisation })
        } else {
            SamplePolicy::Clip(ClipPolicy {
                crop_scales: vec![1.0, 0.875, 0.75, 0.66], mirrors: true, noise_max: 0.1,
                intensity_change_max: 0.1, normalisation, ..clip_policy(extent)
            })
        };
        let input = policy.train(&sample, &mut patch_stream(seed, 5, 1)).unwrap();
        prop_assert_eq!(input.image.dim(), (1, extent[0], extent[1], extent[2]));
        prop_assert!(input.image.iter().all(|value| value.is_finite()));
        prop_assert_eq!(&input, &policy.train(&sample, &mut patch_stream(seed, 5, 1)).unwrap());
        let evaluated = policy.evaluate(&sample).unwrap();
        prop_assert_eq!(evaluated.image.dim(), input.image.dim());
        prop_assert_eq!(&evaluated, &policy.evaluate(&sample).unwrap());
    }
}
