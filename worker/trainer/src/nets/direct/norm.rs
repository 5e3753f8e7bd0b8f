//! Batch normalisation, together with the ReLU and the sum over groups behind it.
//!
//! Such a chain reads and writes many large volumes to compute very little; in
//! one pass it reads its input and writes its result.

use rayon::prelude::*;

use super::simd::Processor;

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

/// Sums side by side, four vectors of eight: their additions overlap.
const LANES: usize = 32;

/// Moments of the channels of `x`: `[N, C, ..]`.
pub fn moments(x: &[f32], channels: usize, volume: usize) -> Moments {
    let (mean, variance) = (0..channels)
        .into_par_iter()
        .map(|channel| {
            let values = x.chunks_exact(volume).skip(channel).step_by(channels);
            let chunks = values.flat_map(|values| values.chunks(CHUNK));
            Processor::detect().run(|| moments_of(chunks))
        })
        .unzip();
    Moments { mean, variance }
}

/// Joins the moments of chunks (Chan, Golub and LeVeque 1979), each taken
/// around its own mean, so that a large mean costs no digits.
#[inline(always)]
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

/// A sum in interleaved parts, in an order that does not change.
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

/// What follows a normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    pub relu: bool,
    /// Equal blocks of channels that are summed; 1 where there is no sum.
    pub groups: usize,
}

/// One channel of a normalisation as a line.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    shift: f32,
    /// Lowest result: 0 with a ReLU.
    least: f32,
}

impl Line {
    fn new(moments: &Moments, affine: Affine<'_>, relu: bool, channel: usize) -> Self {
        let scale = affine.scale[channel] * inverse(moments.variance[channel], affine.epsilon);
        let shift = affine.shift[channel] - moments.mean[channel] * scale;
        Line { scale, shift, least: if relu { 0.0 } else { f32::NEG_INFINITY } }
    }

    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        (x * self.scale + self.shift).max(self.least)
    }

    /// 1 where the gradient passes, else 0. A product is computed for many
    /// values at a time, a choice is not.
    #[inline(always)]
    fn open(self, x: f32) -> f32 {
        f32::from(u8::from(x * self.scale + self.shift > self.least))
    }
}

/// `out = (x - mean) / √(variance + ε) · γ + β`, then what is `behind` it.
///
/// # Shapes
/// `x`: `[N, groups·C, volume]`, `out`: `[N, C, volume]`.
pub fn forward(
    x: &[f32],
    volume: usize,
    moments: &Moments,
    affine: Affine<'_>,
    behind: Behind,
    out: &mut [f32],
) {
    let channels = affine.scale.len() / behind.groups;
    out.par_chunks_exact_mut(volume).enumerate().for_each(|(index, out)| {
        let (sample, channel) = (index / channels, index % channels);
        for group in 0..behind.groups {
            let feature = group * channels + channel;
            let line = Line::new(moments, affine, behind.relu, feature);
            let x = &x[(sample * behind.groups * channels + feature) * volume..][..volume];
            Processor::detect().run(|| {
                let pairs = out.iter_mut().zip(x);
                match group {
                    0 => pairs.for_each(|(out, x)| *out = line.at(*x)),
                    _ => pairs.for_each(|(out, x)| *out += line.at(*x)),
                }
            });
        }
    });
}

/// What the gradients of a normalisation follow from: for every feature the sum of the
/// gradient that reaches it, and of its product with the distance from the mean; and how
/// many values of a feature they are of.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    of_features: Vec<(f64, f64)>,
    count: f64,
}

impl Sums {
    /// The same as numbers that may be added to those of other samples.
    pub fn numbers(&self) -> Vec<f64> {
        let sums = self.of_features.iter().flat_map(|(plain, product)| [*plain, *product]);
        std::iter::once(self.count).chain(sums).collect()
    }

    pub fn from_numbers(numbers: &[f64]) -> Self {
        let (count, sums) = numbers.split_first().unwrap_or((&0.0, &[]));
        let of_features = sums.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Sums { of_features, count: *count }
    }

    /// The gradients of γ and β.
    pub fn affine_gradient(&self, moments: &Moments, affine: Affine<'_>) -> AffineGradient {
        let scale = self.of_features.iter().zip(&moments.variance).map(|((_, product), variance)| {
            (*product * f64::from(inverse(*variance, affine.epsilon))) as f32
        });
        let shift = self.of_features.iter().map(|(sum, _)| *sum as f32);
        AffineGradient { scale: scale.collect(), shift: shift.collect() }
    }
}

