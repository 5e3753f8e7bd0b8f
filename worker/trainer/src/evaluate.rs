//! Whole-volume validation and latency.

use std::time::{Duration, Instant};

use cakes::Extent;
use cakes::frame::{Quality, SegmentationQuality};
use cakes_data::LoadedCase;
use cakes_data::window::{gaussian_weights, sliding_windows};
use ndarray::{Array3, Array4, Array5, ArrayD, s};
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::nets::{Net, Use};

/// Share of a window that its neighbour covers too.
const OVERLAP: f64 = 0.5;

/// Windows of one volume that run together.
const WINDOWS_AT_ONCE: usize = 4;

/// How volumes are cut for the network.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    pub patch: Extent,
    /// What every axis of a window must be a multiple of.
    pub stride: u32,
}

impl Windows {
    /// The window for a volume: along each axis the whole volume if it is not
    /// much longer than the patch, else the patch. A network without fixed
    /// positions takes any extent, and one window costs less than two.
    fn extent(self, volume: [usize; 3]) -> [usize; 3] {
        std::array::from_fn(|axis| {
            let (patch, stride) = (self.patch[axis] as usize, self.stride.max(1) as usize);
            let whole = volume[axis].next_multiple_of(stride);
            if whole <= patch + patch / 2 { whole } else { patch }
        })
    }
}

/// Segments every case and compares with its label. None if `keep_going`, which
/// is told how many cases are done, says no.
///
/// Dice of a class is taken per case and averaged over cases. A class that
/// neither prediction nor label holds counts as 1 in that case, as in the
/// Medical Segmentation Decathlon.
///
/// # Errors
/// libtorch fails.
pub fn validate(
    net: &mut Net,
    cases: &[LoadedCase],
    windows: Windows,
    mut keep_going: impl FnMut(usize) -> bool,
) -> Result<Option<Quality>, TrainerError> {
    let draws = net.best_draw()?;
    let _no_grad = tch::no_grad_guard();
    let mut sums: Vec<f64> = Vec::new();
    for (done, case) in cases.iter().enumerate() {
        if !keep_going(done) {
            return Ok(None);
        }
        let (prediction, classes) = segment(net, &case.image, windows, Use::Evaluate(&draws))?;
        sums.resize(classes.saturating_sub(1), 0.0);
        add_dice(&mut sums, &prediction, &case.label);
    }
    let count = cases.len().max(1) as f64;
    let dice_per_class: Vec<f64> = sums.iter().map(|sum| sum / count).collect();
    let mean_dice = dice_per_class.iter().sum::<f64>() / dice_per_class.len().max(1) as f64;
    let case_count = cases.len() as u64;
    Ok(Some(Quality::Segmentation(SegmentationQuality { mean_dice, dice_per_class, case_count })))
}

/// The most likely class of every voxel, and the number of classes.
///
/// # Shapes
/// `image`: `[C, D, H, W]`, result: `[D, H, W]`.
pub fn segment(
    net: &mut Net,
    image: &Array4<f32>,
    windows: Windows,
    purpose: Use<'_>,
) -> Result<(Array3<u8>, usize), TrainerError> {
    let (_, d, h, w) = image.dim();
    let window = windows.extent([d, h, w]);
    let covered: [usize; 3] = std::array::from_fn(|axis| [d, h, w][axis].max(window[axis]));
    let weights = gaussian_weights(window);
    let mut votes: Option<Array4<f32>> = None;
    for starts in sliding_windows(covered, window, OVERLAP).chunks(WINDOWS_AT_ONCE) {
        let input = cut(image, window, starts)?.f_to(net.device())?;
        let scores = net.forward(&input, purpose)?.f_softmax(1, Kind::Float)?;
        let scores = to_array(&scores)?;
        let (_, classes, ..) = scores.dim();
        let votes = votes.get_or_insert_with(|| Array4::zeros((classes, covered[0], covered[1], covered[2])));
        for (scores, [x, y, z]) in scores.outer_iter().zip(starts) {
            let place = s![.., *x..x + window[0], *y..y + window[1], *z..z + window[2]];
            let mut target = votes.slice_mut(place);
            target += &(&scores * &weights);
        }
    }
    let votes = votes.ok_or_else(|| TrainerError::User("a volume without voxels".into()))?;
    let classes = votes.dim().0;
    let mut prediction = Array3::zeros((d, h, w));
    let mut highest = votes.slice(s![0, ..d, ..h, ..w]).to_owned();
    for class in 1..classes {
        let votes = votes.slice(s![class, ..d, ..h, ..w]);
        ndarray::Zip::from(&mut prediction).and(&mut highest).and(votes).for_each(|best, highest, vote| {
            if vote > highest {
                (*best, *highest) = (class as u8, *vote);
            }
        });
    }
    Ok((prediction, classes))
}

