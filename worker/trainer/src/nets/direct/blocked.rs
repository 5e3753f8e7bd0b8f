//! Convolutions with channels side by side, for layers with many channels on
//! small volumes.
//!
//! Volumes are stored in blocks of channels, `[sample][block][position][width]`,
//! so that a tile of the result is a matrix product: some positions, wherever
//! they lie, times some vectors of channels. Nothing is computed in the border.
//! The price is that a kernel's channels are rounded up to a vector of eight.

use rayon::prelude::*;

use super::conv::{Branch, Convolution, Epilogue, Row};
use super::geometry::{Geometry, taps};
use super::shared::Shared;
use super::simd::{LANES, Processor};
use super::tiles::{ROWS_MAX, Segment, Tile, VECTORS_MAX};

/// Channels of a block.
const WIDTH: usize = 16;

/// Positions of one task, a multiple of every tile's.
const TASK_POSITIONS: usize = 96;

/// Taps of one task of a weight gradient: tasks should be more than threads.
const TASK_TAPS: usize = 9;

/// Products of a chunk of sums, whose weights should stay in the nearest cache.
const CHUNK_PRODUCTS: usize = 256;

/// Weights of a block that a row lacks.
const ZEROS: [f32; WIDTH * 27] = [0.0; WIDTH * 27];

/// Volumes in blocks of channels, with a border of one position.
struct Blocked {
    values: Vec<f32>,
    blocks: Vec<Block>,
    /// Values of a sample.
    sample: usize,
    /// Of one block with its border.
    extent: [usize; 3],
}

/// Channels that lie side by side at each position.
struct Block {
    channels: Vec<usize>,
    /// A multiple of eight that has room for them; what is beyond is zero.
    width: usize,
    /// From the beginning of the sample.
    start: usize,
}

impl Blocked {
    /// # Shapes
    /// `x`: `[N, C, D, H, W]`; `lists` says which channels form a block.
    fn new(x: &[f32], channels: usize, extent: [usize; 3], lists: Vec<Vec<usize>>) -> Self {
        let volume: usize = extent.iter().product();
        let samples = x.len() / (channels * volume);
        let bordered = extent.map(|size| size + 2);
        let positions: usize = bordered.iter().product();
        let mut sample = 0;
        let mut blocks = Vec::with_capacity(lists.len());
        for channels in lists {
            let width = channels.len().next_multiple_of(LANES);
            blocks.push(Block { channels, width, start: sample });
            sample += width * positions;
        }
        let mut values = vec![0.0; samples * sample];
        let mut rest = values.as_mut_slice();
        let mut tasks = Vec::new();
        for index in 0..samples {
            for block in &blocks {
                let (own, behind) = rest.split_at_mut(block.width * positions);
                rest = behind;
                tasks.push((&x[index * channels * volume..][..channels * volume], block, own));
            }
        }
        tasks.into_par_iter().for_each(|(x, block, own)| {
            let [_, height, width] = extent;
            let processor = Processor::detect();
            let places: Vec<usize> = (0..width).map(|place| place * block.width).collect();
            for row in 0..volume / width {
                let (d, h) = (row / height + 1, row % height + 1);
                let place = (d * bordered[1] + h) * bordered[2] + 1;
                let target = &mut own[place * block.width..][..width * block.width];
                for (part, channels) in block.channels.chunks(LANES).enumerate() {
                    let rows: [&[f32]; LANES] = std::array::from_fn(|lane| match channels.get(lane) {
                        Some(channel) => &x[channel * volume + row * width..][..width],
                        None => &[],
                    });
                    let rows = &rows[..channels.len()];
                    processor.interleave(rows, &places, &mut target[part * LANES..]);
                }
            }
        });
        Blocked { values, blocks, sample, extent: bordered }
    }

    /// Blocks of consecutive channels.
    fn of_all(x: &[f32], channels: usize, extent: [usize; 3]) -> Self {
        let all: Vec<usize> = (0..channels).collect();
        Self::new(x, channels, extent, all.chunks(WIDTH).map(<[usize]>::to_vec).collect())
    }

    /// A position counted from the corner of the border, before it is
    /// multiplied by a block's width.
    fn place(&self, [d, h, w]: [usize; 3]) -> usize {
        (d * self.extent[1] + h) * self.extent[2] + w
    }
}

/// Where the positions of a pass are read and written.
#[derive(Default)]
struct Positions {
    /// In the source, for a tap at its beginning.
    sources: Vec<usize>,
    /// In a channel of the result.
    targets: Vec<usize>,
}

