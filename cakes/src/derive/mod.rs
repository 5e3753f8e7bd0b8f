//! From scores to architectures: which kernel gets how many channels.
//!
//! Order among candidates is total, so the same scores always give the same
//! architecture: higher score first, then fewer taps, then the kernels' canonical
//! order, then the lower channel. Exactly C candidates of a layer are kept,
//! whatever ties there are (the published code keeps all that reach a threshold).

mod stability;

pub use stability::Stability;

use crate::Extent;
use crate::allocation::ChannelAllocation;
use crate::architecture::{Architecture, ArchitectureError, LayerAllocation};
use crate::backbone::Backbone;
use crate::cost::cost;
use crate::kernel::{Kernel, KernelSet};
use crate::network::{NodeId, ShapeError};
use crate::scores::{ChannelScores, LayerScores};

/// Why scores gave no architecture.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeriveError {
    #[error(
        "a budget of {budget} is below the lightest architecture of this search space, {lightest:.4} of the all-3x3x3 network; raise it or add lighter kernels"
    )]
    BudgetTooSmall { budget: f64, lightest: f64 },
    #[error("a budget is a fraction above 0 and at most 1 of the all-3x3x3 network, got {0}")]
    BudgetOutOfRange(f64),
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// The paper's rule: in each layer the C candidates with the highest scores,
/// whatever they cost (section "Search" of the paper).
///
/// # Errors
/// The backbone's configuration is out of range.
pub fn derive_per_layer(scores: &ChannelScores) -> Result<Architecture, DeriveError> {
    let candidates = Candidates::new(scores, &vec![0.0; scores.layers().len()]);
    candidates.architecture(scores.backbone(), &candidates.choose(0.0))
}

/// The architecture for a budget: the largest on the path of prices whose MACs
/// are at most `budget` of the all-`3x3x3` network's, for one sample of `extent`
/// voxels.
///
/// At a price every layer keeps the C candidates of the highest score − price ·
/// MACs, scores divided by their layer's mean so that layers weigh alike. That
/// is the highest total score among all architectures of its cost (Lagrangian
/// relaxation; the price is found by bisection), and what remains of the budget
/// is filled layer by layer. Price 0 is the paper's rule. A looser budget has a
/// negative price: the L1 of a cost-priority search has charged for taps
/// already, and here some of that is given back, so that half the MACs means
/// half the MACs and not whatever the rule prefers below them.
///
/// # Errors
/// The budget is out of range or below the lightest architecture, or the
/// network does not fit the extent.
pub fn derive_within(
    scores: &ChannelScores,
    extent: Extent,
    budget: f64,
) -> Result<Architecture, DeriveError> {
    let backbone = scores.backbone();
    let reference = reference_macs(backbone, extent)?;
    check_budget(backbone, scores.kernels(), extent, budget)?;
    let limit = (budget * reference as f64).floor();

    let macs_per_tap = macs_per_tap(backbone, extent)?;
    let layer_costs: Vec<f64> = macs_per_tap.iter().map(|macs| *macs as f64).collect();
    let candidates = Candidates::new(scores, &layer_costs);
    let fixed = {
        let uniform = Architecture::even(backbone.clone(), &[Kernel::K333])?;
        let searchable: f64 =
            uniform.layers().zip(&layer_costs).map(|(layer, macs)| layer.channels.taps() as f64 * macs).sum();
        reference as f64 - searchable
    };
    let fits = |choice: &Choice| fixed + candidates.macs(choice) <= limit;

    // A price at which the choice is too dear, and one at which it fits.
    let step = 1.0 / reference as f64;
    let (mut low, mut high) = (0.0, 0.0);
    if fits(&candidates.choose(0.0)) {
        low = -step;
        while fits(&candidates.choose(low)) {
            if candidates.is_heaviest(&candidates.choose(low)) {
                return candidates.architecture(backbone, &candidates.choose(low));
            }
            high = low;
            low *= 2.0;
        }
    } else {
        high = step;
        while !fits(&candidates.choose(high)) {
            low = high;
            high *= 2.0;
        }
    }
    // Until the two prices are neighbours as numbers: their choices then differ
    // by one tie.
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if fits(&candidates.choose(middle)) { high = middle } else { low = middle }
    }
    let generous = candidates.choose(low);
    let mut chosen = candidates.choose(high);
    for layer in 0..chosen.len() {
        let mut richer = chosen.clone();
        richer[layer] = generous[layer];
        if fits(&richer) {
            chosen = richer;
        }
    }
    candidates.architecture(backbone, &chosen)
}