/// Windows of an image, zero where they reach beyond it: `[N, C, D, H, W]`.
fn cut(image: &Array4<f32>, window: [usize; 3], starts: &[[usize; 3]]) -> Result<Tensor, TrainerError> {
    let (channels, d, h, w) = image.dim();
    let mut windows = Array5::zeros((starts.len(), channels, window[0], window[1], window[2]));
    for (mut cut, start) in windows.outer_iter_mut().zip(starts) {
        let [x, y, z]: [std::ops::Range<usize>; 3] =
            std::array::from_fn(|axis| start[axis]..(start[axis] + window[axis]).min([d, h, w][axis]));
        let place = s![.., ..x.len(), ..y.len(), ..z.len()];
        cut.slice_mut(place).assign(&image.slice(s![.., x, y, z]));
    }
    let shape: Vec<i64> = windows.shape().iter().map(|size| *size as i64).collect();
    Ok(Tensor::f_from_slice(&windows.into_raw_vec_and_offset().0)?.f_view(shape.as_slice())?)
}

fn to_array(tensor: &Tensor) -> Result<Array5<f32>, TrainerError> {
    let tensor = tensor.f_to(Device::Cpu)?.f_contiguous()?;
    let mut values = vec![0_f32; tensor.numel()];
    let length = values.len();
    tensor.f_copy_data(&mut values, length)?;
    let shape: Vec<usize> = tensor.size().iter().map(|size| *size as usize).collect();
    ArrayD::from_shape_vec(shape, values)
        .and_then(|array| array.into_dimensionality())
        .map_err(|error| TrainerError::Report(error.to_string()))
}

/// Adds the Dice of each class but the background.
fn add_dice(sums: &mut [f64], prediction: &Array3<u8>, label: &Array3<u8>) {
    for (sum, class) in sums.iter_mut().zip(1..=u8::MAX) {
        *sum += dice(prediction, label, class);
    }
}

fn dice(prediction: &Array3<u8>, label: &Array3<u8>, class: u8) -> f64 {
    let (mut both, mut either) = (0_u64, 0_u64);
    for (predicted, truth) in prediction.iter().zip(label) {
        let (predicted, truth) = (*predicted == class, *truth == class);
        both += u64::from(predicted && truth);
        either += u64::from(predicted) + u64::from(truth);
    }
    if either == 0 { 1.0 } else { 2.0 * both as f64 / either as f64 }
}

/// Passes that are timed at least, however slow.
const LATENCY_PASSES_MIN: usize = 10;

/// Passes that are timed at most.
const LATENCY_PASSES_MAX: usize = 200;

/// Time spent on measuring, if the passes allow it.
const LATENCY_DURATION: Duration = Duration::from_secs(2);

/// Passes that choose algorithms and fill caches.
const LATENCY_PASSES_WARM: usize = 3;

/// Median time of one forward pass over one patch at batch 1, in milliseconds.
///
/// # Errors
/// libtorch fails.
pub fn latency_ms(net: &mut Net, patch: Extent) -> Result<f64, TrainerError> {
    let draws = net.best_draw()?;
    let _no_grad = tch::no_grad_guard();
    let [d, h, w] = patch.map(i64::from);
    let shape = [1, i64::from(net.input_channels()), d, h, w];
    let input = Tensor::f_rand(shape, (Kind::Float, net.device()))?;
    let mut times = Vec::new();
    let start = Instant::now();
    for pass in 0.. {
        let before = Instant::now();
        let output = net.forward(&input, Use::Evaluate(&draws))?;
        // Reading a value waits for the device.
        output.f_sum(Kind::Float)?.f_double_value(&[])?;
        if pass >= LATENCY_PASSES_WARM {
            times.push(before.elapsed());
        }
        let long = start.elapsed() > LATENCY_DURATION || times.len() >= LATENCY_PASSES_MAX;
        if times.len() >= LATENCY_PASSES_MIN && long {
            break;
        }
    }
    times.sort();
    Ok(times[times.len() / 2].as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_the_volume_where_that_is_not_much_longer_than_the_patch() {
        let windows = Windows { patch: [32, 32, 32], stride: 4 };
        assert_eq!(windows.extent([20, 47, 49]), [20, 48, 32]);
        assert_eq!(windows.extent([21, 48, 100]), [24, 48, 32]);
    }

    #[test]
    fn dice_is_overlap_over_size_and_one_for_a_class_that_nobody_sees() {
        let label = Array3::from_shape_vec((1, 1, 4), vec![0, 1, 1, 2]).unwrap();
        let prediction = Array3::from_shape_vec((1, 1, 4), vec![0, 1, 2, 2]).unwrap();
        assert_eq!(dice(&prediction, &label, 1), 2.0 / 3.0);
        assert_eq!(dice(&prediction, &label, 2), 2.0 / 3.0);
        assert_eq!(dice(&prediction, &label, 3), 1.0);
        assert_eq!(dice(&prediction, &label.mapv(|_| 0), 1), 0.0);
    }

    #[test]
    fn dice_of_as_many_classes_as_a_byte_tells_apart() {
        let label = Array3::from_shape_vec((1, 1, 3), vec![0, 254, 255]).unwrap();
        let prediction = Array3::from_shape_vec((1, 1, 3), vec![0, 255, 255]).unwrap();
        let mut sums = vec![0.0; 255];
        add_dice(&mut sums, &prediction, &label);
        assert_eq!((sums[0], sums[253], sums[254]), (1.0, 0.0, 2.0 / 3.0));
    }
}
