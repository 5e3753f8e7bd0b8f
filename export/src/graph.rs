//! Layers with their weights, in the order in which they run, in the form that
//! predicts: nothing is dropped, norms use running statistics.

use std::collections::HashMap;

use cakes::Extent;
use cakes::architecture::Architecture;
use cakes::network::{Conv, ConvKernels, Network, NodeId, Op, Pool};
use cakes::spec::TaskKind;

use crate::ExportError;
use crate::trained::{Tensor, Weights};

/// What trainers add to a variance.
pub const NORM_EPSILON: f32 = 1e-5;

/// Extent at which channels are counted; a multiple of every stride.
const PROBE: Extent = [64; 3];

/// A network with its weights.
#[derive(Clone, Debug)]
pub struct Graph {
    /// In an order in which they can run; the last is the output.
    pub layers: Vec<Layer>,
    pub task: TaskKind,
    /// Channels of the input.
    pub input_channels: usize,
    pub classes: usize,
    /// What every axis of an input must be a multiple of.
    pub stride: u32,
}

/// One layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Name of its node, which is the prefix of its weights in a checkpoint.
    pub name: String,
    pub op: LayerOp,
    /// Positions in [`Graph::layers`].
    pub inputs: Vec<usize>,
    /// Channels of its output.
    pub channels: usize,
}

/// What a layer computes; `[N, C, D, H, W]` becomes the same.
#[derive(Clone, Debug)]
pub enum LayerOp {
    Input,
    /// Convolutions of one input whose outputs are joined along channels.
    Conv {
        branches: Vec<Branch>,
        stride: Extent,
    },
    Norm(Norm),
    Relu,
    Pool {
        kind: Pool,
        size: Extent,
        stride: Extent,
        padding: Extent,
    },
    /// Trilinear, by whole factors, corners not aligned.
    Resize {
        factor: Extent,
    },
    Concat,
    Add,
    /// Over the chosen of D, H and W, which become 1.
    Mean {
        axes: [bool; 3],
    },
    /// An affine map of the channels: weight `[features, C]`, bias `[features]`.
    Linear {
        weight: Tensor,
        bias: Option<Vec<f32>>,
    },
}

/// One convolution, with zero padding of half its size.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Name of its kernel where a layer has several: `1x3x3`.
    pub kernel: Option<String>,
    pub size: Extent,
    /// `[channels, C_in, kD, kH, kW]`
    pub weight: Tensor,
    pub bias: Option<Vec<f32>>,
}

impl Branch {
    pub fn channels(&self) -> usize {
        self.weight.shape[0]
    }

    pub fn input_channels(&self) -> usize {
        self.weight.shape[1]
    }

    pub fn padding(&self) -> Extent {
        self.size.map(|taps| taps / 2)
    }
}

/// Batch normalisation with running statistics, by feature.
#[derive(Clone, Debug)]
pub struct Norm {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
}

impl Graph {
    /// Binds `weights` to the layers of `architecture`.
    ///
    /// # Errors
    /// A weight is missing, of another shape, or belongs to no layer.
    pub fn new(architecture: &Architecture, weights: &Weights) -> Result<Self, ExportError> {
        let network = architecture.network();
        let layers = Binder { weights, taken: 0 }.layers(&network)?;
        let backbone = architecture.backbone();
        Ok(Graph {
            layers,
            task: backbone.task(),
            input_channels: backbone.input_channels() as usize,
            classes: backbone.classes() as usize,
            stride: backbone.total_stride(),
        })
    }

    /// How many later layers read each layer's output.
    pub fn readers(&self) -> Vec<usize> {
        let mut readers = vec![0; self.layers.len()];
        for input in self.layers.iter().flat_map(|layer| &layer.inputs) {
            readers[*input] += 1;
        }
        readers
    }

    /// Values of all layers.
    pub fn value_count(&self) -> usize {
        let count = |layer: &Layer| match &layer.op {
            LayerOp::Conv { branches, .. } => branches
                .iter()
                .map(|branch| branch.weight.values.len() + branch.bias.as_ref().map_or(0, Vec::len))
                .sum(),
            LayerOp::Norm(norm) => 4 * norm.scale.len(),
            LayerOp::Linear { weight, bias } => weight.values.len() + bias.as_ref().map_or(0, Vec::len),
            _ => 0,
        };
        self.layers.iter().map(count).sum()
    }
}

struct Binder<'a> {
    weights: &'a Weights,
    taken: usize,
}

