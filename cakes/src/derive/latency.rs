//! Measured times of a network as prices of its channels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, LayerAllocation};
use crate::backbone::Backbone;
use crate::kernel::Kernel;

/// Measured times of a network, layer by layer, as costs that a budget can limit.
///
/// A layer's time is taken to be a sum over its output channels. Times are whole
/// nanoseconds for one sample, so that sums are exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyTable {
    /// Time of everything that is not searched, in nanoseconds.
    pub fixed_ns: u64,
    /// Time of the all-`3x3x3` network, of which budgets are fractions.
    pub reference_ns: u64,
    /// One row for each searchable layer.
    pub layers: Vec<LayerLatency>,
}

/// Measured time of one searchable layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerLatency {
    pub layer: String,
    /// Time of one output channel with each kernel, in nanoseconds.
    pub channel_ns: BTreeMap<Kernel, u64>,
}

/// What was measured of one searchable layer by itself, at full width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerTimes {
    pub layer: String,
    pub channels: u32,
    /// Time of the layer with all channels on one kernel, in nanoseconds.
    pub uniform_ns: BTreeMap<Kernel, u64>,
}

/// What was measured of a whole network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkTime {
    pub architecture: Architecture,
    pub ns: u64,
}

impl LatencyTable {
    /// Longest time that a table may hold, in nanoseconds: an hour. Sums over the
    /// channels of a network do not overflow.
    pub const TIME_NS_MAX: u64 = 3_600_000_000_000;

    /// Prices channels by measured times.
    ///
    /// A channel's share of a layer that has its kernel alone says how kernels and
    /// layers compare, but not what they take: a layer by itself finds its data in the
    /// cache, and thin branches use a processor badly. Therefore whole networks of
    /// several kernels are measured too, and times are a fixed part and so many times
    /// the shares as fits these best (least squares).
    ///
    /// `reference_ns` is what the all-`3x3x3` network took. Its price is a little more,
    /// like that of all networks of one kernel: prices are those of mixed layers.
    pub fn from_times(reference_ns: u64, layers: &[LayerTimes], mixed: &[NetworkTime]) -> Self {
        let points = mixed.iter().map(|network| (shares(layers, &network.architecture), network.ns as f64));
        let (fixed, factor) = fit(&points.collect::<Vec<_>>());
        // No channel is free.
        let price = |times: &LayerTimes, ns: u64| ((share(times, ns) * factor).round() as u64).max(1);
        let row = |times: &LayerTimes| LayerLatency {
            layer: times.layer.clone(),
            channel_ns: times.uniform_ns.iter().map(|(kernel, ns)| (*kernel, price(times, *ns))).collect(),
        };
        LatencyTable { fixed_ns: fixed as u64, reference_ns, layers: layers.iter().map(row).collect() }
    }

    /// What an architecture should take for one sample, in nanoseconds: its price, or
    /// what was measured of the all-`3x3x3` network. None where it is of another
    /// backbone or has a kernel that was not measured.
    pub fn predicted_ns(&self, backbone: &Backbone, architecture: &Architecture) -> Option<u64> {
        if architecture.backbone() != backbone {
            return None;
        }
        if architecture.composition().iter().all(|(kernel, _)| *kernel == Kernel::K333) {
            return Some(self.reference_ns);
        }
        architecture.layers().try_fold(self.fixed_ns, |sum, layer| {
            let row = self.layers.iter().find(|row| row.layer == layer.layer)?;
            layer.channels.iter().try_fold(sum, |sum, (kernel, count)| {
                Some(sum.saturating_add(row.channel_ns.get(&kernel)?.saturating_mul(count.into())))
            })
        })
    }
}

fn share(times: &LayerTimes, ns: u64) -> f64 {
    ns as f64 / f64::from(times.channels.max(1))
}

/// Sum over all channels of their shares of layers that have their kernel alone.
fn shares(layers: &[LayerTimes], architecture: &Architecture) -> f64 {
    let of_layer = |layer: LayerAllocation| -> f64 {
        let Some(times) = layers.iter().find(|times| times.layer == layer.layer) else { return 0.0 };
        let of_kernel = |(kernel, count): (Kernel, u32)| {
            times.uniform_ns.get(&kernel).map_or(0.0, |ns| share(times, *ns) * f64::from(count))
        };
        layer.channels.iter().map(of_kernel).sum()
    };
    architecture.layers().map(of_layer).sum()
}

