//! Patches of volumes: where they are taken, and how they are changed.
//!
//! A patch is a pure function of a case and a random stream that belongs to it
//! alone ([`patch_stream`]), so neither threads nor a restart change it.

use ndarray::{Array3, Array4, ArrayView3, ArrayView4, Axis, s};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::phantom::gaussian;
use crate::{DataError, Extent, LoadedCase};

/// Where patches are taken and how they are changed.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchPolicy {
    /// Voxels of a patch along D, H and W.
    pub extent: Extent,
    /// Share of patches centred on a foreground voxel.
    pub foreground_probability: f64,
    /// Axes along which a patch is mirrored half of the time.
    pub flip_axes: [bool; 3],
    /// Classes that change places when a patch is mirrored along D, from left to
    /// right.
    pub flip_swaps: Vec<[usize; 2]>,
    /// Share of patches that are rotated and scaled.
    pub affine_probability: f64,
    pub rotation_degrees_max: f64,
    /// 0.1 for scales of 0.9 to 1.1.
    pub scale_change_max: f64,
    /// Largest standard deviation of added noise.
    pub noise_max: f64,
    /// Largest change of contrast (relative) and brightness (absolute).
    pub intensity_change_max: f64,
}

/// A training sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// `[C, D, H, W]`
    pub image: Array4<f32>,
    /// `[D, H, W]`
    pub label: Array3<u8>,
}

/// A normalised case with the places of its foreground classes.
#[derive(Clone, Debug)]
pub struct PreparedCase {
    pub case: LoadedCase,
    /// For each class that occurs, background left out: flat voxel positions.
    foreground: Vec<Vec<u32>>,
}

impl PreparedCase {
    /// Indexes a case for sampling patches of `extent`.
    ///
    /// # Errors
    /// The volume is smaller than the patch.
    pub fn new(case: LoadedCase, extent: Extent) -> Result<Self, DataError> {
        at_least(&case, extent)?;
        let mut places: Vec<Vec<u32>> = vec![Vec::new(); 256];
        for (position, class) in case.label.iter().enumerate() {
            if *class > 0 {
                places[usize::from(*class)].push(position as u32);
            }
        }
        places.retain(|list| !list.is_empty());
        Ok(PreparedCase { case, foreground: places })
    }
}

/// Makes sure that a case is as large as a patch of `extent`.
///
/// # Errors
/// It is smaller, with the case, the axis and the remedy.
pub fn at_least(case: &LoadedCase, extent: Extent) -> Result<(), DataError> {
    let (d, h, w) = case.label.dim();
    for (axis, (size, wanted)) in ["D", "H", "W"].into_iter().zip([d, h, w].into_iter().zip(extent)) {
        if size < wanted {
            return Err(DataError::Case {
                case: case.id.clone(),
                problem: format!(
                    "has {size} voxels along {axis}, fewer than the patch's {wanted}; use a smaller patch or set pad_small_volumes"
                ),
            });
        }
    }
    Ok(())
}

/// The random stream of sample `index` of optimizer step `step`.
pub fn patch_stream(seed: u64, step: u64, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x7061_7463_6865_7321);
    rng.set_stream(step.wrapping_mul(65_536).wrapping_add(index));
    rng
}

/// Cuts one patch and changes it.
pub fn sample_patch(prepared: &PreparedCase, policy: &PatchPolicy, rng: &mut ChaCha8Rng) -> Patch {
    let start = choose_start(prepared, policy, rng);
    let place = Placement::draw(start, policy, rng);
    let (image, label) = (prepared.case.image.view(), prepared.case.label.view());
    let mut patch = Patch { image: place.cut_image(&image), label: place.cut_label(&label) };
    let mirrored = mirrored_axes(policy, rng);
    for axis in &mirrored {
        patch.image.invert_axis(Axis(axis + 1));
        patch.label.invert_axis(Axis(*axis));
    }
    if mirrored.contains(&LEFT_RIGHT) && !policy.flip_swaps.is_empty() {
        patch.label.mapv_inplace(|class| swapped(usize::from(class), &policy.flip_swaps) as u8);
    }
    change_intensity(&mut patch.image, policy.intensity_change_max, policy.noise_max, rng);
    Patch {
        image: patch.image.as_standard_layout().into_owned(),
        label: patch.label.as_standard_layout().into_owned(),
    }
}

