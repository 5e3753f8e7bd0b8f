//! Trilinear up-sampling by whole factors, corners not aligned: one axis after
//! the other, the fastest one first, while the volume is small.

use rayon::prelude::*;

/// One output position along an axis: two inputs and the weight of the second.
#[derive(Clone, Copy, Debug)]
struct Mix {
    low: usize,
    high: usize,
    share: f32,
}

fn mixes(size: usize, factor: usize) -> Vec<Mix> {
    let mix = |output: usize| {
        let centre = ((output as f32 + 0.5) / factor as f32 - 0.5).max(0.0);
        let low = (centre as usize).min(size - 1);
        Mix { low, high: (low + 1).min(size - 1), share: centre - low as f32 }
    };
    (0..size * factor).map(mix).collect()
}

/// # Shapes
/// `x`: any number of volumes of `extent`, `out`: as many, `factor` times as
/// long along each axis.
pub fn forward(x: &[f32], [d, h, w]: [usize; 3], [fd, fh, fw]: [usize; 3], out: &mut [f32]) {
    let [along_d, along_h, along_w] = [mixes(d, fd), mixes(h, fh), mixes(w, fw)];
    let wide = w * fw;
    out.par_chunks_exact_mut(d * fd * h * fh * wide).zip(x.par_chunks_exact(d * h * w)).for_each(
        |(out, x)| {
            let mut rows = vec![0.0; d * h * wide];
            for (row, x) in rows.chunks_exact_mut(wide).zip(x.chunks_exact(w)) {
                for (value, mix) in row.iter_mut().zip(&along_w) {
                    *value = x[mix.low] + (x[mix.high] - x[mix.low]) * mix.share;
                }
            }
            let mut planes = vec![0.0; d * h * fh * wide];
            for (plane, rows) in planes.chunks_exact_mut(h * fh * wide).zip(rows.chunks_exact(h * wide)) {
                blend(rows, wide, &along_h, plane);
            }
            blend(&planes, h * fh * wide, &along_d, out);
        },
    );
}

/// Each piece of `length` of `out` is a mix of two pieces of `x`.
fn blend(x: &[f32], length: usize, mixes: &[Mix], out: &mut [f32]) {
    for (out, mix) in out.chunks_exact_mut(length).zip(mixes) {
        let low = &x[mix.low * length..][..length];
        let high = &x[mix.high * length..][..length];
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            *out = low + (high - low) * mix.share;
        }
    }
}

/// The gradient of the input; `out` must be zero.
///
/// # Shapes
/// As those of [`forward`], `gradient` like its result and `out` like its input.
pub fn backward(gradient: &[f32], [d, h, w]: [usize; 3], [fd, fh, fw]: [usize; 3], out: &mut [f32]) {
    let [along_d, along_h, along_w] = [mixes(d, fd), mixes(h, fh), mixes(w, fw)];
    let wide = w * fw;
    let volumes = gradient.par_chunks_exact(d * fd * h * fh * wide);
    out.par_chunks_exact_mut(d * h * w).zip(volumes).for_each(|(out, gradient)| {
        let mut planes = vec![0.0; d * h * fh * wide];
        spread(gradient, h * fh * wide, &along_d, &mut planes);
        let mut rows = vec![0.0; d * h * wide];
        for (rows, plane) in rows.chunks_exact_mut(h * wide).zip(planes.chunks_exact(h * fh * wide)) {
            spread(plane, wide, &along_h, rows);
        }
        for (out, row) in out.chunks_exact_mut(w).zip(rows.chunks_exact(wide)) {
            for (value, mix) in row.iter().zip(&along_w) {
                out[mix.low] += value * (1.0 - mix.share);
                out[mix.high] += value * mix.share;
            }
        }
    });
}

/// The reverse of [`blend`].
fn spread(gradient: &[f32], length: usize, mixes: &[Mix], out: &mut [f32]) {
    for (gradient, mix) in gradient.chunks_exact(length).zip(mixes) {
        for (place, share) in [(mix.low, 1.0 - mix.share), (mix.high, mix.share)] {
            for (out, value) in out[place * length..][..length].iter_mut().zip(gradient) {
                *out += value * share;
            }
        }
    }
}
