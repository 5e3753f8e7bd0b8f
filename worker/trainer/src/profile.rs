//! What a channel of each kernel takes in each searchable layer, measured.
//!
//! A budget may limit architectures in time. Then derivation needs a price for
//! every channel, and the price is what this device takes: a kernel with a third of
//! the multiply-accumulates seldom takes a third of the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cakes::Extent;
use cakes::allocation::ChannelAllocation;
use cakes::architecture::{Architecture, LayerAllocation};
use cakes::backbone::Backbone;
use cakes::derive::{ChannelCosts, LatencyTable, LayerTimes, NetworkTime, random_like};
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{Conv, ConvKernels, Network, Node, NodeId, Op};
use cakes::spec::CostMeasure;
use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::nets::{Draws, Net, Use};

/// Passes that count, at least.
const PASSES_MIN: u32 = 5;

/// Passes that count, at most.
const PASSES_MAX: u32 = 50;

/// Time spent on each network, if the passes allow it.
const DURATION: Duration = Duration::from_millis(20);

/// Passes before the first that counts: they choose algorithms and fill caches.
const PASSES_WARM: u32 = 2;

/// Forward passes of a GPU between two moments at which it is waited for. Within a
/// network nobody waits behind a layer.
const FORWARDS_OF_A_GPU: u32 = 8;

/// How often whoever waits is asked whether to go on.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Measures, for one sample of `extent` voxels, every searchable layer with all its
/// channels on one kernel, and whole networks: the all-`3x3x3` one, and some whose
/// channels are allocated at random. Layers come in the order in which they run; those
/// of one shape are measured once. What is measured depends on the arguments alone.
///
/// A layer is measured with norm and activation behind it; all in evaluation. What is
/// compared runs in turn, so that other load meets all alike, and the least of the
/// passes counts: what it takes when nothing else disturbs.
///
/// `build` makes a network for an extent. `goes_on` is asked about every second; none
/// if it says no.
///
/// # Errors
/// libtorch fails, or `goes_on` does.
pub fn latency_table(
    backbone: &Backbone,
    kernels: &KernelSet,
    extent: Extent,
    build: impl Fn(Network, Extent) -> Result<Net, TrainerError>,
    goes_on: impl FnMut() -> Result<bool, TrainerError>,
) -> Result<Option<LatencyTable>, TrainerError> {
    let mut clock = Clock { build, goes_on, asked: None };
    let Some(layers) = layer_times(backbone, kernels, extent, &mut clock)? else { return Ok(None) };
    let c3d = Architecture::even(backbone.clone(), &[Kernel::K333]).map_err(wrong)?;
    let mixed = mixed_networks(backbone, kernels, extent)?;
    let networks: Vec<Network> = mixed.iter().chain([&c3d]).map(Architecture::network).collect();
    let Some(mut times) = clock.least_ns(networks, extent)? else { return Ok(None) };
    let reference_ns = times.pop().unwrap_or(1);
    let mixed = mixed.into_iter().zip(times).map(|(architecture, ns)| NetworkTime { architecture, ns });
    Ok(Some(LatencyTable::from_times(reference_ns, &layers, &mixed.collect::<Vec<_>>())))
}

fn wrong(error: impl std::fmt::Display) -> TrainerError {
    TrainerError::User(error.to_string())
}

/// Every searchable layer with each kernel alone, `3x3x3` among them.
fn layer_times<B, G>(
    backbone: &Backbone,
    kernels: &KernelSet,
    extent: Extent,
    clock: &mut Clock<B, G>,
) -> Result<Option<Vec<LayerTimes>>, TrainerError>
where
    B: Fn(Network, Extent) -> Result<Net, TrainerError>,
    G: FnMut() -> Result<bool, TrainerError>,
{
    let c3d = Architecture::even(backbone.clone(), &[Kernel::K333]).map_err(wrong)?;
    let network = c3d.network();
    let shapes = network.shapes(extent).map_err(wrong)?;
    let mut alone: Vec<Kernel> = kernels.iter().collect();
    if !alone.contains(&Kernel::K333) {
        alone.push(Kernel::K333);
    }
    let mut known: BTreeMap<[u32; 8], BTreeMap<Kernel, u64>> = BTreeMap::new();
    let mut layers = Vec::new();
    for layer in backbone.searchable_layers() {
        let found = network.nodes.iter().find(|node| node.name == layer.name);
        let Some((Op::Conv(conv), NodeId(input))) = found.map(|node| (&node.op, node.inputs[0])) else {
            return Err(TrainerError::User(format!("layer '{}' is no convolution", layer.name)));
        };
        let input = shapes[input];
        let ([d, h, w], [stride_d, stride_h, stride_w]) = (input.extent, conv.stride);
        let shape = [input.channels, d, h, w, conv.channels, stride_d, stride_h, stride_w];
        let uniform_ns = match known.get(&shape) {
            Some(times) => times.clone(),
            None => {
                let variants = alone.iter().map(|kernel| one_layer(input.channels, conv, *kernel));
                let Some(times) = clock.least_ns(variants.collect(), input.extent)? else { return Ok(None) };
                alone.iter().copied().zip(times).collect()
            }
        };
        known.entry(shape).or_insert_with(|| uniform_ns.clone());
        layers.push(LayerTimes { layer: layer.name, channels: conv.channels, uniform_ns });
    }
    Ok(Some(layers))
}

