//! A 2D ResNet's weights in a residual network for clips or volumes (section
//! "Initialization" of the paper; `I3D.py` of the published code).
//!
//! A filter of `k×k` taps becomes a kernel of `[kD, kH, kW]` taps: summed over each
//! of H and W along which the kernel has one tap, then repeated along D and divided
//! by kD. On an input that does not change along D it answers as before.
//!
//! | network | filters |
//! |---|---|
//! | derived layer | the first n for the first kernel, the next for the next: every channel keeps its place, so its norm and what reads it fit |
//! | supernet layer | all of them for every kernel |
//! | supernet norm, cost priority | γ and β over K: K equal candidates sum to the channel that they were |
//! | P3D | the `1x3x3` takes the filters, the `3x1x1` starts as the identity (left at random in the published code) |
//! | input of another number of channels | 1 for 3: the sum over colours |
//! | stem of another window, classifier of other classes | stay random |

use std::collections::{BTreeMap, BTreeSet};

use cakes::Extent;
use cakes::network::{Conv, ConvKernels, Network, Node, NodeId, Op, SearchMode};
use tch::{Kind, Tensor};

use super::file::Stored;
use super::{NORM, problems};
use crate::TrainerError;
use crate::nets::Net;

/// Why weights do not fit.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    #[error(
        "does not fit the network: {}; give torchvision's weights of the same depth and width",
        .0.join("; ")
    )]
    Unfit(Vec<String>),
    #[error("{0}")]
    Other(#[from] TrainerError),
}

impl From<tch::TchError> for InflateError {
    fn from(error: tch::TchError) -> Self {
        InflateError::Other(error.into())
    }
}

/// Overwrites the parameters and running statistics of `net`, whose description is
/// `network`, with those of a 2D ResNet under torchvision's names. Returns what
/// stayed random.
///
/// # Errors
/// Names are missing or unknown, or shapes are not those of the network; nothing
/// is written then.
pub fn inflate_into(
    net: &Net,
    network: &Network,
    stored: BTreeMap<String, Stored>,
) -> Result<Vec<String>, InflateError> {
    let mut plan = Plan { stored, ..Plan::default() };
    for node in &network.nodes {
        plan.node(network, node)?;
    }
    let (made, notes) = plan.finish(net)?;
    let state: BTreeMap<&String, &Tensor> = net.state().collect();
    for (name, values) in made {
        let Some(target) = state.get(&name) else { continue };
        tch::no_grad(|| target.shallow_clone().f_copy_(&values))?;
    }
    Ok(notes)
}

/// What is collected while the nodes of a network are visited.
/// Tensors by the names of the network's state, and notes on what stays random.
type Inflated = (Vec<(String, Tensor)>, Vec<String>);

#[derive(Default)]
struct Plan {
    stored: BTreeMap<String, Stored>,
    used: BTreeSet<String>,
    missing: Vec<String>,
    unfit: Vec<String>,
    notes: Vec<String>,
    /// Convolutions that stay random, with their norms.
    random: BTreeSet<String>,
    /// By the names of the network.
    made: Vec<(String, Tensor)>,
}

impl Plan {
    fn node(&mut self, network: &Network, node: &Node) -> Result<(), InflateError> {
        match &node.op {
            Op::Conv(conv) => self.conv(network, node, conv),
            Op::Norm { candidates } => self.norm(network, node, *candidates as usize),
            Op::Linear { .. } => self.linear(node),
            _ => Ok(()),
        }
    }

    /// A tensor of the file; none, and noted, if it is not there.
    fn take(&mut self, name: &str) -> Result<Option<Tensor>, InflateError> {
        self.used.insert(name.to_owned());
        match self.stored.get(name) {
            Some(Stored { shape, values }) => {
                Ok(Some(Tensor::f_from_slice(values)?.f_view(shape.as_slice())?))
            }
            None => {
                self.missing.push(name.to_owned());
                Ok(None)
            }
        }
    }

