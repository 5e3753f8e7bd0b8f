//! Measured times of a network as prices of its channels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::allocation::ChannelAllocation;
use crate::architecture::Architecture;
use crate::backbone::Backbone;
use crate::kernel::{Kernel, KernelSet};

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
    /// Time of the layer with all channels on one kernel, in nanoseconds; `3x3x3`
    /// must be among them.
    pub uniform_ns: BTreeMap<Kernel, u64>,
    /// Time of the layer shared evenly among the kernels of the space.
    pub even_ns: u64,
}

impl LatencyTable {
    /// Longest time that a table may hold, in nanoseconds: an hour. Sums over the
    /// channels of a network do not overflow.
    pub const TIME_NS_MAX: u64 = 3_600_000_000_000;

    /// Prices channels by measured times, so that two networks cost what was
    /// measured: the all-`3x3x3` one `reference_ns`, and a layer that is shared
    /// evenly what it took.
    ///
    /// A channel costs its share of the layer that has its kernel alone. A layer of
    /// several kernels takes longer than these shares say: thin branches use a
    /// processor badly, and each is a call of its own. What the even split takes
    /// longer is charged to the channels of all kernels but `3x3x3`. Where the
    /// layers by themselves take longer than the whole network, all are scaled to it.
    pub fn from_times(kernels: &KernelSet, reference_ns: u64, layers: &[LayerTimes]) -> Self {
        let uniform_ns = |layer: &LayerTimes| layer.uniform_ns.get(&Kernel::K333).copied().unwrap_or(0);
        let alone_ns: u64 = layers.iter().map(uniform_ns).sum();
        let scale = (reference_ns as f64 / alone_ns.max(1) as f64).min(1.0);
        let layers: Vec<(u32, LayerLatency)> =
            layers.iter().map(|times| (times.channels, times.priced(kernels, scale))).collect();
        let searched = layers.iter().map(|(channels, row)| {
            u64::from(*channels) * row.channel_ns.get(&Kernel::K333).copied().unwrap_or(0)
        });
        LatencyTable {
            fixed_ns: reference_ns.saturating_sub(searched.sum()),
            reference_ns,
            layers: layers.into_iter().map(|(_, row)| row).collect(),
        }
    }

    /// What an architecture should take for one sample, in nanoseconds; none where
    /// it is of another backbone or has a kernel that was not measured.
    pub fn predicted_ns(&self, backbone: &Backbone, architecture: &Architecture) -> Option<u64> {
        if architecture.backbone() != backbone {
            return None;
        }
        architecture.layers().try_fold(self.fixed_ns, |sum, layer| {
            let row = self.layers.iter().find(|row| row.layer == layer.layer)?;
            layer.channels.iter().try_fold(sum, |sum, (kernel, count)| {
                Some(sum.saturating_add(row.channel_ns.get(&kernel)?.saturating_mul(count.into())))
            })
        })
    }
}

impl LayerTimes {
    fn priced(&self, kernels: &KernelSet, scale: f64) -> LayerLatency {
        let width = f64::from(self.channels.max(1));
        let share = |ns: u64| ns as f64 * scale / width;
        let space: Vec<Kernel> = kernels.iter().collect();
        let even = ChannelAllocation::even(&space, self.channels).ok();
        let count = |kernel| f64::from(even.as_ref().map_or(0, |even| even.count(kernel)));
        let of_shares: f64 = self.uniform_ns.iter().map(|(kernel, ns)| share(*ns) * count(*kernel)).sum();
        let charged = width - count(Kernel::K333);
        let mixing = (self.even_ns as f64 * scale - of_shares).max(0.0) / charged.max(1.0);
        // No channel is free. Rounded down, `3x3x3` everywhere is within the whole.
        let price = |(kernel, ns): (&Kernel, &u64)| {
            let ns = share(*ns) + if *kernel == Kernel::K333 { 0.0 } else { mixing };
            (*kernel, (ns as u64).max(1))
        };
        LayerLatency { layer: self.layer.clone(), channel_ns: self.uniform_ns.iter().map(price).collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backbone::EncoderDecoder;
    use crate::derive::ChannelCosts;

    fn backbone() -> Backbone {
        Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: 1,
            classes: 2,
            base_width: 14,
            levels: 2,
            ..EncoderDecoder::default()
        })
    }

