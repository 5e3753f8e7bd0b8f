//! From scores to architectures: which kernel gets how many channels.
//!
//! Order among candidates is total, so the same scores always give the same
//! architecture: higher score first, then fewer taps, then the kernels' canonical
//! order, then the lower channel. Exactly C candidates of a layer are kept,
//! whatever ties there are (the published code keeps all that reach a threshold).
//!
//! | module | does |
//! |---|---|
//! | [`costs`] | what a channel costs: multiply-accumulates, parameters, measured time |
//! | [`latency`] | measured times of layers as prices of channels |
//! | `relaxed` | what a price per unit of cost chooses, layer by layer |
//! | `bounded` | the best choice within a budget, and the bound that proves it |
//! | [`random`] | an allocation that nobody chose, at the cost of another |
//! | [`stability`] | whether a search still changes its mind |

mod bounded;
pub mod costs;
pub mod latency;
pub mod random;
mod relaxed;
pub mod stability;

pub use costs::ChannelCosts;
pub use latency::{LatencyTable, LayerLatency, LayerTimes, NetworkTime};
pub use random::random_like;
pub use stability::Stability;

use crate::Extent;
use crate::allocation::ChannelAllocation;
use crate::architecture::{Architecture, ArchitectureError, LayerAllocation};
use crate::backbone::Backbone;
use crate::kernel::KernelSet;
use crate::network::ShapeError;
use crate::scores::ChannelScores;
use crate::spec::CostMeasure;
use relaxed::{Choice, Problem};

/// Why scores gave no architecture.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeriveError {
    #[error(
        "a budget of {budget} is below the lightest architecture of this search space, {lightest:.4} of the all-3x3x3 network; raise it or add lighter kernels"
    )]
    BudgetTooSmall { budget: f64, lightest: f64 },
    #[error("a budget is a fraction above 0 and at most 1 of the all-3x3x3 network, got {0}")]
    BudgetOutOfRange(f64),
    #[error("latency table, layer '{layer}': {problem}")]
    LatencyTable { layer: String, problem: String },
    #[error(
        "latency table: fixed_ns {fixed_ns} and reference_ns {reference_ns} are no times of a network; measure it"
    )]
    LatencyTotals { fixed_ns: u64, reference_ns: u64 },
    #[error("there is no table of measured times, which a budget of latency is a fraction of")]
    NotMeasured,
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// An architecture within a budget, and how good it is.
///
/// Scores are |γ| over the mean of their layer, summed over the kept channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Derivation {
    pub architecture: Architecture,
    /// Total score of the kept channels.
    pub score: f64,
    /// No architecture of the search space has a higher total score within the
    /// budget (Lagrangian dual); at a negative price, none that costs at least as
    /// much as this one.
    pub upper_bound: f64,
    /// Whether every other architecture was ruled out, so that this one is the
    /// best itself and not only as near to it as the bound says.
    pub is_optimal: bool,
    /// Score that one more unit of cost would earn. Negative for a budget that is
    /// looser than what the paper's rule chooses; negative infinity where nothing
    /// dearer is left.
    pub price: f64,
    /// What the architecture costs, and the most that it may.
    pub cost: u64,
    pub limit: u64,
}

/// The paper's rule: in each layer the C candidates with the highest scores,
/// whatever they cost (section "Search" of the paper).
///
/// # Errors
/// The backbone's configuration is out of range.
pub fn derive_per_layer(scores: &ChannelScores) -> Result<Architecture, DeriveError> {
    let problem = Problem::new(scores, None, 1);
    architecture(scores.backbone(), &problem, &problem.choose(0.0))
}

/// The architecture of the highest total score that costs at most `budget` of the
/// all-`3x3x3` network, with counts at multiples of `multiple`; see
/// [`derive_front`].
///
/// # Errors
/// The budget is out of range or below the lightest architecture.
pub fn derive_within(
    scores: &ChannelScores,
    costs: &ChannelCosts,
    budget: f64,
    multiple: u32,
) -> Result<Derivation, DeriveError> {
    derive_one(scores, costs, &Problem::new(scores, Some(costs), multiple), budget)
}

