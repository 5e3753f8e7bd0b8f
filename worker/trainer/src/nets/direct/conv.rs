//! The three passes of a convolution whose channels have kernels of their own.

use std::ops::Range;

use cakes::kernel::Kernel;
use rayon::prelude::*;

use super::geometry::{Geometry, pad_inputs, pad_outputs, taps};
use super::shared::Shared;
use super::simd::{CHANNELS_MAX, Gather, OVERSHOOT, Processor, Sums, offsets_at_once};

/// Output channels that one kernel computes.
#[derive(Clone, Debug)]
pub struct Branch<'a> {
    pub kernel: Kernel,
    /// `[rows, C_in, kD, kH, kW]`
    pub weight: &'a [f32],
    /// Rows of `weight` in use.
    pub rows: Vec<Row>,
}

/// A row of a weight with the output channel that it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub row: usize,
    pub channel: usize,
}

/// What happens to a channel behind the convolution: `value · scale + shift`,
/// then ReLU.
#[derive(Clone, Debug)]
pub struct Epilogue {
    /// Per output channel.
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    pub relu: bool,
}

impl Epilogue {
    /// To values of one channel.
    pub fn apply(&self, channel: usize, values: &mut [f32]) {
        let (scale, shift) = (self.scale[channel], self.shift[channel]);
        let least = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        values.iter_mut().for_each(|value| *value = (*value * scale + shift).max(least));
    }
}

/// A convolution of `samples` volumes of `inputs` channels.
#[derive(Clone, Debug)]
pub struct Convolution<'a> {
    pub geometry: Geometry,
    pub samples: usize,
    pub inputs: usize,
    /// Output channels of all branches together.
    pub outputs: usize,
    pub branches: Vec<Branch<'a>>,
}

/// Planes that one task computes are chosen so that it has about so many outputs.
const TASK_OUTPUTS: usize = 1 << 14;

/// Offsets that are summed over a whole plane before the next ones: what they
/// read should stay in a near cache.
const SOURCES: usize = 216;

/// Offsets of one task of a weight gradient: its sums should stay in a near cache.
const TASK_OFFSETS_MAX: usize = 216;

/// Channels that share their loads, with what is to be computed for them.
struct Group {
    channels: Vec<usize>,
    parts: Vec<Part>,
}

/// Sums over shifted source channels, for every `step`-th position of the
/// result from `start` on.
struct Part {
    start: [usize; 3],
    offsets: Vec<usize>,
    /// `[offset][channel of the group]`
    weights: Vec<f32>,
}

/// The gradient of some rows' weights at some offsets.
struct SumsTask<'a> {
    branch: usize,
    rows: &'a [Row],
    offsets: &'a [usize],
    /// Of `offsets`, among the branch's.
    first_offset: usize,
}

/// The volume that a gather writes.
struct Target {
    channels: usize,
    extent: [usize; 3],
    step: [usize; 3],
}

