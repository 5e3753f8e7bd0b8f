//! The plan of a search: from what is recorded to what is to do next.
//!
//! ```text
//!  searching ── supernet succeeded ──► retraining ── all jobs succeeded ──► succeeded
//!      └──────────── some job failed for good, all have ended ────────────► failed
//!   any of the first two ── cancel ──► cancelled (closed when the last job has stopped)
//! ```
//!
//! [`plan`] knows nothing of what it said before. It compares what the search
//! should hold with what it does hold, so applying its steps and planning again
//! gives nothing, whoever planned first and however often.

use std::collections::{BTreeMap, BTreeSet};

use cakes::architecture::{Architecture, ArchitectureDigest};
use cakes::cost::{Cost, cost};
use cakes::derive::{
    ChannelCosts, Derivation, DeriveError, LatencyTable, derive_per_layer, derive_within, random_like,
};
use cakes::kernel::Kernel;
use cakes::scores::ChannelScores;
use cakes::spec::{Baseline, CheckedSearch, CostMeasure, SearchSpec};
use sha2::{Digest, Sha256};

use super::job::JobState;
use super::text::named;

/// Where a search is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SearchState {
    /// The supernet has not succeeded yet.
    Searching,
    /// Its architectures are derived and retrained.
    Retraining,
    Succeeded,
    Failed,
    Cancelled,
}

named!(SearchState, "search state", {
    Searching => "searching",
    Retraining => "retraining",
    Succeeded => "succeeded",
    Failed => "failed",
    Cancelled => "cancelled",
});

impl SearchState {
    pub fn is_final(self) -> bool {
        matches!(self, SearchState::Succeeded | SearchState::Failed | SearchState::Cancelled)
    }
}

/// What is recorded of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchSnapshot {
    pub search: CheckedSearch,
    pub state: SearchState,
    /// Whether the last job has ended and the search is closed.
    pub closed: bool,
    pub architectures: Vec<RecordedArchitecture>,
    pub jobs: Vec<RecordedJob>,
    /// What the supernet found; needed only where [`SearchSnapshot::needs_findings`].
    pub findings: Option<Findings>,
}

/// What a trained supernet found.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    pub scores: ChannelScores,
    /// None of a supernet that was trained before times were measured.
    pub latency: Option<LatencyTable>,
}

/// An architecture that the search holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedArchitecture {
    pub origin: String,
    pub digest: ArchitectureDigest,
    /// Whether it is part of the plan.
    pub retrain: bool,
}

/// A job of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedJob {
    pub work: Work,
    pub label: String,
    pub state: JobState,
    pub state_reason: String,
}

/// What a job trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Supernet,
    Retrain { digest: ArchitectureDigest, seed: u64 },
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    EnqueueSupernet,
    /// Record an architecture of the plan.
    Record(Box<Derived>),
    EnqueueRetrain {
        digest: ArchitectureDigest,
        seed: u64,
        label: String,
    },
    /// The supernet is done.
    EnterRetraining,
    Finish {
        state: SearchState,
        reason: String,
    },
    /// The last job of a cancelled search has stopped.
    Close,
}

/// An architecture with its origin and what it costs for one patch.
#[derive(Clone, Debug, PartialEq)]
pub struct Derived {
    pub origin: String,
    pub architecture: Architecture,
    pub cost: Cost,
    /// MACs over those of the all-`3x3x3` network.
    pub mac_fraction: f64,
    /// Parameters over those of the all-`3x3x3` network.
    pub param_fraction: f64,
    /// What it should take, where that can be told from measured times.
    pub latency: Option<PredictedLatency>,
    /// How good a choice it is, for what was derived within a budget.
    pub merit: Option<Merit>,
}

/// Time for one patch that a table of measured times says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictedLatency {
    pub ms: f64,
    /// Over that of the all-`3x3x3` network.
    pub fraction: f64,
}

