//! A network description with its parameters on a device.

use std::collections::BTreeMap;
use std::sync::Arc;

use cakes::Extent;
use cakes::backbone::Backbone;
use cakes::kernel::KernelSet;
use cakes::network::{Conv, ConvKernels, Network, Node, NodeId, Op, SearchMode};
use cakes::scores::{ChannelScores, LayerScores};
use cakes::spec::{MemoryFormat, Precision, TrainingSpec};
use tch::{Device, Kind, Tensor};

use super::draw::{Draws, LayerDraw, best_kernels, draw_kernels};
use super::dropout::MaskSeed;
use super::methods::Methods;
use super::params::{Param, Params, initialise};
use super::torch_ops::{ConvCount, widened};
use crate::TrainerError;
use crate::ranks::Ranks;

pub(super) const NORM_MOMENTUM: f64 = 0.1;
pub(super) const NORM_EPSILON: f64 = 1e-5;

/// What computes convolutions and norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// [`super::direct`], in host memory.
    Direct,
    /// libtorch, on any device.
    Torch,
}

/// How libtorch computes layers; [`Engine::Direct`] knows float32 alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub precision: Precision,
    pub memory_format: MemoryFormat,
}

impl Numbers {
    pub fn of(training: &TrainingSpec) -> Self {
        Numbers { precision: training.precision, memory_format: training.memory_format }
    }
}