impl Convolution<'_> {
    /// Multiply-accumulates of one sample.
    pub fn mac_count(&self) -> u64 {
        let positions: usize = self.geometry.output.iter().product();
        let of = |branch: &Branch<'_>| branch.rows.len() * self.inputs * branch.kernel.taps() as usize;
        (self.branches.iter().map(of).sum::<usize>() * positions) as u64
    }

    /// # Shapes
    /// `x`: `[N, C_in, D, H, W]`, `out`: `[N, C_out, ⌈D/s⌉, ⌈H/s⌉, ⌈W/s⌉]`.
    pub fn forward(&self, x: &[f32], epilogue: Option<&Epilogue>, out: &mut [f32]) {
        let geometry = &self.geometry;
        let padded = pad_inputs(x, geometry);
        let mut groups = Vec::new();
        for branch in &self.branches {
            let offsets = self.input_offsets(branch.kernel);
            let length = offsets.len();
            for rows in balanced(&branch.rows) {
                let weights = (0..length)
                    .flat_map(|tap| rows.iter().map(move |Row { row, .. }| row * length + tap))
                    .map(|index| branch.weight[index])
                    .collect();
                let part = Part { start: [0; 3], offsets: offsets.clone(), weights };
                groups.push(Group {
                    channels: rows.iter().map(|row| row.channel).collect(),
                    parts: vec![part],
                });
            }
        }
        let target = Target { channels: self.outputs, extent: geometry.output, step: [1; 3] };
        self.gather(&padded, self.inputs * geometry.channel(), &groups, &target, epilogue, out);
    }

    /// What the gradients below read of the output's gradient: all of it, with a border.
    pub fn bordered(&self, gradient: &[f32]) -> Vec<f32> {
        pad_outputs(gradient, &self.geometry)
    }

    /// The gradient of the input. With a stride `out` must be zero: positions
    /// that no tap reaches are left as they are.
    ///
    /// # Shapes
    /// `bordered`: from [`Convolution::bordered`], `out`: of the input.
    pub fn input_gradient(&self, bordered: &[f32], out: &mut [f32]) {
        let geometry = &self.geometry;
        let channels: Vec<usize> = (0..self.inputs).collect();
        let groups: Vec<Group> = balanced(&channels)
            .map(|channels| Group { channels: channels.to_vec(), parts: self.gradient_parts(channels) })
            .collect();
        let target = Target { channels: self.inputs, extent: geometry.input, step: geometry.stride };
        self.gather(bordered, self.outputs * geometry.volume(), &groups, &target, None, out);
    }

    /// With stride `s` input positions fall into `s³` classes, each reached by
    /// taps of its own.
    fn gradient_parts(&self, channels: &[usize]) -> Vec<Part> {
        let [sd, sh, sw] = self.geometry.stride;
        let starts = (0..sd).flat_map(|d| (0..sh).flat_map(move |h| (0..sw).map(move |w| [d, h, w])));
        let parts = starts.map(|start| self.gradient_part(start, channels));
        parts.filter(|part| !part.offsets.is_empty()).collect()
    }

    fn gradient_part(&self, start: [usize; 3], channels: &[usize]) -> Part {
        let geometry = &self.geometry;
        let mut part = Part { start, offsets: Vec::new(), weights: Vec::new() };
        for branch in &self.branches {
            let taps = taps(branch.kernel);
            for (index, tap) in taps.iter().enumerate() {
                // Input `q·s + start` lies behind the border of one at
                // `o·s + tap`, so `o = q + (start + 1 - tap) / s`, and the
                // gradient's border adds one to `o`.
                let reached = |axis: usize| {
                    let distance = start[axis] + 1 + geometry.stride[axis] - tap[axis];
                    distance.is_multiple_of(geometry.stride[axis]).then_some(distance / geometry.stride[axis])
                };
                let (Some(d), Some(h), Some(w)) = (reached(0), reached(1), reached(2)) else { continue };
                let place = geometry.place([d, h, w]);
                for Row { row, channel } in &branch.rows {
                    part.offsets.push(channel * geometry.volume() + place);
                    let weight =
                        |input: &usize| branch.weight[(row * self.inputs + input) * taps.len() + index];
                    part.weights.extend(channels.iter().map(weight));
                }
            }
        }
        part
    }

    /// The gradient of every branch's weight: its rows in use are written.
    ///
    /// Which task sums what does not depend on the number of threads, so
    /// neither does the result.
    ///
    /// # Shapes
    /// `bordered`: from [`Convolution::bordered`], `out`: of each branch as its
    /// weight, `[rows, C_in, kD, kH, kW]`.
    pub fn weight_gradients(&self, x: &[f32], bordered: &[f32], out: &mut [&mut [f32]]) {
        let padded = pad_inputs(x, &self.geometry);
        let offsets: Vec<Vec<usize>> =
            self.branches.iter().map(|branch| self.input_offsets(branch.kernel)).collect();
        let mut tasks = Vec::new();
        for (index, (branch, offsets)) in self.branches.iter().zip(&offsets).enumerate() {
            let chunks = offsets.len().div_ceil(TASK_OFFSETS_MAX);
            for rows in balanced(&branch.rows) {
                let length = offsets.len().div_ceil(chunks).next_multiple_of(offsets_at_once(rows.len()));
                for (chunk, offsets) in offsets.chunks(length).enumerate() {
                    tasks.push(SumsTask { branch: index, rows, offsets, first_offset: chunk * length });
                }
            }
        }
        // The longest first, so that no thread is left with one at the end.
        tasks.sort_by_key(|task| std::cmp::Reverse(task.rows.len() * task.offsets.len()));
        let out: Vec<Shared<'_>> = out.iter_mut().map(|out| Shared::new(out)).collect();
        tasks.into_par_iter().for_each(|task| {
            let sums = self.weight_sums(&task, &padded, bordered);
            let at_once = offsets_at_once(task.rows.len());
            for (index, Row { row, .. }) in task.rows.iter().enumerate() {
                let of = |offset: usize| -> f32 {
                    sums[offset / at_once][index * at_once + offset % at_once].iter().sum()
                };
                let values: Vec<f32> = (0..task.offsets.len()).map(of).collect();
                #[allow(unsafe_code)]
                // SAFETY: a row and an offset are in one task only.
                unsafe {
                    out[task.branch].write(row * offsets[task.branch].len() + task.first_offset, &values);
                }
            }
        });
    }

    fn weight_sums(
        &self,
        SumsTask { rows, offsets, .. }: &SumsTask<'_>,
        x: &[f32],
        gradient: &[f32],
    ) -> Vec<Sums> {
        let geometry = &self.geometry;
        let processor = Processor::detect();
        let at_once = offsets_at_once(rows.len());
        let mut sums: Vec<Sums> = vec![Default::default(); offsets.len().div_ceil(at_once)];
        // Within the border of the gradient, where its first value lies.
        let corner = geometry.place([1, 1, 1]);
        for sample in 0..self.samples {
            let x = &x[sample * self.inputs * geometry.channel()..];
            for plane in 0..geometry.output[0] {
                let place = plane * geometry.plane();
                let mut left: [&[f32]; CHANNELS_MAX] = [&[]; CHANNELS_MAX];
                for (slot, Row { channel, .. }) in left.iter_mut().zip(*rows) {
                    let volume = (sample * self.outputs + channel) * geometry.volume();
                    *slot = &gradient[volume + corner + place..];
                }
                for (offsets, sums) in offsets.chunks(at_once).zip(&mut sums) {
                    processor.dot(&left[..rows.len()], &x[place..], offsets, geometry.row(), sums);
                }
            }
        }
        sums
    }

    /// Distances to the inputs that each weight of a row multiplies.
    fn input_offsets(&self, kernel: Kernel) -> Vec<usize> {
        let taps: Vec<usize> = taps(kernel).into_iter().map(|tap| self.geometry.tap(tap)).collect();
        let channel = self.geometry.channel();
        (0..self.inputs).flat_map(|input| taps.iter().map(move |tap| input * channel + tap)).collect()
    }

    /// Fills `out`, one task per sample, block of planes and group.
    fn gather(
        &self,
        source: &[f32],
        sample: usize,
        groups: &[Group],
        target: &Target,
        epilogue: Option<&Epilogue>,
        out: &mut [f32],
    ) {
        let plane: usize = target.extent[1] * target.extent[2];
        let planes = (TASK_OUTPUTS / plane.max(1)).clamp(1, self.geometry.output[0]);
        let block = planes * target.step[0];
        // Channel volumes, cut in blocks of planes: [sample · channel][block]
        let mut pieces: Vec<Vec<Option<&mut [f32]>>> = out
            .chunks_mut(target.extent[0] * plane)
            .map(|volume| volume.chunks_mut(block * plane).map(Some).collect())
            .collect();
        let mut tasks = Vec::new();
        for index in 0..self.samples {
            for first in 0..pieces.first().map_or(0, Vec::len) {
                for group in groups {
                    let own: Vec<&mut [f32]> = group
                        .channels
                        .iter()
                        .filter_map(|channel| pieces[index * target.channels + channel][first].take())
                        .collect();
                    tasks.push((&source[index * sample..], first * planes, group, own));
                }
            }
        }
        tasks.into_par_iter().for_each(|(source, first, group, mut own)| {
            let last = (first + planes).min(self.geometry.output[0]);
            self.gather_group(source, first..last, group, target, epilogue, &mut own);
        });
    }

    fn gather_group(
        &self,
        source: &[f32],
        planes: Range<usize>,
        group: &Group,
        target: &Target,
        epilogue: Option<&Epilogue>,
        out: &mut [&mut [f32]],
    ) {
        let geometry = &self.geometry;
        let processor = Processor::detect();
        let pitch = geometry.row() + OVERSHOOT;
        let mut sums = vec![0.0; group.channels.len() * pitch];
        for part in &group.parts {
            for plane in planes.clone() {
                let source = &source[plane * geometry.plane()..];
                let weights = part.weights.chunks(SOURCES * group.channels.len());
                for (chunk, (offsets, weights)) in part.offsets.chunks(SOURCES).zip(weights).enumerate() {
                    let (length, fresh) = (geometry.row(), chunk == 0);
                    processor.gather(&Gather { source, offsets, weights, length, pitch, fresh }, &mut sums);
                }
                let position = (plane - planes.start) * target.step[0] + part.start[0];
                for ((channel, sums), out) in
                    group.channels.iter().zip(sums.chunks(pitch)).zip(out.iter_mut())
                {
                    let plane = target.extent[1] * target.extent[2];
                    // Classes of a stride may reach beyond an odd extent.
                    let Some(out) = out.get_mut(position * plane..(position + 1) * plane) else { continue };
                    let finish = epilogue
                        .map(|epilogue| (epilogue.scale[*channel], epilogue.shift[*channel], epilogue.relu));
                    store(sums, geometry.pitch(), part.start, target, finish, out);
                }
            }
        }
    }
}