/// Cuts one patch of an image with one class and changes both like [`sample_patch`].
/// The image (`[C, D, H, W]`) is at least as large as the patch.
pub fn sample_image(
    image: &ArrayView4<f32>,
    class: usize,
    policy: &PatchPolicy,
    rng: &mut ChaCha8Rng,
) -> (Array4<f32>, usize) {
    let (_, d, h, w) = image.dim();
    let size = [d, h, w];
    let start = std::array::from_fn(|axis| rng.random_range(0..=size[axis] - policy.extent[axis]));
    let mut patch = Placement::draw(start, policy, rng).cut_image(image);
    let mirrored = mirrored_axes(policy, rng);
    for axis in &mirrored {
        patch.invert_axis(Axis(axis + 1));
    }
    let class = if mirrored.contains(&LEFT_RIGHT) { swapped(class, &policy.flip_swaps) } else { class };
    change_intensity(&mut patch, policy.intensity_change_max, policy.noise_max, rng);
    (patch.as_standard_layout().into_owned(), class)
}

/// D runs from left to right in volumes that are read from files.
const LEFT_RIGHT: usize = 0;

/// The class that a mirror makes of `class`.
pub(crate) fn swapped(class: usize, swaps: &[[usize; 2]]) -> usize {
    let other = swaps.iter().find_map(|[left, right]| match class {
        class if class == *left => Some(*right),
        class if class == *right => Some(*left),
        _ => None,
    });
    other.unwrap_or(class)
}

fn mirrored_axes(policy: &PatchPolicy, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let axes = policy.flip_axes.into_iter().enumerate();
    axes.filter(|(_, flips)| rng.random_bool(0.5) && *flips).map(|(axis, _)| axis).collect()
}

fn choose_start(prepared: &PreparedCase, policy: &PatchPolicy, rng: &mut ChaCha8Rng) -> Extent {
    let (d, h, w) = prepared.case.label.dim();
    let room: Extent = std::array::from_fn(|axis| [d, h, w][axis] - policy.extent[axis]);
    let on_foreground = rng.random_bool(policy.foreground_probability);
    if !on_foreground || prepared.foreground.is_empty() {
        return room.map(|most| rng.random_range(0..=most));
    }
    let places = &prepared.foreground[rng.random_range(0..prepared.foreground.len())];
    let flat = places[rng.random_range(0..places.len())] as usize;
    let voxel = [flat / (h * w), flat / w % h, flat % w];
    std::array::from_fn(|axis| {
        let size = policy.extent[axis];
        // Anywhere in the middle half of the patch.
        let inside = size / 4 + rng.random_range(0..=(size / 2).max(1));
        voxel[axis].saturating_sub(inside).min(room[axis])
    })
}

/// Where the voxels of a patch lie in a volume.
#[derive(Clone, Debug)]
struct Placement {
    start: Extent,
    size: Extent,
    /// Turns and scales offsets from the middle of the patch.
    matrix: Option<[[f64; 3]; 3]>,
}

impl Placement {
    fn draw(start: Extent, policy: &PatchPolicy, rng: &mut ChaCha8Rng) -> Self {
        let matrix = rng.random_bool(policy.affine_probability).then(|| {
            let most = policy.rotation_degrees_max.to_radians();
            let angles: [f64; 3] = std::array::from_fn(|_| (rng.random::<f64>() * 2.0 - 1.0) * most);
            let scale = 1.0 + (rng.random::<f64>() * 2.0 - 1.0) * policy.scale_change_max;
            rotation(angles).map(|row| row.map(|value| value / scale))
        });
        Placement { start, size: policy.extent, matrix }
    }

    fn ranges(&self) -> [std::ops::Range<usize>; 3] {
        std::array::from_fn(|axis| self.start[axis]..self.start[axis] + self.size[axis])
    }