impl Binder<'_> {
    fn layers(mut self, network: &Network) -> Result<Vec<Layer>, ExportError> {
        let wrong = |problem: String| ExportError::Weights(problem);
        let shapes = network.shapes(PROBE).map_err(|error| wrong(error.to_string()))?;
        let mut layers: Vec<Layer> = Vec::with_capacity(network.nodes.len());
        // Of a node that computes nothing here, the layer that it passes on.
        let mut place: HashMap<NodeId, usize> = HashMap::new();
        for (index, (node, shape)) in network.nodes.iter().zip(&shapes).enumerate() {
            let inputs: Vec<usize> = node.inputs.iter().filter_map(|id| place.get(id).copied()).collect();
            if let (Op::Dropout { .. }, Some(input)) = (&node.op, inputs.first()) {
                place.insert(NodeId(index), *input);
                continue;
            }
            let input_channels = node.inputs.first().map_or(0, |id| shapes[id.0].channels as usize);
            let channels = shape.channels as usize;
            let op = self.op(&node.name, &node.op, input_channels, channels)?;
            place.insert(NodeId(index), layers.len());
            layers.push(Layer { name: node.name.clone(), op, inputs, channels });
        }
        if self.taken != self.weights.len() {
            return Err(wrong(format!(
                "{} of {} tensors belong to no layer",
                self.weights.len() - self.taken,
                self.weights.len()
            )));
        }
        Ok(layers)
    }

    fn op(&mut self, name: &str, op: &Op, inputs: usize, channels: usize) -> Result<LayerOp, ExportError> {
        Ok(match op {
            Op::Input { .. } => LayerOp::Input,
            Op::Conv(conv) => self.conv(name, conv, inputs)?,
            Op::Norm { candidates: 1 } => LayerOp::Norm(Norm {
                scale: self.take(&format!("{name}.weight"), &[channels])?.values,
                shift: self.take(&format!("{name}.bias"), &[channels])?.values,
                mean: self.take(&format!("{name}.running_mean"), &[channels])?.values,
                variance: self.take(&format!("{name}.running_var"), &[channels])?.values,
            }),
            Op::Relu => LayerOp::Relu,
            Op::Pool { kind, size, stride, padding } => {
                LayerOp::Pool { kind: *kind, size: *size, stride: *stride, padding: *padding }
            }
            Op::Resize { factor } => LayerOp::Resize { factor: *factor },
            Op::Concat => LayerOp::Concat,
            Op::Add => LayerOp::Add,
            Op::Mean { axes } => LayerOp::Mean { axes: *axes },
            Op::Linear { bias, .. } => LayerOp::Linear {
                weight: self.take(&format!("{name}.weight"), &[channels, inputs])?,
                bias: self.take_bias(name, *bias, channels)?,
            },
            Op::Norm { .. } | Op::Fold { .. } | Op::Dropout { .. } => {
                return Err(ExportError::Weights(format!("layer '{name}' occurs in supernets alone")));
            }
        })
    }

    fn conv(&mut self, name: &str, conv: &Conv, inputs: usize) -> Result<LayerOp, ExportError> {
        let channels = conv.channels as usize;
        let parts: Vec<(Option<String>, Extent, usize)> = match &conv.kernels {
            ConvKernels::Uniform(kernel) => vec![(None, kernel.size(), channels)],
            ConvKernels::Window(size) => vec![(None, *size, channels)],
            ConvKernels::Mixed(allocation) => allocation
                .iter()
                .map(|(kernel, count)| (Some(kernel.to_string()), kernel.size(), count as usize))
                .collect(),
            ConvKernels::Candidates { .. } => {
                return Err(ExportError::Weights(format!("layer '{name}' is one of a supernet")));
            }
        };
        let bias = self.take_bias(name, conv.bias, channels)?;
        let mut first = 0;
        let mut branches = Vec::with_capacity(parts.len());
        for (kernel, size, count) in parts {
            let prefix = kernel.as_ref().map_or(name.to_owned(), |kernel| format!("{name}.{kernel}"));
            let [d, h, w] = size.map(|taps| taps as usize);
            let weight = self.take(&format!("{prefix}.weight"), &[count, inputs, d, h, w])?;
            let bias = bias.as_ref().map(|bias| bias[first..first + count].to_vec());
            branches.push(Branch { kernel, size, weight, bias });
            first += count;
        }
        Ok(LayerOp::Conv { branches, stride: conv.stride })
    }

    fn take_bias(&mut self, name: &str, has: bool, channels: usize) -> Result<Option<Vec<f32>>, ExportError> {
        has.then(|| Ok(self.take(&format!("{name}.bias"), &[channels])?.values)).transpose()
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ExportError> {
        let tensor =
            self.weights.get(name).ok_or_else(|| ExportError::Weights(format!("'{name}' is missing")))?;
        if tensor.shape != shape {
            return Err(ExportError::Weights(format!(
                "'{name}' has the shape {:?}, the architecture's has {shape:?}",
                tensor.shape
            )));
        }
        self.taken += 1;
        Ok(tensor.clone())
    }
}