/// MACs of the all-`3x3x3` network, to which budgets refer.
///
/// # Errors
/// The backbone's configuration is out of range or does not fit the extent.
pub fn reference_macs(backbone: &Backbone, extent: Extent) -> Result<u64, DeriveError> {
    let uniform = Architecture::even(backbone.clone(), &[Kernel::K333])?;
    Ok(cost(&uniform.network(), extent)?.mac_count)
}

/// Checks that some architecture of the search space stays within `budget`.
///
/// # Errors
/// The budget is out of range, or below the lightest architecture.
pub fn check_budget(
    backbone: &Backbone,
    kernels: &KernelSet,
    extent: Extent,
    budget: f64,
) -> Result<(), DeriveError> {
    if !(budget > 0.0 && budget <= 1.0) {
        return Err(DeriveError::BudgetOutOfRange(budget));
    }
    let reference = reference_macs(backbone, extent)? as f64;
    let lightest = Architecture::even(backbone.clone(), &[kernels.lightest()])?;
    let lightest = cost(&lightest.network(), extent)?.mac_count as f64;
    if lightest > (budget * reference).floor() {
        return Err(DeriveError::BudgetTooSmall { budget, lightest: lightest / reference });
    }
    Ok(())
}

/// MACs that one tap of one output channel costs in each searchable layer:
/// C_in · D · H · W of its output.
fn macs_per_tap(backbone: &Backbone, extent: Extent) -> Result<Vec<u64>, DeriveError> {
    let network = Architecture::even(backbone.clone(), &[Kernel::K333])?.network();
    let shapes = network.shapes(extent)?;
    let of = |name: &str| {
        let position = network.nodes.iter().position(|node| node.name == name)?;
        let NodeId(input) = *network.nodes[position].inputs.first()?;
        Some(u64::from(shapes[input].channels) * shapes[position].positions())
    };
    Ok(backbone.searchable_layers().iter().filter_map(|layer| of(&layer.name)).collect())
}

/// Kept candidates per kernel of the search space, for each layer.
type Choice = Vec<[u32; Kernel::ALL.len()]>;

struct Candidate {
    kernel: Kernel,
    score: f64,
    macs: f64,
}

/// All candidates, scores divided by the layer's mean.
struct Candidates {
    /// Per layer: channels to keep, and K·C candidates in the order of ties.
    layers: Vec<(usize, Vec<Candidate>)>,
}

impl Candidates {
    fn new(scores: &ChannelScores, macs_per_tap: &[f64]) -> Self {
        let layers = scores.layers().iter().zip(macs_per_tap).map(|(layer, macs)| {
            let channels = layer.scores.first().map_or(0, Vec::len);
            (channels, candidates_of(layer, scores.kernels(), *macs))
        });
        Candidates { layers: layers.collect() }
    }

    /// The choice of the highest Σ (score − price · MACs).
    fn choose(&self, price: f64) -> Choice {
        self.layers.iter().map(|(channels, candidates)| choose_layer(candidates, *channels, price)).collect()
    }

    fn macs(&self, choice: &Choice) -> f64 {
        let layer_macs = |candidates: &[Candidate], counts: &[u32; 8]| -> f64 {
            Kernel::ALL
                .into_iter()
                .zip(counts)
                .filter(|(_, count)| **count > 0)
                .filter_map(|(kernel, count)| {
                    let candidate = candidates.iter().find(|candidate| candidate.kernel == kernel)?;
                    Some(candidate.macs * f64::from(*count))
                })
                .sum()
        };
        self.layers.iter().zip(choice).map(|((_, candidates), counts)| layer_macs(candidates, counts)).sum()
    }