    fn conv(&mut self, network: &Network, node: &Node, conv: &Conv) -> Result<(), InflateError> {
        let name = &node.name;
        if let Some(spatial) = spatial_of(network, node) {
            // P3D: the layer's filters are the spatial ones'.
            debug_assert!(spatial.name.starts_with(name.as_str()));
            let filters = identity(conv.channels, kernel_size(conv))?;
            self.made.push((format!("{name}.weight"), filters));
            return Ok(());
        }
        let source = format!("{}.weight", source_of(name.strip_suffix(".spatial").unwrap_or(name)));
        let Some(filters) = self.take(&source)? else { return Ok(()) };
        let inputs = network_inputs(network, node);
        let filters = if name == "stem" { of_colours(filters, inputs)? } else { filters };
        let [outputs, channels, height, width] = match filters.size().as_slice() {
            [a, b, c, d] => [*a, *b, *c, *d],
            other => return self.does_not_fit(&source, other, conv.channels, inputs),
        };
        if [outputs, channels] != [i64::from(conv.channels), inputs] || height != width {
            return self.does_not_fit(&source, &filters.size(), conv.channels, inputs);
        }
        match &conv.kernels {
            ConvKernels::Window(window) => {
                if window[1..].iter().any(|taps| i64::from(*taps) != height) {
                    self.random.insert(name.clone());
                    self.notes.push(format!(
                        "the stem stays random: its window is {}x{}x{}, the file's {height}x{width}",
                        window[0], window[1], window[2]
                    ));
                    return Ok(());
                }
                self.made.push((format!("{name}.weight"), inflate(&filters, *window)?));
            }
            ConvKernels::Uniform(kernel) => {
                if kernel.size()[1..].iter().any(|taps| i64::from(*taps) != height) {
                    return self.does_not_fit(&source, &filters.size(), conv.channels, inputs);
                }
                self.made.push((format!("{name}.weight"), inflate(&filters, kernel.size())?));
            }
            _ if height != 3 => {
                return self.does_not_fit(&source, &filters.size(), conv.channels, inputs);
            }
            ConvKernels::Mixed(allocation) => {
                let mut first = 0;
                for (kernel, count) in allocation.iter() {
                    let own = filters.f_narrow(0, first, i64::from(count))?;
                    first += i64::from(count);
                    self.made.push((format!("{name}.{kernel}.weight"), inflate(&own, kernel.size())?));
                }
            }
            ConvKernels::Candidates { kernels, .. } => {
                for kernel in kernels.iter() {
                    self.made.push((format!("{name}.{kernel}.weight"), inflate(&filters, kernel.size())?));
                }
            }
        }
        Ok(())
    }

    fn does_not_fit(
        &mut self,
        source: &str,
        shape: &[i64],
        channels: u32,
        inputs: i64,
    ) -> Result<(), InflateError> {
        self.unfit
            .push(format!("'{source}' is {shape:?}, the layer has {channels} filters of {inputs} channels"));
        Ok(())
    }

    fn norm(&mut self, network: &Network, node: &Node, candidates: usize) -> Result<(), InflateError> {
        let Some(layer) = node.inputs.first().map(|NodeId(input)| &network.nodes[*input]) else {
            return Ok(());
        };
        let Op::Conv(conv) = &layer.op else { return Ok(()) };
        let source = norm_source_of(&layer.name);
        let (copies, share) = match &conv.kernels {
            ConvKernels::Candidates { kernels, mode: SearchMode::CostPriority } => {
                (kernels.len(), 1.0 / kernels.len() as f64)
            }
            _ => (candidates, 1.0),
        };
        for part in NORM {
            let Some(values) = self.take(&format!("{source}.{part}"))? else { continue };
            if values.size() != [i64::from(conv.channels)] {
                self.unfit.push(format!(
                    "'{source}.{part}' is {:?}, the layer has {} channels",
                    values.size(),
                    conv.channels
                ));
                continue;
            }
            if self.random.contains(&layer.name) {
                continue;
            }
            let values = values.f_repeat([copies as i64])?;
            let scales = matches!(part, "weight" | "bias");
            let values = if scales { values.f_mul_scalar(share)? } else { values };
            self.made.push((format!("{}.{part}", node.name), values));
        }
        Ok(())
    }

    fn linear(&mut self, node: &Node) -> Result<(), InflateError> {
        for part in ["weight", "bias"] {
            if let Some(values) = self.take(&format!("fc.{part}"))? {
                self.made.push((format!("{}.{part}", node.name), values));
            }
        }
        Ok(())
    }

