//! Which channel of its supernet each channel of a network is.
//!
//! An architecture says how many channels a kernel has and not which: the branches of
//! a layer stand side by side in one order, and where a layer reads all of them the
//! order means nothing. A network that starts with a supernet's weights has to know
//! more, and everything that it needs follows from the supernet's scores:
//!
//! - *A space of channels* is what layers share that keep channels in their places: a
//!   convolution's output, its norm, what is added to it. Every space has one list of
//!   the supernet's channels, so a sum adds what it added in the supernet.
//! - In a space with a mixed layer each channel goes to one place and so to one
//!   kernel, with the highest total score: a child of a performance-priority supernet.
//!   Where blocks are summed one place means a kernel in each of them.
//! - A cost-priority supernet sums the candidates of a channel, and a derivation keeps
//!   candidates, not channels: two of one channel, none of another. Where nothing is
//!   added, each kernel has its channels of the highest scores, and a channel that is
//!   there twice is read twice, through the same weights.
//! - The network's input and output stay as they are.

mod share;

use std::collections::BTreeSet;

use crate::allocation::ChannelAllocation;
use crate::architecture::Architecture;
use crate::kernel::{Kernel, KernelSet};
use crate::network::{ConvKernels, Network, NodeId, Op, SearchMode};
use crate::scores::{ChannelScores, LayerScores};

/// A network and the channels of the supernet that its own are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelIdentity {
    network: Network,
    channels: Vec<Vec<u32>>,
}

/// Why an architecture has no identity in a supernet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("its backbone is not the supernet's; an architecture starts from a supernet of its own backbone")]
    Backbone,
    #[error("the supernet has no {0}, which the architecture needs; its kernels are {1}")]
    Kernels(String, String),
}

/// Checks that a supernet of `kernels` holds every kernel of `architecture`.
///
/// # Errors
/// The kernels that it lacks, named.
pub fn check_kernels(architecture: &Architecture, kernels: &KernelSet) -> Result<(), IdentityError> {
    let used = architecture.composition().into_iter().map(|(kernel, _)| kernel);
    let names = |kernels: &mut dyn Iterator<Item = Kernel>| -> String {
        kernels.map(|kernel| kernel.to_string()).collect::<Vec<_>>().join(", ")
    };
    let lacking = names(&mut used.filter(|kernel| !kernels.contains(*kernel)));
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(IdentityError::Kernels(lacking, names(&mut kernels.iter()))),
    }
}

impl ChannelIdentity {
    /// The identity of `architecture` in a supernet of `mode` that gave `scores`.
    ///
    /// # Errors
    /// The supernet is one of another backbone, or lacks a kernel.
    pub fn new(
        architecture: &Architecture,
        scores: &ChannelScores,
        mode: SearchMode,
    ) -> Result<Self, IdentityError> {
        if architecture.backbone() != scores.backbone() {
            return Err(IdentityError::Backbone);
        }
        check_kernels(architecture, scores.kernels())?;
        let network = architecture.network();
        let spaces = Spaces::new(&network);
        let mut channels: Vec<Vec<u32>> = Vec::with_capacity(network.nodes.len());
        for (index, node) in network.nodes.iter().enumerate() {
            let first = spaces.first_of(index);
            let own = match &node.op {
                _ if first < index => channels[first].clone(),
                Op::Concat if !spaces.is_fixed(index) => {
                    let inputs = node.inputs.iter().map(|NodeId(input)| channels[*input].as_slice());
                    joined(inputs)
                }
                op => spaces.order(&network, index, width(op, &node.inputs, &channels), scores, mode),
            };
            channels.push(own);
        }
        Ok(ChannelIdentity { network, channels })
    }

    /// The network of the architecture.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The supernet's channels that the output of a node holds, in its own order; of a
    /// cost-priority supernet those behind the fold.
    pub fn channels(&self, NodeId(id): NodeId) -> &[u32] {
        &self.channels[id]
    }
}