/// For each kernel of the space a network whose channels are allocated at random, of as
/// many multiply-accumulates as with half the channels on this kernel and the others
/// shared evenly: from light to heavy, with counts as derivation gives them.
fn mixed_networks(
    backbone: &Backbone,
    kernels: &KernelSet,
    extent: Extent,
) -> Result<Vec<Architecture>, TrainerError> {
    let space: Vec<Kernel> = kernels.iter().collect();
    let costs = ChannelCosts::new(backbone, extent, CostMeasure::Mac).map_err(wrong)?;
    let half_on = |kernel: Kernel| {
        let layers = backbone.searchable_layers().into_iter().map(|layer| {
            let even = ChannelAllocation::even(&space, layer.channels - layer.channels / 2);
            let counts = even.map_err(wrong)?;
            let counts = counts.iter().chain([(kernel, layer.channels / 2)]);
            let channels = ChannelAllocation::new(layer.channels, counts).map_err(wrong)?;
            Ok(LayerAllocation { layer: layer.name, channels })
        });
        let layers = layers.collect::<Result<Vec<_>, TrainerError>>()?;
        Architecture::new(backbone.clone(), layers).map_err(wrong)
    };
    let random = |(kernel, seed): (&Kernel, u64)| {
        random_like(&half_on(*kernel)?, kernels, &costs, 1, seed).map_err(wrong)
    };
    space.iter().zip(0..).map(random).collect()
}

/// A network of one convolution, its norm and its activation.
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

/// A network that is timed.
struct Probe {
    net: Net,
    draws: Draws,
    input: Tensor,
    forwards: u32,
    least: Duration,
}

impl Probe {
    fn new(net: Net, extent: Extent) -> Result<Self, TrainerError> {
        let draws = net.best_draw()?;
        let [d, h, w] = extent.map(i64::from);
        let shape = [1, i64::from(net.input_channels()), d, h, w];
        let input = Tensor::f_ones(shape, (Kind::Float, net.device()))?;
        let forwards = if net.device().is_cuda() { FORWARDS_OF_A_GPU } else { 1 };
        Ok(Probe { net, draws, input, forwards, least: Duration::MAX })
    }

    fn pass(&mut self, counts: bool) -> Result<(), TrainerError> {
        let start = Instant::now();
        for forward in 1..=self.forwards {
            let output = self.net.forward(&self.input, Use::Evaluate(&self.draws))?;
            if forward == self.forwards {
                // Reading a value waits for the device.
                output.f_flatten(0, -1)?.f_narrow(0, 0, 1)?.f_double_value(&[0])?;
            }
        }
        if counts {
            self.least = self.least.min(start.elapsed() / self.forwards);
        }
        Ok(())
    }
}

/// Times networks, as long as whoever waits for it wants to.
struct Clock<B, G> {
    build: B,
    goes_on: G,
    asked: Option<Instant>,
}