/// Intercept and slope of the line through the points by least squares, neither of
/// them below zero.
fn fit(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len().max(1) as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    // All of them alike: nothing tells the two apart.
    let is_spread = variance > (1e-6 * mean_x).powi(2);
    let slope = if is_spread { (covariance / variance).max(0.0) } else { f64::INFINITY };
    if mean_x > 0.0 && slope * mean_x > mean_y {
        return (0.0, mean_y / mean_x);
    }
    (mean_y - slope * mean_x, slope)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backbone::EncoderDecoder;
    use crate::derive::ChannelCosts;
    use crate::kernel::KernelSet;

    fn backbone() -> Backbone {
        Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: 1,
            classes: 2,
            base_width: 14,
            levels: 2,
            ..EncoderDecoder::default()
        })
    }

    /// Times of the layers of [`backbone`].
    fn times(kernels: &KernelSet, mut of: impl FnMut(Kernel) -> u64) -> Vec<LayerTimes> {
        let layers = backbone().searchable_layers().into_iter().map(|layer| {
            let uniform_ns = kernels.iter().map(|kernel| (kernel, of(kernel))).collect();
            LayerTimes { layer: layer.name, channels: layer.channels, uniform_ns }
        });
        layers.collect()
    }

    fn mixed(kernels: &[Kernel], ns: u64) -> NetworkTime {
        NetworkTime { architecture: Architecture::even(backbone(), kernels).unwrap(), ns }
    }

    #[test]
    fn mixed_networks_cost_what_they_took_and_the_reference_is_what_it_took() {
        let kernels = KernelSet::volumetric();
        let taps_ns = |kernel: Kernel| u64::from(kernel.taps()) * 100_000;
        let layers = times(&kernels, taps_ns);
        // In a network layers take 1.5 times what they take alone, beside 5 ms.
        let whole = |kernels: &[Kernel]| {
            let alone = kernels.iter().copied().map(taps_ns).sum::<u64>() / kernels.len() as u64;
            mixed(kernels, 5_000_000 + layers.len() as u64 * alone * 3 / 2)
        };
        let networks =
            [[Kernel::K333, Kernel::K113], [Kernel::K333, Kernel::K133], [Kernel::K133, Kernel::K113]];
        let networks: Vec<NetworkTime> = networks.iter().map(|kernels| whole(kernels)).collect();
        let table = LatencyTable::from_times(33_000_000, &layers, &networks);
        assert!(table.fixed_ns.abs_diff(5_000_000) < 2, "{table:?}");
        let costs = ChannelCosts::measured(&backbone(), &kernels, &table).unwrap();
        for NetworkTime { architecture, ns } in &networks {
            let price = costs.of(architecture);
            // To half a nanosecond for each channel.
            assert!(price.abs_diff(*ns) < 1000, "{price} {ns}");
            assert_eq!(table.predicted_ns(&backbone(), architecture), Some(price));
        }
        let c3d = Architecture::even(backbone(), &[Kernel::K333]).unwrap();
        assert_eq!(table.predicted_ns(&backbone(), &c3d), Some(33_000_000));
        assert_eq!(costs.limit(0.5), 16_500_000);

        let unmeasured = Architecture::even(backbone(), &[Kernel::K111]).unwrap();
        assert_eq!(table.predicted_ns(&backbone(), &unmeasured), None);
        let other = EncoderDecoder { base_width: 7, classes: 2, levels: 2, ..EncoderDecoder::default() };
        let other = Architecture::even(Backbone::EncoderDecoder(other), &[Kernel::K113]).unwrap();
        assert_eq!(table.predicted_ns(&backbone(), &other), None);
    }

    #[test]
    fn a_line_never_prices_below_zero() {
        assert_eq!(fit(&[(1.0, 5.0), (3.0, 9.0)]), (3.0, 2.0));
        // Steeper than through the origin; falling; one point, or the same twice.
        assert_eq!(fit(&[(1.0, 1.0), (3.0, 9.0)]), (0.0, 2.5));
        assert_eq!(fit(&[(1.0, 9.0), (3.0, 5.0)]), (7.0, 0.0));
        assert_eq!(fit(&[(2.0, 6.0)]), (0.0, 3.0));
        assert_eq!(fit(&[(2.0, 5.0), (2.0, 7.0)]), (0.0, 3.0));
    }

    proptest! {
        /// Whatever a clock says, a table is one that derivation takes.
        #[test]
        fn any_times_give_a_table(
            picks in proptest::collection::vec(1_u64..10_000_000_000, 40),
            space in 0_usize..3,
        ) {
            let kernels = KernelSet::named(["1_2d", "2_3d", "volume_pointwise"][space]).unwrap();
            let mut picks = picks.into_iter().cycle();
            let layers = times(&kernels, |_| picks.next().unwrap());
            let all: Vec<Kernel> = kernels.iter().collect();
            let networks: Vec<NetworkTime> =
                (1..=all.len()).map(|count| mixed(&all[..count], picks.next().unwrap())).collect();
            let table = LatencyTable::from_times(picks.next().unwrap(), &layers, &networks);
            let text = serde_json::to_string(&table).unwrap();
            prop_assert_eq!(&serde_json::from_str::<LatencyTable>(&text).unwrap(), &table);
            prop_assert!(ChannelCosts::measured(&backbone(), &kernels, &table).is_ok(), "{:?}", table);
        }
    }
}