/// An architecture for each budget, in their order.
///
/// Candidates are weighed by their score, divided by the mean of their layer so
/// that layers weigh alike. Relaxed, the problem has a price per unit of cost at
/// which every layer by itself keeps the C candidates of the highest score − price
/// · cost; the choices at all prices are a path, and the price at which the path
/// crosses the budget bounds what any architecture within it can score. Starting
/// there, choices are enumerated by how much of that bound they lose, until none
/// that is left can be better.
///
/// Price 0 is the paper's rule. A looser budget has a negative price: the L1 of a
/// cost-priority search has charged for taps already, and here some of that is
/// given back, so that half the cost means half and not whatever the rule prefers
/// below it. There an unused unit of the budget counts as lost what the price says.
///
/// Counts are multiples of `multiple`; what remains of a layer's width, which is
/// all of a layer narrower than it, goes to one kernel. 1 is no restriction.
///
/// # Errors
/// A budget is out of range or below the lightest architecture.
pub fn derive_front(
    scores: &ChannelScores,
    costs: &ChannelCosts,
    budgets: &[f64],
    multiple: u32,
) -> Result<Vec<Derivation>, DeriveError> {
    let problem = Problem::new(scores, Some(costs), multiple);
    budgets.iter().map(|budget| derive_one(scores, costs, &problem, *budget)).collect()
}

fn derive_one(
    scores: &ChannelScores,
    costs: &ChannelCosts,
    problem: &Problem,
    budget: f64,
) -> Result<Derivation, DeriveError> {
    costs.check_budget(scores.kernels(), budget)?;
    let limit = costs.limit(budget);
    let found = bounded::solve(problem, limit - costs.fixed());
    Ok(Derivation {
        architecture: architecture(scores.backbone(), problem, &found.choice)?,
        score: found.score,
        upper_bound: found.upper_bound,
        is_optimal: found.is_optimal,
        price: found.price,
        cost: costs.fixed() + problem.cost(&found.choice),
        limit,
    })
}

/// MACs of the all-`3x3x3` network, to which budgets refer; that of a factorised
/// network (P3D) is the network that it factorises.
///
/// # Errors
/// The backbone's configuration is out of range or does not fit the extent.
pub fn reference_macs(backbone: &Backbone, extent: Extent) -> Result<u64, DeriveError> {
    Ok(ChannelCosts::new(&backbone.searchable(), extent, CostMeasure::Mac)?.reference())
}

/// Checks that some architecture of the search space stays within `budget`. Of a
/// budget of latency only that it is a fraction: what the lightest takes is known
/// when it has been measured.
///
/// # Errors
/// The budget is out of range, or below the lightest architecture.
pub fn check_budget(
    backbone: &Backbone,
    kernels: &KernelSet,
    extent: Extent,
    measure: CostMeasure,
    budget: f64,
) -> Result<(), DeriveError> {
    if measure == CostMeasure::Latency {
        return costs::check_fraction(budget);
    }
    ChannelCosts::new(backbone, extent, measure)?.check_budget(kernels, budget)
}

fn architecture(
    backbone: &Backbone,
    problem: &Problem,
    choice: &Choice,
) -> Result<Architecture, DeriveError> {
    let layers = backbone.searchable_layers().into_iter().zip(choice).filter_map(|(layer, counts)| {
        let counts = problem.kernels.iter().copied().zip(counts.iter().copied());
        let channels = ChannelAllocation::from_counts(counts).ok()?;
        Some(LayerAllocation { layer: layer.name, channels })
    });
    let layers: Vec<LayerAllocation> = layers.collect();
    Ok(Architecture::new(backbone.clone(), layers)?)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