/// Sums for some channels of the result at some positions.
struct Work<'a> {
    channels: Vec<usize>,
    vectors: usize,
    positions: &'a Positions,
    segments: &'a [Segment],
    /// `[product][lane]`, products in the order of the segments.
    weights: Vec<f32>,
}

impl Convolution<'_> {
    /// [`Convolution::forward`] with channels side by side.
    pub fn forward_blocked(&self, x: &[f32], epilogue: Option<&Epilogue>, out: &mut [f32]) {
        let geometry = &self.geometry;
        let source = Blocked::of_all(x, self.inputs, geometry.input);
        let mut positions = Positions::default();
        for_each_position(geometry.output, |target, position| {
            let read = std::array::from_fn(|axis| position[axis] * geometry.stride[axis]);
            positions.sources.push(source.place(read));
            positions.targets.push(target);
        });
        let segments: Vec<Vec<Segment>> = self
            .branches
            .iter()
            .map(|branch| {
                let taps = taps(branch.kernel);
                let of_block = |block: &Block| segments_of(&source, block, &taps);
                source.blocks.iter().flat_map(of_block).collect()
            })
            .collect();
        let pieces: Vec<(&Branch<'_>, &[Segment], &[Row])> = self
            .branches
            .iter()
            .zip(&segments)
            .flat_map(|(branch, segments)| {
                pieces(&branch.rows).into_iter().map(move |rows| (branch, segments.as_slice(), rows))
            })
            .collect();
        let works: Vec<Work<'_>> = pieces
            .into_par_iter()
            .map(|(branch, segments, rows)| {
                let vectors = rows.len().div_ceil(LANES);
                let weights = self.forward_weights(branch, rows, &source, vectors * LANES);
                let channels = rows.iter().map(|row| row.channel).collect();
                Work { channels, vectors, positions: &positions, segments, weights }
            })
            .collect();
        let volume = geometry.output.iter().product();
        run(&source, self.samples, &works, self.outputs, volume, epilogue, out);
    }

    /// `[block][tap][channel of the block][lane]`
    fn forward_weights(&self, branch: &Branch<'_>, rows: &[Row], source: &Blocked, lanes: usize) -> Vec<f32> {
        let taps = branch.kernel.taps() as usize;
        let length = self.inputs * taps;
        let processor = Processor::detect();
        let mut packed = vec![0.0; length * lanes];
        let mut rest = packed.as_mut_slice();
        for block in &source.blocks {
            let count = block.channels.len();
            let (own, behind) = rest.split_at_mut(count * taps * lanes);
            rest = behind;
            let places: Vec<usize> =
                (0..count * taps).map(|index| (index % taps * count + index / taps) * lanes).collect();
            for (part, rows) in rows.chunks(LANES).enumerate() {
                let first = block.channels[0] * taps;
                let rows: [&[f32]; LANES] = std::array::from_fn(|lane| match rows.get(lane) {
                    Some(Row { row, .. }) => &branch.weight[row * length + first..][..count * taps],
                    None => &ZEROS[..count * taps],
                });
                processor.interleave(&rows, &places, &mut own[part * LANES..]);
            }
        }
        packed
    }

    /// [`Convolution::input_gradient`] with channels side by side; every value
    /// of `out` is written.
    pub fn input_gradient_blocked(&self, gradient: &[f32], out: &mut [f32]) {
        let geometry = &self.geometry;
        let lists = |branch: &Branch<'_>| -> Vec<Vec<usize>> {
            let channels = |rows: &[Row]| rows.iter().map(|row| row.channel).collect();
            branch.rows.chunks(WIDTH).map(channels).collect()
        };
        let source = Blocked::new(
            gradient,
            self.outputs,
            geometry.output,
            self.branches.iter().flat_map(lists).collect(),
        );
        let classes: Vec<Class> = self.classes(&source);
        let all: Vec<usize> = (0..self.inputs).collect();
        let pieces: Vec<(&Class, &[usize])> = classes
            .iter()
            .flat_map(|class| pieces(&all).into_iter().map(move |channels| (class, channels)))
            .collect();
        let works: Vec<Work<'_>> = pieces
            .into_par_iter()
            .map(|(class, channels)| {
                let vectors = channels.len().div_ceil(LANES);
                Work {
                    channels: channels.to_vec(),
                    vectors,
                    positions: &class.positions,
                    segments: &class.segments,
                    weights: self.gradient_weights(class, channels, vectors * LANES),
                }
            })
            .collect();
        let volume = geometry.input.iter().product();
        run(&source, self.samples, &works, self.inputs, volume, None, out);
    }

    /// With stride `s` input positions fall into `s³` classes, each reached by
    /// taps of its own.
    fn classes(&self, source: &Blocked) -> Vec<Class> {
        let [sd, sh, sw] = self.geometry.stride;
        let starts = (0..sd).flat_map(|d| (0..sh).flat_map(move |h| (0..sw).map(move |w| [d, h, w])));
        starts.map(|start| self.class(start, source)).collect()
    }

    fn class(&self, start: [usize; 3], source: &Blocked) -> Class {
        let Geometry { input, stride, .. } = self.geometry;
        let extent: [usize; 3] =
            std::array::from_fn(|axis| (input[axis].saturating_sub(start[axis])).div_ceil(stride[axis]));
        let mut class = Class { positions: Positions::default(), segments: Vec::new(), taps: Vec::new() };
        for_each_position(extent, |_, position| {
            let [d, h, w]: [usize; 3] =
                std::array::from_fn(|axis| position[axis] * stride[axis] + start[axis]);
            class.positions.sources.push(source.place(position));
            class.positions.targets.push((d * input[1] + h) * input[2] + w);
        });
        let mut blocks = source.blocks.iter();
        for (index, branch) in self.branches.iter().enumerate() {
            let taps = taps(branch.kernel);
            for (first, block) in (0..branch.rows.len()).step_by(WIDTH).zip(&mut blocks) {
                for (tap, place) in taps.iter().enumerate() {
                    // Input `q·s + start` lies behind the border of one at
                    // `o·s + tap`, so `o = q + (start + 1 - tap) / s`; the
                    // source's border adds one to `o`.
                    let reached = |axis: usize| {
                        let distance = start[axis] + 1 + stride[axis] - place[axis];
                        distance.is_multiple_of(stride[axis]).then_some(distance / stride[axis])
                    };
                    let (Some(d), Some(h), Some(w)) = (reached(0), reached(1), reached(2)) else { continue };
                    let shift = block.start + source.place([d, h, w]) * block.width;
                    class.segments.push(Segment { shift, pitch: block.width, length: block.channels.len() });
                    class.taps.push(ClassTap { branch: index, first, tap });
                }
            }
        }
        class
    }

    /// `[segment][channel of the block][lane]`
    fn gradient_weights(&self, class: &Class, channels: &[usize], lanes: usize) -> Vec<f32> {
        let products: usize = class.segments.iter().map(|segment| segment.length).sum();
        let mut packed = vec![0.0; products * lanes];
        let processor = Processor::detect();
        let mut start = 0;
        let mut segments = class.segments.iter().zip(&class.taps).peekable();
        while let Some((segment, ClassTap { branch: index, first, tap })) = segments.next() {
            // All segments of these rows.
            let (mut taps_here, mut places) = (vec![*tap], vec![start]);
            start += segment.length * lanes;
            while let Some((segment, next)) =
                segments.next_if(|(_, next)| next.branch == *index && next.first == *first)
            {
                taps_here.push(next.tap);
                places.push(start);
                start += segment.length * lanes;
            }
            let branch = &self.branches[*index];
            let taps = branch.kernel.taps() as usize;
            for (offset, Row { row, .. }) in branch.rows[*first..first + segment.length].iter().enumerate() {
                let weights = &branch.weight[(row * self.inputs + channels[0]) * taps..];
                if taps_here.len() < taps {
                    for (tap, place) in taps_here.iter().zip(&places) {
                        let own = &mut packed[place + offset * lanes..][..channels.len()];
                        for (own, weight) in own.iter_mut().zip(weights[*tap..].iter().step_by(taps)) {
                            *own = *weight;
                        }
                    }
                    continue;
                }
                for (part, channels) in channels.chunks(LANES).enumerate() {
                    let rows: [&[f32]; LANES] = std::array::from_fn(|lane| {
                        let there = lane < channels.len();
                        if there { &weights[(part * LANES + lane) * taps..][..taps] } else { &ZEROS[..taps] }
                    });
                    processor.interleave(&rows, &places, &mut packed[offset * lanes + part * LANES..]);
                }
            }
        }
        packed
    }

    /// [`Convolution::weight_gradients`] with channels side by side.
    pub fn weight_gradients_blocked(&self, x: &[f32], gradient: &[f32], out: &mut [&mut [f32]]) {
        let geometry = &self.geometry;
        let source = Blocked::of_all(x, self.inputs, geometry.input);
        let mut places = Vec::new();
        for_each_position(geometry.output, |_, position| {
            let read = std::array::from_fn(|axis| position[axis] * geometry.stride[axis]);
            places.push(source.place(read));
        });
        let groups: Vec<Group<'_>> = self.branches.iter().enumerate().flat_map(groups_of).collect();
        let arrived: Vec<Vec<f32>> =
            groups.par_iter().map(|group| self.side_by_side(group.rows, gradient)).collect();
        let mut tasks = Vec::new();
        for (group, arrived) in groups.iter().zip(&arrived) {
            for block in &source.blocks {
                for (part, taps) in group.taps.chunks(TASK_TAPS).enumerate() {
                    tasks.push(TapTask { group, arrived, block, taps, first_tap: part * TASK_TAPS });
                }
            }
        }
        // The longest first, so that no thread is left with one at the end.
        tasks.sort_by_key(|task| {
            std::cmp::Reverse(task.taps.len() * task.group.rows.len() * task.block.width)
        });
        let out: Vec<Shared<'_>> = out.iter_mut().map(|out| Shared::new(out)).collect();
        tasks.into_par_iter().for_each(|task| {
            let sums = self.tap_sums(&task, &source, &places);
            self.store_taps(&task, &sums, &out[task.group.branch]);
        });
    }

    /// Puts sums, `[tap][row][channel of the block]`, where they belong in the gradient of a weight.
    fn store_taps(&self, task: &TapTask<'_>, sums: &[f32], out: &Shared<'_>) {
        let TapTask { group, block, .. } = task;
        let (taps, own_taps) = (group.taps.len(), task.taps.len());
        let places: Vec<usize> = (0..own_taps).map(|tap| tap * group.rows.len() * block.width).collect();
        let processor = Processor::detect();
        let mut turned = [0.0; LANES * TASK_TAPS];
        for (index, Row { row, .. }) in group.rows.iter().enumerate() {
            for (part, channels) in block.channels.chunks(LANES).enumerate() {
                let targets: Vec<usize> = (0..channels.len()).map(|lane| lane * own_taps).collect();
                let sums = &sums[index * block.width + part * LANES..];
                processor.separate(sums, &places, &targets, &mut turned);
                for (channel, values) in channels.iter().zip(turned.chunks_exact(own_taps)) {
                    let start = (row * self.inputs + channel) * taps + task.first_tap;
                    #[allow(unsafe_code)]
                    // SAFETY: a row, a channel and a tap are in one task only.
                    unsafe {
                        out.write(start, values);
                    }
                }
            }
        }
    }

    /// `[sample][position][row]`
    fn side_by_side(&self, rows: &[Row], gradient: &[f32]) -> Vec<f32> {
        let volume: usize = self.geometry.output.iter().product();
        let mut packed = vec![0.0; self.samples * volume * rows.len()];
        for (sample, packed) in packed.chunks_exact_mut(volume * rows.len()).enumerate() {
            for (lane, Row { channel, .. }) in rows.iter().enumerate() {
                let values = &gradient[(sample * self.outputs + channel) * volume..][..volume];
                for (packed, value) in packed.chunks_exact_mut(rows.len()).zip(values) {
                    packed[lane] = *value;
                }
            }
        }
        packed
    }

    /// `[tap][row][channel of the block]`, summed over samples and positions.
    fn tap_sums(&self, task: &TapTask<'_>, source: &Blocked, places: &[usize]) -> Vec<f32> {
        let (rows, block) = (task.group.rows.len(), task.block);
        let processor = Processor::detect();
        let mut sums = vec![0.0; task.taps.len() * rows * block.width];
        for sample in 0..self.samples {
            let x = &source.values[sample * source.sample + block.start..];
            let arrived = &task.arrived[sample * places.len() * rows..];
            for (places, arrived) in places.chunks(TASK_POSITIONS).zip(arrived.chunks(TASK_POSITIONS * rows))
            {
                for (tap, sums) in task.taps.iter().zip(sums.chunks_exact_mut(rows * block.width)) {
                    let shift = source.place(*tap) * block.width;
                    processor.outer(&x[shift..], places, block.width, arrived, rows, sums);
                }
            }
        }
        sums
    }
}