/// A network with its parameters on a device.
#[derive(Debug)]
pub struct Net {
    pub(super) network: Network,
    pub(super) params: Params,
    device: Device,
    engine: Engine,
    pub(super) numbers: Numbers,
    /// How many later nodes read each node's output.
    readers: Vec<usize>,
    count: ConvCount,
    methods: Methods,
    /// Who trains it together with this process.
    pub(super) ranks: Option<Arc<Ranks>>,
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
    pub(super) fn draws(self) -> &'a Draws {
        match self {
            Use::Train(draws) | Use::Evaluate(draws) => draws,
        }
    }

    pub(super) fn trains(self) -> bool {
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
        let engine = if device == Device::Cpu { Engine::Direct } else { Engine::Torch };
        Ok(Net {
            network,
            params,
            device,
            engine,
            numbers: Numbers::default(),
            readers,
            count: ConvCount::default(),
            methods: Methods::default(),
            ranks: None,
        })
    }

    /// Computes with `engine` from now on. [`Engine::Direct`] needs [`Device::Cpu`].
    #[must_use]
    pub fn with_engine(self, engine: Engine) -> Self {
        Net { engine, ..self }
    }

    /// Computes with these numbers from now on: bfloat16 through libtorch, on the CPU
    /// too.
    #[must_use]
    pub fn with_numbers(self, numbers: Numbers) -> Self {
        let engine = if numbers.precision == Precision::Bf16 { Engine::Torch } else { self.engine };
        Net { numbers, engine, ..self }
    }

    /// Computes convolutions in host memory as `methods` say.
    #[must_use]
    pub fn with_methods(self, methods: Methods) -> Self {
        Net { methods, ..self }
    }

    /// Trains together with other processes from now on.
    #[must_use]
    pub fn with_ranks(self, ranks: Option<Arc<Ranks>>) -> Self {
        Net { ranks, ..self }
    }

    /// Those whose samples count in the statistics of norms.
    pub(super) fn synchronised(&self) -> Option<&Ranks> {
        self.ranks.as_deref().filter(|ranks| ranks.synchronises())
    }

    /// The same network in float64, through libtorch: what float32 is judged by.
    ///
    /// # Errors
    /// Memory is exhausted.
    pub fn in_double(mut self) -> Result<Self, TrainerError> {
        for param in self.params.trained.values_mut() {
            let tensor = param.tensor.f_detach()?.f_to_kind(Kind::Double)?;
            param.tensor = tensor.f_set_requires_grad(true)?;
        }
        for statistic in self.params.statistics.values_mut() {
            *statistic = statistic.f_to_kind(Kind::Double)?;
        }
        Ok(self.with_engine(Engine::Torch))
    }

    /// How convolutions in host memory are computed.
    pub fn methods(&self) -> &Methods {
        &self.methods
    }

    pub fn engine(&self) -> Engine {
        self.engine
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

    /// Channels of the input.
    pub fn input_channels(&self) -> u32 {
        self.network.input_channels()
    }

    /// Multiply-accumulates of the last forward pass, per sample.
    pub fn last_count(&self) -> ConvCount {
        self.count
    }

    pub(super) fn set_count(&mut self, count: ConvCount) {
        self.count = count;
    }

    /// Runs the network. With [`Engine::Torch`] and [`Use::Train`] the result
    /// knows its gradients; [`Net::gradients`] is the way that serves both engines.
    ///
    /// # Shapes
    /// `x`: `[N, C, D, H, W]`; result: `[N, classes, D, H, W]`.
    ///
    /// # Errors
    /// libtorch fails, or a draw is missing.
    pub fn forward(&mut self, x: &Tensor, purpose: Use<'_>) -> Result<Tensor, TrainerError> {
        let output = self.run(x, purpose, false)?.pop().flatten();
        let output = output.ok_or_else(|| TrainerError::User("the network is empty".into()))?;
        // The loss is float32 whatever the layers are.
        widened(&output)
    }

    /// Runs the network and returns what each node wrote; with [`Engine::Direct`] a
    /// norm may have done the work of the nodes behind it.
    ///
    /// # Errors
    /// As [`Net::forward`].
    pub fn outputs(&mut self, x: &Tensor, purpose: Use<'_>) -> Result<Vec<Tensor>, TrainerError> {
        Ok(self.run(x, purpose, true)?.into_iter().flatten().collect())
    }

    /// Outputs by node; without `keep` those that some node still reads, and the last.
    fn run(&mut self, x: &Tensor, purpose: Use<'_>, keep: bool) -> Result<Vec<Option<Tensor>>, TrainerError> {
        let mut count = ConvCount::default();
        let mut left = self.readers.clone();
        let mut outputs: Vec<Option<Tensor>> = Vec::with_capacity(self.network.nodes.len());
        for (index, node) in self.network.nodes.iter().enumerate() {
            let output = {
                let inputs = inputs_of(node, &outputs)?;
                match (index, self.engine) {
                    (0, _) => x.shallow_clone(),
                    (_, Engine::Torch) => self.run_torch(index, &inputs, purpose, &mut count)?,
                    (_, Engine::Direct) => self.run_direct(index, &inputs, purpose, &mut count)?,
                }
            };
            for NodeId(input) in &node.inputs {
                left[*input] -= 1;
                // Without gradients this frees the memory of what nobody reads any more.
                if left[*input] == 0 && !keep {
                    outputs[*input] = None;
                }
            }
            outputs.push(Some(output));
        }
        self.count = count;
        Ok(outputs)
    }

    pub(super) fn param(&self, name: &str) -> Result<&Tensor, TrainerError> {
        let param = self.params.trained.get(name);
        param
            .map(|param| &param.tensor)
            .ok_or_else(|| TrainerError::User(format!("the network has no parameter '{name}'")))
    }

    pub(super) fn statistic(&self, name: &str) -> Result<&Tensor, TrainerError> {
        self.params
            .statistics
            .get(name)
            .ok_or_else(|| TrainerError::User(format!("the network has no statistic '{name}'")))
    }

    /// Name of the layer whose output `node` reads.
    pub(super) fn producer_name(&self, node: &Node) -> &str {
        node.inputs.first().map_or("", |id| &self.network.nodes[id.0].name)
    }

    /// The node that alone reads the output of node `index`.
    pub(super) fn only_reader(&self, index: usize) -> Option<usize> {
        if self.readers[index] != 1 {
            return None;
        }
        let nodes = self.network.nodes.iter().enumerate().skip(index + 1);
        nodes.into_iter().find(|(_, node)| node.inputs.contains(&NodeId(index))).map(|(reader, _)| reader)
    }

    /// Layers whose kernels are drawn, in the order in which they run.
    pub(super) fn sampled_layers(&self) -> impl Iterator<Item = (usize, &str, &Conv, &KernelSet)> {
        let layers = self.network.nodes.iter().filter_map(|node| match &node.op {
            Op::Conv(conv) => match &conv.kernels {
                ConvKernels::Candidates { kernels, mode: SearchMode::PerformancePriority } => {
                    Some((node.name.as_str(), conv, kernels))
                }
                _ => None,
            },
            _ => None,
        });
        layers.enumerate().map(|(index, (name, conv, kernels))| (index, name, conv, kernels))
    }

    /// What dropouts drop in one training step.
    pub fn mask_seed(&self, seed: u64, step: u64) -> MaskSeed {
        MaskSeed { seed, step, samples_before: self.ranks.as_ref().map_or(0, |ranks| ranks.share().first) }
    }

    /// What is random in one training step.
    ///
    /// # Errors
    /// libtorch cannot make the index tensors.
    pub fn draw(&self, seed: u64, step: u64) -> Result<Draws, TrainerError> {
        let masks = Some(self.mask_seed(seed, step));
        self.draws_by(masks, |index, _, conv, kernels| {
            Ok(draw_kernels(seed, step, index, conv.channels, kernels))
        })
    }

    /// The child that evaluation runs: each channel's best candidate.
    ///
    /// # Errors
    /// libtorch cannot read the scores.
    pub fn best_draw(&self) -> Result<Draws, TrainerError> {
        self.draws_by(None, |_, name, conv, kernels| {
            Ok(best_kernels(&self.layer_scores(name, conv.channels, kernels.len())?, kernels))
        })
    }

    fn draws_by(
        &self,
        masks: Option<MaskSeed>,
        choose: impl Fn(usize, &str, &Conv, &KernelSet) -> Result<Vec<usize>, TrainerError>,
    ) -> Result<Draws, TrainerError> {
        let mut draws = Draws { masks, ..Draws::default() };
        for (index, name, conv, kernels) in self.sampled_layers() {
            let chosen = choose(index, name, conv, kernels)?;
            draws.layers.insert(name.to_owned(), LayerDraw::new(chosen, kernels.len(), self.device)?);
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
    pub fn scores(&self, backbone: &Backbone, kernels: &KernelSet) -> Result<ChannelScores, TrainerError> {
        let layers = backbone.searchable_layers().into_iter().map(|layer| {
            let scores = self.layer_scores(&layer.name, layer.channels, kernels.len())?;
            Ok(LayerScores { layer: layer.name, scores })
        });
        let layers = layers.collect::<Result<Vec<_>, TrainerError>>()?;
        ChannelScores::new(backbone.clone(), kernels.clone(), layers)
            .map_err(|error| TrainerError::Numeric(error.to_string()))
    }
}

/// Outputs that `node` reads, in its order.
pub(super) fn inputs_of<'a>(
    node: &Node,
    outputs: &'a [Option<Tensor>],
) -> Result<Vec<&'a Tensor>, TrainerError> {
    let inputs: Option<Vec<&Tensor>> =
        node.inputs.iter().map(|NodeId(input)| outputs.get(*input)?.as_ref()).collect();
    inputs.ok_or_else(|| TrainerError::User(format!("layer '{}' reads what is not there", node.name)))
}

pub(super) fn draw_of<'a>(purpose: Use<'a>, layer: &str) -> Result<&'a LayerDraw, TrainerError> {
    purpose.draws().layer(layer)
}
