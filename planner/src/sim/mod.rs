//! A cluster that exists as data, from a seed: jobs come, run, fail and end, and any rule
//! may pick them. Pure: the same scenario and rule give the same report.

mod check;
mod engine;
mod fleet;
mod report;
mod scenario;
mod tally;
mod trace;

pub use check::ScenarioError;
pub use report::{DeadlineReport, LostReport, Name, ProjectReport, Report, Spread, StarvingJob};
pub use scenario::{
    Estimate, Nodes, Outage, OutageKind, Pattern, ProjectSpec, RunSpec, Runtime, Scenario, Size, Stream,
    Traced, Wants,
};

use crate::baseline::{plan_fifo, plan_queue};
use crate::facts::{CheckedFacts, FactsError};
use crate::plan::Plan;
use crate::round::plan;

/// Who picks the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The planner.
    Fair,
    /// Priority, then submission; the first that fits.
    Queue,
    /// First come, first served.
    Fifo,
}

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Rule::Fair => "fair",
            Rule::Queue => "queue",
            Rule::Fifo => "fifo",
        }
    }

    pub fn plan(self, facts: &CheckedFacts<'_>) -> Plan {
        match self {
            Rule::Fair => plan(facts),
            Rule::Queue => plan_queue(facts),
            Rule::Fifo => plan_fifo(facts),
        }
    }
}

/// How far a simulation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub day: u64,
    pub days: u64,
    pub waiting: usize,
    pub running: usize,
}

/// A simulation that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error("the simulated cluster contradicts itself: {0}")]
    Facts(#[from] FactsError),
}

/// Runs the scenario. `round` plans, by [`Rule::plan`] as a rule: whoever wants to know
/// how long that takes can look at a clock there.
///
/// # Errors
/// The scenario makes no sense.
pub fn simulate(
    scenario: &Scenario,
    rule: Rule,
    round: &mut dyn FnMut(&CheckedFacts<'_>) -> Plan,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, SimulateError> {
    scenario.check()?;
    let report = engine::Engine::new(scenario).run(round, progress)?;
    Ok(Report { policy: rule.name().to_owned(), ..report })
}
