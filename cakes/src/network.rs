//! A network as data: a graph of layers, in the order in which they run.
//!
//! Four readers interpret this one description: the cost model, the builder of
//! the trainer, exports and pictures. A backbone is a function that returns it.

use serde::{Deserialize, Serialize};

use crate::Extent;
use crate::allocation::ChannelAllocation;
use crate::kernel::{Kernel, KernelSet};

/// Position of a node in [`Network::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub usize);

/// How a supernet uses the candidates of a searchable layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchMode {
    /// Each step every channel runs one kernel, drawn at random: the step costs
    /// what a child network costs, and no kernel is penalised.
    PerformancePriority,
    /// Every channel runs all kernels and their outputs are summed; L1 on the
    /// norm's scale γ, weighted by taps, pushes the dear ones out.
    CostPriority,
}

/// What the output channels of a convolution are computed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvKernels {
    /// One kernel for all channels.
    Uniform(Kernel),
    /// A window of any odd size that no search changes: the `1x7x7` of a stem.
    Window(Extent),
    /// A derived layer: branches in canonical order, concatenated.
    Mixed(ChannelAllocation),
    /// A supernet layer. [`SearchMode::CostPriority`] yields the outputs of all
    /// candidates, kernel after kernel: `[N, K·C, D, H, W]`. In
    /// [`SearchMode::PerformancePriority`] channel `c` is computed by the kernel
    /// drawn for it: `[N, C, D, H, W]`.
    Candidates { kernels: KernelSet, mode: SearchMode },
}

/// A 3D convolution with zero padding that keeps the extent at stride 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Channels C of the layer; a supernet layer has C per candidate kernel.
    pub channels: u32,
    pub kernels: ConvKernels,
    pub stride: Extent,
    pub bias: bool,
}

/// Down-sampling by a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    Max,
    Average,
}

/// One layer. Shapes are `[N, C, D, H, W]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The network's input; always the first node and only there.
    Input {
        channels: u32,
    },
    Conv(Conv),
    /// Batch normalisation with scale γ and shift β per feature. With
    /// `candidates > 1` it follows a layer in
    /// [`SearchMode::PerformancePriority`], holds that many features per
    /// channel, and uses those of the drawn kernels.
    Norm {
        candidates: u32,
    },
    Relu,
    /// Window of `size` at `stride`, with `padding` on both sides that no
    /// maximum and no mean counts; a remainder is dropped.
    Pool {
        kind: Pool,
        size: Extent,
        stride: Extent,
        padding: Extent,
    },
    /// Trilinear up-sampling by whole factors, corners not aligned.
    Resize {
        factor: Extent,
    },
    /// Joins along channels, in the order of the inputs.
    Concat,
    /// Sums inputs of equal shape.
    Add,
    /// Sums the `groups` blocks of channels: `[N, groups·C, ..]` to `[N, C, ..]`.
    Fold {
        groups: u32,
    },
    /// Mean over the chosen of D, H and W, which become 1.
    Mean {
        axes: [bool; 3],
    },
    /// In training each value is zero with this probability, in percent, and
    /// the others are scaled up to keep their mean.
    Dropout {
        percent: u32,
    },
    /// An affine map of the channels, position by position:
    /// `[N, features, D, H, W]`.
    Linear {
        features: u32,
        bias: bool,
    },
}

/// A layer, its name (which is also the prefix of its weights) and its inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub op: Op,
    pub inputs: Vec<NodeId>,
}

/// A network. Nodes stand in an order in which they can run; the last one is
/// the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub nodes: Vec<Node>,
}

/// Channels and extent of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureShape {
    pub channels: u32,
    pub extent: Extent,
}

impl FeatureShape {
    /// Number of positions, D·H·W.
    pub fn positions(&self) -> u64 {
        self.extent.iter().map(|size| u64::from(*size)).product()
    }
}

/// Why a description is no network for an input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("layer '{layer}': {problem}")]
pub struct ShapeError {
    pub layer: String,
    pub problem: String,
}

impl Network {
    /// Shape behind every node, for an input of `extent` voxels.
    ///
    /// # Errors
    /// A layer that does not fit its inputs, named.
    pub fn shapes(&self, extent: Extent) -> Result<Vec<FeatureShape>, ShapeError> {
        let mut shapes: Vec<FeatureShape> = Vec::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            let inputs: Option<Vec<FeatureShape>> =
                node.inputs.iter().map(|NodeId(input)| shapes.get(*input).copied()).collect();
            let shape = inputs
                .ok_or_else(|| "an input does not come before it".to_owned())
                .and_then(|inputs| infer(&node.op, &inputs, extent, index == 0));
            shapes.push(shape.map_err(|problem| ShapeError { layer: node.name.clone(), problem })?);
        }
        Ok(shapes)
    }

    /// Channels of the input, 0 for an empty network.
    pub fn input_channels(&self) -> u32 {
        match self.nodes.first().map(|node| &node.op) {
            Some(Op::Input { channels }) => *channels,
            _ => 0,
        }
    }

    /// The node whose output `id` reads, for layers of one input.
    pub fn producer(&self, id: NodeId) -> Option<&Node> {
        let input = self.nodes.get(id.0)?.inputs.first()?;
        self.nodes.get(input.0)
    }
}

/// Voxels of the largest input.
const VOXELS_MAX: u128 = 1 << 32;

