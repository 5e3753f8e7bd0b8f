//! Whole-volume validation and latency.

use std::time::{Duration, Instant};

use cakes::Extent;
use cakes::frame::Quality;
use cakes_data::LoadedCase;
use cakes_data::window::{gaussian_weights, sliding_windows};
use ndarray::{Array3, Array4, s};
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::nets::{Net, Use};

/// Share of a window that its neighbour covers too.
const OVERLAP: f64 = 0.5;

/// Segments every case with sliding windows and compares with its label.
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
    patch: Extent,
    mut keep_going: impl FnMut(usize) -> bool,
) -> Result<Option<Quality>, TrainerError> {
    let draws = net.best_draw()?;
    let _no_grad = tch::no_grad_guard();
    let mut sums: Vec<f64> = Vec::new();
    for (done, case) in cases.iter().enumerate() {
        if !keep_going(done) {
            return Ok(None);
        }
        let (prediction, classes) = segment(net, &case.image, patch, Use::Evaluate(&draws))?;
        sums.resize(classes - 1, 0.0);
        for (sum, class) in sums.iter_mut().zip(1..) {
            *sum += dice(&prediction, &case.label, class);
        }
    }
    let count = cases.len().max(1) as f64;
    let dice_per_class: Vec<f64> = sums.iter().map(|sum| sum / count).collect();
    let mean_dice = dice_per_class.iter().sum::<f64>() / dice_per_class.len().max(1) as f64;
    Ok(Some(Quality { mean_dice, dice_per_class, case_count: cases.len() as u64 }))
}

/// The most likely class of every voxel, and the number of classes.
///
/// # Shapes
/// `image`: `[C, D, H, W]`, result: `[D, H, W]`.
fn segment(
    net: &mut Net,
    image: &Array4<f32>,
    patch: Extent,
    purpose: Use<'_>,
) -> Result<(Array3<u8>, usize), TrainerError> {
    let (channels, d, h, w) = image.dim();
    let size = patch.map(|size| size as usize);
    let weights = gaussian_weights(size);
    let mut votes: Option<Array4<f32>> = None;
    for [x, y, z] in sliding_windows([d, h, w], size, OVERLAP) {
        let place = s![.., x..x + size[0], y..y + size[1], z..z + size[2]];
        let window: Vec<f32> = image.slice(place).iter().copied().collect();
        let shape = [1, channels as i64, size[0] as i64, size[1] as i64, size[2] as i64];
        let input = Tensor::f_from_slice(&window)?.f_view(shape)?.f_to(net.device())?;
        let scores = net.forward(&input, purpose)?.f_softmax(1, Kind::Float)?;
        let scores = scores.f_to(Device::Cpu)?.f_contiguous()?;
        let classes = scores.size()[1] as usize;
        let mut values = vec![0_f32; scores.numel()];
        let length = values.len();
        scores.f_copy_data(&mut values, length)?;
        let scores = Array4::from_shape_vec((classes, size[0], size[1], size[2]), values)
            .map_err(|error| TrainerError::User(error.to_string()))?;
        let votes = votes.get_or_insert_with(|| Array4::zeros((classes, d, h, w)));
        let mut target = votes.slice_mut(place);
        target += &(scores * &weights);
    }
    let votes = votes.ok_or_else(|| TrainerError::User("a volume without voxels".into()))?;
    let classes = votes.dim().0;
    let best = Array3::from_shape_fn((d, h, w), |(x, y, z)| {
        let vote = |class: &usize| votes[[*class, x, y, z]];
        (0..classes)
            .max_by(|left, right| vote(left).total_cmp(&vote(right)).then(right.cmp(left)))
            .unwrap_or(0) as u8
    });
    Ok((best, classes))
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

/// Median time of one forward pass over one patch at batch 1, in milliseconds.
///
/// # Errors
/// libtorch fails.
pub fn latency_ms(net: &mut Net, patch: Extent) -> Result<f64, TrainerError> {
    let draws = net.best_draw()?;
    let _no_grad = tch::no_grad_guard();
    let channels = match net.state().find(|(name, _)| name.as_str() == "stem.weight") {
        Some((_, weight)) => weight.size()[1],
        None => 1,
    };
    let [d, h, w] = patch.map(i64::from);
    let input = Tensor::f_zeros([1, channels, d, h, w], (Kind::Float, net.device()))?;
    let mut times = Vec::new();
    let start = Instant::now();
    for pass in 0.. {
        let before = Instant::now();
        let output = net.forward(&input, Use::Evaluate(&draws))?;
        // Reading a value waits for the device.
        output.f_sum(Kind::Float)?.f_double_value(&[])?;
        // The first passes choose algorithms and fill caches.
        if pass >= 3 {
            times.push(before.elapsed());
        }
        if times.len() >= LATENCY_PASSES_MIN
            && (start.elapsed() > Duration::from_secs(2) || times.len() >= 200)
        {
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
    fn dice_is_overlap_over_size_and_one_for_a_class_that_nobody_sees() {
        let label = Array3::from_shape_vec((1, 1, 4), vec![0, 1, 1, 2]).unwrap();
        let prediction = Array3::from_shape_vec((1, 1, 4), vec![0, 1, 2, 2]).unwrap();
        assert_eq!(dice(&prediction, &label, 1), 2.0 / 3.0);
        assert_eq!(dice(&prediction, &label, 2), 2.0 / 3.0);
        assert_eq!(dice(&prediction, &label, 3), 1.0);
        assert_eq!(dice(&prediction, &label.mapv(|_| 0), 1), 0.0);
    }
}
