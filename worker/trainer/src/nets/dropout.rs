//! Which values a dropout drops.
//!
//! The mask follows from the job's seed, the step and the layer, and is made in
//! host memory: both engines, every device and a resumed job drop the same.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use super::net::Use;
use crate::TrainerError;

/// What the masks of one step follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskSeed {
    /// Of the job.
    pub seed: u64,
    /// Steps done before.
    pub step: u64,
    /// Samples of the batch that other processes have, before those of this one.
    pub samples_before: u64,
}

/// Zero for what is dropped and 1 / (1 - p) for what stays; none in evaluation,
/// which drops nothing. `layer` is the position of the node.
pub(super) fn mask(
    layer: usize,
    percent: u32,
    shape: &[i64],
    device: Device,
    purpose: Use<'_>,
) -> Result<Option<Tensor>, TrainerError> {
    if !purpose.trains() || percent == 0 {
        return Ok(None);
    }
    let missing = || TrainerError::User(format!("no seed for the dropout in node {layer}"));
    let seed = purpose.draws().masks.ok_or_else(missing)?;
    let count = shape.iter().product::<i64>().unsigned_abs() as usize;
    let per_sample = count as u64 / shape.first().map_or(1, |samples| samples.unsigned_abs().max(1));
    Ok(Some(
        Tensor::f_from_slice(&values(seed, layer, percent, count, per_sample))?
            .f_view(shape)?
            .f_to(device)?,
    ))
}

fn values(mask: MaskSeed, layer: usize, percent: u32, count: usize, per_sample: u64) -> Vec<f32> {
    let MaskSeed { seed, step, samples_before } = mask;
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6472_6f70_6f75_7421);
    rng.set_stream(step.wrapping_mul(65_536).wrapping_add(layer as u64));
    // One word for each value of those before.
    rng.set_word_pos(u128::from(samples_before * per_sample));
    let dropped = f64::from(percent) / 100.0;
    let limit = (dropped * 2_f64.powi(32)) as u64;
    let kept = (1.0 / (1.0 - dropped)) as f32;
    (0..count).map(|_| if u64::from(rng.next_u32()) < limit { 0.0 } else { kept }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_repeats_keeps_the_mean_and_differs_by_seed_step_and_layer() {
        let of = |seed, step, layer| {
            let mask = MaskSeed { seed, step, samples_before: 0 };
            values(mask, layer, 30, 100_000, 50_000)
        };
        let mask = of(1, 2, 3);
        assert_eq!(mask, of(1, 2, 3));
        assert!([of(2, 2, 3), of(1, 3, 3), of(1, 2, 4)].iter().all(|other| *other != mask));
        let dropped = mask.iter().filter(|value| **value == 0.0).count();
        assert!((29_000..31_000).contains(&dropped), "{dropped}");
        let mean = mask.iter().sum::<f32>() / 1e5;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        let second = MaskSeed { seed: 1, step: 2, samples_before: 1 };
        assert_eq!(values(second, 3, 30, 50_000, 50_000), mask[50_000..]);
    }
}
