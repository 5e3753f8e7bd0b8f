//! A supernet's weights in a network of its own backbone, channel by channel.
//!
//! Which channels of the supernet the network's are says [`ChannelIdentity`]; here
//! their weights are put where it says. Output channels are rows of a weight and
//! inputs its columns:
//!
//! | network | supernet |
//! |---|---|
//! | branch of kernel k of a mixed layer | rows of candidate k |
//! | norm behind a mixed layer | the features of the same candidates: scale, shift, running statistics |
//! | everything else | as it is, in the order of channels |
//!
//! A child of a performance-priority supernet starts as the child that it was there,
//! to the last rounding. Of a cost-priority supernet the candidates that were not kept
//! are gone, which changes nothing where L1 took their scales to zero.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cakes::architecture::Architecture;
use cakes::identity::ChannelIdentity;
use cakes::job::Task;
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{Conv, ConvKernels, Network, Node, NodeId, Op, SearchMode};
use cakes::scores::{ChannelScores, LayerScores};
use tch::{Kind, Tensor};

use super::{NORM, problems};
use crate::TrainerError;
use crate::checkpoint::{self, Contents};
use crate::nets::Net;

/// Gives `net`, the network of `architecture`, the weights of the supernet whose
/// checkpoint lies in `directory`. Returns what a person should know of it.
///
/// # Errors
/// The checkpoint is damaged or none of a supernet, or its weights are not those of
/// the network, named; nothing is written then.
pub fn inherit(
    net: &Net,
    architecture: &Architecture,
    directory: &Path,
) -> Result<Vec<String>, TrainerError> {
    let wrong = |problem: String| {
        TrainerError::User(format!("initial_weights: supernet: {}: {problem}", directory.display()))
    };
    let Contents { task, step, weights, .. } = checkpoint::contents(directory)?;
    let (backbone, mode, kernels) = match task {
        Some(Task::Supernet { backbone, mode, kernels, .. }) => (backbone, mode, kernels),
        Some(Task::Retrain { .. }) => {
            return Err(wrong("is of a retraining; give a checkpoint of a supernet".to_owned()));
        }
        None => {
            return Err(wrong(
                "does not say which network it is of; it was written by an older version, so search again"
                    .to_owned(),
            ));
        }
    };
    let mut plan = Plan {
        weights,
        kernels,
        missing: Vec::new(),
        unfit: Vec::new(),
        used: BTreeSet::new(),
        made: Vec::new(),
    };
    let layers = backbone.searchable_layers().into_iter().map(|layer| {
        let scores = plan.scores(&layer.name, layer.channels)?;
        Ok(LayerScores { layer: layer.name, scores })
    });
    let layers = layers.collect::<Result<Vec<_>, String>>().map_err(wrong)?;
    let scores = ChannelScores::new(backbone, plan.kernels.clone(), layers);
    let scores = scores.map_err(|error| wrong(error.to_string()))?;
    let identity =
        ChannelIdentity::new(architecture, &scores, mode).map_err(|error| wrong(error.to_string()))?;
    for (index, node) in identity.network().nodes.iter().enumerate() {
        plan.node(&identity, NodeId(index), node)?;
    }
    plan.write(net).map_err(|error| match error {
        Refusal::Unfit(problems) => wrong(format!("does not fit the network: {problems}")),
        Refusal::Other(error) => error,
    })?;
    let mode = match mode {
        SearchMode::PerformancePriority => "performance-priority",
        SearchMode::CostPriority => "cost-priority",
    };
    Ok(vec![format!("starts with the weights of a {mode} supernet behind step {step}")])
}

/// Why weights were not written.
enum Refusal {
    Unfit(String),
    Other(TrainerError),
}

impl From<tch::TchError> for Refusal {
    fn from(error: tch::TchError) -> Self {
        Refusal::Other(error.into())
    }
}

/// Rows of a tensor that has so many.
#[derive(Clone, Copy)]
struct Rows<'a> {
    chosen: &'a [u32],
    of: usize,
}

/// What is collected while the nodes of a network are visited.
struct Plan {
    /// Of the supernet, by name.
    weights: BTreeMap<String, Tensor>,
    kernels: KernelSet,
    missing: Vec<String>,
    unfit: Vec<String>,
    used: BTreeSet<String>,
    /// By the names of the network, which are those of the supernet.
    made: Vec<(String, Tensor)>,
}

impl Plan {
    /// |γ| of a layer's candidates, `[K][C]`.
    fn scores(&self, layer: &str, channels: u32) -> Result<Vec<Vec<f32>>, String> {
        let name = format!("{layer}.norm.weight");
        let scale = self.weights.get(&name).ok_or_else(|| format!("lacks '{name}'"))?;
        let values: Result<Vec<f32>, _> = Vec::try_from(scale.to_kind(Kind::Float).abs().reshape([-1]));
        let values = values.map_err(|error| format!("'{name}': {error}"))?;
        Ok(values.chunks(channels as usize).map(<[f32]>::to_vec).collect())
    }

