//! Sliding windows over whole volumes.

use ndarray::Array3;

use crate::Extent;

/// Where windows of `patch` start so that they cover a volume of `volume`
/// voxels, neighbours sharing at least `overlap` (0 to below 1) of a window.
/// The last window along an axis ends with the volume. No axis of the volume
/// may be shorter than the patch's.
pub fn sliding_windows(volume: Extent, patch: Extent, overlap: f64) -> Vec<Extent> {
    let starts: [Vec<usize>; 3] = std::array::from_fn(|axis| axis_starts(volume[axis], patch[axis], overlap));
    let mut windows = Vec::new();
    for d in &starts[0] {
        for h in &starts[1] {
            windows.extend(starts[2].iter().map(|w| [*d, *h, *w]));
        }
    }
    windows
}

fn axis_starts(volume: usize, patch: usize, overlap: f64) -> Vec<usize> {
    let last = volume.saturating_sub(patch);
    let step = ((patch as f64 * (1.0 - overlap)) as usize).max(1);
    let gaps = last.div_ceil(step);
    (0..=gaps).map(|gap| (last * gap).checked_div(gaps).unwrap_or(0)).collect()
}

/// Weight of each voxel of a window: a Gaussian around its centre with a
/// standard deviation of an eighth of the window, at least 0.001 everywhere.
pub fn gaussian_weights(patch: Extent) -> Array3<f32> {
    let along = |axis: usize, index: usize| {
        let centre = (patch[axis] as f64 - 1.0) / 2.0;
        let deviation = (patch[axis] as f64 / 8.0).max(0.5);
        (-0.5 * ((index as f64 - centre) / deviation).powi(2)).exp()
    };
    Array3::from_shape_fn(patch, |(d, h, w)| (along(0, d) * along(1, h) * along(2, w)).max(1e-3) as f32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn windows_cover_every_voxel_and_stay_inside(
            extra in proptest::array::uniform3(0_usize..40),
            patch in proptest::array::uniform3(1_usize..17),
            overlap in 0.0_f64..0.9,
        ) {
            let volume: Extent = std::array::from_fn(|axis| patch[axis] + extra[axis]);
            let mut covered = [vec![false; volume[0]], vec![false; volume[1]], vec![false; volume[2]]];
            for start in sliding_windows(volume, patch, overlap) {
                for axis in 0..3 {
                    prop_assert!(start[axis] + patch[axis] <= volume[axis]);
                    covered[axis][start[axis]..start[axis] + patch[axis]].fill(true);
                }
            }
            prop_assert!(covered.iter().flatten().all(|voxel| *voxel));
        }
    }

    #[test]
    fn weights_are_positive_and_highest_in_the_middle() {
        let weights = gaussian_weights([8, 9, 10]);
        assert!(weights.iter().all(|weight| *weight > 0.0 && *weight <= 1.0));
        assert!(weights[[4, 4, 5]] > weights[[0, 4, 5]]);
    }
}
