//! Which kernel computes which channel, in a performance-priority supernet.
//!
//! The published code draws C of all K·C candidates jointly, which almost never
//! visits uneven splits, and uses another sampler for one of its spaces. Here
//! one sampler serves every space: shares are drawn uniformly from the simplex,
//! then each channel draws its kernel with these shares. A candidate of channel
//! `c` is always the input `c` of the next layer.

use std::collections::BTreeMap;

use cakes::kernel::KernelSet;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use super::dropout::MaskSeed;
use crate::TrainerError;

/// The kernel of every channel of one layer.
#[derive(Debug)]
pub struct LayerDraw {
    /// Position in the kernel set, by channel: `[C]`.
    pub kernel_of_channel: Vec<usize>,
    /// Channels of each kernel, int64, by position in the set.
    pub channels_of_kernel: Vec<Option<Tensor>>,
    /// Brings the concatenated branches into channel order: int64 `[C]`.
    pub order: Tensor,
    /// The chosen of the K·C candidates in channel order: int64 `[C]`.
    pub candidates: Tensor,
}

impl LayerDraw {
    /// The draw that gives channel `c` the kernel `kernel_of_channel[c]`.
    ///
    /// # Errors
    /// libtorch cannot make the index tensors.
    pub fn new(
        kernel_of_channel: Vec<usize>,
        kernel_count: usize,
        device: Device,
    ) -> Result<Self, TrainerError> {
        let channels = kernel_of_channel.len();
        let of_kernel = |kernel: usize| -> Vec<i64> {
            (0..channels)
                .filter(|channel| kernel_of_channel[*channel] == kernel)
                .map(|channel| channel as i64)
                .collect()
        };
        let grouped: Vec<Vec<i64>> = (0..kernel_count).map(of_kernel).collect();
        let mut order = vec![0_i64; channels];
        for (position, channel) in grouped.iter().flatten().enumerate() {
            order[*channel as usize] = position as i64;
        }
        let candidates = kernel_of_channel
            .iter()
            .enumerate()
            .map(|(channel, kernel)| (kernel * channels + channel) as i64);
        let candidates: Vec<i64> = candidates.collect();
        let tensor = |values: &[i64]| -> Result<Tensor, TrainerError> {
            Ok(Tensor::f_from_slice(values)?.f_to(device)?)
        };
        let channels_of_kernel = grouped
            .iter()
            .map(|list| if list.is_empty() { Ok(None) } else { tensor(list).map(Some) })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(LayerDraw {
            channels_of_kernel,
            order: tensor(&order)?,
            candidates: tensor(&candidates)?,
            kernel_of_channel,
        })
    }
}

/// What is random in one step.
#[derive(Debug, Default)]
pub struct Draws {
    /// By the names of the layers whose kernels are drawn.
    pub layers: BTreeMap<String, LayerDraw>,
    /// What the masks of dropouts follow from; none where nothing is trained.
    pub masks: Option<MaskSeed>,
}

impl Draws {
    /// Draws of a network that neither draws kernels nor drops values.
    pub fn new() -> Self {
        Draws::default()
    }

    pub(crate) fn layer(&self, layer: &str) -> Result<&LayerDraw, TrainerError> {
        let missing = || TrainerError::User(format!("no draw for layer '{layer}'"));
        self.layers.get(layer).ok_or_else(missing)
    }
}

/// Draws the kernels of one layer for one step.
pub(super) fn draw_kernels(
    seed: u64,
    step: u64,
    layer: usize,
    channels: u32,
    kernels: &KernelSet,
) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6b65_726e_656c_7321);
    rng.set_stream(step.wrapping_mul(65_536).wrapping_add(layer as u64));
    // Exponential variates over their sum are uniform on the simplex.
    let shares: Vec<f64> = (0..kernels.len()).map(|_| -(1.0 - rng.random::<f64>()).ln()).collect();
    let total: f64 = shares.iter().sum();
    (0..channels)
        .map(|_| {
            let mut rest = rng.random::<f64>() * total;
            let chosen = shares.iter().position(|share| {
                rest -= share;
                rest < 0.0
            });
            chosen.unwrap_or(shares.len() - 1)
        })
        .collect()
}

/// The child that evaluation runs: each channel's candidate of the largest
/// score; among equals the one with fewer taps, then the canonical order.
/// `scores` is `[K][C]`.
pub(super) fn best_kernels(scores: &[Vec<f32>], kernels: &KernelSet) -> Vec<usize> {
    let kernels: Vec<_> = kernels.iter().collect();
    let channels = scores.first().map_or(0, Vec::len);
    (0..channels)
        .map(|channel| {
            let better = |left: &usize, right: &usize| {
                scores[*left][channel]
                    .total_cmp(&scores[*right][channel])
                    .then(kernels[*right].taps().cmp(&kernels[*left].taps()))
                    .then(right.cmp(left))
            };
            (0..kernels.len()).max_by(better).unwrap_or(0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_repeats_and_uneven_splits_occur() {
        let kernels = KernelSet::volumetric();
        assert_eq!(draw_kernels(1, 2, 3, 64, &kernels), draw_kernels(1, 2, 3, 64, &kernels));
        assert_ne!(draw_kernels(1, 2, 3, 64, &kernels), draw_kernels(1, 3, 3, 64, &kernels));
        let largest = |step| {
            let drawn = draw_kernels(1, step, 0, 64, &kernels);
            (0..7).map(|kernel| drawn.iter().filter(|chosen| **chosen == kernel).count()).max().unwrap()
        };
        let counts: Vec<usize> = (0..200).map(largest).collect();
        assert!(
            counts.iter().any(|count| *count > 32) && counts.iter().any(|count| *count < 20),
            "{counts:?}"
        );
        let mean = (0..500)
            .flat_map(|step| draw_kernels(5, step, 1, 64, &kernels))
            .filter(|kernel| *kernel == 3)
            .count();
        let expected = 500 * 64 / 7;
        assert!((mean as f64 / expected as f64 - 1.0).abs() < 0.15, "{mean} of {expected}");
    }

    #[test]
    fn evaluation_prefers_the_lighter_kernel_among_equals() {
        let kernels = KernelSet::volumetric();
        let mut scores = vec![vec![0.5; 2]; 7];
        scores[1][1] = 0.9;
        assert_eq!(best_kernels(&scores, &kernels), [4, 1]);
    }
}
