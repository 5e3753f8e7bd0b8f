//! A convolution of one tap as what it is: a product of its weight with the
//! matrix of channels by positions, cut in pieces that threads compute side by
//! side.
//!
//! Nothing is bordered or turned over. A library of matrix products that starts
//! threads for every sample takes longer to start them than to compute where a
//! layer is small.

use std::borrow::Cow;

use cakes::kernel::Kernel;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::conv::{Convolution, Epilogue};
use super::geometry::Geometry;

/// Positions of one piece of a result: enough to make up for packing the weight.
const PIECE_POSITIONS: usize = 512;

/// Channels of one piece of a result.
const PIECE_CHANNELS: usize = 128;

/// Pieces of a weight's gradient at least, if they stay this long along both sides.
const PIECES_MIN: usize = 8;
const PIECE_MIN: usize = 16;

/// A convolution whose only kernel is `1x1x1`.
#[derive(Clone, Debug)]
pub struct Product<'a> {
    /// `[C_out, C_in]`
    weight: ArrayView2<'a, f32>,
    geometry: Geometry,
    samples: usize,
}

impl Convolution<'_> {
    /// This convolution as a product, if it is one.
    pub fn product(&self) -> Option<Product<'_>> {
        let [branch] = self.branches.as_slice() else { return None };
        let in_order =
            branch.rows.iter().enumerate().all(|(index, row)| row.row == index && row.channel == index);
        let weight = ArrayView2::from_shape((self.outputs, self.inputs), branch.weight).ok()?;
        (branch.kernel == Kernel::K111 && in_order && branch.rows.len() == self.outputs).then_some(Product {
            weight,
            geometry: self.geometry,
            samples: self.samples,
        })
    }
}

impl Product<'_> {
    /// # Shapes
    /// `x`: `[N, C_in, D, H, W]`, `out`: `[N, C_out, ⌈D/s⌉, ⌈H/s⌉, ⌈W/s⌉]`.
    pub fn forward(&self, x: &[f32], epilogue: Option<&Epilogue>, out: &mut [f32]) {
        self.products(&self.weight, &self.read(x), epilogue, out);
    }

    /// The gradient of the input; every value of `out` is written.
    ///
    /// # Shapes
    /// `gradient`: of the output, `out`: of the input.
    pub fn input_gradient(&self, gradient: &[f32], out: &mut [f32]) {
        if self.geometry.stride == [1; 3] {
            return self.products(&self.weight.t(), gradient, None, out);
        }
        let (read, whole) = (self.volume(), self.geometry.input.iter().product());
        let mut reached = vec![0.0; self.samples * self.weight.ncols() * read];
        self.products(&self.weight.t(), gradient, None, &mut reached);
        out.par_chunks_exact_mut(whole).zip(reached.par_chunks_exact(read)).for_each(|(out, reached)| {
            out.fill(0.0);
            for_each_row(&self.geometry, |from, to| {
                let [_, _, step] = self.geometry.stride;
                let width = self.geometry.output[2];
                for (out, value) in out[from..].iter_mut().step_by(step).zip(&reached[to..to + width]) {
                    *out = *value;
                }
            });
        });
    }

    /// The gradient of the weight. Which piece sums what does not depend on the
    /// number of threads, so neither does the result.
    ///
    /// # Shapes
    /// `out`: `[C_out, C_in]`.
    pub fn weight_gradient(&self, x: &[f32], gradient: &[f32], out: &mut [f32]) {
        let (outputs, inputs) = self.weight.dim();
        let read = self.read(x);
        let samples: Vec<(ArrayView2<'_, f32>, ArrayView2<'_, f32>)> =
            self.matrices(gradient, outputs).into_iter().zip(self.matrices(&read, inputs)).collect();
        let (mut rows, mut columns) = (PIECE_CHANNELS, PIECE_CHANNELS);
        while outputs.div_ceil(rows) * inputs.div_ceil(columns) < PIECES_MIN && rows.max(columns) > PIECE_MIN
        {
            *(if rows > columns { &mut rows } else { &mut columns }) /= 2;
        }
        pieces(out, outputs, inputs, [rows, columns]).into_par_iter().for_each(|mut piece| {
            let (rows, columns) = (piece.rows(), piece.columns());
            for (index, (gradient, x)) in samples.iter().enumerate() {
                let (left, right) = (gradient.slice(s![rows.clone(), ..]), x.slice(s![columns.clone(), ..]));
                let kept = if index == 0 { 0.0 } else { 1.0 };
                general_mat_mul(1.0, &left, &right.t(), kept, &mut piece.target);
            }
        });
    }

    /// `left` times each sample's matrix, then the epilogue.
    fn products(
        &self,
        left: &ArrayView2<'_, f32>,
        right: &[f32],
        epilogue: Option<&Epilogue>,
        out: &mut [f32],
    ) {
        let (outputs, inputs) = left.dim();
        let volume = self.volume();
        let samples = self.matrices(right, inputs);
        let targets = samples.iter().zip(out.chunks_exact_mut(outputs * volume));
        let tasks: Vec<(&ArrayView2<'_, f32>, Piece<'_>)> = targets
            .flat_map(|(sample, out)| {
                let pieces = pieces(out, outputs, volume, [PIECE_CHANNELS, PIECE_POSITIONS]);
                pieces.into_iter().map(move |piece| (sample, piece))
            })
            .collect();
        tasks.into_par_iter().for_each(|(sample, mut piece)| {
            let (rows, columns) = (piece.rows(), piece.columns());
            let (left, right) = (left.slice(s![rows.clone(), ..]), sample.slice(s![.., columns]));
            general_mat_mul(1.0, &left, &right, 0.0, &mut piece.target);
            let Some(epilogue) = epilogue else { return };
            for (channel, mut values) in rows.zip(piece.target.rows_mut()) {
                values.as_slice_mut().into_iter().for_each(|values| epilogue.apply(channel, values));
            }
        });
    }

    /// Positions of a channel that the kernel reads.
    fn volume(&self) -> usize {
        self.geometry.output.iter().product()
    }

    /// The positions that the kernel reads, one behind the other.
    fn read<'a>(&self, x: &'a [f32]) -> Cow<'a, [f32]> {
        let geometry = &self.geometry;
        if geometry.stride == [1; 3] {
            return Cow::Borrowed(x);
        }
        let (read, whole): (usize, usize) = (self.volume(), geometry.input.iter().product());
        let mut own = vec![0.0; x.len() / whole * read];
        own.par_chunks_exact_mut(read).zip(x.par_chunks_exact(whole)).for_each(|(own, x)| {
            for_each_row(geometry, |from, to| {
                let target = &mut own[to..to + geometry.output[2]];
                for (own, value) in target.iter_mut().zip(x[from..].iter().step_by(geometry.stride[2])) {
                    *own = *value;
                }
            });
        });
        Cow::Owned(own)
    }

    /// `[channels, positions]` of every sample.
    fn matrices<'a>(&self, values: &'a [f32], channels: usize) -> Vec<ArrayView2<'a, f32>> {
        let shape = (channels, self.volume());
        let samples = values.chunks_exact(channels * self.volume());
        samples.filter_map(|sample| ArrayView2::from_shape(shape, sample).ok()).collect()
    }
}