/// What the gradients follow from.
///
/// # Shapes
/// `x`: `[N, groups·C, volume]`, `gradient`: `[N, C, volume]`.
pub fn sums(
    x: &[f32],
    gradient: &[f32],
    volume: usize,
    moments: &Moments,
    affine: Affine<'_>,
    behind: Behind,
) -> Sums {
    let features = affine.scale.len();
    let channels = features / behind.groups;
    let samples = x.len() / (features * volume);
    let of_features = (0..features)
        .into_par_iter()
        .map(|feature| {
            let line = Line::new(moments, affine, behind.relu, feature);
            let own = (0..samples).map(|sample| {
                let (x, gradient) = pair(x, gradient, volume, channels, features, sample, feature);
                Processor::detect().run(|| gradient_sums(x, gradient, moments.mean[feature], line))
            });
            own.fold((0.0, 0.0), |total, (plain, product)| (total.0 + plain, total.1 + product))
        })
        .collect();
    Sums { of_features, count: (samples * volume) as f64 }
}

/// Volumes of a feature's input and of the gradient that reaches it.
fn pair<'a>(
    x: &'a [f32],
    gradient: &'a [f32],
    volume: usize,
    channels: usize,
    features: usize,
    sample: usize,
    feature: usize,
) -> (&'a [f32], &'a [f32]) {
    let x = &x[(sample * features + feature) * volume..][..volume];
    let gradient = &gradient[(sample * channels + feature % channels) * volume..][..volume];
    (x, gradient)
}

/// The gradient of the input, from the sums of the batch.
///
/// # Shapes
/// `x` and `out`: `[N, groups·C, volume]`, `gradient`: `[N, C, volume]`.
#[expect(clippy::too_many_arguments, reason = "a pass over memory reads what it reads")]
pub fn backward(
    x: &[f32],
    gradient: &[f32],
    volume: usize,
    moments: &Moments,
    affine: Affine<'_>,
    behind: Behind,
    sums: &Sums,
    out: &mut [f32],
) {
    let features = affine.scale.len();
    let channels = features / behind.groups;
    let Sums { of_features, count } = sums;
    out.par_chunks_exact_mut(volume).enumerate().for_each(|(index, out)| {
        let (sample, feature) = (index / features, index % features);
        let (x, gradient) = pair(x, gradient, volume, channels, features, sample, feature);
        let line = Line::new(moments, affine, behind.relu, feature);
        let inverse = inverse(moments.variance[feature], affine.epsilon);
        let mean_gradient = (of_features[feature].0 / count) as f32;
        let slope = (of_features[feature].1 / count) as f32 * inverse * inverse;
        let mean = moments.mean[feature];
        Processor::detect().run(|| {
            for ((out, x), gradient) in out.iter_mut().zip(x).zip(gradient) {
                *out = line.scale * (gradient * line.open(*x) - mean_gradient - (*x - mean) * slope);
            }
        });
    });
}

/// Sums of the gradient and of its product with the distance from the mean.
#[inline(always)]
fn gradient_sums(x: &[f32], gradient: &[f32], mean: f32, line: Line) -> (f64, f64) {
    let chunks = x.chunks(CHUNK).zip(gradient.chunks(CHUNK));
    let sums = chunks.map(|(x, gradient)| chunk_sums(x, gradient, mean, line));
    sums.fold((0.0, 0.0), |total, (plain, product)| (total.0 + plain, total.1 + product))
}

#[inline(always)]
fn chunk_sums(x: &[f32], gradient: &[f32], mean: f32, line: Line) -> (f64, f64) {
    let (mut plain, mut product) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let mut add = |lane: usize, x: f32, gradient: f32| {
        let gradient = gradient * line.open(x);
        plain[lane] += gradient;
        product[lane] += gradient * (x - mean);
    };
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (gradient_blocks, gradient_rest) = gradient.as_chunks::<LANES>();
    for (x, gradient) in x_blocks.iter().zip(gradient_blocks) {
        for lane in 0..LANES {
            add(lane, x[lane], gradient[lane]);
        }
    }
    for ((lane, x), gradient) in x_rest.iter().enumerate().zip(gradient_rest) {
        add(lane, *x, *gradient);
    }
    let total = |lanes: [f32; LANES]| lanes.iter().map(|lane| f64::from(*lane)).sum();
    (total(plain), total(product))
}

fn inverse(variance: f32, epsilon: f32) -> f32 {
    1.0 / (variance + epsilon).sqrt()
}