    /// Whether every layer is all of its dearest kernel: no price makes it dearer.
    fn is_heaviest(&self, choice: &Choice) -> bool {
        self.layers.iter().zip(choice).all(|((channels, candidates), counts)| {
            let dearest = candidates.iter().map(|candidate| candidate.kernel.taps()).max();
            let kept =
                Kernel::ALL.into_iter().zip(counts).filter(|(kernel, _)| Some(kernel.taps()) == dearest);
            kept.map(|(_, count)| *count as usize).sum::<usize>() >= *channels
        })
    }

    fn architecture(&self, backbone: &Backbone, choice: &Choice) -> Result<Architecture, DeriveError> {
        let layers = backbone.searchable_layers().into_iter().zip(choice).filter_map(|(layer, counts)| {
            let counts = Kernel::ALL.into_iter().zip(counts.iter().copied());
            let channels = ChannelAllocation::from_counts(counts).ok()?;
            Some(LayerAllocation { layer: layer.name, channels })
        });
        let layers: Vec<LayerAllocation> = layers.collect();
        Ok(Architecture::new(backbone.clone(), layers)?)
    }
}

fn candidates_of(layer: &LayerScores, kernels: &KernelSet, macs_per_tap: f64) -> Vec<Candidate> {
    let count: usize = layer.scores.iter().map(Vec::len).sum();
    let sum: f64 = layer.scores.iter().flatten().map(|score| f64::from(*score)).sum();
    let mean = if sum > 0.0 { sum / count as f64 } else { 1.0 };
    let mut candidates: Vec<Candidate> = kernels
        .iter()
        .zip(&layer.scores)
        .flat_map(|(kernel, scores)| {
            scores.iter().map(move |score| Candidate {
                kernel,
                score: f64::from(*score) / mean,
                macs: macs_per_tap * f64::from(kernel.taps()),
            })
        })
        .collect();
    candidates.sort_by_key(|candidate| (candidate.kernel.taps(), candidate.kernel));
    candidates
}

