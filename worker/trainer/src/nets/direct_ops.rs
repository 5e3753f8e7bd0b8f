//! Layers in host memory, through [`super::direct`].
//!
//! In training a norm and the ReLU and fold behind it are one pass. In
//! evaluation the norm is a scale and a shift of each channel, which the
//! convolution applies as it writes.

use cakes::Extent;
use cakes::kernel::Kernel;
use cakes::network::{Conv, ConvKernels, Op, SearchMode};
use rayon::prelude::*;
use tch::Tensor;

use super::convolve::Layer;
use super::direct::conv::{Branch, Convolution, Epilogue, Row};
use super::direct::geometry::Geometry;
use super::direct::host;
use super::direct::norm::{self, Affine, Behind, Moments};
use super::direct::resize;
use super::net::{NORM_EPSILON, NORM_MOMENTUM, Net, Use, draw_of};
use super::torch_ops::{ConvCount, convolve_window, shape_of, stateless};
use crate::TrainerError;

impl Net {
    /// Runs node `index` without libtorch's autograd.
    pub(super) fn run_direct(
        &self,
        index: usize,
        inputs: &[&Tensor],
        purpose: Use<'_>,
        count: &mut ConvCount,
    ) -> Result<Tensor, TrainerError> {
        let node = &self.network.nodes[index];
        match &node.op {
            Op::Conv(Conv { kernels: ConvKernels::Window(size), stride, .. })
                if kernel_of(*size).is_none() =>
            {
                let weight = self.param(&format!("{}.weight", node.name))?;
                let output = convolve_window(inputs[0], weight, *size, *stride)?;
                count.add(weight, &output);
                self.window_epilogue(index, output, purpose)
            }
            Op::Conv(conv) => {
                let layer = self.layer(&node.name, conv, inputs[0], purpose)?;
                count.mac_count += layer.convolution.mac_count();
                let epilogue = self.epilogue(index, conv, layer.convolution.outputs, purpose)?;
                layer.forward(epilogue.as_ref())
            }
            Op::Norm { .. } if purpose.trains() => Ok(self.direct_norm(index, inputs[0], purpose)?.0),
            // Done by the convolution before it.
            Op::Norm { .. } if self.is_behind_conv(index) => Ok(inputs[0].shallow_clone()),
            Op::Add => add(inputs, self.relu_behind_sum(index).is_some()),
            Op::Relu if self.relu_behind_sum(self.producer(index)) == Some(index) => {
                Ok(inputs[0].shallow_clone())
            }
            // Done by the norm before it, or with it.
            Op::Relu if self.is_done_with_norm(index, purpose) => Ok(inputs[0].shallow_clone()),
            Op::Fold { .. } if purpose.trains() && self.folded_by(index).is_some() => {
                Ok(inputs[0].shallow_clone())
            }
            Op::Resize { factor } => up_sample(inputs[0], factor.map(|factor| factor as usize)),
            Op::Norm { .. } | Op::Linear { .. } | Op::Dropout { .. } => {
                self.run_torch(index, inputs, purpose, count)
            }
            op => stateless(op, inputs),
        }
    }

    fn producer(&self, index: usize) -> usize {
        self.network.nodes[index].inputs.first().map_or(0, |id| id.0)
    }

    /// The norm that alone reads convolution `index`.
    fn norm_behind(&self, index: usize) -> Option<usize> {
        let is_conv = matches!(self.network.nodes[index].op, Op::Conv(_));
        let reader = self.only_reader(index).filter(|_| is_conv)?;
        matches!(self.network.nodes[reader].op, Op::Norm { .. }).then_some(reader)
    }

    /// Whether evaluation does the work of norm `index` in the convolution before it.
    fn is_behind_conv(&self, index: usize) -> bool {
        self.norm_behind(self.producer(index)) == Some(index)
    }

    /// Whether ReLU `index` is done where the norm before it is.
    fn is_done_with_norm(&self, index: usize, purpose: Use<'_>) -> bool {
        let norm = self.producer(index);
        self.relu_behind(norm) == Some(index) && (purpose.trains() || self.is_behind_conv(norm))
    }