impl<B, G> Clock<B, G>
where
    B: Fn(Network, Extent) -> Result<Net, TrainerError>,
    G: FnMut() -> Result<bool, TrainerError>,
{
    /// The shortest pass of each, which run in turn, in nanoseconds; none if nobody
    /// waits any more.
    fn least_ns(&mut self, networks: Vec<Network>, extent: Extent) -> Result<Option<Vec<u64>>, TrainerError> {
        let probe = |network| Probe::new((self.build)(network, extent)?, extent);
        let mut probes = networks.into_iter().map(probe).collect::<Result<Vec<Probe>, TrainerError>>()?;
        let _no_grad = tch::no_grad_guard();
        let duration = DURATION * u32::try_from(probes.len()).unwrap_or(u32::MAX);
        let start = Instant::now();
        for round in 0..PASSES_WARM + PASSES_MAX {
            if round >= PASSES_WARM + PASSES_MIN && start.elapsed() >= duration {
                break;
            }
            for probe in &mut probes {
                if !self.is_wanted()? {
                    return Ok(None);
                }
                probe.pass(round >= PASSES_WARM)?;
            }
        }
        let ns = |probe: &Probe| u64::try_from(probe.least.as_nanos()).unwrap_or(u64::MAX);
        Ok(Some(probes.iter().map(|probe| ns(probe).clamp(1, LatencyTable::TIME_NS_MAX)).collect()))
    }

    fn is_wanted(&mut self) -> Result<bool, TrainerError> {
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK_INTERVAL) {
            return Ok(true);
        }
        self.asked = Some(Instant::now());
        (self.goes_on)()
    }
}

#[cfg(test)]
mod tests {
    use cakes::backbone::{EncoderDecoder, MiddleLayer, ResnetDepth, VideoResnet};
    use tch::Device;

    use super::*;

    fn on_the_cpu(network: Network, extent: Extent) -> Result<Net, TrainerError> {
        Net::new(network, extent, 0, Device::Cpu)
    }

    fn backbones() -> [(Backbone, KernelSet, Extent); 2] {
        let volumes = Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: 1,
            classes: 2,
            base_width: 4,
            levels: 2,
            ..EncoderDecoder::default()
        });
        let clips = Backbone::VideoResnet(VideoResnet {
            input_channels: 3,
            classes: 2,
            depth: ResnetDepth::R18,
            base_width: 2,
            dropout_percent: 0,
            middle: MiddleLayer::Searchable,
        });
        [(volumes, KernelSet::volumetric(), [16; 3]), (clips, KernelSet::named("1_2d").unwrap(), [4, 32, 32])]
    }

    /// Also of a space without `3x3x3`, with strides, and of layers narrower than the
    /// space.
    #[test]
    fn a_table_covers_the_space_and_every_layer_in_order() {
        for (backbone, kernels, extent) in backbones() {
            let table = latency_table(&backbone, &kernels, extent, on_the_cpu, || Ok(true)).unwrap().unwrap();
            let json = serde_json::to_string(&table).unwrap();
            assert_eq!(serde_json::from_str::<LatencyTable>(&json).unwrap(), table);
            let names: Vec<String> =
                backbone.searchable_layers().into_iter().map(|layer| layer.name).collect();
            assert!(table.layers.iter().map(|row| &row.layer).eq(&names), "{table:?}");
            let costs = ChannelCosts::measured(&backbone, &kernels, &table).unwrap();
            assert!(costs.lightest(&kernels) > table.fixed_ns);
            assert!(table.layers.iter().all(|row| row.channel_ns.contains_key(&Kernel::K333)));
            let even = Architecture::even(backbone.clone(), &kernels.iter().collect::<Vec<_>>()).unwrap();
            assert_eq!(table.predicted_ns(&backbone, &even), Some(costs.of(&even)));
        }
    }

    #[test]
    fn what_is_measured_goes_from_light_to_heavy_and_is_always_the_same() {
        for (backbone, kernels, extent) in backbones() {
            let networks = mixed_networks(&backbone, &kernels, extent).unwrap();
            assert_eq!(mixed_networks(&backbone, &kernels, extent).unwrap(), networks);
            let costs = ChannelCosts::new(&backbone, extent, CostMeasure::Mac).unwrap();
            let macs: Vec<u64> = networks.iter().map(|network| costs.of(network)).collect();
            let (least, most) = (macs.iter().min().unwrap(), macs.iter().max().unwrap());
            assert!(10 * most > 11 * least, "{macs:?}");
            assert!(networks.iter().all(|network| network.composition().len() > 1));
        }
    }

    #[test]
    fn measuring_ends_when_it_is_told_to() {
        let [(backbone, kernels, extent), _] = backbones();
        let table = latency_table(&backbone, &kernels, extent, on_the_cpu, || Ok(false)).unwrap();
        assert_eq!(table, None);
        let gone = || Err(TrainerError::Report("gone".into()));
        assert!(latency_table(&backbone, &kernels, extent, on_the_cpu, gone).is_err());
    }
}