    /// Times of the layers of [`backbone`]: `of` gives that of a kernel, and of the
    /// even split for none.
    fn times(kernels: &KernelSet, mut of: impl FnMut(Option<Kernel>) -> u64) -> Vec<LayerTimes> {
        let layers = backbone().searchable_layers().into_iter().map(|layer| {
            let measured = kernels.iter().chain([Kernel::K333]);
            let uniform_ns = measured.map(|kernel| (kernel, of(Some(kernel)))).collect();
            LayerTimes { layer: layer.name, channels: layer.channels, uniform_ns, even_ns: of(None) }
        });
        layers.collect()
    }

    #[test]
    fn what_was_measured_is_what_it_costs() {
        let kernels = KernelSet::volumetric();
        // The branches of the even split take 1.5 times their shares.
        let taps_ns = |kernel: Kernel| u64::from(kernel.taps()) * 100_000;
        let even_ns = kernels.iter().map(taps_ns).sum::<u64>() / 7 * 3 / 2;
        let layers = times(&kernels, |kernel| kernel.map_or(even_ns, taps_ns));
        let (count, alone_ns) = (layers.len() as u64, 2_700_000);
        let reference_ns = count * alone_ns + 5_000_000;
        let table = LatencyTable::from_times(&kernels, reference_ns, &layers);
        let costs = ChannelCosts::measured(&backbone(), &kernels, &table).unwrap();
        let cost = |kernels: &[Kernel]| {
            let architecture = Architecture::even(backbone(), kernels).unwrap();
            assert_eq!(table.predicted_ns(&backbone(), &architecture), Some(costs.of(&architecture)));
            costs.of(&architecture)
        };
        assert_eq!(cost(&[Kernel::K333]), reference_ns);
        // To the nanosecond that a price is rounded by.
        let even = cost(&kernels.iter().collect::<Vec<_>>());
        let expected = 5_000_000 + count * even_ns;
        assert!(even.abs_diff(expected) < 100 * count, "{even} {expected}");
        assert!(cost(&[Kernel::K113]) > 5_000_000 + count * taps_ns(Kernel::K113), "bears what mixing costs");

        let unmeasured = Architecture::even(backbone(), &[Kernel::K111]).unwrap();
        assert_eq!(table.predicted_ns(&backbone(), &unmeasured), None);
        let other = EncoderDecoder { base_width: 7, classes: 2, levels: 2, ..EncoderDecoder::default() };
        let other = Architecture::even(Backbone::EncoderDecoder(other), &[Kernel::K333]).unwrap();
        assert_eq!(table.predicted_ns(&backbone(), &other), None);
    }

    proptest! {
        /// Whatever a clock says, a table is one that derivation takes, in which
        /// `3x3x3` everywhere costs the whole.
        #[test]
        fn any_times_give_a_table(
            picks in proptest::collection::vec(1_u64..100_000_000, 40),
            reference_ns in 1_000_000_u64..1_000_000_000,
            space in 0_usize..3,
        ) {
            let kernels = KernelSet::named(["1_2d", "2_3d", "volume_pointwise"][space]).unwrap();
            let mut picks = picks.into_iter().cycle();
            let layers = times(&kernels, |_| picks.next().unwrap());
            let table = LatencyTable::from_times(&kernels, reference_ns, &layers);
            let text = serde_json::to_string(&table).unwrap();
            let table: LatencyTable = serde_json::from_str(&text).unwrap();
            let costs = ChannelCosts::measured(&backbone(), &kernels, &table).unwrap();
            let c3d = Architecture::even(backbone(), &[Kernel::K333]).unwrap();
            prop_assert_eq!(costs.reference(), reference_ns);
            // But for the nanosecond that a channel costs at least.
            prop_assert!(costs.of(&c3d).abs_diff(reference_ns) < 1000, "{}", costs.of(&c3d));
        }
    }
}