fn choose_layer(candidates: &[Candidate], channels: usize, price: f64) -> [u32; Kernel::ALL.len()] {
    let value = |candidate: &Candidate| candidate.score - price * candidate.macs;
    let mut order: Vec<&Candidate> = candidates.iter().collect();
    // Stable, so equal values keep the order of ties.
    order.sort_by(|left, right| value(right).total_cmp(&value(left)));
    let mut counts = [0; Kernel::ALL.len()];
    for candidate in order.into_iter().take(channels) {
        counts[candidate.kernel.index()] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backbone::EncoderDecoder;

    const EXTENT: Extent = [8, 8, 8];

    fn backbone() -> Backbone {
        Backbone::EncoderDecoder(EncoderDecoder { input_channels: 1, classes: 2, base_width: 3, levels: 2 })
    }

    fn scores_from(mut next: impl FnMut() -> f32, kernels: &KernelSet) -> ChannelScores {
        let layers = backbone()
            .searchable_layers()
            .into_iter()
            .map(|layer| LayerScores {
                layer: layer.name,
                scores: (0..kernels.len()).map(|_| (0..layer.channels).map(|_| next()).collect()).collect(),
            })
            .collect();
        ChannelScores::new(backbone(), kernels.clone(), layers).unwrap()
    }

    #[test]
    fn equal_scores_keep_exactly_c_channels_and_prefer_light_kernels() {
        let scores = scores_from(|| 1.0, &KernelSet::volumetric());
        let architecture = derive_per_layer(&scores).unwrap();
        assert_eq!(architecture.composition(), [(Kernel::K311, 24)]);
    }

    #[test]
    fn all_scores_zero_still_give_an_architecture() {
        let scores = scores_from(|| 0.0, &KernelSet::volumetric());
        assert!(derive_per_layer(&scores).is_ok());
        assert!(derive_within(&scores, EXTENT, 0.5).is_ok());
    }

    #[test]
    fn impossible_budgets_are_refused_with_the_lightest_possible() {
        let scores = scores_from(|| 1.0, &KernelSet::volumetric());
        for budget in [0.0, -1.0, 1.5, f64::NAN] {
            assert!(matches!(derive_within(&scores, EXTENT, budget), Err(DeriveError::BudgetOutOfRange(_))));
        }
        let error = derive_within(&scores, EXTENT, 0.01).unwrap_err();
        assert!(error.to_string().contains("lightest"), "{error}");
    }

    proptest! {
        /// One exchange in the widest layer is the most that may stay unused.
        #[test]
        fn a_budget_is_kept_and_used_up_to_less_than_one_exchange(
            values in proptest::collection::vec(0.0_f32..1.0, 300),
            low in 0.35_f64..1.0,
            high in 0.35_f64..1.0,
        ) {
            let mut values = values.into_iter().cycle();
            let scores = scores_from(|| values.next().unwrap() + 0.01, &KernelSet::volumetric());
            let reference = reference_macs(&backbone(), EXTENT).unwrap() as f64;
            let largest = macs_per_tap(&backbone(), EXTENT).unwrap().into_iter().max().unwrap() as f64 * 26.0;
            let mut used = Vec::new();
            for budget in [low.min(high), low.max(high)] {
                let architecture = derive_within(&scores, EXTENT, budget).unwrap();
                let macs = cost(&architecture.network(), EXTENT).unwrap().mac_count as f64;
                prop_assert!(macs <= budget * reference);
                prop_assert!(macs >= budget * reference - largest, "{macs} of {}", budget * reference);
                prop_assert_eq!(derive_within(&scores, EXTENT, budget).unwrap(), architecture);
                used.push(macs);
            }
            prop_assert!(used[0] <= used[1]);
        }

        /// What a price chooses has the highest total score of its cost: nothing
        /// that costs no more scores more, whatever one exchanges.
        #[test]
        fn no_exchange_within_a_layer_scores_more_for_less(
            values in proptest::collection::vec(0.0_f32..1.0, 300),
            price in -3.0_f64..3.0,
        ) {
            let mut values = values.into_iter().cycle();
            let scores = scores_from(|| values.next().unwrap(), &KernelSet::volumetric());
            let candidates = Candidates::new(&scores, &vec![1.0; scores.layers().len()]);
            for ((_, all), counts) in candidates.layers.iter().zip(candidates.choose(price)) {
                let best = |kernel: Kernel| -> Vec<f64> {
                    let mut own: Vec<f64> =
                        all.iter().filter(|other| other.kernel == kernel).map(|other| other.score).collect();
                    own.sort_by(|left, right| right.total_cmp(left));
                    own
                };
                for out in Kernel::ALL.into_iter().filter(|kernel| counts[kernel.index()] > 0) {
                    for into in Kernel::ALL.into_iter().filter(|kernel| kernel.taps() == out.taps()) {
                        let lost = best(out)[counts[out.index()] as usize - 1];
                        let gained = best(into).get(counts[into.index()] as usize).copied();
                        prop_assert!(out == into || gained.is_none_or(|gained| gained <= lost + 1e-9));
                    }
                }
            }
        }

        #[test]
        fn per_layer_derivation_keeps_the_c_best(values in proptest::collection::vec(0.0_f32..1.0, 300)) {
            let mut values = values.into_iter().cycle();
            let scores = scores_from(|| values.next().unwrap(), &KernelSet::volumetric());
            let architecture = derive_per_layer(&scores).unwrap();
            for (layer, chosen) in scores.layers().iter().zip(architecture.layers()) {
                let mut all: Vec<f32> = layer.scores.iter().flatten().copied().collect();
                all.sort_by(|left, right| right.total_cmp(left));
                let best: f32 = all.iter().take(chosen.channels.width() as usize).sum();
                let kept: f32 = scores.kernels().iter().zip(&layer.scores).map(|(kernel, values)| {
                    let mut values = values.clone();
                    values.sort_by(|left, right| right.total_cmp(left));
                    values.iter().take(chosen.channels.count(kernel) as usize).sum::<f32>()
                }).sum();
                prop_assert!((best - kept).abs() < 1e-4);
            }
        }
    }
}