    /// Checks that everything fits, and drops a classifier of other classes.
    fn finish(mut self, net: &Net) -> Result<Inflated, InflateError> {
        let state: BTreeMap<&String, &Tensor> = net.state().collect();
        let of =
            |name: &str| state.iter().find(|(own, _)| own.as_str() == name).map(|(_, tensor)| tensor.size());
        let head: Vec<&(String, Tensor)> =
            self.made.iter().filter(|(name, _)| name.starts_with("head.")).collect();
        if let (Some((_, stored)), Some(own)) =
            (head.iter().find(|(name, _)| name == "head.weight"), of("head.weight"))
        {
            let stored = stored.size();
            if stored.len() != 2 || stored[1] != own[1] {
                self.unfit.push(format!("'fc.weight' is {stored:?}, the classifier is {own:?}"));
            } else if stored[0] != own[0] {
                self.notes.push(format!(
                    "the classifier stays random: it has {} classes, the file's {}",
                    own[0], stored[0]
                ));
                self.made.retain(|(name, _)| !name.starts_with("head."));
            }
        }
        let extra: Vec<String> =
            self.stored.keys().filter(|name| !self.used.contains(*name)).cloned().collect();
        if let Some(problems) = problems(&self.missing, &extra, &self.unfit) {
            return Err(InflateError::Unfit(problems));
        }
        for (name, values) in &self.made {
            let made = values.size();
            let problem = match of(name) {
                Some(own) if own == made => continue,
                Some(own) => format!("'{name}' would be {made:?}, the network's is {own:?}"),
                None => format!("'{name}' would be {made:?}, and the network has none"),
            };
            return Err(InflateError::Unfit(vec![problem]));
        }
        Ok((self.made, self.notes))
    }
}

/// torchvision's name of a convolution.
fn source_of(layer: &str) -> String {
    match layer.strip_prefix("stage") {
        None => "conv1".to_owned(),
        Some(rest) => format!("layer{}", rest.replace(".shortcut", ".downsample.0")),
    }
}

/// torchvision's name of the norm behind a convolution.
fn norm_source_of(layer: &str) -> String {
    match layer.strip_prefix("stage") {
        None => "bn1".to_owned(),
        Some(rest) => {
            format!("layer{}", rest.replace(".shortcut", ".downsample.1").replace(".conv", ".bn"))
        }
    }
}

/// The `1x3x3` before a temporal convolution of P3D.
fn spatial_of<'a>(network: &'a Network, node: &Node) -> Option<&'a Node> {
    let NodeId(input) = *node.inputs.first()?;
    network.nodes.get(input).filter(|before| before.name == format!("{}.spatial", node.name))
}

fn network_inputs(network: &Network, node: &Node) -> i64 {
    // Every layer before a convolution keeps the channels of the last one, a fold
    // excepted, which brings them back to those of one candidate.
    let mut id = node.inputs.first().copied();
    while let Some(NodeId(index)) = id {
        match &network.nodes[index].op {
            Op::Input { channels } => return i64::from(*channels),
            Op::Conv(conv) => return i64::from(conv.channels),
            _ => id = network.nodes[index].inputs.first().copied(),
        }
    }
    0
}

fn kernel_size(conv: &Conv) -> Extent {
    match &conv.kernels {
        ConvKernels::Uniform(kernel) => kernel.size(),
        ConvKernels::Window(window) => *window,
        _ => [1; 3],
    }
}

/// `[C_out, C, k, k]` for `inputs` channels: grey is the sum of the colours.
fn of_colours(filters: Tensor, inputs: i64) -> Result<Tensor, InflateError> {
    if inputs == 1 && filters.size().get(1) == Some(&3) {
        return Ok(filters.f_sum_dim_intlist(1, true, None)?);
    }
    Ok(filters)
}

/// `[n, C, k, k]` to `[n, C, kD, kH, kW]`.
fn inflate(filters: &Tensor, [depth, height, width]: Extent) -> Result<Tensor, InflateError> {
    let lacking = |taps: u32, axis: usize| taps == 1 && filters.size()[axis] > 1;
    let summed: Vec<i64> = [(height, 2), (width, 3)]
        .into_iter()
        .filter(|(taps, axis)| lacking(*taps, *axis))
        .map(|(_, axis)| axis as i64)
        .collect();
    let planes = if summed.is_empty() {
        filters.shallow_clone()
    } else {
        filters.f_sum_dim_intlist(summed.as_slice(), true, None)?
    };
    let depth = i64::from(depth);
    Ok(planes.f_unsqueeze(2)?.f_repeat([1, 1, depth, 1, 1])?.f_div_scalar(depth)?)
}

/// Weights that give back their input: 1 at the middle tap of a channel's own
/// input.
fn identity(channels: u32, [depth, height, width]: Extent) -> Result<Tensor, InflateError> {
    let channels = i64::from(channels);
    let eye = Tensor::f_eye(channels, (Kind::Float, tch::Device::Cpu))?;
    let [d, h, w] = [depth, height, width].map(i64::from);
    let weight = Tensor::f_zeros([channels, channels, d, h, w], (Kind::Float, tch::Device::Cpu))?;
    let middle = weight.f_select(4, w / 2)?.f_select(3, h / 2)?.f_select(2, d / 2)?;
    middle.shallow_clone().f_copy_(&eye)?;
    Ok(weight)
}