/// Rows of a branch whose gradients are summed together.
struct Group<'a> {
    branch: usize,
    rows: &'a [Row],
    taps: Vec<[usize; 3]>,
}

/// The gradient of a group's weights for one block of inputs at some taps.
struct TapTask<'a> {
    group: &'a Group<'a>,
    /// What arrived at the group's channels: `[sample][position][row]`.
    arrived: &'a [f32],
    block: &'a Block,
    taps: &'a [[usize; 3]],
    /// Of `taps`, among the group's.
    first_tap: usize,
}

/// As few groups as there can be, of about equal length.
fn groups_of<'a>((index, branch): (usize, &'a Branch<'_>)) -> Vec<Group<'a>> {
    let rows = &branch.rows;
    let count = rows.len().div_ceil(ROWS_MAX);
    let cut = |group: usize| rows.len() * group / count;
    let group = |number: usize| Group {
        branch: index,
        rows: &rows[cut(number)..cut(number + 1)],
        taps: taps(branch.kernel),
    };
    (0..count).map(group).collect()
}

/// Positions with the taps that reach them.
struct Class {
    positions: Positions,
    segments: Vec<Segment>,
    taps: Vec<ClassTap>,
}

/// The weights of a segment: rows of a branch from `first` on, at one tap.
struct ClassTap {
    branch: usize,
    first: usize,
    tap: usize,
}