/// Copies the rows of one plane without their borders.
fn store(
    sums: &[f32],
    pitch: usize,
    [_, start_h, start_w]: [usize; 3],
    target: &Target,
    finish: Option<(f32, f32, bool)>,
    out: &mut [f32],
) {
    let [_, step_h, step_w] = target.step;
    let rows = out.chunks_exact_mut(target.extent[2]).skip(start_h).step_by(step_h);
    for (row, sums) in rows.zip(sums.chunks(pitch)) {
        match finish {
            Some((scale, shift, relu)) => {
                let least = if relu { 0.0 } else { f32::NEG_INFINITY };
                for (out, sum) in row.iter_mut().zip(sums) {
                    *out = (sum * scale + shift).max(least);
                }
            }
            None if step_w == 1 => {
                let width = row.len();
                row.copy_from_slice(&sums[..width]);
            }
            None => {
                for (out, sum) in row.iter_mut().skip(start_w).step_by(step_w).zip(sums) {
                    *out = *sum;
                }
            }
        }
    }
}

/// Cuts a list in as few pieces of at most [`CHANNELS_MAX`] as there can be,
/// whose lengths differ by at most one.
fn balanced<T>(list: &[T]) -> impl Iterator<Item = &[T]> {
    let pieces = list.len().div_ceil(CHANNELS_MAX);
    (0..pieces).map(move |piece| &list[list.len() * piece / pieces..list.len() * (piece + 1) / pieces])
}
