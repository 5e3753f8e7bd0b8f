//! The relaxed problem: at a price per unit of cost, layers are independent.
//!
//! A layer takes its candidates in blocks of `multiple` channels, the best of a
//! kernel first, so a block never scores more than the one before it and taking
//! the dearest blocks one by one is optimal. Where the width is no multiple, what
//! remains goes to one kernel, on top of its blocks; each kernel is tried.

use super::costs::ChannelCosts;
use crate::kernel::Kernel;
use crate::scores::ChannelScores;

/// Channels per kernel, by position in [`Problem::kernels`].
pub(super) type Counts = [u32; Kernel::ALL.len()];

/// Counts of every searchable layer.
pub(super) type Choice = Vec<Counts>;

/// Scores and costs of all layers, arranged for choosing.
pub(super) struct Problem {
    /// The search space in the order of ties: fewer taps first, then canonical.
    pub kernels: Vec<Kernel>,
    /// Counts are multiples of it, but for one remainder per layer.
    pub multiple: u32,
    pub layers: Vec<Layer>,
}

pub(super) struct Layer {
    /// Cost of one channel of each kernel.
    pub costs: Vec<u64>,
    /// Total score of the n best channels of each kernel, n from 0 to C.
    totals: Vec<Vec<f64>>,
    pub variants: Vec<Variant>,
    /// Blocks that are taken in all.
    pub blocks: usize,
}

/// Where the remainder of a layer's channels goes.
pub(super) struct Variant {
    pub base: Counts,
    /// Scores of the blocks of each kernel beyond the base, falling.
    pub blocks: Vec<Vec<f64>>,
}

/// What one variant takes at a price.
pub(super) struct Taken {
    pub blocks: [usize; Kernel::ALL.len()],
    /// Score minus price times cost, base included.
    pub value: f64,
    /// Value of the last block that was taken; none for a layer without blocks.
    pub threshold: Option<f64>,
}

impl Problem {
    /// Scores are divided by their layer's mean, so that layers weigh alike.
    /// Without costs every channel is free.
    pub fn new(scores: &ChannelScores, costs: Option<&ChannelCosts>, multiple: u32) -> Self {
        let mut kernels: Vec<Kernel> = scores.kernels().iter().collect();
        kernels.sort_by_key(|kernel| (kernel.taps(), *kernel));
        let layers = scores.layers().iter().enumerate().map(|(index, layer)| {
            let count: usize = layer.scores.iter().map(Vec::len).sum();
            let sum: f64 = layer.scores.iter().flatten().map(|score| f64::from(*score)).sum();
            let mean = if sum > 0.0 { sum / count as f64 } else { 1.0 };
            let of = |kernel: &Kernel| {
                let position = scores.kernels().iter().position(|other| other == *kernel);
                let list = position.map_or(&[][..], |position| &layer.scores[position]);
                list.iter().map(|score| f64::from(*score) / mean).collect::<Vec<f64>>()
            };
            let own = kernels.iter().map(of).collect();
            let cost = |kernel: &Kernel| costs.map_or(0, |costs| costs.channel(index, *kernel));
            let costs = kernels.iter().map(cost).collect();
            Layer::new(own, costs, multiple.max(1))
        });
        let layers = layers.collect();
        Problem { kernels, multiple: multiple.max(1), layers }
    }

    /// The choice of the highest Σ (score − price · cost).
    pub fn choose(&self, price: f64) -> Choice {
        self.layers.iter().map(|layer| layer.choose(price, self.multiple, |_| true).0).collect()
    }

    /// The highest score among the choices of the lowest cost.
    pub fn lightest(&self) -> Choice {
        self.extreme(|costs| costs.iter().min().copied())
    }

    /// The highest score among the choices of the highest cost.
    pub fn heaviest(&self) -> Choice {
        self.extreme(|costs| costs.iter().max().copied())
    }

    fn extreme(&self, bound: impl Fn(&[u64]) -> Option<u64>) -> Choice {
        let choose = |layer: &Layer| {
            let bound = bound(&layer.costs);
            layer.choose(0.0, self.multiple, |kernel| Some(layer.costs[kernel]) == bound).0
        };
        self.layers.iter().map(choose).collect()
    }

    pub fn cost(&self, choice: &Choice) -> u64 {
        self.layers.iter().zip(choice).map(|(layer, counts)| layer.cost(counts)).sum()
    }