/// Lists one behind the other, as a concatenation numbers channels. No list of a
/// layer holds a channel that its width does not.
fn joined<'a>(lists: impl Iterator<Item = &'a [u32]>) -> Vec<u32> {
    let mut all: Vec<u32> = Vec::new();
    for list in lists {
        let before = all.len() as u32;
        all.extend(list.iter().map(|channel| before + channel));
    }
    all
}

/// Channels of a node's output.
fn width(op: &Op, inputs: &[NodeId], channels: &[Vec<u32>]) -> u32 {
    let of = |NodeId(input): &NodeId| channels[*input].len() as u32;
    match op {
        Op::Input { channels } => *channels,
        Op::Conv(conv) => conv.channels,
        Op::Linear { features, .. } => *features,
        Op::Concat => inputs.iter().map(of).sum(),
        Op::Fold { groups } => inputs.first().map_or(0, of) / groups.max(&1),
        _ => inputs.first().map_or(0, of),
    }
}

/// Nodes that share one order of channels.
struct Spaces {
    /// The first node of each node's space.
    first: Vec<usize>,
    /// First nodes of spaces whose channels stay in their order.
    fixed: BTreeSet<usize>,
    /// First nodes of spaces in which something is added.
    summed: BTreeSet<usize>,
}

impl Spaces {
    fn new(network: &Network) -> Self {
        let count = network.nodes.len();
        let mut spaces =
            Spaces { first: (0..count).collect(), fixed: BTreeSet::new(), summed: BTreeSet::new() };
        for (index, node) in network.nodes.iter().enumerate() {
            let makes_channels = matches!(
                node.op,
                Op::Input { .. } | Op::Conv(_) | Op::Linear { .. } | Op::Concat | Op::Fold { .. }
            );
            if makes_channels {
                continue;
            }
            for NodeId(input) in &node.inputs {
                spaces.unite(*input, index);
            }
        }
        for (index, node) in network.nodes.iter().enumerate() {
            let own = spaces.first[index];
            match node.op {
                Op::Add => {
                    spaces.summed.insert(own);
                }
                Op::Input { .. } => {
                    spaces.fixed.insert(own);
                }
                // A block of channels per group: their order is what the sum goes by.
                Op::Fold { .. } => {
                    let input = node.inputs.first().map_or(own, |NodeId(input)| spaces.first[*input]);
                    spaces.fixed.extend([own, input]);
                }
                _ => {}
            }
        }
        spaces.fixed.extend(count.checked_sub(1).map(|last| spaces.first[last]));
        spaces.fix_summed_joins(network);
        spaces
    }

    fn unite(&mut self, left: usize, right: usize) {
        let (left, right) = (self.first[left], self.first[right]);
        let (first, other) = (left.min(right), left.max(right));
        self.first.iter_mut().filter(|own| **own == other).for_each(|own| *own = first);
    }

    /// What is joined and then added would have to have two orders at once.
    fn fix_summed_joins(&mut self, network: &Network) {
        for (index, node) in network.nodes.iter().enumerate().rev() {
            let own = self.first[index];
            let is_bound = self.summed.contains(&own) || self.fixed.contains(&own) || own < index;
            if matches!(node.op, Op::Concat) && is_bound {
                self.fixed.insert(own);
                self.fixed.extend(node.inputs.iter().map(|NodeId(input)| self.first[*input]));
            }
        }
    }

    fn first_of(&self, index: usize) -> usize {
        self.first[index]
    }

    fn is_fixed(&self, index: usize) -> bool {
        self.fixed.contains(&self.first[index])
    }