    /// Trilinear where the patch is turned.
    fn cut_image(&self, image: &ArrayView4<f32>) -> Array4<f32> {
        let (channels, d, h, w) = image.dim();
        let Some(matrix) = &self.matrix else {
            let [d, h, w] = self.ranges();
            return image.slice(s![.., d, h, w]).to_owned();
        };
        let mut out = Array4::zeros((channels, self.size[0], self.size[1], self.size[2]));
        for [x, y, z] in voxels(self.size) {
            let position = self.position(matrix, [x, y, z], [d, h, w]);
            for channel in 0..channels {
                out[[channel, x, y, z]] = trilinear(image, channel, position);
            }
        }
        out
    }

    /// The nearest voxel where the patch is turned.
    fn cut_label(&self, label: &ArrayView3<u8>) -> Array3<u8> {
        let (d, h, w) = label.dim();
        let Some(matrix) = &self.matrix else {
            let [d, h, w] = self.ranges();
            return label.slice(s![d, h, w]).to_owned();
        };
        Array3::from_shape_fn(self.size, |(x, y, z)| {
            label[self.position(matrix, [x, y, z], [d, h, w]).map(|value| value.round() as usize)]
        })
    }

    /// Where a voxel of a turned patch lies in a volume of the extent `limits`;
    /// what is outside takes the nearest edge.
    fn position(&self, matrix: &[[f64; 3]; 3], place: Extent, limits: Extent) -> [f64; 3] {
        let half: [f64; 3] = self.size.map(|size| (size as f64 - 1.0) / 2.0);
        let offset: [f64; 3] = std::array::from_fn(|axis| place[axis] as f64 - half[axis]);
        std::array::from_fn(|axis| {
            let turned: f64 = (0..3).map(|column| matrix[axis][column] * offset[column]).sum();
            (turned + self.start[axis] as f64 + half[axis]).clamp(0.0, limits[axis] as f64 - 1.0)
        })
    }
}

fn voxels([d, h, w]: Extent) -> impl Iterator<Item = Extent> {
    (0..d).flat_map(move |x| (0..h).flat_map(move |y| (0..w).map(move |z| [x, y, z])))
}

fn trilinear(image: &ArrayView4<f32>, channel: usize, position: [f64; 3]) -> f32 {
    let (_, d, h, w) = image.dim();
    let limits = [d, h, w];
    let low: Extent = position.map(|value| value as usize);
    let high: Extent = std::array::from_fn(|axis| (low[axis] + 1).min(limits[axis] - 1));
    let weight: [f32; 3] = std::array::from_fn(|axis| (position[axis] - low[axis] as f64) as f32);
    let at = |d: usize, h: usize, w: usize| image[[channel, d, h, w]];
    let along_w = |d, h| at(d, h, low[2]) * (1.0 - weight[2]) + at(d, h, high[2]) * weight[2];
    let along_h = |d| along_w(d, low[1]) * (1.0 - weight[1]) + along_w(d, high[1]) * weight[1];
    along_h(low[0]) * (1.0 - weight[0]) + along_h(high[0]) * weight[0]
}

/// Rotations about D, then H, then W.
fn rotation([a, b, c]: [f64; 3]) -> [[f64; 3]; 3] {
    let (sa, ca, sb, cb, sc, cc) = (a.sin(), a.cos(), b.sin(), b.cos(), c.sin(), c.cos());
    [
        [cb * cc, -cb * sc, sb],
        [ca * sc + sa * sb * cc, ca * cc - sa * sb * sc, -sa * cb],
        [sa * sc - ca * sb * cc, sa * cc + ca * sb * sc, ca * cb],
    ]
}