impl PredictedLatency {
    /// None where a kernel of the architecture was not measured, or it is of another
    /// backbone than the search's.
    pub fn of(search: &CheckedSearch, table: &LatencyTable, architecture: &Architecture) -> Option<Self> {
        let ns = table.predicted_ns(&search.spec().backbone, architecture)?;
        Some(PredictedLatency { ms: ns as f64 / 1e6, fraction: share(ns, table.reference_ns) })
    }
}

/// How near to the best an architecture is; see [`Derivation`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Merit {
    pub score: f64,
    pub score_bound: f64,
    pub is_optimal: bool,
}

/// Where an architecture of a search comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    Budget(Budget),
    PaperRule,
}

/// A fraction of what the all-`3x3x3` network costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    pub fraction: f64,
    pub measure: CostMeasure,
    /// Counts are multiples of it.
    pub count_multiple: u32,
}

impl Budget {
    /// A budget in the terms of its search.
    pub fn of(spec: &SearchSpec, fraction: f64) -> Self {
        Budget { fraction, measure: spec.budget_measure, count_multiple: spec.count_multiple }
    }
}

impl Source {
    /// The name under which the search records it. What is as the search's
    /// description says is left out: `budget 0.5`, `budget 0.5 of params, multiple 8`.
    pub fn origin(self, spec: &SearchSpec) -> String {
        let Source::Budget(Budget { fraction, measure, count_multiple }) = self else {
            return "paper rule".to_owned();
        };
        let mut origin = format!("budget {fraction}");
        if measure != spec.budget_measure {
            origin += &format!(" of {}", measure.words());
        }
        if count_multiple != spec.count_multiple {
            origin += &format!(", multiple {count_multiple}");
        }
        origin
    }
}

impl SearchSnapshot {
    /// Whether planning wants what the supernet found, which is large.
    pub fn needs_findings(&self) -> bool {
        self.supernet_state() == Some(JobState::Succeeded)
            && wanted(&self.search).into_iter().any(|(_, origin)| !self.holds(&origin))
    }

    /// Whether a retraining has succeeded and the search goes on.
    pub fn has_results(&self) -> bool {
        let is_result = |job: &RecordedJob| job.work != Work::Supernet && job.state == JobState::Succeeded;
        !self.closed && self.jobs.iter().any(is_result)
    }

    fn holds(&self, origin: &str) -> bool {
        self.architectures.iter().any(|recorded| recorded.retrain && recorded.origin == origin)
    }

    fn supernet_state(&self) -> Option<JobState> {
        self.jobs.iter().find(|job| job.work == Work::Supernet).map(|job| job.state)
    }
}

/// What stands beside a derived architecture, or is one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    Derived(Source),
    /// One whose channels are allocated at random, at the cost of the derived one.
    RandomLike(Source),
}

/// Architectures that depend on what the supernet found, with their origins.
fn wanted(search: &CheckedSearch) -> Vec<(Wanted, String)> {
    let spec = search.spec();
    let budgets = spec.budgets.iter().map(|fraction| Source::Budget(Budget::of(spec, *fraction)));
    let sources: Vec<Source> =
        budgets.chain(spec.derive_unconstrained.then_some(Source::PaperRule)).collect();
    let derived = sources.iter().map(|source| (Wanted::Derived(*source), source.origin(spec)));
    let random = sources
        .iter()
        .filter(|_| spec.baselines.contains(&Baseline::Random))
        .map(|source| (Wanted::RandomLike(*source), format!("random like {}", source.origin(spec))));
    derived.chain(random).collect()
}

/// Most architectures that a search comes to hold by itself; some may be equal.
pub fn architecture_count_max(search: &CheckedSearch) -> usize {
    search.baselines().len() + wanted(search).len()
}