/// A part of a matrix.
struct Piece<'a> {
    first: [usize; 2],
    target: ArrayViewMut2<'a, f32>,
}

impl Piece<'_> {
    fn rows(&self) -> std::ops::Range<usize> {
        self.first[0]..self.first[0] + self.target.nrows()
    }

    fn columns(&self) -> std::ops::Range<usize> {
        self.first[1]..self.first[1] + self.target.ncols()
    }
}

/// Cuts a matrix.
fn pieces(values: &mut [f32], rows: usize, columns: usize, size: [usize; 2]) -> Vec<Piece<'_>> {
    let whole = ArrayViewMut2::from_shape((rows, columns), values);
    let whole = whole.map(|target| vec![Piece { first: [0; 2], target }]).unwrap_or_default();
    (0..2).fold(whole, |pieces, axis| {
        let mut cut = Vec::new();
        for Piece { mut first, mut target } in pieces {
            while target.len_of(Axis(axis)) > size[axis] {
                let (piece, rest) = target.split_at(Axis(axis), size[axis]);
                cut.push(Piece { first, target: piece });
                first[axis] += size[axis];
                target = rest;
            }
            cut.push(Piece { first, target });
        }
        cut
    })
}

/// Where each row of outputs reads its first value, and where it lies.
fn for_each_row(geometry: &Geometry, mut visit: impl FnMut(usize, usize)) {
    let ([_, height, width], [depth, rows, columns]) = (geometry.input, geometry.output);
    for d in 0..depth {
        for h in 0..rows {
            let from = (d * geometry.stride[0] * height + h * geometry.stride[1]) * width;
            visit(from, (d * rows + h) * columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::direct::conv::{Branch, Row};

    fn whole_numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * step) % 7) as f32 - 3.0).collect()
    }

    /// Wider and longer than one piece, with stride; sums of whole numbers are exact in
    /// any order.
    #[test]
    fn a_result_of_several_pieces_is_what_one_sum_for_each_value_gives() {
        let (samples, inputs, outputs) = (2, PIECE_MIN + 3, PIECE_CHANNELS + 5);
        for stride in [[1; 3], [1, 2, 2]] {
            let geometry = Geometry::new([3, 27, 29], stride);
            let (whole, read): (usize, usize) =
                (geometry.input.iter().product(), geometry.output.iter().product());
            assert!(read > PIECE_POSITIONS);
            let weight = whole_numbers(outputs * inputs, 3);
            let x = whole_numbers(samples * inputs * whole, 5);
            let gradient = whole_numbers(samples * outputs * read, 2);
            let rows = (0..outputs).map(|row| Row { row, channel: row }).collect();
            let branches = vec![Branch { kernel: Kernel::K111, weight: &weight, rows }];
            let convolution = Convolution { geometry, samples, inputs, outputs, branches };
            let product = convolution.product().unwrap();

            let mut found = vec![f32::NAN; gradient.len()];
            product.forward(&x, None, &mut found);
            let mut of_x = vec![f32::NAN; x.len()];
            product.input_gradient(&gradient, &mut of_x);
            let mut of_weight = vec![f32::NAN; weight.len()];
            product.weight_gradient(&x, &gradient, &mut of_weight);

            let mut expected = vec![0.0; gradient.len()];
            let mut expected_of_x = vec![0.0; x.len()];
            let mut expected_of_weight = vec![0.0; weight.len()];
            let [_, rows, columns] = geometry.output;
            for sample in 0..samples {
                for place in 0..read {
                    let [d, h, w] = [place / (rows * columns), place / columns % rows, place % columns];
                    let from = (d * stride[0] * 27 + h * stride[1]) * 29 + w * stride[2];
                    for output in 0..outputs {
                        let there = (sample * outputs + output) * read + place;
                        for input in 0..inputs {
                            let here = (sample * inputs + input) * whole + from;
                            let tap = output * inputs + input;
                            expected[there] += weight[tap] * x[here];
                            expected_of_x[here] += weight[tap] * gradient[there];
                            expected_of_weight[tap] += x[here] * gradient[there];
                        }
                    }
                }
            }
            assert!(found == expected && of_x == expected_of_x && of_weight == expected_of_weight);
        }
    }
}
