//! Generated volumes whose structures need different axes.
//!
//! Four classes in noise and a smooth bias field:
//!
//! | class | structure | what tells it apart |
//! |---|---|---|
//! | 1 plate | a sheet, thin along one axis | the profile across it |
//! | 2 rod | long along D | its extent along D: in a slice it looks like a ball |
//! | 3 ball | round | its extent along every axis |
//!
//! All structures have the same brightness, so shape alone decides. A case is a
//! pure function of the seed and its number.

use ndarray::{Array3, Array4};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{DataError, Extent, LoadedCase};

/// Names of the classes.
pub const CLASSES: [&str; 4] = ["background", "plate", "rod", "ball"];

/// Which phantoms to generate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhantomSpec {
    pub cases: usize,
    /// Voxels of a volume; at least 16 along each axis.
    pub extent: Extent,
    pub seed: u64,
}

/// Name of case `index`.
pub fn case_id(index: usize) -> String {
    format!("phantom_{index:05}")
}

/// Number of the case named `id`.
///
/// # Errors
/// The set has no such case.
pub fn case_index(id: &str, spec: &PhantomSpec) -> Result<usize, DataError> {
    let index = id.strip_prefix("phantom_").and_then(|digits| digits.parse::<usize>().ok());
    index.filter(|index| *index < spec.cases).ok_or_else(|| DataError::Case {
        case: id.to_owned(),
        problem: format!("there are {} phantoms, from {} on", spec.cases, case_id(0)),
    })
}

/// Generates case `index`.
pub fn generate(spec: &PhantomSpec, index: usize) -> LoadedCase {
    let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
    rng.set_stream(index as u64);
    let mut label = Array3::<u8>::zeros(spec.extent);
    let volume: usize = spec.extent.iter().product();
    // One structure of each class per 16³ voxels or so, at least one.
    let rounds = (volume / 16_000).max(1);
    for _ in 0..rounds {
        for class in 1..=3_u8 {
            place(&mut label, class, &mut rng);
        }
    }
    let image = paint(&label, &mut rng);
    LoadedCase { id: case_id(index), image, label, spacing_mm: [1.0; 3] }
}

/// Draws one structure where it touches no other; gives up after some tries.
fn place(label: &mut Array3<u8>, class: u8, rng: &mut ChaCha8Rng) {
    let (d, h, w) = label.dim();
    let extent = [d, h, w];
    for _ in 0..20 {
        let radius = rng.random_range(2.0..3.5_f64);
        let half: [f64; 3] = match class {
            1 => {
                let mut half =
                    [rng.random_range(4.0..6.5), rng.random_range(4.0..6.5), rng.random_range(4.0..6.5)];
                half[rng.random_range(0..3)] = 1.0;
                half
            }
            2 => [rng.random_range(7.0..9.5), radius, radius],
            _ => [radius; 3],
        };
        let centre: [f64; 3] = std::array::from_fn(|axis| {
            let margin = half[axis].min(extent[axis] as f64 / 2.0 - 1.0);
            rng.random_range(margin..extent[axis] as f64 - margin)
        });
        let inside = |point: [usize; 3], grow: f64| {
            let offset: [f64; 3] = std::array::from_fn(|axis| (point[axis] as f64 - centre[axis]).abs());
            match class {
                1 => (0..3).all(|axis| offset[axis] <= half[axis] + grow),
                2 => offset[0] <= half[0] + grow && offset[1].hypot(offset[2]) <= radius + grow,
                _ => offset.iter().map(|value| value * value).sum::<f64>().sqrt() <= radius + grow,
            }
        };
        let free = label.indexed_iter().all(|((x, y, z), taken)| *taken == 0 || !inside([x, y, z], 2.0));
        if free {
            for ((x, y, z), voxel) in label.indexed_iter_mut() {
                if inside([x, y, z], 0.0) {
                    *voxel = class;
                }
            }
            return;
        }
    }
}

fn paint(label: &Array3<u8>, rng: &mut ChaCha8Rng) -> Array4<f32> {
    let (d, h, w) = label.dim();
    let slope: [f64; 3] = std::array::from_fn(|_| rng.random_range(-0.3..0.3));
    let contrast = rng.random_range(0.8..1.2_f64);
    let mut image = Array4::zeros((1, d, h, w));
    for ((x, y, z), class) in label.indexed_iter() {
        let position = [x as f64 / d as f64, y as f64 / h as f64, z as f64 / w as f64];
        let bias: f64 = (0..3).map(|axis| slope[axis] * (position[axis] - 0.5)).sum();
        let structure = if *class > 0 { contrast } else { 0.0 };
        image[[0, x, y, z]] = (structure + bias + 0.25 * gaussian(rng)) as f32;
    }
    image
}

/// A standard normal number (Box and Muller 1958).
pub(crate) fn gaussian(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_depends_on_seed_and_number_alone_and_holds_every_class() {
        let spec = PhantomSpec { cases: 4, extent: [32, 32, 32], seed: 7 };
        let (first, again) = (generate(&spec, 2), generate(&spec, 2));
        assert_eq!((&first.image, &first.label), (&again.image, &again.label));
        assert_ne!(first.label, generate(&spec, 3).label);
        assert_ne!(first.label, generate(&PhantomSpec { seed: 8, ..spec }, 2).label);
        for class in 0..4 {
            assert!(first.label.iter().any(|label| *label == class), "class {class}");
        }
    }
}