/// What to do next.
///
/// Baselines need no scores: they are queued at once and fill workers while the
/// supernet trains, unless they start from its weights.
pub fn plan(snapshot: &SearchSnapshot) -> Vec<Step> {
    if snapshot.closed {
        return Vec::new();
    }
    if snapshot.state == SearchState::Cancelled {
        let stopped = snapshot.jobs.iter().all(|job| job.state.is_final());
        return if stopped { vec![Step::Close] } else { Vec::new() };
    }
    let mut steps = Vec::new();
    if snapshot.supernet_state().is_none() {
        steps.push(Step::EnqueueSupernet);
    }
    let (records, problems) = missing_architectures(snapshot);
    let waits = snapshot.search.retrains_start_from_supernet()
        && snapshot.supernet_state() != Some(JobState::Succeeded);
    let retrains = if waits { Vec::new() } else { missing_retrains(snapshot, &records) };
    steps.extend(records.into_iter().map(|derived| Step::Record(Box::new(derived))));
    steps.extend(retrains);
    if snapshot.state == SearchState::Searching && snapshot.supernet_state() == Some(JobState::Succeeded) {
        steps.push(Step::EnterRetraining);
    }
    let queues = |step: &Step| matches!(step, Step::EnqueueSupernet | Step::EnqueueRetrain { .. });
    if !steps.iter().any(queues) && snapshot.jobs.iter().all(|job| job.state.is_final()) {
        steps.push(finish(snapshot, &problems));
    }
    steps
}

/// Architectures of the plan that are not recorded, and why some cannot be.
fn missing_architectures(snapshot: &SearchSnapshot) -> (Vec<Derived>, Vec<String>) {
    let (mut found, mut problems): (Vec<Derived>, _) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    let mut add = |found: &mut Vec<Derived>, origin: String, made: Result<Derived, String>| {
        if seen.insert(origin.clone()) {
            match made {
                Ok(derived) => found.push(derived),
                Err(problem) => problems.push(format!("{origin}: {problem}")),
            }
        }
    };
    for (baseline, architecture) in snapshot.search.baselines() {
        let origin = format!("baseline {}", baseline.name());
        if !snapshot.holds(&origin) {
            add(&mut found, origin.clone(), with_cost(&snapshot.search, origin, architecture));
        }
    }
    if let (Some(findings), Some(JobState::Succeeded)) = (&snapshot.findings, snapshot.supernet_state()) {
        for (wanted, origin) in wanted(&snapshot.search) {
            if snapshot.holds(&origin) {
                continue;
            }
            let made = match wanted {
                Wanted::Derived(source) => derive(&snapshot.search, findings, source),
                Wanted::RandomLike(source) => {
                    let name = source.origin(snapshot.search.spec());
                    let fresh = found.iter().find(|derived| derived.origin == name).cloned();
                    fresh.map_or_else(|| derive(&snapshot.search, findings, source), Ok).and_then(|derived| {
                        random(&snapshot.search, findings, &derived, source, origin.clone())
                    })
                }
            };
            add(&mut found, origin, made);
        }
    }
    (found, problems)
}

/// Derives one architecture from what a supernet found.
///
/// # Errors
/// Why there is none, for people.
pub fn derive(search: &CheckedSearch, findings: &Findings, source: Source) -> Result<Derived, String> {
    let Findings { scores, latency } = findings;
    let (architecture, merit) = match source {
        Source::PaperRule => (derive_per_layer(scores).map_err(|error| error.to_string())?, None),
        Source::Budget(budget) => {
            let costs = costs(search, findings, budget.measure)?;
            let derivation = derive_within(scores, &costs, budget.fraction, budget.count_multiple);
            let Derivation { architecture, score, upper_bound, is_optimal, .. } =
                derivation.map_err(|error| error.to_string())?;
            (architecture, Some(Merit { score, score_bound: upper_bound, is_optimal }))
        }
    };
    let latency = latency.as_ref().and_then(|table| PredictedLatency::of(search, table, &architecture));
    Ok(Derived { merit, latency, ..with_cost(search, source.origin(search.spec()), architecture)? })
}

/// What channels of the search's networks cost by a measure.
fn costs(search: &CheckedSearch, findings: &Findings, measure: CostMeasure) -> Result<ChannelCosts, String> {
    let spec = search.spec();
    let latency = findings.latency.as_ref();
    ChannelCosts::by(measure, &spec.backbone, &spec.supernet.kernels, spec.patch, latency).map_err(|error| {
        match error {
            DeriveError::NotMeasured => NOT_MEASURED.to_owned(),
            other => other.to_string(),
        }
    })
}