fn segments_of(source: &Blocked, block: &Block, taps: &[[usize; 3]]) -> Vec<Segment> {
    let at = |tap: &[usize; 3]| Segment {
        shift: block.start + source.place(*tap) * block.width,
        pitch: block.width,
        length: block.channels.len(),
    };
    taps.iter().map(at).collect()
}

fn for_each_position([d, h, w]: [usize; 3], mut visit: impl FnMut(usize, [usize; 3])) {
    let mut index = 0;
    for d in 0..d {
        for h in 0..h {
            for w in 0..w {
                visit(index, [d, h, w]);
                index += 1;
            }
        }
    }
}

/// Cuts a list in pieces of whole vectors that a tile holds, the last one filled up.
fn pieces<T>(mut list: &[T]) -> Vec<&[T]> {
    let mut pieces = Vec::new();
    while !list.is_empty() {
        let whole = list.len().min(VECTORS_MAX * LANES);
        let (piece, rest) = list.split_at(whole);
        pieces.push(piece);
        list = rest;
    }
    pieces
}

/// # Shapes
/// `out`: `[samples, channels, volume]`.
fn run(
    source: &Blocked,
    samples: usize,
    works: &[Work<'_>],
    channels: usize,
    volume: usize,
    epilogue: Option<&Epilogue>,
    out: &mut [f32],
) {
    assert_eq!(out.len(), samples * channels * volume);
    let shared = Shared::new(out);
    let mut tasks = Vec::new();
    for sample in 0..samples {
        for work in works {
            for first in (0..work.positions.sources.len()).step_by(TASK_POSITIONS) {
                tasks.push((sample, work, first));
            }
        }
    }
    tasks.into_par_iter().for_each(|(sample, work, first)| {
        let last = (first + TASK_POSITIONS).min(work.positions.sources.len());
        let lanes = work.vectors * LANES;
        let values = &source.values[sample * source.sample..][..source.sample];
        let mut sums = vec![0.0; TASK_POSITIONS * lanes];
        sum_tiles(values, work, &work.positions.sources[first..last], &mut sums);
        let targets = &work.positions.targets[first..last];
        let places: Vec<usize> = (0..targets.len()).map(|place| place * lanes).collect();
        let processor = Processor::detect();
        let mut rows = [0.0; LANES * TASK_POSITIONS];
        for (part, channels_of_part) in work.channels.chunks(LANES).enumerate() {
            let starts: Vec<usize> = (0..channels_of_part.len()).map(|row| row * TASK_POSITIONS).collect();
            processor.separate(&sums[part * LANES..], &places, &starts, &mut rows);
            for (row, channel) in rows.chunks_exact_mut(TASK_POSITIONS).zip(channels_of_part) {
                let row = &mut row[..targets.len()];
                if let Some(epilogue) = epilogue {
                    epilogue.apply(*channel, row);
                }
                #[allow(unsafe_code)]
                // SAFETY: a target lies in its volume; each pair of channel and
                // target is in one task only.
                unsafe {
                    shared.scatter((sample * channels + channel) * volume, targets, row);
                }
            }
        }
    });
}

/// `[position][lane]`, all products of `work` at the positions of one task.
fn sum_tiles(source: &[f32], work: &Work<'_>, places: &[usize], sums: &mut [f32]) {
    let processor = Processor::detect();
    let lanes = work.vectors * LANES;
    let (mut segments, mut weights) = (work.segments, work.weights.as_slice());
    let mut fresh = true;
    while !segments.is_empty() {
        let (mut count, mut products) = (0, 0);
        while count < segments.len() && products < CHUNK_PRODUCTS {
            products += segments[count].length;
            count += 1;
        }
        let (own, rest) = weights.split_at(products * lanes);
        let tile = Tile { source, segments: &segments[..count], weights: own, vectors: work.vectors, fresh };
        processor.tiles(&tile, places, sums);
        (segments, weights, fresh) = (&segments[count..], rest, false);
    }
}

const _: () = assert!(WIDTH == 2 * LANES && VECTORS_MAX == 2);