    /// The ReLU that alone reads norm `index`.
    pub(super) fn relu_behind(&self, index: usize) -> Option<usize> {
        let is_norm = matches!(self.network.nodes[index].op, Op::Norm { .. });
        let reader = self.only_reader(index).filter(|_| is_norm)?;
        matches!(self.network.nodes[reader].op, Op::Relu).then_some(reader)
    }

    /// The ReLU that alone reads sum `index`, and is done with it: its gradient
    /// passes where the result is above zero, which is where the sum was.
    fn relu_behind_sum(&self, index: usize) -> Option<usize> {
        let is_sum = matches!(self.network.nodes[index].op, Op::Add);
        let reader = self.only_reader(index).filter(|_| is_sum)?;
        matches!(self.network.nodes[reader].op, Op::Relu).then_some(reader)
    }

    /// What the pass of norm `index` does besides.
    pub(super) fn behind(&self, index: usize) -> Behind {
        let relu = self.relu_behind(index);
        let groups =
            match self.only_reader(relu.unwrap_or(index)).map(|reader| &self.network.nodes[reader].op) {
                Some(Op::Fold { groups }) => *groups as usize,
                _ => 1,
            };
        Behind { relu: relu.is_some(), groups }
    }

    /// The norm whose pass does the work of fold `index`.
    pub(super) fn folded_by(&self, index: usize) -> Option<usize> {
        let before = self.producer(index);
        let norm = match self.network.nodes[before].op {
            Op::Relu => Some(self.producer(before)).filter(|norm| self.relu_behind(*norm) == Some(before)),
            _ => Some(before),
        }?;
        let is_norm = matches!(self.network.nodes[norm].op, Op::Norm { .. });
        (is_norm && self.only_reader(before) == Some(index)).then_some(norm)
    }

