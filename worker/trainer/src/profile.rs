//! What a channel of each kernel takes in each searchable layer, measured.
//!
//! A search may limit its architectures in time. Then derivation needs a price
//! for every channel, and the price is what this device takes: a kernel with a
//! third of the multiply-accumulates seldom takes a third of the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cakes::Extent;
use cakes::architecture::Architecture;
use cakes::backbone::Backbone;
use cakes::derive::{LatencyTable, LayerLatency};
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{Conv, ConvKernels, FeatureShape, Network, Node, NodeId, Op};
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::nets::{Net, Use};

/// Passes of one measurement at least, however slow.
const PASSES_MIN: u32 = 5;

/// Time spent on one measurement, if the passes allow it.
const DURATION: Duration = Duration::from_millis(30);

/// Passes before the first that counts: they choose algorithms and fill caches.
const PASSES_WARM: u32 = 2;

/// A convolution, for which layers of one shape are measured once.
type Shape = (u32, Extent, u32, Extent, Kernel);

/// Measures every searchable layer with every kernel at full width, and the
/// whole all-`3x3x3` network, for one sample of `extent` voxels.
///
/// A layer is measured with the norm behind it, in evaluation. The least of the
/// passes counts: what the layer takes when nothing else disturbs.
///
/// # Errors
/// libtorch fails.
pub fn latency_table(
    backbone: &Backbone,
    kernels: &KernelSet,
    extent: Extent,
    device: Device,
) -> Result<LatencyTable, TrainerError> {
    let wrong = |error: &dyn std::fmt::Display| TrainerError::User(error.to_string());
    let network =
        Architecture::even(backbone.clone(), &[Kernel::K333]).map_err(|error| wrong(&error))?.network();
    let shapes = network.shapes(extent).map_err(|error| wrong(&error))?;
    let mut known: BTreeMap<Shape, u64> = BTreeMap::new();
    let mut of = |input: FeatureShape, conv: &Conv, kernel: Kernel| -> Result<u64, TrainerError> {
        let shape = (input.channels, input.extent, conv.channels, conv.stride, kernel);
        if let Some(time) = known.get(&shape) {
            return Ok(*time);
        }
        let time = least_ns(one_layer(input.channels, conv, kernel), input.extent, device)?;
        known.insert(shape, time);
        Ok(time)
    };
    let (mut layers, mut searched) = (Vec::new(), 0);
    for layer in backbone.searchable_layers() {
        let found = network.nodes.iter().find(|node| node.name == layer.name);
        let Some((Op::Conv(conv), NodeId(input))) = found.map(|node| (&node.op, node.inputs[0])) else {
            continue;
        };
        let mut channel_ns = BTreeMap::new();
        for kernel in kernels.iter() {
            // Rounded up: no channel is free.
            let time = of(shapes[input], conv, kernel)?.div_ceil(u64::from(conv.channels));
            channel_ns.insert(kernel, time);
        }
        searched += of(shapes[input], conv, Kernel::K333)?;
        layers.push(LayerLatency { layer: layer.name, channel_ns });
    }
    let reference_ns = least_ns(network, extent, device)?;
    Ok(LatencyTable { fixed_ns: reference_ns.saturating_sub(searched), reference_ns, layers })
}

/// A network of one convolution and its norm.
fn one_layer(input_channels: u32, conv: &Conv, kernel: Kernel) -> Network {
    let conv = Conv { kernels: ConvKernels::Uniform(kernel), ..conv.clone() };
    let ops = [Op::Input { channels: input_channels }, Op::Conv(conv), Op::Norm { candidates: 1 }, Op::Relu];
    let nodes = ["input", "layer", "layer.norm", "layer.relu"].into_iter().zip(ops).enumerate();
    let nodes = nodes.map(|(index, (name, op))| Node {
        name: name.to_owned(),
        op,
        inputs: index.checked_sub(1).map(NodeId).into_iter().collect(),
    });
    Network { nodes: nodes.collect() }
}

/// The shortest of several forward passes over one sample, in nanoseconds.
fn least_ns(network: Network, extent: Extent, device: Device) -> Result<u64, TrainerError> {
    let mut net = Net::new(network, extent, 0, device)?;
    let draws = net.best_draw()?;
    let _no_grad = tch::no_grad_guard();
    let [d, h, w] = extent.map(i64::from);
    let input = Tensor::f_ones([1, i64::from(net.input_channels()), d, h, w], (Kind::Float, device))?;
    let mut least = Duration::MAX;
    let start = Instant::now();
    for pass in 0.. {
        let before = Instant::now();
        // Reading a value waits for the device.
        net.forward(&input, Use::Evaluate(&draws))?
            .f_narrow(1, 0, 1)?
            .f_sum(Kind::Float)?
            .f_double_value(&[])?;
        if pass >= PASSES_WARM {
            least = least.min(before.elapsed());
        }
        if pass >= PASSES_WARM + PASSES_MIN && start.elapsed() >= DURATION {
            break;
        }
    }
    Ok(u64::try_from(least.as_nanos()).unwrap_or(u64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use cakes::backbone::EncoderDecoder;
    use cakes::derive::ChannelCosts;

    use super::*;

    #[test]
    fn a_table_covers_the_space_and_prices_the_reference_at_what_it_took() {
        let config = EncoderDecoder {
            input_channels: 1,
            classes: 2,
            base_width: 4,
            levels: 2,
            ..EncoderDecoder::default()
        };
        let backbone = Backbone::EncoderDecoder(config);
        let kernels = KernelSet::volumetric();
        let table = latency_table(&backbone, &kernels, [16; 3], Device::Cpu).unwrap();
        let costs = ChannelCosts::measured(&backbone, &kernels, &table).unwrap();
        let c3d = Architecture::even(backbone, &[Kernel::K333]).unwrap();
        let (priced, measured) = (costs.of(&c3d) as f64, table.reference_ns as f64);
        // Beyond it only if the layers by themselves took longer than together.
        assert!(priced >= 0.99 * measured, "{priced} {measured}");
        assert!(costs.lightest(&kernels) < costs.of(&c3d));
    }
}