fn infer(op: &Op, inputs: &[FeatureShape], extent: Extent, first: bool) -> Result<FeatureShape, String> {
    if let Op::Input { channels } = op {
        return match (first, *channels, extent) {
            (false, _, _) => Err("an input layer must come first".to_owned()),
            (_, 0, _) => Err("the input has no channels".to_owned()),
            (_, _, [d, h, w]) if d == 0 || h == 0 || w == 0 => Err("the input has no voxels".to_owned()),
            // Beyond it costs would not fit in 64 bits.
            (_, _, extent) if extent.iter().map(|size| u128::from(*size)).product::<u128>() > VOXELS_MAX => {
                Err(format!("{extent:?} is more than {VOXELS_MAX} voxels"))
            }
            (true, channels, extent) => Ok(FeatureShape { channels, extent }),
        };
    }
    let head = *inputs.first().ok_or("it has no input")?;
    match op {
        Op::Input { .. } => Err("an input layer must come first".to_owned()),
        Op::Concat => concat_shape(inputs),
        Op::Add => match inputs.iter().find(|shape| **shape != head) {
            Some(other) => Err(format!("cannot add {} and {}", show(head), show(*other))),
            None => Ok(head),
        },
        _ if inputs.len() != 1 => Err(format!("takes one input, got {}", inputs.len())),
        Op::Conv(conv) => conv_shape(conv, head),
        Op::Norm { .. } | Op::Relu => Ok(head),
        Op::Dropout { percent } => match percent {
            0..=99 => Ok(head),
            _ => Err(format!("cannot drop {percent} % of all values")),
        },
        Op::Pool { size, stride, padding, .. } => pool_shape(head, *size, *stride, *padding),
        Op::Mean { axes } => {
            let extent = std::array::from_fn(|axis| if axes[axis] { 1 } else { head.extent[axis] });
            Ok(FeatureShape { extent, ..head })
        }
        Op::Resize { factor } => {
            Ok(FeatureShape { extent: zip(head.extent, *factor, u32::saturating_mul), ..head })
        }
        Op::Fold { groups } => match head.channels.checked_rem(*groups) {
            Some(0) => Ok(FeatureShape { channels: head.channels / groups, ..head }),
            _ => Err(format!("{} channels are not {groups} equal groups", head.channels)),
        },
        Op::Linear { features, .. } => Ok(FeatureShape { channels: *features, ..head }),
    }
}

fn conv_shape(conv: &Conv, input: FeatureShape) -> Result<FeatureShape, String> {
    if conv.channels == 0 || conv.stride.contains(&0) {
        return Err("a convolution needs channels and a stride of at least 1".to_owned());
    }
    let channels = match &conv.kernels {
        ConvKernels::Mixed(allocation) if allocation.width() != conv.channels => {
            return Err(format!("the allocation {allocation} does not sum to {}", conv.channels));
        }
        ConvKernels::Window(size) if size.iter().any(|taps| taps % 2 == 0) => {
            return Err(format!("a window has an odd number of taps along every axis, got {size:?}"));
        }
        ConvKernels::Candidates { kernels, mode: SearchMode::CostPriority } => {
            conv.channels.saturating_mul(kernels.len() as u32)
        }
        _ => conv.channels,
    };
    // With padding ⌊k/2⌋ every odd kernel yields ⌈n/s⌉, so branches line up.
    Ok(FeatureShape { channels, extent: zip(input.extent, conv.stride, u32::div_ceil) })
}

fn pool_shape(
    input: FeatureShape,
    size: Extent,
    stride: Extent,
    padding: Extent,
) -> Result<FeatureShape, String> {
    let half_covered = (0..3).all(|axis| padding[axis] <= size[axis] / 2);
    if size.contains(&0) || stride.contains(&0) || !half_covered {
        return Err(
            "a pool needs a window, a stride of at least 1, and at most half a window of padding".to_owned()
        );
    }
    let padded = zip(input.extent, padding, |length, padding| length.saturating_add(2 * padding));
    if zip(padded, size, |length, window| u32::from(length < window)).contains(&1) {
        return Err(format!("a window of {size:?} is larger than {}", show(input)));
    }
    let extent = std::array::from_fn(|axis| (padded[axis] - size[axis]) / stride[axis] + 1);
    Ok(FeatureShape { extent, ..input })
}

fn concat_shape(inputs: &[FeatureShape]) -> Result<FeatureShape, String> {
    let head = inputs[0];
    if let Some(other) = inputs.iter().find(|shape| shape.extent != head.extent) {
        return Err(format!(
            "cannot join {} and {}: the input's extent is not divisible by the network's total stride",
            show(head),
            show(*other)
        ));
    }
    Ok(FeatureShape { channels: inputs.iter().map(|shape| shape.channels).sum(), ..head })
}

fn zip(left: Extent, right: Extent, combine: impl Fn(u32, u32) -> u32) -> Extent {
    std::array::from_fn(|axis| combine(left[axis], right[axis]))
}

fn show(shape: FeatureShape) -> String {
    let [d, h, w] = shape.extent;
    format!("{}x{d}x{h}x{w}", shape.channels)
}

/// Adds nodes one after the other; a backbone is written with it.
#[derive(Debug, Default)]
pub(crate) struct NetworkBuilder {
    nodes: Vec<Node>,
}

impl NetworkBuilder {
    pub(crate) fn add(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec() });
        NodeId(self.nodes.len() - 1)
    }

    pub(crate) fn build(self) -> Network {
        Network { nodes: self.nodes }
    }
}