/// Changes contrast (relative) and brightness, and adds noise.
pub(crate) fn change_intensity(
    image: &mut Array4<f32>,
    change_max: f64,
    noise_max: f64,
    rng: &mut ChaCha8Rng,
) {
    let mut change = || (rng.random::<f64>() * 2.0 - 1.0) * change_max;
    let (contrast, brightness) = ((1.0 + change()) as f32, change() as f32);
    let noise = rng.random::<f64>() * noise_max;
    if change_max > 0.0 {
        image.mapv_inplace(|value| value * contrast + brightness);
    }
    if noise > 0.0 {
        image.mapv_inplace(|value| value + (gaussian(rng) * noise) as f32);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::phantom::{PhantomSpec, generate};

    fn policy() -> PatchPolicy {
        PatchPolicy {
            extent: [12, 10, 8],
            foreground_probability: 0.5,
            flip_axes: [true; 3],
            flip_swaps: Vec::new(),
            affine_probability: 0.5,
            rotation_degrees_max: 20.0,
            scale_change_max: 0.2,
            noise_max: 0.0,
            intensity_change_max: 0.0,
        }
    }

    /// The image equals the label, so that any change must treat both alike.
    fn twin() -> PreparedCase {
        let mut case = generate(&PhantomSpec { cases: 1, extent: [20, 20, 20], seed: 3 }, 0);
        case.image = case.label.mapv(f32::from).insert_axis(Axis(0));
        PreparedCase::new(case, policy().extent).unwrap()
    }

    #[test]
    fn a_volume_smaller_than_the_patch_names_case_axis_and_remedy() {
        let case = generate(&PhantomSpec { cases: 1, extent: [16, 20, 20], seed: 3 }, 0);
        let error = PreparedCase::new(case, [16, 32, 16]).unwrap_err().to_string();
        assert!(
            error.contains("phantom_00000")
                && error.contains("along H")
                && error.contains("pad_small_volumes"),
            "{error}"
        );
    }

    #[test]
    fn foreground_patches_hold_foreground() {
        let policy = PatchPolicy { foreground_probability: 1.0, affine_probability: 0.0, ..policy() };
        let prepared = twin();
        for step in 0..50 {
            let patch = sample_patch(&prepared, &policy, &mut patch_stream(1, step, 0));
            assert!(patch.label.iter().any(|class| *class > 0), "step {step}");
        }
    }

    /// Two halves, left and right, each with its class and the grey value of its side.
    #[test]
    fn classes_of_left_and_right_change_places_where_a_patch_is_mirrored_along_d() {
        let label: Array3<u8> = Array3::from_shape_fn((4, 3, 3), |(d, _, _)| if d < 2 { 1 } else { 2 });
        let image = label.mapv(f32::from).insert_axis(Axis(0));
        let case = LoadedCase { id: "x".into(), image, label, spacing_mm: [1.0; 3] };
        let plain = PatchPolicy { extent: [4, 3, 3], affine_probability: 0.0, ..policy() };
        let prepared = PreparedCase::new(case, plain.extent).unwrap();
        let swapping = PatchPolicy { flip_swaps: vec![[2, 1]], ..plain };
        let mut mirrored = 0;
        for step in 0..100 {
            let patch = sample_patch(&prepared, &swapping, &mut patch_stream(1, step, 0));
            mirrored += usize::from(patch.image[[0, 0, 0, 0]] == 2.0);
            // Whichever side it came from: what lies left is the left one.
            assert_eq!(patch.label, prepared.case.label);
            let patch = sample_patch(&prepared, &plain, &mut patch_stream(1, step, 0));
            assert_eq!(patch.label.mapv(f32::from), patch.image.index_axis(Axis(0), 0));
        }
        assert!((30..70).contains(&mirrored), "{mirrored} of 100");
    }

    proptest! {
        #[test]
        fn a_patch_depends_on_its_stream_alone_and_keeps_image_and_label_together(seed in any::<u64>(), step in 0_u64..1000) {
            let (prepared, policy) = (twin(), policy());
            let patch = sample_patch(&prepared, &policy, &mut patch_stream(seed, step, 1));
            prop_assert_eq!(&patch, &sample_patch(&prepared, &policy, &mut patch_stream(seed, step, 1)));
            // Where the interpolated image is a whole number its neighbours agree,
            // so the nearest label must be that number; elsewhere they differ by
            // less than the largest class.
            for ((d, h, w), class) in patch.label.indexed_iter() {
                prop_assert!((patch.image[[0, d, h, w]] - f32::from(*class)).abs() < 3.0);
            }
            let unrotated = PatchPolicy { affine_probability: 0.0, ..policy };
            let patch = sample_patch(&prepared, &unrotated, &mut patch_stream(seed, step, 2));
            prop_assert_eq!(patch.image.index_axis(Axis(0), 0).mapv(|value| value as u8), patch.label);
        }
    }
}