/// What people read who ask for times that a search has not got.
pub const NOT_MEASURED: &str = "this search has no table of measured times: its supernet was trained by a \
     version that measured none; take budgets of MACs or params, or submit the search again";

/// A random architecture at the cost of a derived one.
fn random(
    search: &CheckedSearch,
    findings: &Findings,
    derived: &Derived,
    source: Source,
    origin: String,
) -> Result<Derived, String> {
    let spec = search.spec();
    let multiple = match source {
        Source::Budget(budget) => budget.count_multiple,
        Source::PaperRule => 1,
    };
    let seed = random_seed(spec.supernet.seed, derived.architecture.digest());
    let costs = costs(search, findings, spec.budget_measure)?;
    let random = random_like(&derived.architecture, &spec.supernet.kernels, &costs, multiple, seed);
    with_cost(search, origin, random.map_err(|error| error.to_string())?)
}

/// Equal architectures of a search have equal random ones beside them.
fn random_seed(supernet_seed: u64, digest: ArchitectureDigest) -> u64 {
    let hash = Sha256::digest(format!("random like {digest} {supernet_seed}"));
    hash.first_chunk().map_or(supernet_seed, |bytes| u64::from_be_bytes(*bytes))
}

/// An architecture of the search's own backbone, or another form of it: fractions
/// are those of the search's all-`3x3x3` network.
fn with_cost(search: &CheckedSearch, origin: String, architecture: Architecture) -> Result<Derived, String> {
    let spec = search.spec();
    let cost_of = |architecture: &Architecture| {
        cost(&architecture.network(), spec.patch).map_err(|error| error.to_string())
    };
    let reference = Architecture::even(spec.backbone.clone(), &[Kernel::K333]);
    let reference = cost_of(&reference.map_err(|error| error.to_string())?)?;
    let cost = cost_of(&architecture)?;
    Ok(Derived {
        origin,
        mac_fraction: share(cost.mac_count, reference.mac_count),
        param_fraction: share(cost.param_count, reference.param_count),
        architecture,
        cost,
        latency: None,
        merit: None,
    })
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Retrainings of recorded and new architectures that have no job: one set of
/// jobs per digest, under the name of its first origin.
fn missing_retrains(snapshot: &SearchSnapshot, new: &[Derived]) -> Vec<Step> {
    let recorded = snapshot.architectures.iter().filter(|recorded| recorded.retrain);
    let recorded = recorded.map(|recorded| (recorded.digest, recorded.origin.as_str()));
    let new = new.iter().map(|derived| (derived.architecture.digest(), derived.origin.as_str()));
    let queued: BTreeSet<Work> = snapshot.jobs.iter().map(|job| job.work).collect();
    let mut names: BTreeMap<ArchitectureDigest, &str> = BTreeMap::new();
    let mut steps = Vec::new();
    for (digest, origin) in recorded.chain(new) {
        if names.insert(digest, origin).is_some() {
            continue;
        }
        for seed in &snapshot.search.spec().retrain.seeds {
            if !queued.contains(&Work::Retrain { digest, seed: *seed }) {
                let label = format!("{origin} seed {seed}");
                steps.push(Step::EnqueueRetrain { digest, seed: *seed, label });
            }
        }
    }
    steps
}

fn finish(snapshot: &SearchSnapshot, problems: &[String]) -> Step {
    let failed = snapshot.jobs.iter().filter(|job| job.state != JobState::Succeeded);
    let mut reasons: Vec<String> = failed
        .map(|job| match job.state_reason.as_str() {
            "" => format!("{} {}", job.label, job.state),
            reason => format!("{} {}: {reason}", job.label, job.state),
        })
        .collect();
    reasons.extend(problems.iter().cloned());
    match reasons.is_empty() {
        true => Step::Finish { state: SearchState::Succeeded, reason: String::new() },
        false => Step::Finish { state: SearchState::Failed, reason: reasons.join("; ") },
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
