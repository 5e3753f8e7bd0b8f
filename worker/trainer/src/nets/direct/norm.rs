//! Batch normalisation, together with the ReLU behind it.

use rayon::prelude::*;

/// Mean and variance of every channel over a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub mean: Vec<f32>,
    /// Sum of squares over the count.
    pub variance: Vec<f32>,
}

/// Scale γ and shift β of every channel, and what keeps the variance from zero.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub epsilon: f32,
}

/// Gradients of a normalisation's scale and shift.
#[derive(Clone, Debug, PartialEq)]
pub struct AffineGradient {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

/// Values that are summed in single precision before they go into a double.
const CHUNK: usize = 2048;
const LANES: usize = 8;

/// Moments of the channels of `x`: `[N, C, ..]`.
pub fn moments(x: &[f32], channels: usize, volume: usize) -> Moments {
    let (mean, variance) = (0..channels)
        .into_par_iter()
        .map(|channel| {
            let values = x.chunks_exact(volume).skip(channel).step_by(channels);
            moments_of(values.flat_map(|values| values.chunks(CHUNK)))
        })
        .unzip();
    Moments { mean, variance }
}

/// Joins the moments of chunks (Chan, Golub and LeVeque 1979), each taken
/// around its own mean, so that a large mean costs no digits.
fn moments_of<'a>(chunks: impl Iterator<Item = &'a [f32]>) -> (f32, f32) {
    let (mut count, mut mean, mut squares) = (0.0_f64, 0.0_f64, 0.0_f64);
    for chunk in chunks {
        let own_count = chunk.len() as f64;
        let own_mean = sum(chunk, |value| value) / own_count;
        let centre = own_mean as f32;
        let own_squares = sum(chunk, |value| (value - centre) * (value - centre));
        let distance = own_mean - mean;
        let joined = count + own_count;
        mean += distance * own_count / joined;
        squares += own_squares + distance * distance * count * own_count / joined;
        count = joined;
    }
    (mean as f32, (squares / count.max(1.0)) as f32)
}

/// A sum in eight interleaved parts, in an order that does not change.
#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f64 {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] += term(block[lane]);
        }
    }
    let rest: f64 = rest.iter().map(|value| f64::from(term(*value))).sum();
    lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>() + rest
}

/// `out = (x - mean) / √(variance + ε) · γ + β`, then ReLU if asked for.
pub fn forward(x: &[f32], volume: usize, moments: &Moments, affine: Affine<'_>, relu: bool, out: &mut [f32]) {
    let channels = affine.scale.len();
    let least = if relu { 0.0 } else { f32::NEG_INFINITY };
    let pairs = out.par_chunks_exact_mut(volume).zip(x.par_chunks_exact(volume));
    pairs.enumerate().for_each(|(index, (out, x))| {
        let channel = index % channels;
        let scale = affine.scale[channel] * inverse(moments.variance[channel], affine.epsilon);
        let shift = affine.shift[channel] - moments.mean[channel] * scale;
        for (out, x) in out.iter_mut().zip(x) {
            *out = (x * scale + shift).max(least);
        }
    });
}

