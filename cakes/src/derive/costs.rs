//! What one channel of one kernel costs in each searchable layer.

use super::{DeriveError, LatencyTable};
use crate::Extent;
use crate::allocation::ChannelAllocation;
use crate::architecture::Architecture;
use crate::backbone::Backbone;
use crate::cost::cost;
use crate::kernel::{Kernel, KernelSet};
use crate::network::NodeId;
use crate::spec::CostMeasure;

/// Costs that a budget limits: a fixed part, and in each searchable layer a cost
/// per output channel and kernel.
///
/// Multiply-accumulates and parameters are exactly of this form, because a layer
/// reads all its input channels whatever kernels the layer before it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelCosts {
    fixed: u64,
    /// Of the all-`3x3x3` network.
    reference: u64,
    layers: Vec<LayerCosts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LayerCosts {
    channels: u32,
    /// Of one output channel, by [`Kernel::index`]; none where it is not known.
    per_channel: [Option<u64>; Kernel::ALL.len()],
}

impl ChannelCosts {
    /// Exact costs of a backbone's networks, for one sample of `extent` voxels.
    ///
    /// # Errors
    /// The backbone's configuration is out of range or does not fit the extent;
    /// the measure is one that must be measured.
    pub fn new(backbone: &Backbone, extent: Extent, measure: CostMeasure) -> Result<Self, DeriveError> {
        let uniform = Architecture::even(backbone.clone(), &[Kernel::K333])?;
        let network = uniform.network();
        let total = cost(&network, extent)?;
        let reference = match measure {
            CostMeasure::Mac => total.mac_count,
            CostMeasure::Param => total.param_count,
            CostMeasure::Latency => return Err(DeriveError::NotMeasured),
        };
        let shapes = network.shapes(extent)?;
        let per_tap = |name: &str| {
            let position = network.nodes.iter().position(|node| node.name == name)?;
            let NodeId(input) = *network.nodes[position].inputs.first()?;
            let positions = if measure == CostMeasure::Mac { shapes[position].positions() } else { 1 };
            Some(u64::from(shapes[input].channels) * positions)
        };
        let layers: Vec<LayerCosts> = backbone
            .searchable_layers()
            .iter()
            .filter_map(|layer| {
                let per_tap = per_tap(&layer.name)?;
                let per_channel = Kernel::ALL.map(|kernel| Some(per_tap * u64::from(kernel.taps())));
                Some(LayerCosts { channels: layer.channels, per_channel })
            })
            .collect();
        let mut costs = ChannelCosts { fixed: 0, reference, layers };
        costs.fixed = reference - costs.searched(&uniform);
        Ok(costs)
    }

    /// Costs by any measure: counted, or from the table that measuring gave.
    ///
    /// # Errors
    /// Those of [`ChannelCosts::new`] and [`ChannelCosts::measured`]; there is no
    /// table, but the measure needs one.
    pub fn by(
        measure: CostMeasure,
        backbone: &Backbone,
        kernels: &KernelSet,
        extent: Extent,
        latency: Option<&LatencyTable>,
    ) -> Result<Self, DeriveError> {
        match measure {
            CostMeasure::Latency => {
                Self::measured(backbone, kernels, latency.ok_or(DeriveError::NotMeasured)?)
            }
            CostMeasure::Mac | CostMeasure::Param => Self::new(backbone, extent, measure),
        }
    }

