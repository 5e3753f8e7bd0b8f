//! Running a network description.

use std::collections::BTreeMap;

use cakes::Extent;
use cakes::backbone::Backbone;
use cakes::network::{Conv, ConvKernels, Network, Node, NodeId, Op, Pool, SearchMode};
use cakes::scores::{ChannelScores, LayerScores};
use tch::{Device, Kind, Tensor};

use super::conv::{ConvCount, convolve};
use super::draw::{Draws, LayerDraw, best_kernels, draw_kernels};
use super::params::{Param, Params, initialise};
use crate::TrainerError;

const NORM_MOMENTUM: f64 = 0.1;
const NORM_EPSILON: f64 = 1e-5;

/// A network with its parameters on a device.
#[derive(Debug)]
pub struct Net {
    network: Network,
    params: Params,
    device: Device,
    /// How many later nodes read each node's output.
    readers: Vec<usize>,
    count: ConvCount,
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug)]
pub enum Use<'a> {
    /// Batch statistics, which also move the running ones.
    Train(&'a Draws),
    /// Running statistics; call it without gradients.
    Evaluate(&'a Draws),
}

impl<'a> Use<'a> {
    fn draws(self) -> &'a Draws {
        match self {
            Use::Train(draws) | Use::Evaluate(draws) => draws,
        }
    }

    fn trains(self) -> bool {
        matches!(self, Use::Train(_))
    }
}

