//! Exact costs: parameters and multiply-accumulates, layer by layer.
//!
//! Parameters are weights, biases and the norms' γ and β; running statistics
//! are not counted. MACs are those of convolutions and linear layers for one
//! sample, the usual "FLOPs" of the literature without its factor of two.

use serde::{Deserialize, Serialize};

use crate::Extent;
use crate::network::{ConvKernels, FeatureShape, Network, Node, Op, SearchMode, ShapeError};

/// Cost of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerCost {
    pub layer: String,
    /// Channels, D, H, W behind the layer.
    pub output_channels: u32,
    pub output_extent: Extent,
    pub param_count: u64,
    pub mac_count: u64,
}

/// Cost of a network for one sample of a given extent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    pub param_count: u64,
    pub mac_count: u64,
    /// Elements of all layer outputs together, for estimates of memory.
    pub activation_count: u64,
    /// Layers that have parameters or operations.
    pub layers: Vec<LayerCost>,
}

/// Cost of `network` for one sample of `extent` voxels.
///
/// A performance-priority supernet is counted at its mean over draws, which is
/// the even split's cost rounded down.
///
/// # Errors
/// The network does not fit the extent.
pub fn cost(network: &Network, extent: Extent) -> Result<Cost, ShapeError> {
    let shapes = network.shapes(extent)?;
    let mut total = Cost { param_count: 0, mac_count: 0, activation_count: 0, layers: Vec::new() };
    for (node, shape) in network.nodes.iter().zip(&shapes) {
        let input = node.inputs.first().map_or(*shape, |id| shapes[id.0]);
        let (param_count, mac_count) = layer_cost(node, input, *shape);
        total.activation_count += u64::from(shape.channels) * shape.positions();
        if param_count + mac_count == 0 {
            continue;
        }
        total.param_count += param_count;
        total.mac_count += mac_count;
        total.layers.push(LayerCost {
            layer: node.name.clone(),
            output_channels: shape.channels,
            output_extent: shape.extent,
            param_count,
            mac_count,
        });
    }
    Ok(total)
}

fn layer_cost(node: &Node, input: FeatureShape, output: FeatureShape) -> (u64, u64) {
    let inputs = u64::from(input.channels);
    match &node.op {
        Op::Conv(conv) => {
            let channels = u64::from(conv.channels);
            let (stored_taps, computed_taps) = match &conv.kernels {
                ConvKernels::Uniform(kernel) => {
                    let taps = channels * u64::from(kernel.taps());
                    (taps, taps)
                }
                ConvKernels::Window(size) => {
                    let taps = channels * size.iter().map(|taps| u64::from(*taps)).product::<u64>();
                    (taps, taps)
                }
                ConvKernels::Mixed(allocation) => (allocation.taps(), allocation.taps()),
                ConvKernels::Candidates { kernels, mode } => {
                    let taps = channels * u64::from(kernels.taps());
                    match mode {
                        SearchMode::CostPriority => (taps, taps),
                        SearchMode::PerformancePriority => (taps, taps / kernels.len() as u64),
                    }
                }
            };
            let bias = if conv.bias { channels } else { 0 };
            (inputs * stored_taps + bias, inputs * computed_taps * output.positions())
        }
        Op::Norm { candidates } => (2 * u64::from(output.channels) * u64::from(*candidates), 0),
        Op::Linear { features, bias } => {
            let weights = inputs * u64::from(*features);
            (weights + if *bias { u64::from(*features) } else { 0 }, weights * output.positions())
        }
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::allocation::ChannelAllocation;
    use crate::architecture::{Architecture, LayerAllocation};
    use crate::backbone::{Backbone, EncoderDecoder, Form};
    use crate::kernel::{Kernel, KernelSet};

    fn backbone() -> Backbone {
        Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: 1,
            classes: 3,
            base_width: 8,
            levels: 2,
            ..EncoderDecoder::default()
        })
    }

    /// Counted by hand: convolutions, norms (two each), shortcuts, head.
    #[test]
    fn a_small_network_costs_what_a_pencil_says() {
        let architecture = Architecture::even(backbone(), &[Kernel::K333]).unwrap();
        let cost = cost(&architecture.network(), [8, 8, 8]).unwrap();
        let stem = 27 * 8 + 16;
        let encoder0 = 2 * (27 * 8 * 8 + 16);
        let encoder1 = (27 * 8 * 16 + 32) + (27 * 16 * 16 + 32) + (8 * 16 + 32);
        let decoder0 = (27 * 24 * 8 + 16) + (27 * 8 * 8 + 16) + (24 * 8 + 16);
        let head = 8 * 3 + 3;
        assert_eq!(cost.param_count, stem + encoder0 + encoder1 + decoder0 + head);
        let full = 512 * (27 * 8 + 2 * 27 * 64 + 27 * 24 * 8 + 27 * 64 + 24 * 8 + 8 * 3);
        let half = 64 * (27 * 8 * 16 + 27 * 16 * 16 + 8 * 16);
        assert_eq!(cost.mac_count, full + half);
    }

    #[test]
    fn a_supernet_stores_all_candidates_and_computes_them_by_mode() {
        let kernels = KernelSet::new([Kernel::K333, Kernel::K113]).unwrap();
        let of =
            |mode| cost(&backbone().network(Form::Supernet { mode, kernels: &kernels }), [8; 3]).unwrap();
        let (all, drawn) = (of(SearchMode::CostPriority), of(SearchMode::PerformancePriority));
        assert_eq!(all.param_count, drawn.param_count);
        let even = Architecture::even(backbone(), &[Kernel::K333, Kernel::K113]).unwrap();
        assert_eq!(drawn.mac_count, cost(&even.network(), [8; 3]).unwrap().mac_count);
        assert!(all.mac_count > drawn.mac_count);
    }

    proptest! {
        /// Giving one more channel to a lighter kernel saves exactly the
        /// difference in taps, times input channels and positions.
        #[test]
        fn moving_one_channel_changes_the_cost_by_its_taps(heavy in 1_u32..16, from in 0_usize..7, to in 0_usize..7) {
            let (from, to) = (Kernel::ALL[from.min(to)], Kernel::ALL[from.max(to)]);
            let with = |count: u32| {
                let base = Architecture::even(backbone(), &[from]).unwrap();
                let mut layers: Vec<LayerAllocation> = base.layers().collect();
                layers[3].channels = ChannelAllocation::new(16, [(from, count), (to, 16 - count)]).unwrap();
                cost(&Architecture::new(backbone(), layers).unwrap().network(), [8; 3]).unwrap()
            };
            let (more, less) = (with(heavy), with(heavy - 1));
            let taps = u64::from(from.taps() - to.taps());
            prop_assert_eq!(more.param_count - less.param_count, taps * 16);
            prop_assert_eq!(more.mac_count - less.mac_count, taps * 16 * 64);
        }
    }
}