    /// Measured costs of a backbone's networks.
    ///
    /// # Errors
    /// A searchable layer that has no row, has two, or whose row lacks one of
    /// `kernels`; a row of a layer that the backbone does not have; a time of nothing
    /// or beyond [`LatencyTable::TIME_NS_MAX`].
    pub fn measured(
        backbone: &Backbone,
        kernels: &KernelSet,
        table: &LatencyTable,
    ) -> Result<Self, DeriveError> {
        let wrong =
            |layer: &str, problem: String| DeriveError::LatencyTable { layer: layer.to_owned(), problem };
        let is_time = |ns: u64| (1..=LatencyTable::TIME_NS_MAX).contains(&ns);
        if !is_time(table.reference_ns) || table.fixed_ns > LatencyTable::TIME_NS_MAX {
            return Err(DeriveError::LatencyTotals {
                fixed_ns: table.fixed_ns,
                reference_ns: table.reference_ns,
            });
        }
        let known = backbone.searchable_layers();
        for row in &table.layers {
            if !known.iter().any(|layer| layer.name == row.layer) {
                let names: Vec<&str> = known.iter().map(|layer| layer.name.as_str()).collect();
                let problem = format!("is no searchable layer; known are {}", names.join(", "));
                return Err(wrong(&row.layer, problem));
            }
        }
        let mut layers = Vec::with_capacity(known.len());
        for layer in &known {
            let mut rows = table.layers.iter().filter(|row| row.layer == layer.name);
            let row = match (rows.next(), rows.next()) {
                (Some(row), None) => row,
                (None, _) => return Err(wrong(&layer.name, "has no row; measure it".to_owned())),
                (Some(_), Some(_)) => return Err(wrong(&layer.name, "has two rows; keep one".to_owned())),
            };
            if let Some(kernel) = kernels.iter().find(|kernel| !row.channel_ns.contains_key(kernel)) {
                return Err(wrong(&layer.name, format!("lacks kernel {kernel} of the search space")));
            }
            if let Some((kernel, ns)) = row.channel_ns.iter().find(|(_, ns)| !is_time(**ns)) {
                return Err(wrong(&layer.name, format!("{ns} ns are no time of a channel of {kernel}")));
            }
            let per_channel = Kernel::ALL.map(|kernel| row.channel_ns.get(&kernel).copied());
            layers.push(LayerCosts { channels: layer.channels, per_channel });
        }
        Ok(ChannelCosts { fixed: table.fixed_ns, reference: table.reference_ns, layers })
    }

    /// Cost of the all-`3x3x3` network.
    pub fn reference(&self) -> u64 {
        self.reference
    }

    /// Most that an architecture of `budget` may cost.
    pub fn limit(&self, budget: f64) -> u64 {
        (budget * self.reference as f64).floor() as u64
    }

    /// Cost of an architecture of the backbone that these costs are of. Channels of
    /// a kernel that a [`LatencyTable`] lacks count nothing.
    pub fn of(&self, architecture: &Architecture) -> u64 {
        self.fixed + self.searched(architecture)
    }

    /// Cost of the lightest architecture of a search space.
    pub fn lightest(&self, kernels: &KernelSet) -> u64 {
        let layer = |costs: &LayerCosts| {
            let per_channel = kernels.iter().filter_map(|kernel| costs.per_channel[kernel.index()]);
            u64::from(costs.channels) * per_channel.min().unwrap_or(0)
        };
        self.fixed + self.layers.iter().map(layer).sum::<u64>()
    }

    /// Checks that some architecture of the search space stays within `budget`.
    ///
    /// # Errors
    /// The budget is out of range, or below the lightest architecture.
    pub fn check_budget(&self, kernels: &KernelSet, budget: f64) -> Result<(), DeriveError> {
        check_fraction(budget)?;
        let lightest = self.lightest(kernels);
        if lightest > self.limit(budget) {
            let lightest = lightest as f64 / self.reference.max(1) as f64;
            return Err(DeriveError::BudgetTooSmall { budget, lightest });
        }
        Ok(())
    }

    /// What does not depend on allocations.
    pub(super) fn fixed(&self) -> u64 {
        self.fixed
    }

    /// Cost of one output channel of searchable layer `layer`, counted from 0.
    pub(super) fn channel(&self, layer: usize, kernel: Kernel) -> u64 {
        self.layers.get(layer).and_then(|costs| costs.per_channel[kernel.index()]).unwrap_or(0)
    }

    fn searched(&self, architecture: &Architecture) -> u64 {
        let layer = |(costs, channels): (&LayerCosts, ChannelAllocation)| -> u64 {
            let cost = |(kernel, count): (Kernel, u32)| {
                u64::from(count) * costs.per_channel[kernel.index()].unwrap_or(0)
            };
            channels.iter().map(cost).sum()
        };
        let layers = self.layers.iter().zip(architecture.layers().map(|layer| layer.channels));
        layers.map(layer).sum()
    }
}