impl Net {
    /// Builds `network` with parameters that follow from `seed`.
    ///
    /// # Errors
    /// The network is malformed for `extent`, or libtorch fails.
    pub fn new(network: Network, extent: Extent, seed: u64, device: Device) -> Result<Self, TrainerError> {
        let shapes = network.shapes(extent).map_err(|error| TrainerError::User(error.to_string()))?;
        let params = initialise(&network, &shapes, seed, device)?;
        let mut readers = vec![0; network.nodes.len()];
        for NodeId(input) in network.nodes.iter().flat_map(|node| &node.inputs) {
            readers[*input] += 1;
        }
        Ok(Net { network, params, device, readers, count: ConvCount::default() })
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// Trainable tensors by name.
    pub fn params_mut(&mut self) -> &mut BTreeMap<String, Param> {
        &mut self.params.trained
    }

    pub fn params(&self) -> &BTreeMap<String, Param> {
        &self.params.trained
    }

    /// Every tensor that makes up the network's state: parameters and running
    /// statistics, by name.
    pub fn state(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.params.trained.iter().map(|(name, param)| (name, &param.tensor)).chain(&self.params.statistics)
    }

    /// Elements of all trainable tensors.
    pub fn param_count(&self) -> u64 {
        self.params.trained.values().map(|param| param.tensor.numel() as u64).sum()
    }

    /// Multiply-accumulates of the last forward pass, per sample.
    pub fn last_count(&self) -> ConvCount {
        self.count
    }

    /// Runs the network.
    ///
    /// # Shapes
    /// `x`: `[N, C, D, H, W]`; result: `[N, classes, D, H, W]`.
    ///
    /// # Errors
    /// libtorch fails, or a draw is missing.
    pub fn forward(&mut self, x: &Tensor, purpose: Use<'_>) -> Result<Tensor, TrainerError> {
        let mut count = ConvCount::default();
        let mut left = self.readers.clone();
        let mut outputs: Vec<Option<Tensor>> = Vec::with_capacity(self.network.nodes.len());
        for index in 0..self.network.nodes.len() {
            let node = &self.network.nodes[index];
            let inputs: Option<Vec<&Tensor>> =
                node.inputs.iter().map(|NodeId(input)| outputs[*input].as_ref()).collect();
            let inputs = inputs.ok_or_else(|| {
                TrainerError::User(format!("layer '{}' reads what is not there", node.name))
            })?;
            let output =
                if index == 0 { x.shallow_clone() } else { self.run(node, &inputs, purpose, &mut count)? };
            for NodeId(input) in self.network.nodes[index].inputs.clone() {
                left[input] -= 1;
                // Without gradients this frees the memory of what nobody reads any more.
                if left[input] == 0 {
                    outputs[input] = None;
                }
            }
            outputs.push(Some(output));
        }
        self.count = count;
        outputs.pop().flatten().ok_or_else(|| TrainerError::User("the network is empty".into()))
    }

    fn run(
        &self,
        node: &Node,
        inputs: &[&Tensor],
        purpose: Use<'_>,
        count: &mut ConvCount,
    ) -> Result<Tensor, TrainerError> {
        let x = inputs[0];
        Ok(match &node.op {
            Op::Input { .. } => x.shallow_clone(),
            Op::Conv(conv) => self.conv(&node.name, conv, x, purpose, count)?,
            Op::Norm { candidates } => self.norm(node, x, *candidates, purpose)?,
            Op::Relu => x.f_relu()?,
            Op::Pool { kind, size } => {
                let size = size.map(i64::from);
                match kind {
                    Pool::Max => x.f_max_pool3d(size, size, [0; 3], [1; 3], false)?,
                    Pool::Average => x.f_avg_pool3d(size, size, [0; 3], false, true, None)?,
                }
            }
            Op::Resize { factor } => {
                let shape = x.size();
                let size: Vec<i64> = (0..3).map(|axis| shape[axis + 2] * i64::from(factor[axis])).collect();
                x.f_upsample_trilinear3d(size, false, None, None, None)?
            }
            Op::Concat => Tensor::f_cat(inputs, 1)?,
            Op::Add => inputs[1..].iter().try_fold(x.shallow_clone(), |sum, term| sum.f_add(term))?,
            Op::Fold { groups } => {
                let shape = x.size();
                let groups = i64::from(*groups);
                let split = [shape[0], groups, shape[1] / groups, shape[2], shape[3], shape[4]];
                x.f_reshape(split)?.f_sum_dim_intlist(1, false, None)?
            }
            Op::Linear { .. } => {
                let pooled = x.f_mean_dim([2_i64, 3, 4].as_slice(), false, None)?;
                let bias = self.params.trained.get(&format!("{}.bias", node.name)).map(|param| &param.tensor);
                let output = pooled.f_linear(self.param(&format!("{}.weight", node.name))?, bias)?;
                let shape = output.size();
                output.f_view([shape[0], shape[1], 1, 1, 1])?
            }
        })
    }

    fn conv(
        &self,
        name: &str,
        conv: &Conv,
        x: &Tensor,
        purpose: Use<'_>,
        count: &mut ConvCount,
    ) -> Result<Tensor, TrainerError> {
        let inference = !purpose.trains();
        let bias = if conv.bias { Some(self.param(&format!("{name}.bias"))?) } else { None };
        let mut branches = Vec::new();
        match &conv.kernels {
            ConvKernels::Uniform(kernel) => {
                let weight = self.param(&format!("{name}.weight"))?;
                return convolve(x, weight, bias, *kernel, conv.stride, inference, count);
            }
            ConvKernels::Mixed(allocation) => {
                for (kernel, _) in allocation.iter() {
                    let weight = self.param(&format!("{name}.{kernel}.weight"))?;
                    branches.push(convolve(x, weight, None, kernel, conv.stride, inference, count)?);
                }
            }
            ConvKernels::Candidates { kernels, mode: SearchMode::CostPriority } => {
                for kernel in kernels.iter() {
                    let weight = self.param(&format!("{name}.{kernel}.weight"))?;
                    branches.push(convolve(x, weight, None, kernel, conv.stride, inference, count)?);
                }
            }
            ConvKernels::Candidates { kernels, mode: SearchMode::PerformancePriority } => {
                let draw = draw_of(purpose, name)?;
                for (kernel, channels) in kernels.iter().zip(&draw.channels_of_kernel) {
                    let Some(channels) = channels else { continue };
                    let weight =
                        self.param(&format!("{name}.{kernel}.weight"))?.f_index_select(0, channels)?;
                    branches.push(convolve(x, &weight, None, kernel, conv.stride, inference, count)?);
                }
                return Ok(join(branches)?.f_index_select(1, &draw.order)?);
            }
        }
        join(branches)
    }

    fn norm(
        &self,
        node: &Node,
        x: &Tensor,
        candidates: u32,
        purpose: Use<'_>,
    ) -> Result<Tensor, TrainerError> {
        let name = &node.name;
        let (scale, shift) = (self.param(&format!("{name}.weight"))?, self.param(&format!("{name}.bias"))?);
        let (mean, variance) = (
            self.statistic(&format!("{name}.running_mean"))?,
            self.statistic(&format!("{name}.running_var"))?,
        );
        let run = |scale: &Tensor, shift: &Tensor, mean: &Tensor, variance: &Tensor| {
            x.f_batch_norm(
                Some(scale),
                Some(shift),
                Some(mean),
                Some(variance),
                purpose.trains(),
                NORM_MOMENTUM,
                NORM_EPSILON,
                false,
            )
        };
        if candidates == 1 {
            return Ok(run(scale, shift, mean, variance)?);
        }
        let layer = node.inputs.first().map(|id| &self.network.nodes[id.0].name);
        let chosen = &draw_of(purpose, layer.map_or("", String::as_str))?.candidates;
        let pick = |tensor: &Tensor| tensor.f_index_select(0, chosen);
        let (own_mean, own_variance) = (pick(mean)?, pick(variance)?);
        let output = run(&pick(scale)?, &pick(shift)?, &own_mean, &own_variance)?;
        if purpose.trains() {
            // The picked statistics are copies: what the pass made of them must
            // be put back, or evaluation would see those of the start.
            tch::no_grad(|| -> Result<(), TrainerError> {
                let _ = mean.shallow_clone().f_index_copy_(0, chosen, &own_mean)?;
                let _ = variance.shallow_clone().f_index_copy_(0, chosen, &own_variance)?;
                Ok(())
            })?;
        }
        Ok(output)
    }

    fn param(&self, name: &str) -> Result<&Tensor, TrainerError> {
        let param = self.params.trained.get(name);
        param
            .map(|param| &param.tensor)
            .ok_or_else(|| TrainerError::User(format!("the network has no parameter '{name}'")))
    }

    fn statistic(&self, name: &str) -> Result<&Tensor, TrainerError> {
        self.params
            .statistics
            .get(name)
            .ok_or_else(|| TrainerError::User(format!("the network has no statistic '{name}'")))
    }

    /// Layers whose kernels are drawn, in the order in which they run.
    fn sampled_layers(&self) -> impl Iterator<Item = (usize, &str, &Conv)> {
        let layers = self.network.nodes.iter().filter_map(|node| match &node.op {
            Op::Conv(conv) => match &conv.kernels {
                ConvKernels::Candidates { mode: SearchMode::PerformancePriority, .. } => {
                    Some((node.name.as_str(), conv))
                }
                _ => None,
            },
            _ => None,
        });
        layers.enumerate().map(|(index, (name, conv))| (index, name, conv))
    }

    /// The draws of one training step; empty for networks that draw nothing.
    ///
    /// # Errors
    /// libtorch cannot make the index tensors.
    pub fn draw(&self, seed: u64, step: u64) -> Result<Draws, TrainerError> {
        self.draws_by(|index, _, conv, kernels| Ok(draw_kernels(seed, step, index, conv.channels, kernels)))
    }

    /// The child that evaluation runs: each channel's best candidate.
    ///
    /// # Errors
    /// libtorch cannot read the scores.
    pub fn best_draw(&self) -> Result<Draws, TrainerError> {
        self.draws_by(|_, name, conv, kernels| {
            Ok(best_kernels(&self.layer_scores(name, conv.channels, kernels.len())?, kernels))
        })
    }

    fn draws_by(
        &self,
        choose: impl Fn(usize, &str, &Conv, &cakes::kernel::KernelSet) -> Result<Vec<usize>, TrainerError>,
    ) -> Result<Draws, TrainerError> {
        let mut draws = Draws::new();
        for (index, name, conv) in self.sampled_layers() {
            let ConvKernels::Candidates { kernels, .. } = &conv.kernels else { continue };
            let chosen = choose(index, name, conv, kernels)?;
            draws.insert(name.to_owned(), LayerDraw::new(chosen, kernels.len(), self.device)?);
        }
        Ok(draws)
    }

    /// |γ| of a layer's candidates, `[K][C]`.
    fn layer_scores(
        &self,
        layer: &str,
        channels: u32,
        kernel_count: usize,
    ) -> Result<Vec<Vec<f32>>, TrainerError> {
        let scale = self.param(&format!("{layer}.norm.weight"))?;
        let scale = scale.f_detach()?.f_abs()?.f_to(Device::Cpu)?.f_to_kind(Kind::Float)?;
        let mut values = vec![0_f32; channels as usize * kernel_count];
        let length = values.len();
        scale.f_copy_data(&mut values, length)?;
        Ok(values.chunks_exact(channels as usize).map(<[f32]>::to_vec).collect())
    }

    /// The scores of a supernet's channels: |γ| of every candidate.
    ///
    /// # Errors
    /// A scale is not finite.
    pub fn scores(
        &self,
        backbone: &Backbone,
        kernels: &cakes::kernel::KernelSet,
    ) -> Result<ChannelScores, TrainerError> {
        let layers = backbone.searchable_layers().into_iter().map(|layer| {
            let scores = self.layer_scores(&layer.name, layer.channels, kernels.len())?;
            Ok(LayerScores { layer: layer.name, scores })
        });
        let layers = layers.collect::<Result<Vec<_>, TrainerError>>()?;
        ChannelScores::new(backbone.clone(), kernels.clone(), layers)
            .map_err(|error| TrainerError::Numeric(error.to_string()))
    }
}

fn draw_of<'a>(purpose: Use<'a>, layer: &str) -> Result<&'a LayerDraw, TrainerError> {
    purpose.draws().get(layer).ok_or_else(|| TrainerError::User(format!("no draw for layer '{layer}'")))
}

fn join(mut branches: Vec<Tensor>) -> Result<Tensor, TrainerError> {
    if branches.len() == 1 {
        return Ok(branches.remove(0));
    }
    Ok(Tensor::f_cat(&branches, 1)?)
}
