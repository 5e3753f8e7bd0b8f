//! An allocation that nobody chose, at the cost of one that was.
//!
//! A search is worth its price only if what it finds beats what chance finds at
//! the same cost.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{ChannelCosts, DeriveError};
use crate::allocation::ChannelAllocation;
use crate::architecture::{Architecture, LayerAllocation};
use crate::kernel::{Kernel, KernelSet};

/// A random architecture of the search space that costs what `architecture` costs.
///
/// Each layer's shares are drawn evenly from all that there are. Blocks of
/// `multiple` channels are then exchanged at random until the cost fits, and at
/// last one or two at a time until none brings it closer; of several draws the
/// closest is taken. The cost is never above; it is the same where the allocations
/// of the space are fine enough, as they are in residual networks. What remains of
/// a width that is no multiple goes to one kernel. The same arguments give the same
/// architecture.
///
/// # Errors
/// Every architecture of the search space costs more, because `architecture` has
/// kernels that are lighter than all of `kernels`.
pub fn random_like(
    architecture: &Architecture,
    kernels: &KernelSet,
    costs: &ChannelCosts,
    multiple: u32,
    seed: u64,
) -> Result<Architecture, DeriveError> {
    let target = costs.of(architecture);
    if costs.lightest(kernels) > target {
        let of = |cost: u64| cost as f64 / costs.reference().max(1) as f64;
        return Err(DeriveError::BudgetTooSmall {
            budget: of(target),
            lightest: of(costs.lightest(kernels)),
        });
    }
    let budget = target - costs.fixed();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut best: Option<Draw> = None;
    for _ in 0..ATTEMPTS {
        let draw = Draw::new(architecture, kernels, costs, multiple.max(1), &mut random);
        let draw = draw.fitted(budget, &mut random);
        if best.as_ref().is_none_or(|best| draw.cost() > best.cost()) {
            best = Some(draw);
        }
        if best.as_ref().is_some_and(|best| best.cost() == budget) {
            break;
        }
    }
    match best {
        Some(draw) => draw.architecture(architecture),
        None => Ok(architecture.clone()),
    }
}

/// Draws of which the one that comes closest to the cost is taken.
const ATTEMPTS: u32 = 16;

/// One block of channels of a layer that changes its kernel.
#[derive(Clone, Copy)]
struct Exchange {
    layer: usize,
    from: usize,
    into: usize,
    added: i64,
}

struct Draw {
    kernels: Vec<Kernel>,
    multiple: u32,
    layers: Vec<DrawnLayer>,
}

struct DrawnLayer {
    /// Cost of a channel of each kernel.
    costs: Vec<u64>,
    blocks: Vec<u32>,
    /// What no block holds, and the kernel that has it.
    remainder: (u32, usize),
}

impl Draw {
    fn new(
        architecture: &Architecture,
        kernels: &KernelSet,
        costs: &ChannelCosts,
        multiple: u32,
        random: &mut ChaCha8Rng,
    ) -> Self {
        let kernels: Vec<Kernel> = kernels.iter().collect();
        let layers = architecture.layers().enumerate().map(|(index, layer)| {
            let width = layer.channels.width();
            let total = width / multiple;
            // Cuts of a line at random places give shares that are even on the simplex.
            let mut cuts: Vec<u32> = (1..kernels.len()).map(|_| random.random_range(0..=total)).collect();
            cuts.sort_unstable();
            cuts.push(total);
            let mut before = 0;
            let blocks = cuts.into_iter().map(|cut| cut - std::mem::replace(&mut before, cut)).collect();
            DrawnLayer {
                costs: kernels.iter().map(|kernel| costs.channel(index, *kernel)).collect(),
                blocks,
                remainder: (width % multiple, random.random_range(0..kernels.len())),
            }
        });
        let layers = layers.collect();
        Draw { kernels, multiple, layers }
    }

    /// Exchanges blocks until the cost is as close to `budget` as it gets.
    fn fitted(mut self, budget: u64, random: &mut ChaCha8Rng) -> Self {
        while self.cost() > budget {
            let lighter: Vec<Exchange> = self.exchanges().filter(|exchange| exchange.added < 0).collect();
            if lighter.is_empty() {
                // Only what remains of the widths is left to exchange.
                self.lighten_remainders();
                break;
            }
            self.apply(lighter[random.random_range(0..lighter.len())]);
        }
        loop {
            let left = (budget - self.cost()) as i64;
            let fits = |exchange: &Exchange| exchange.added > 0 && exchange.added <= left;
            let fitting: Vec<Exchange> = self.exchanges().filter(fits).collect();
            if fitting.is_empty() {
                break;
            }
            self.apply(fitting[random.random_range(0..fitting.len())]);
        }
        while let Some(pair) = self.closest_pair((budget - self.cost()) as i64, random) {
            pair.into_iter().for_each(|exchange| self.apply(exchange));
        }
        self
    }