    /// A convolution with its input.
    pub(super) fn layer<'a>(
        &'a self,
        name: &str,
        conv: &'a Conv,
        x: &'a Tensor,
        purpose: Use<'_>,
    ) -> Result<Layer<'a>, TrainerError> {
        let weight = match &conv.kernels {
            ConvKernels::Uniform(_) | ConvKernels::Window(_) => Some(self.param(&format!("{name}.weight"))?),
            _ => None,
        };
        let convolution = self.convolution(name, conv, x, purpose)?;
        Ok(Layer { conv, convolution, x, weight, methods: self.methods() })
    }

    /// The convolution of a node, with the branches that take part.
    fn convolution(
        &self,
        name: &str,
        conv: &Conv,
        x: &Tensor,
        purpose: Use<'_>,
    ) -> Result<Convolution<'_>, TrainerError> {
        let [samples, inputs, d, h, w] = shape_of(x)?.map(|size| size as usize);
        let channels = conv.channels as usize;
        let weight = |kernel| host::values(self.param(&format!("{name}.{kernel}.weight"))?);
        let mut branches = Vec::new();
        let mut outputs = channels;
        match &conv.kernels {
            ConvKernels::Uniform(kernel) => {
                let weight = host::values(self.param(&format!("{name}.weight"))?)?;
                branches.push(Branch { kernel: *kernel, weight, rows: rows(channels, 0) });
            }
            ConvKernels::Window(size) => {
                let other = || TrainerError::Report(format!("layer '{name}': {size:?} is no kernel"));
                let kernel = kernel_of(*size).ok_or_else(other)?;
                let weight = host::values(self.param(&format!("{name}.weight"))?)?;
                branches.push(Branch { kernel, weight, rows: rows(channels, 0) });
            }
            ConvKernels::Mixed(allocation) => {
                let mut first = 0;
                for (kernel, count) in allocation.iter() {
                    let rows = rows(count as usize, first);
                    branches.push(Branch { kernel, weight: weight(kernel)?, rows });
                    first += count as usize;
                }
            }
            ConvKernels::Candidates { kernels, mode: SearchMode::CostPriority } => {
                for (position, kernel) in kernels.iter().enumerate() {
                    let rows = rows(channels, position * channels);
                    branches.push(Branch { kernel, weight: weight(kernel)?, rows });
                }
                outputs = channels * kernels.len();
            }
            ConvKernels::Candidates { kernels, mode: SearchMode::PerformancePriority } => {
                let drawn = &draw_of(purpose, name)?.kernel_of_channel;
                for (position, kernel) in kernels.iter().enumerate() {
                    let own = drawn.iter().enumerate().filter(|(_, kernel)| **kernel == position);
                    let rows: Vec<Row> = own.map(|(channel, _)| Row { row: channel, channel }).collect();
                    if !rows.is_empty() {
                        branches.push(Branch { kernel, weight: weight(kernel)?, rows });
                    }
                }
            }
        }
        let geometry = Geometry::new([d, h, w], conv.stride.map(|step| step as usize));
        Ok(Convolution { geometry, samples, inputs, outputs, branches })
    }

    /// What the convolution does to its outputs: a bias, or in evaluation the
    /// norm behind it.
    fn epilogue(
        &self,
        index: usize,
        conv: &Conv,
        outputs: usize,
        purpose: Use<'_>,
    ) -> Result<Option<Epilogue>, TrainerError> {
        if let Some(norm) = self.norm_behind(index).filter(|_| !purpose.trains()) {
            let features = self.features(norm, purpose)?;
            let epsilon = NORM_EPSILON as f32;
            let scale: Vec<f32> = (features.scale.iter().zip(&features.variance))
                .map(|(scale, variance)| scale / (variance + epsilon).sqrt())
                .collect();
            let shift = (features.shift.iter().zip(&features.mean).zip(&scale))
                .map(|((shift, mean), scale)| shift - mean * scale)
                .collect();
            return Ok(Some(Epilogue { scale, shift, relu: self.relu_behind(norm).is_some() }));
        }
        if !conv.bias {
            return Ok(None);
        }
        // All candidates of a channel share its bias.
        let bias = host::values(self.param(&format!("{}.bias", self.network.nodes[index].name))?)?;
        let shift = bias.repeat(outputs / bias.len());
        Ok(Some(Epilogue { scale: vec![1.0; shift.len()], shift, relu: false }))
    }

    /// As [`Net::epilogue`], for what libtorch convolved.
    pub(super) fn window_epilogue(
        &self,
        index: usize,
        output: Tensor,
        purpose: Use<'_>,
    ) -> Result<Tensor, TrainerError> {
        let Op::Conv(conv) = &self.network.nodes[index].op else { return Ok(output) };
        let Some(Epilogue { scale, shift, relu }) =
            self.epilogue(index, conv, conv.channels as usize, purpose)?
        else {
            return Ok(output.f_contiguous()?);
        };
        let per_channel = |values: &[f32]| Tensor::f_from_slice(values)?.f_view([1, -1, 1, 1, 1]);
        let output = output.f_mul(&per_channel(&scale)?)?.f_add(&per_channel(&shift)?)?;
        Ok(if relu { output.f_relu()? } else { output }.f_contiguous()?)
    }

    /// Normalises by the moments of the batch, which it returns, and moves the
    /// running statistics towards them.
    pub(super) fn direct_norm(
        &self,
        index: usize,
        x: &Tensor,
        purpose: Use<'_>,
    ) -> Result<(Tensor, Moments), TrainerError> {
        let [samples, channels, d, h, w] = shape_of(x)?;
        let volume = (d * h * w) as usize;
        let values = host::values(x)?;
        let (features, behind) = (self.features(index, purpose)?, self.behind(index));
        let own = norm::moments(values, channels as usize, volume);
        let count = values.len() / channels as usize;
        let (moments, count) = match self.synchronised().filter(|_| purpose.trains()) {
            None => (own, count),
            Some(ranks) => ranks.join_moments(&own, count)?,
        };
        let output = host::written(&[samples, channels / behind.groups as i64, d, h, w], |out| {
            norm::forward(values, volume, &moments, features.affine(), behind, out);
        })?;
        self.move_statistics(index, &features.chosen, &moments, count)?;
        Ok((output, moments))
    }

    fn move_statistics(
        &self,
        index: usize,
        chosen: &[usize],
        moments: &Moments,
        count: usize,
    ) -> Result<(), TrainerError> {
        let name = &self.network.nodes[index].name;
        let momentum = NORM_MOMENTUM as f32;
        // Running variances are unbiased, as libtorch's are.
        let unbias = count as f32 / (count.max(2) - 1) as f32;
        for (statistic, new, factor) in
            [("running_mean", &moments.mean, 1.0), ("running_var", &moments.variance, unbias)]
        {
            host::update(self.statistic(&format!("{name}.{statistic}"))?, |values| {
                for (feature, new) in chosen.iter().zip(new) {
                    values[*feature] += momentum * (new * factor - values[*feature]);
                }
            })?;
        }
        Ok(())
    }

    /// The features of a norm that take part, in the order of channels.
    pub(super) fn features(&self, index: usize, purpose: Use<'_>) -> Result<Features, TrainerError> {
        let node = &self.network.nodes[index];
        let name = &node.name;
        let scale = host::values(self.param(&format!("{name}.weight"))?)?;
        let chosen: Vec<usize> = match &node.op {
            Op::Norm { candidates: 2.. } => {
                let drawn = &draw_of(purpose, self.producer_name(node))?.kernel_of_channel;
                drawn.iter().enumerate().map(|(channel, kernel)| kernel * drawn.len() + channel).collect()
            }
            _ => (0..scale.len()).collect(),
        };
        let pick = |values: &[f32]| -> Vec<f32> { chosen.iter().map(|feature| values[*feature]).collect() };
        Ok(Features {
            scale: pick(scale),
            shift: pick(host::values(self.param(&format!("{name}.bias"))?)?),
            mean: pick(host::values(self.statistic(&format!("{name}.running_mean"))?)?),
            variance: pick(host::values(self.statistic(&format!("{name}.running_var"))?)?),
            chosen,
        })
    }
}