    fn node(&mut self, identity: &ChannelIdentity, id: NodeId, node: &Node) -> Result<(), TrainerError> {
        let Some(input) = node.inputs.first().copied() else { return Ok(()) };
        let (outputs, inputs) = (identity.channels(id), identity.channels(input));
        match &node.op {
            Op::Conv(conv) => self.conv(&node.name, conv, outputs, inputs),
            Op::Norm { .. } => {
                let (of, features) = self.features(identity.network(), input, outputs);
                let rows = Rows { chosen: &features, of };
                NORM.iter().try_for_each(|part| self.take(&format!("{}.{part}", node.name), rows, None))
            }
            Op::Linear { bias, .. } => {
                let rows = Rows { chosen: outputs, of: outputs.len() };
                self.take(&format!("{}.weight", node.name), rows, Some(inputs))?;
                if *bias { self.take(&format!("{}.bias", node.name), rows, None) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn conv(&mut self, name: &str, conv: &Conv, outputs: &[u32], inputs: &[u32]) -> Result<(), TrainerError> {
        let of = conv.channels as usize;
        match &conv.kernels {
            ConvKernels::Uniform(_) | ConvKernels::Window(_) => {
                self.take(&format!("{name}.weight"), Rows { chosen: outputs, of }, Some(inputs))?;
            }
            ConvKernels::Mixed(allocation) => {
                let mut left = outputs;
                for (kernel, count) in allocation.iter() {
                    let (own, rest) = left.split_at((count as usize).min(left.len()));
                    left = rest;
                    let rows = Rows { chosen: own, of };
                    self.take(&format!("{name}.{kernel}.weight"), rows, Some(inputs))?;
                }
                // What the search did not choose is left.
                let others = self.kernels.iter().map(|kernel| format!("{name}.{kernel}.weight"));
                self.used.extend(others);
            }
            ConvKernels::Candidates { .. } => {
                return Err(TrainerError::Report(format!("layer '{name}' is no derived one")));
            }
        }
        let rows = Rows { chosen: outputs, of };
        if conv.bias { self.take(&format!("{name}.bias"), rows, None) } else { Ok(()) }
    }

    /// How many features a norm of the supernet has, and the positions of those that
    /// are taken: behind a mixed layer the candidates' own, kernel after kernel.
    fn features(&self, network: &Network, NodeId(layer): NodeId, channels: &[u32]) -> (usize, Vec<u32>) {
        let at = |kernel: Kernel| self.kernels.iter().position(|own| own == kernel).unwrap_or(0);
        match &network.nodes[layer].op {
            Op::Conv(Conv { kernels: ConvKernels::Mixed(allocation), channels: width, .. }) => {
                let of_place =
                    allocation.iter().flat_map(|(kernel, count)| vec![at(kernel) as u32; count as usize]);
                let features = of_place.zip(channels).map(|(kernel, channel)| kernel * width + channel);
                (*width as usize * self.kernels.len(), features.collect())
            }
            _ => (channels.len(), channels.to_vec()),
        }
    }

    /// Rows, and columns where there are some, of a tensor of the supernet.
    fn take(&mut self, name: &str, rows: Rows<'_>, columns: Option<&[u32]>) -> Result<(), TrainerError> {
        self.used.insert(name.to_owned());
        let Some(source) = self.weights.get(name) else {
            self.missing.push(name.to_owned());
            return Ok(());
        };
        let size = source.size();
        let expected = std::iter::once(rows.of).chain(columns.map(<[u32]>::len));
        if !expected.enumerate().all(|(axis, length)| size.get(axis) == Some(&(length as i64))) {
            let of_columns =
                columns.map_or(String::new(), |columns| format!(" of {} channels", columns.len()));
            self.unfit
                .push(format!("'{name}' is {size:?}, the supernet's layer has {}{of_columns}", rows.of));
            return Ok(());
        }
        let mut values = source.shallow_clone();
        for (axis, chosen) in std::iter::once(rows.chosen).chain(columns).enumerate() {
            let chosen: Vec<i64> = chosen.iter().map(|index| i64::from(*index)).collect();
            values = values.f_index_select(axis as i64, &Tensor::f_from_slice(&chosen)?)?;
        }
        self.made.push((name.to_owned(), values));
        Ok(())
    }

    /// Writes what was made, if all of it fits.
    fn write(mut self, net: &Net) -> Result<(), Refusal> {
        let state: BTreeMap<&String, &Tensor> = net.state().collect();
        let extra: Vec<String> =
            self.weights.keys().filter(|name| !self.used.contains(*name)).cloned().collect();
        for (name, values) in &self.made {
            let made = values.size();
            match state.get(name).map(|tensor| tensor.size()) {
                Some(own) if own == made => {}
                Some(own) => {
                    self.unfit.push(format!("'{name}' would be {made:?}, the network's is {own:?}"));
                }
                None => self.unfit.push(format!("'{name}' would be {made:?}, and the network has none")),
            }
        }
        if let Some(problems) = problems(&self.missing, &extra, &self.unfit) {
            return Err(Refusal::Unfit(problems.join("; ")));
        }
        for (name, values) in self.made {
            tch::no_grad(|| state[&name].shallow_clone().f_copy_(&values))?;
        }
        Ok(())
    }
}