    /// The order of the space that begins with node `first`.
    fn order(
        &self,
        network: &Network,
        first: usize,
        width: u32,
        scores: &ChannelScores,
        mode: SearchMode,
    ) -> Vec<u32> {
        let mixed: Vec<(&ChannelAllocation, &LayerScores)> = network
            .nodes
            .iter()
            .zip(&self.first)
            .filter(|(_, own)| **own == first)
            .filter_map(|(node, _)| match &node.op {
                Op::Conv(conv) => match &conv.kernels {
                    ConvKernels::Mixed(allocation) => {
                        let scores = scores.layers().iter().find(|layer| layer.layer == node.name)?;
                        Some((allocation, scores))
                    }
                    _ => None,
                },
                _ => None,
            })
            .collect();
        let kernels = scores.kernels();
        match mixed.as_slice() {
            [] => (0..width).collect(),
            _ if self.fixed.contains(&first) => (0..width).collect(),
            [(allocation, scores)] if mode == SearchMode::CostPriority && !self.summed.contains(&first) => {
                best_of_each(allocation, scores, kernels)
            }
            mixed => one_each(mixed, kernels),
        }
    }
}

/// The channels of the highest scores of each kernel; of equal ones the lower.
fn best_of_each(allocation: &ChannelAllocation, layer: &LayerScores, kernels: &KernelSet) -> Vec<u32> {
    let mut all = Vec::new();
    for (kernel, count) in allocation.iter() {
        let Some(scores) = kernels.iter().position(|own| own == kernel).map(|at| &layer.scores[at]) else {
            continue;
        };
        let mut channels: Vec<u32> = (0..scores.len() as u32).collect();
        channels.sort_by(|left, right| scores[*right as usize].total_cmp(&scores[*left as usize]));
        channels.truncate(count as usize);
        channels.sort_unstable();
        all.extend(channels);
    }
    all
}

/// Every channel once, where the scores of all layers of the space sum to the most.
fn one_each(mixed: &[(&ChannelAllocation, &LayerScores)], kernels: &KernelSet) -> Vec<u32> {
    let at = |kernel: Kernel| kernels.iter().position(|own| own == kernel).unwrap_or(0);
    let layers: Vec<(Vec<usize>, f64)> = mixed
        .iter()
        .map(|(allocation, layer)| {
            let of_place = allocation.iter().flat_map(|(kernel, count)| vec![at(kernel); count as usize]);
            (of_place.collect(), mean(layer))
        })
        .collect();
    let width = layers.first().map_or(0, |(of_place, _)| of_place.len());
    // Places with equal kernels are alike. Kernels stand in order, so these are neighbours.
    let profile =
        |place: usize| -> Vec<usize> { layers.iter().map(|(of_place, _)| of_place[place]).collect() };
    let (mut sizes, mut profiles): (Vec<usize>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
    for place in 0..width {
        let own = profile(place);
        match sizes.last_mut() {
            Some(size) if profiles.last() == Some(&own) => *size += 1,
            _ => {
                sizes.push(1);
                profiles.push(own);
            }
        }
    }
    let gain = |profile: &Vec<usize>, channel: usize| -> i64 {
        let parts = mixed.iter().zip(&layers).zip(profile);
        parts
            .map(|(((_, layer), (_, mean)), kernel)| fixed_point(layer.scores[*kernel][channel], *mean))
            .sum()
    };
    let gains: Vec<Vec<i64>> =
        profiles.iter().map(|profile| (0..width).map(|channel| gain(profile, channel)).collect()).collect();
    share::share_out(&gains, &sizes).into_iter().flatten().collect()
}

/// Layers weigh alike, as in a derivation.
fn mean(layer: &LayerScores) -> f64 {
    let count: usize = layer.scores.iter().map(Vec::len).sum();
    let sum: f64 = layer.scores.iter().flatten().map(|score| f64::from(*score)).sum();
    if sum > 0.0 { sum / count as f64 } else { 1.0 }
}

/// A score over its layer's mean, exact to sum. A share is below the number of
/// candidates, so sums over hundreds of layers fit.
fn fixed_point(score: f32, mean: f64) -> i64 {
    const ONE: f64 = (1_u64 << 30) as f64;
    (f64::from(score) / mean * ONE).round() as i64
}

#[cfg(test)]
mod tests;