/// Features of a norm that take part in a pass.
pub(super) struct Features {
    /// Their positions among all features.
    pub chosen: Vec<usize>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Features {
    pub fn affine(&self) -> Affine<'_> {
        Affine { scale: &self.scale, shift: &self.shift, epsilon: NORM_EPSILON as f32 }
    }
}

/// The kernel of a window that is one.
pub(super) fn kernel_of(window: Extent) -> Option<Kernel> {
    Kernel::ALL.into_iter().find(|kernel| kernel.size() == window)
}

/// A sum, with the ReLU behind it.
fn add(terms: &[&Tensor], relu: bool) -> Result<Tensor, TrainerError> {
    let shape = terms[0].size();
    // Values of one task, which stay in a near cache.
    const CHUNK: usize = 1 << 12;
    let terms = terms.iter().map(|term| host::values(term)).collect::<Result<Vec<_>, _>>()?;
    host::written(&shape, |out| {
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            let length = out.len();
            let mut own = terms.iter().map(|values| &values[chunk * CHUNK..][..length]);
            out.copy_from_slice(own.next().unwrap_or_default());
            for term in own {
                out.iter_mut().zip(term).for_each(|(sum, value)| *sum += value);
            }
            if relu {
                // What is not a number stays what it is.
                out.iter_mut().for_each(|sum| *sum = if *sum < 0.0 { 0.0 } else { *sum });
            }
        });
    })
}

fn up_sample(x: &Tensor, factor: [usize; 3]) -> Result<Tensor, TrainerError> {
    let [samples, channels, d, h, w] = shape_of(x)?;
    let long = |size: i64, axis: usize| size * factor[axis] as i64;
    let values = host::values(x)?;
    host::written(&[samples, channels, long(d, 0), long(h, 1), long(w, 2)], |out| {
        resize::forward(values, [d, h, w].map(|size| size as usize), factor, out);
    })
}

/// The gradient of what `up_sample` read.
pub(super) fn up_sample_gradient(
    x: &Tensor,
    factor: [usize; 3],
    gradient: &Tensor,
) -> Result<Tensor, TrainerError> {
    let [_, _, d, h, w] = shape_of(x)?;
    let arrived = host::values(gradient)?;
    host::filled(&x.size(), |out| {
        resize::backward(arrived, [d, h, w].map(|size| size as usize), factor, out);
    })
}

fn rows(count: usize, first_channel: usize) -> Vec<Row> {
    (0..count).map(|row| Row { row, channel: first_channel + row }).collect()
}