    pub fn score(&self, choice: &Choice) -> f64 {
        self.layers.iter().zip(choice).map(|(layer, counts)| layer.score(counts)).sum()
    }

    /// Highest Σ (score − price · cost) of any choice.
    pub fn value(&self, price: f64) -> f64 {
        self.layers.iter().map(|layer| layer.choose(price, self.multiple, |_| true).1).sum()
    }
}

impl Layer {
    /// `scores[kernel]` are all channels of the layer, in any order.
    fn new(mut scores: Vec<Vec<f64>>, costs: Vec<u64>, multiple: u32) -> Self {
        let width = scores.first().map_or(0, Vec::len);
        let multiple = multiple as usize;
        let (blocks, remainder) = (width / multiple, width % multiple);
        let mut totals = Vec::with_capacity(scores.len());
        for list in &mut scores {
            list.sort_by(|left, right| right.total_cmp(left));
            let mut total = 0.0;
            let sums = list.iter().map(|score| {
                total += score;
                total
            });
            totals.push(std::iter::once(0.0).chain(sums).collect::<Vec<f64>>());
        }
        // Summed afresh, not as differences of totals: equal scores must give equal blocks.
        let blocks_from = |list: &[f64], from: usize| -> Vec<f64> {
            list[from..].chunks_exact(multiple).map(|block| block.iter().sum()).collect()
        };
        let variant = |holder: Option<usize>| {
            let mut base = Counts::default();
            if let Some(kernel) = holder {
                base[kernel] = remainder as u32;
            }
            let blocks =
                scores.iter().enumerate().map(|(kernel, list)| blocks_from(list, base[kernel] as usize));
            Variant { base, blocks: blocks.collect() }
        };
        let variants = match remainder {
            0 => vec![variant(None)],
            _ => (0..scores.len()).map(|kernel| variant(Some(kernel))).collect(),
        };
        Layer { costs, variants, blocks, totals }
    }

    /// The counts of the highest score − price · cost among the kernels that are
    /// `allowed`, and that value.
    fn choose(&self, price: f64, multiple: u32, allowed: impl Fn(usize) -> bool) -> (Counts, f64) {
        let mut best: Option<(Counts, f64)> = None;
        for variant in &self.variants {
            if variant.base.iter().enumerate().any(|(kernel, count)| *count > 0 && !allowed(kernel)) {
                continue;
            }
            let taken = self.take(variant, price, multiple, &allowed);
            if best.is_none_or(|(_, value)| taken.value > value) {
                best = Some((variant.counts(&taken.blocks, multiple), taken.value));
            }
        }
        best.unwrap_or_default()
    }

    /// Takes block after block, the most valuable first; of equal ones that of the
    /// kernel which comes first.
    pub fn take(
        &self,
        variant: &Variant,
        price: f64,
        multiple: u32,
        allowed: impl Fn(usize) -> bool,
    ) -> Taken {
        let penalties: Vec<f64> =
            self.costs.iter().map(|cost| price * (cost * u64::from(multiple)) as f64).collect();
        let mut taken = Taken { blocks: Default::default(), value: 0.0, threshold: None };
        for _ in 0..self.blocks {
            let mut best: Option<(usize, f64)> = None;
            for (kernel, blocks) in variant.blocks.iter().enumerate() {
                let Some(score) = blocks.get(taken.blocks[kernel]) else { continue };
                let value = score - penalties[kernel];
                if best.is_none_or(|(_, other)| value > other) && allowed(kernel) {
                    best = Some((kernel, value));
                }
            }
            let Some((kernel, value)) = best else { break };
            taken.blocks[kernel] += 1;
            taken.threshold = Some(value);
        }
        let counts = variant.counts(&taken.blocks, multiple);
        taken.value = self.score(&counts) - price * self.cost(&counts) as f64;
        taken
    }

    pub fn cost(&self, counts: &Counts) -> u64 {
        self.costs.iter().zip(counts).map(|(cost, count)| cost * u64::from(*count)).sum()
    }

    pub fn score(&self, counts: &Counts) -> f64 {
        self.totals.iter().zip(counts).map(|(totals, count)| totals[*count as usize]).sum()
    }
}

impl Variant {
    pub fn counts(&self, blocks: &[usize; Kernel::ALL.len()], multiple: u32) -> Counts {
        std::array::from_fn(|kernel| self.base[kernel] + blocks[kernel] as u32 * multiple)
    }
}