/// Checks that a budget is a fraction.
///
/// # Errors
/// It is out of range.
pub(super) fn check_fraction(budget: f64) -> Result<(), DeriveError> {
    if budget > 0.0 && budget <= 1.0 { Ok(()) } else { Err(DeriveError::BudgetOutOfRange(budget)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::architecture::LayerAllocation;
    use crate::backbone::{EncoderDecoder, ResnetDepth, VolumeResnet, VolumeStem};
    use crate::derive::LayerLatency;

    fn backbones() -> [Backbone; 2] {
        [
            Backbone::EncoderDecoder(EncoderDecoder {
                input_channels: 1,
                classes: 2,
                base_width: 3,
                levels: 2,
                ..EncoderDecoder::default()
            }),
            Backbone::VolumeResnet(VolumeResnet {
                input_channels: 1,
                classes: 2,
                depth: ResnetDepth::R18,
                base_width: 2,
                dropout_percent: 0,
                stem: VolumeStem::Wide,
                middle: Default::default(),
            }),
        ]
    }

    proptest! {
        /// The form that derivation relies on is what the cost model counts.
        #[test]
        fn sums_over_channels_are_the_cost_models(picks in proptest::collection::vec(0_usize..8, 64), family in 0_usize..2) {
            let backbone = backbones()[family].clone();
            let mut picks = picks.into_iter().cycle();
            let layers = backbone.searchable_layers().into_iter().map(|layer| {
                let counts = (0..layer.channels).map(|_| (Kernel::ALL[picks.next().unwrap()], 1));
                LayerAllocation { layer: layer.name, channels: ChannelAllocation::from_counts(counts).unwrap() }
            });
            let architecture = Architecture::new(backbone.clone(), layers.collect::<Vec<_>>()).unwrap();
            let expected = cost(&architecture.network(), [16; 3]).unwrap();
            let of = |measure| ChannelCosts::new(&backbone, [16; 3], measure).unwrap().of(&architecture);
            prop_assert_eq!(of(CostMeasure::Mac), expected.mac_count);
            prop_assert_eq!(of(CostMeasure::Param), expected.param_count);
        }
    }

    #[test]
    fn a_table_of_times_must_cover_the_space_and_the_layers() {
        let [backbone, _] = backbones();
        let kernels = KernelSet::named("1_2d").unwrap();
        let row = |layer: &str| LayerLatency {
            layer: layer.to_owned(),
            channel_ns: [(Kernel::K133, 900), (Kernel::K311, 700)].into(),
        };
        let layers: Vec<LayerLatency> =
            backbone.searchable_layers().iter().map(|layer| row(&layer.name)).collect();
        let table = LatencyTable { fixed_ns: 1000, reference_ns: 90_000, layers };
        let costs = ChannelCosts::measured(&backbone, &kernels, &table).unwrap();
        assert_eq!(costs.lightest(&kernels), 1000 + 24 * 700);
        assert_eq!(costs.limit(0.5), 45_000);

        let problem = |change: &dyn Fn(&mut LatencyTable)| {
            let mut spoilt = table.clone();
            change(&mut spoilt);
            ChannelCosts::measured(&backbone, &kernels, &spoilt).unwrap_err().to_string()
        };
        let missing = problem(&|table| drop(table.layers.remove(1)));
        assert!(missing.contains("'encoder.0.conv2'") && missing.contains("no row"), "{missing}");
        let unknown = problem(&|table| table.layers[0].layer = "encoder.7.conv1".into());
        assert!(unknown.contains("'encoder.7.conv1'") && unknown.contains("known are"), "{unknown}");
        let kernel = problem(&|table| {
            table.layers[2].channel_ns.remove(&Kernel::K311);
        });
        assert!(kernel.contains("lacks kernel 3x1x1"), "{kernel}");
        let twice = problem(&|table| table.layers.push(row("encoder.0.conv1")));
        assert!(twice.contains("two rows"), "{twice}");
        let free = problem(&|table| *table.layers[1].channel_ns.get_mut(&Kernel::K133).unwrap() = 0);
        assert!(free.contains("'encoder.0.conv2'") && free.contains("no time"), "{free}");
        let nothing = problem(&|table| table.reference_ns = 0);
        assert!(nothing.contains("reference_ns"), "{nothing}");
        let endless = problem(&|table| table.fixed_ns = u64::MAX);
        assert!(endless.contains("fixed_ns"), "{endless}");
    }

    #[test]
    fn time_is_not_counted_but_measured() {
        let [backbone, _] = backbones();
        let kernels = KernelSet::volumetric();
        let by = |measure| ChannelCosts::by(measure, &backbone, &kernels, [16; 3], None);
        assert_eq!(by(CostMeasure::Latency), Err(DeriveError::NotMeasured));
        assert_eq!(by(CostMeasure::Param), ChannelCosts::new(&backbone, [16; 3], CostMeasure::Param));
    }
}