/// The gradient of the input, and of γ and β. Where there is a ReLU, its output
/// `y` says where the gradient passes.
pub fn backward(
    x: &[f32],
    y: Option<&[f32]>,
    gradient: &[f32],
    volume: usize,
    moments: &Moments,
    affine: Affine<'_>,
    out: &mut [f32],
) -> AffineGradient {
    let channels = affine.scale.len();
    let per_channel = |values: &'_ [f32], channel: usize, index: usize| -> std::ops::Range<usize> {
        debug_assert!(values.len().is_multiple_of(volume));
        let start = (index * channels + channel) * volume;
        start..start + volume
    };
    let samples = x.len() / (channels * volume);
    let sums: Vec<(f64, f64)> = (0..channels)
        .into_par_iter()
        .map(|channel| {
            let mut total = (0.0, 0.0);
            for index in 0..samples {
                let range = per_channel(x, channel, index);
                let y = y.map(|y| &y[range.clone()]);
                let (one, two) = gradient_sums(&x[range.clone()], y, &gradient[range], moments.mean[channel]);
                total = (total.0 + one, total.1 + two);
            }
            total
        })
        .collect();
    let count = (samples * volume) as f64;
    out.par_chunks_exact_mut(volume).enumerate().for_each(|(index, out)| {
        let channel = index % channels;
        let range = index * volume..(index + 1) * volume;
        let inverse = inverse(moments.variance[channel], affine.epsilon);
        let factor = affine.scale[channel] * inverse;
        let mean_gradient = (sums[channel].0 / count) as f32;
        let slope = (sums[channel].1 / count) as f32 * inverse * inverse;
        let mean = moments.mean[channel];
        let (x, gradient) = (&x[range.clone()], &gradient[range.clone()]);
        let change = |x: f32, gradient: f32| factor * (gradient - mean_gradient - (x - mean) * slope);
        match y {
            Some(y) => {
                for (((out, x), gradient), y) in out.iter_mut().zip(x).zip(gradient).zip(&y[range]) {
                    *out = change(*x, gradient * open(*y));
                }
            }
            None => {
                for ((out, x), gradient) in out.iter_mut().zip(x).zip(gradient) {
                    *out = change(*x, *gradient);
                }
            }
        }
    });
    let scale = sums
        .iter()
        .zip(&moments.variance)
        .map(|((_, product), variance)| (*product * f64::from(inverse(*variance, affine.epsilon))) as f32);
    AffineGradient { scale: scale.collect(), shift: sums.iter().map(|(sum, _)| *sum as f32).collect() }
}

/// Sums of the gradient and of its product with the distance from the mean.
fn gradient_sums(x: &[f32], y: Option<&[f32]>, gradient: &[f32], mean: f32) -> (f64, f64) {
    let chunks = x.chunks(CHUNK).zip(gradient.chunks(CHUNK));
    let add = |total: (f64, f64), (one, two): (f64, f64)| (total.0 + one, total.1 + two);
    match y {
        // Without a ReLU every gradient passes, whatever stands in for `y`.
        None => {
            chunks.map(|(x, gradient)| chunk_sums(x, gradient, gradient, mean, |_| 1.0)).fold((0.0, 0.0), add)
        }
        Some(y) => chunks
            .zip(y.chunks(CHUNK))
            .map(|((x, gradient), y)| chunk_sums(x, gradient, y, mean, open))
            .fold((0.0, 0.0), add),
    }
}

#[inline(always)]
fn chunk_sums(x: &[f32], gradient: &[f32], y: &[f32], mean: f32, share: impl Fn(f32) -> f32) -> (f64, f64) {
    let (mut plain, mut product) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let mut add = |lane: usize, x: f32, gradient: f32, y: f32| {
        let gradient = gradient * share(y);
        plain[lane] += gradient;
        product[lane] += gradient * (x - mean);
    };
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (gradient_blocks, gradient_rest) = gradient.as_chunks::<LANES>();
    let (y_blocks, y_rest) = y.as_chunks::<LANES>();
    for ((x, gradient), y) in x_blocks.iter().zip(gradient_blocks).zip(y_blocks) {
        for lane in 0..LANES {
            add(lane, x[lane], gradient[lane], y[lane]);
        }
    }
    for (((lane, x), gradient), y) in x_rest.iter().enumerate().zip(gradient_rest).zip(y_rest) {
        add(lane, *x, *gradient, *y);
    }
    let total = |lanes: [f32; LANES]| lanes.iter().map(|lane| f64::from(*lane)).sum();
    (total(plain), total(product))
}

/// 1 where a ReLU with the output `y` lets the gradient pass, else 0. A product
/// is computed for many values at a time, a choice is not.
#[inline(always)]
fn open(y: f32) -> f32 {
    f32::from(u8::from(y > 0.0))
}

fn inverse(variance: f32, epsilon: f32) -> f32 {
    1.0 / (variance + epsilon).sqrt()
}