    fn cost(&self) -> u64 {
        let layer = |layer: &DrawnLayer| -> u64 {
            let (rest, holder) = layer.remainder;
            let blocks = layer.blocks.iter().zip(&layer.costs);
            let blocks: u64 = blocks.map(|(count, cost)| u64::from(count * self.multiple) * cost).sum();
            blocks + u64::from(rest) * layer.costs[holder]
        };
        self.layers.iter().map(layer).sum()
    }

    /// Every exchange that changes the cost.
    fn exchanges(&self) -> impl Iterator<Item = Exchange> + '_ {
        let count = self.kernels.len();
        let pairs =
            move |layer| (0..count).flat_map(move |from| (0..count).map(move |into| (layer, from, into)));
        (0..self.layers.len()).flat_map(pairs).filter_map(|(layer, from, into)| {
            let DrawnLayer { costs, blocks, .. } = &self.layers[layer];
            let added = (costs[into] as i64 - costs[from] as i64) * i64::from(self.multiple);
            (blocks[from] > 0 && added != 0).then_some(Exchange { layer, from, into, added })
        })
    }

    fn apply(&mut self, exchange: Exchange) {
        let blocks = &mut self.layers[exchange.layer].blocks;
        blocks[exchange.from] -= 1;
        blocks[exchange.into] += 1;
    }

    fn lighten_remainders(&mut self) {
        for layer in &mut self.layers {
            let lightest = (0..layer.costs.len()).min_by_key(|kernel| layer.costs[*kernel]);
            layer.remainder.1 = lightest.unwrap_or(0);
        }
    }

    /// Two exchanges that together use up as much of `left` as any two can, one of
    /// the pairs that do at random; none if no two use up any.
    fn closest_pair(&self, left: i64, random: &mut ChaCha8Rng) -> Option<[Exchange; 2]> {
        let mut sorted: Vec<Exchange> = self.exchanges().collect();
        sorted.sort_by_key(|exchange| (exchange.added, exchange.layer, exchange.from, exchange.into));
        let mut most = 0;
        let mut pairs = Vec::new();
        for first in &sorted {
            // All that fit beside the first; the last of them use up most.
            let end = sorted.partition_point(|second| first.added + second.added <= left);
            for second in sorted[..end].iter().rev() {
                let used = first.added + second.added;
                if used < most || used <= 0 {
                    break;
                }
                if !self.is_possible(first, second) {
                    continue;
                }
                if used > most {
                    most = used;
                    pairs.clear();
                }
                pairs.push([*first, *second]);
            }
        }
        (!pairs.is_empty()).then(|| pairs[random.random_range(0..pairs.len())])
    }

    /// Whether the second can follow the first: both may want the last block.
    fn is_possible(&self, first: &Exchange, second: &Exchange) -> bool {
        let same = first.layer == second.layer && first.from == second.from;
        !same || self.layers[first.layer].blocks[first.from] >= 2
    }

    fn architecture(&self, like: &Architecture) -> Result<Architecture, DeriveError> {
        let layers = like.layers().zip(&self.layers).filter_map(|(layer, drawn)| {
            let (rest, holder) = drawn.remainder;
            let counts =
                self.kernels.iter().zip(&drawn.blocks).enumerate().map(|(index, (kernel, blocks))| {
                    (*kernel, blocks * self.multiple + if index == holder { rest } else { 0 })
                });
            let channels = ChannelAllocation::from_counts(counts).ok()?;
            Some(LayerAllocation { layer: layer.layer, channels })
        });
        let layers: Vec<LayerAllocation> = layers.collect();
        Ok(Architecture::new(like.backbone().clone(), layers)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backbone::{Backbone, EncoderDecoder, MiddleLayer, ResnetDepth, VideoResnet};
    use crate::spec::CostMeasure;

    fn backbones() -> [Backbone; 2] {
        [
            Backbone::EncoderDecoder(EncoderDecoder { base_width: 5, ..EncoderDecoder::default() }),
            Backbone::VideoResnet(VideoResnet {
                input_channels: 3,
                classes: 174,
                depth: ResnetDepth::R50,
                base_width: 16,
                dropout_percent: 30,
                middle: MiddleLayer::Searchable,
            }),
        ]
    }

    /// Any architecture of a space: a first share per layer, the rest even.
    fn architecture(backbone: Backbone, kernels: &KernelSet, shares: &[u32], multiple: u32) -> Architecture {
        let kernels: Vec<Kernel> = kernels.iter().collect();
        let layers = backbone.searchable_layers().into_iter().enumerate().map(|(index, layer)| {
            let share = shares[index % shares.len()] % (layer.channels + 1) / multiple * multiple;
            let first = kernels[index % kernels.len()];
            let rest = ChannelAllocation::even(&kernels, layer.channels - share).ok();
            let rest: Vec<(Kernel, u32)> = match rest {
                Some(rest) if multiple == 1 => rest.iter().collect(),
                _ => vec![(kernels[0], layer.channels - share)],
            };
            let counts = rest.into_iter().chain([(first, share)]);
            LayerAllocation { layer: layer.name, channels: ChannelAllocation::from_counts(counts).unwrap() }
        });
        let layers: Vec<LayerAllocation> = layers.collect();
        Architecture::new(backbone, layers).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// The same cost in a residual network, less than one exchange apart in any
        /// other; never more; kernels of the space alone; the same for the same seed.
        #[test]
        fn a_random_architecture_costs_the_same(
            shares in proptest::collection::vec(0_u32..600, 16),
            space in 0_usize..5,
            family in 0_usize..2,
            seed in any::<u64>(),
            param in any::<bool>(),
        ) {
            let kernels = KernelSet::named(KernelSet::NAMES[space]).unwrap();
            let backbone = backbones()[family].clone();
            let measure = if param { CostMeasure::Param } else { CostMeasure::Mac };
            let costs = ChannelCosts::new(&backbone, [16; 3], measure).unwrap();
            let original = architecture(backbone, &kernels, &shares, 1);
            let random = random_like(&original, &kernels, &costs, 1, seed).unwrap();
            let (cost, target) = (costs.of(&random), costs.of(&original));
            let step = |layer: usize| kernels.iter().zip(kernels.iter().skip(1)).map(move |pair| (layer, pair));
            let layers = 0..original.layers().count();
            let steps = layers.flat_map(step).map(|(layer, (heavy, light))| {
                costs.channel(layer, heavy) - costs.channel(layer, light)
            });
            let least = steps.filter(|step| *step > 0).min().unwrap();
            let apart = if family == 1 { 1 } else { least };
            prop_assert!(cost <= target && target - cost < apart, "{cost} of {target}");
            prop_assert!(random.composition().iter().all(|(kernel, _)| kernels.contains(*kernel)));
            prop_assert_eq!(random_like(&original, &kernels, &costs, 1, seed).unwrap(), random);
        }

        /// At multiples a cost may be out of reach; what is left is less than one
        /// exchange of the narrowest layer.
        #[test]
        fn at_multiples_the_cost_is_as_close_as_one_exchange(
            shares in proptest::collection::vec(0_u32..600, 16),
            seed in any::<u64>(),
        ) {
            let [_, backbone] = backbones();
            let kernels = KernelSet::named("1_2_3d").unwrap();
            let costs = ChannelCosts::new(&backbone, [8, 32, 32], CostMeasure::Mac).unwrap();
            let original = architecture(backbone, &kernels, &shares, 8);
            let random = random_like(&original, &kernels, &costs, 8, seed).unwrap();
            prop_assert!(random.layers().all(|layer| layer.channels.iter().all(|(_, count)| count % 8 == 0)));
            let (cost, target) = (costs.of(&random), costs.of(&original));
            let steps = (0..16).map(|layer| 8 * (costs.channel(layer, Kernel::K133) - costs.channel(layer, Kernel::K311)));
            prop_assert!(cost <= target && target - cost < steps.min().unwrap(), "{cost} of {target}");
        }
    }

    #[test]
    fn seeds_give_different_architectures_and_shares_are_spread() {
        let [_, backbone] = backbones();
        let kernels = KernelSet::named("1_2d").unwrap();
        let costs = ChannelCosts::new(&backbone, [8, 32, 32], CostMeasure::Mac).unwrap();
        let even = Architecture::even(backbone, &[Kernel::K133, Kernel::K311]).unwrap();
        let draws: Vec<Architecture> =
            (0..40).map(|seed| random_like(&even, &kernels, &costs, 1, seed).unwrap()).collect();
        let mut digests: Vec<_> = draws.iter().map(Architecture::digest).collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 40);
        let lopsided = draws.iter().flat_map(Architecture::layers).filter(|layer| {
            let share = f64::from(layer.channels.count(Kernel::K133)) / f64::from(layer.channels.width());
            !(0.2..0.8).contains(&share)
        });
        assert!(lopsided.count() > 40 * 16 / 10);
    }

    #[test]
    fn a_space_without_kernels_light_enough_is_refused() {
        let [backbone, _] = backbones();
        let costs = ChannelCosts::new(&backbone, [16; 3], CostMeasure::Mac).unwrap();
        let light = Architecture::even(backbone, &[Kernel::K311]).unwrap();
        let error = random_like(&light, &KernelSet::named("2_3d").unwrap(), &costs, 1, 0).unwrap_err();
        assert!(error.to_string().contains("add lighter kernels"), "{error}");
    }
}
