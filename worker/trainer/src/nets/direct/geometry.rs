//! Bordered volumes: where a tap lies in memory.

use std::mem::MaybeUninit;

use cakes::kernel::Kernel;
use rayon::prelude::*;

/// Values behind a bordered buffer, for what the inner loops read past its end.
const SLACK: usize = super::simd::OVERSHOOT;

/// Extents of a convolution with padding that keeps the extent at stride 1.
///
/// With stride `s` an input is stored as `s` interleaved parts along each axis,
/// so that neighbouring outputs read neighbouring values. Every part has the
/// output's extent and a border of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub input: [usize; 3],
    pub output: [usize; 3],
    pub stride: [usize; 3],
}

impl Geometry {
    pub fn new(input: [usize; 3], stride: [usize; 3]) -> Self {
        Geometry { input, output: std::array::from_fn(|axis| input[axis].div_ceil(stride[axis])), stride }
    }

    /// Values from one row of a bordered volume to the next.
    pub fn pitch(&self) -> usize {
        self.output[2] + 2
    }

    /// Values from one plane of a bordered volume to the next.
    pub fn plane(&self) -> usize {
        (self.output[1] + 2) * self.pitch()
    }

    /// Values of a bordered volume.
    pub fn volume(&self) -> usize {
        (self.output[0] + 2) * self.plane()
    }

    /// Values of one stored input channel: all its interleaved parts.
    pub fn channel(&self) -> usize {
        self.stride.iter().product::<usize>() * self.volume()
    }

    /// From the first to behind the last output of a plane, borders between
    /// rows included.
    pub fn row(&self) -> usize {
        (self.output[1] - 1) * self.pitch() + self.output[2]
    }

    /// Distance in memory from an output's place to the input that `tap` reads,
    /// within a stored channel. A tap counts 0, 1 or 2 from the border inwards.
    pub fn tap(&self, tap: [usize; 3]) -> usize {
        let [sd, sh, sw] = self.stride;
        let part = (tap[0] % sd * sh + tap[1] % sh) * sw + tap[2] % sw;
        part * self.volume() + self.place([tap[0] / sd, tap[1] / sh, tap[2] / sw])
    }

    /// Distance of a position from the corner of a bordered volume.
    pub fn place(&self, [d, h, w]: [usize; 3]) -> usize {
        d * self.plane() + h * self.pitch() + w
    }
}

/// The taps of a kernel, each counted 0, 1 or 2 along D, H and W, in the order
/// of its weights.
pub fn taps(kernel: Kernel) -> Vec<[usize; 3]> {
    let along = |size: u32| if size == 3 { 0..3 } else { 1..2 };
    let [d, h, w] = kernel.size().map(along);
    d.flat_map(|d| {
        let w = w.clone();
        h.clone().flat_map(move |h| w.clone().map(move |w| [d, h, w]))
    })
    .collect()
}

/// Channels of inputs with their border.
///
/// # Shapes
/// `x`: any number of `[D, H, W]` volumes one behind the other.
pub fn pad_inputs(x: &[f32], geometry: &Geometry) -> Vec<f32> {
    let [d, h, w] = geometry.input;
    let (from, to) = (d * h * w, geometry.channel());
    let length = x.len() / from * to;
    let mut padded = Vec::with_capacity(length + SLACK);
    let (own, slack) = padded.spare_capacity_mut()[..length + SLACK].split_at_mut(length);
    zero(slack);
    own.par_chunks_exact_mut(to).zip(x.par_chunks_exact(from)).for_each(|(own, x)| {
        if geometry.stride == [1; 3] {
            return border(x, own, geometry);
        }
        // Border and all, while the channel lies in a near cache.
        zero(own);
        #[allow(unsafe_code)]
        // SAFETY: every value was just written.
        pad_input(x, unsafe { own.assume_init_mut() }, geometry);
    });
    #[allow(unsafe_code)]
    // SAFETY: the chunks are whole and cover all of `own`, the rest is `slack`.
    unsafe {
        padded.set_len(length + SLACK);
    }
    padded
}

fn zero(values: &mut [MaybeUninit<f32>]) {
    values.fill(MaybeUninit::new(0.0));
}

/// Writes all of a channel that is not cut in parts, each value once.
fn border(x: &[f32], padded: &mut [MaybeUninit<f32>], geometry: &Geometry) {
    let [depth, height, width] = geometry.input;
    let (row, plane) = (width + 2, (height + 2) * (width + 2));
    let (front, rest) = padded.split_at_mut(plane);
    let (planes, back) = rest.split_at_mut(depth * plane);
    zero(front);
    zero(back);
    for (plane, x) in planes.chunks_exact_mut(plane).zip(x.chunks_exact(height * width)) {
        let (first, rest) = plane.split_at_mut(row);
        let (rows, last) = rest.split_at_mut(height * row);
        zero(first);
        zero(last);
        for (row, x) in rows.chunks_exact_mut(row).zip(x.chunks_exact(width)) {
            row[0].write(0.0);
            row[1..=width].write_copy_of_slice(x);
            row[width + 1].write(0.0);
        }
    }
}

fn pad_input(x: &[f32], padded: &mut [f32], geometry: &Geometry) {
    let [_, height, width] = geometry.input;
    let [sd, sh, sw] = geometry.stride;
    for (row, values) in x.chunks_exact(width).enumerate() {
        // Counted from the border, which is one wide at the beginning.
        let (d, h) = (row / height + 1, row % height + 1);
        let place = geometry.place([d / sd, h / sh, 0]);
        for start in 0..sw {
            let part = (d % sd * sh + h % sh) * sw + start;
            let target = &mut padded[part * geometry.volume() + place..];
            // Column `c` of this part is column `c · sw + start - 1` of the input.
            let skip = usize::from(start == 0);
            let values = &values[(skip * sw + start - 1).min(width)..];
            match sw {
                1 => target[skip..skip + values.len()].copy_from_slice(values),
                // What the compiler turns into shuffles.
                2 => {
                    let (pairs, last) = values.as_chunks::<2>();
                    let target = &mut target[skip..];
                    for (target, [value, _]) in target.iter_mut().zip(pairs) {
                        *target = *value;
                    }
                    if let [value] = last {
                        target[pairs.len()] = *value;
                    }
                }
                _ => {
                    for (target, value) in target[skip..].iter_mut().zip(values.iter().step_by(sw)) {
                        *target = *value;
                    }
                }
            }
        }
    }
}

/// Channels of output gradients with a border of one on every side.
///
/// # Shapes
/// `gradient`: any number of `[D, H, W]` volumes of the output's extent.
pub fn pad_outputs(gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    pad_inputs(gradient, &Geometry { input: geometry.output, stride: [1; 3], ..*geometry })
}
