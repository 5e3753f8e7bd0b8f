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
use cakes::derive::{ChannelCosts, derive_per_layer, derive_within, reference_macs};
use cakes::scores::ChannelScores;
use cakes::spec::CheckedSearch;

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
    /// Scores of the supernet; needed only where [`SearchSnapshot::needs_scores`].
    pub scores: Option<ChannelScores>,
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
}

/// Where an architecture of a search comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    Budget(f64),
    PaperRule,
}

impl Source {
    /// The name under which the search records it.
    pub fn origin(self) -> String {
        match self {
            Source::Budget(fraction) => format!("budget {fraction}"),
            Source::PaperRule => "paper rule".to_owned(),
        }
    }
}

impl SearchSnapshot {
    /// Whether planning wants the supernet's scores, which are large.
    pub fn needs_scores(&self) -> bool {
        self.supernet_state() == Some(JobState::Succeeded)
            && sources(&self.search).into_iter().any(|source| !self.holds(&source.origin()))
    }

    fn holds(&self, origin: &str) -> bool {
        self.architectures.iter().any(|recorded| recorded.retrain && recorded.origin == origin)
    }

    fn supernet_state(&self) -> Option<JobState> {
        self.jobs.iter().find(|job| job.work == Work::Supernet).map(|job| job.state)
    }
}

/// Derived architectures that a search asks for.
fn sources(search: &CheckedSearch) -> Vec<Source> {
    let spec = search.spec();
    let mut sources: Vec<Source> = spec.budgets.iter().map(|fraction| Source::Budget(*fraction)).collect();
    if spec.derive_unconstrained {
        sources.push(Source::PaperRule);
    }
    sources
}

/// What to do next.
///
/// Baselines need no scores: they are queued at once and fill workers while the
/// supernet trains.
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
    let retrains = missing_retrains(snapshot, &records);
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
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    let mut add = |origin: String, made: Result<Derived, String>| {
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
            add(origin.clone(), with_cost(&snapshot.search, origin, architecture));
        }
    }
    if let (Some(scores), Some(JobState::Succeeded)) = (&snapshot.scores, snapshot.supernet_state()) {
        for source in sources(&snapshot.search) {
            let origin = source.origin();
            if !snapshot.holds(&origin) {
                add(origin, derive(&snapshot.search, scores, source));
            }
        }
    }
    (found, problems)
}

/// Derives one architecture from a supernet's scores.
///
/// # Errors
/// Why there is none, for people.
pub fn derive(search: &CheckedSearch, scores: &ChannelScores, source: Source) -> Result<Derived, String> {
    let spec = search.spec();
    let architecture = match source {
        Source::Budget(fraction) => ChannelCosts::new(&spec.backbone, spec.patch, spec.budget_measure)
            .and_then(|costs| derive_within(scores, &costs, fraction, spec.count_multiple))
            .map(|derivation| derivation.architecture),
        Source::PaperRule => derive_per_layer(scores),
    };
    with_cost(search, source.origin(), architecture.map_err(|error| error.to_string())?)
}

fn with_cost(search: &CheckedSearch, origin: String, architecture: Architecture) -> Result<Derived, String> {
    let patch = search.spec().patch;
    let cost = cost(&architecture.network(), patch).map_err(|error| error.to_string())?;
    let reference = reference_macs(architecture.backbone(), patch).map_err(|error| error.to_string())?.max(1);
    let mac_fraction = cost.mac_count as f64 / reference as f64;
    Ok(Derived { origin, architecture, cost, mac_fraction })
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
