//! What a simulation is told: a cluster, who works on it, and what breaks.

use std::num::NonZeroU32;

use serde::Deserialize;

use crate::policy::Policy;

/// The file of a simulation. Times are hours since its begin, midnight before a Monday.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// For the report's head.
    #[serde(default)]
    pub name: String,
    /// Equal seeds give equal reports.
    pub seed: u64,
    /// Simulated time.
    pub days: u32,
    /// Time between rounds of planning, as long as something happens.
    #[serde(default = "Scenario::round_s")]
    pub round_s: u64,
    #[serde(default)]
    pub policy: Policy,
    pub nodes: Vec<Nodes>,
    pub projects: Vec<ProjectSpec>,
    #[serde(default)]
    pub streams: Vec<Stream>,
    #[serde(default)]
    pub jobs: Vec<Traced>,
    #[serde(default)]
    pub outages: Vec<Outage>,
    #[serde(default)]
    pub run: RunSpec,
    /// A job that waits for longer is called starving.
    #[serde(default = "Scenario::starving_hours")]
    pub starving_hours: f64,
}

impl Scenario {
    /// The same for another number of days; jobs that come behind them are left out.
    #[must_use]
    pub fn for_days(mut self, days: u32) -> Self {
        let hours = |days: u32| f64::from(days) * 24.0;
        // What is beyond the file's own days stays, to be refused.
        let (end, own_end) = (hours(days), hours(self.days));
        self.jobs.retain(|job| !(job.submit_hours > end && job.submit_hours <= own_end));
        self.days = days;
        self
    }

    fn round_s() -> u64 {
        60
    }

    fn starving_hours() -> f64 {
        7.0 * 24.0
    }
}

/// Nodes that are alike, named NAME-1, NAME-2 and so on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    pub name: String,
    #[serde(default = "Nodes::one")]
    pub count: u32,
    /// Devices of each.
    pub devices: u32,
    /// Memory of each device.
    pub memory_gib: f64,
    #[serde(default)]
    pub labels: Vec<String>,
    /// Data sets that a node keeps; the one that was longest without use goes first.
    #[serde(default = "Nodes::data_sets")]
    pub data_sets: usize,
    /// Mean time between failures of a node; 0 for nodes that never fail.
    #[serde(default)]
    pub days_between_failures: f64,
    #[serde(default = "Nodes::repair_hours")]
    pub repair_hours: f64,
}

impl Nodes {
    fn one() -> u32 {
        1
    }

    fn data_sets() -> usize {
        4
    }

    fn repair_hours() -> f64 {
        4.0
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectSpec {
    pub name: String,
    pub share: NonZeroU32,
    /// Most devices at once.
    pub device_quota: Option<usize>,
    /// Most device-hours in the whole simulation.
    pub device_hour_quota: Option<f64>,
}

/// What a job wants, whoever submits it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wants {
    pub priority: i32,
    /// Of each device; 0 fits everywhere.
    pub memory_gib: f64,
    pub labels: Vec<String>,
    pub may_span: bool,
    pub preemptible: bool,
    pub estimate: Estimate,
    /// After submission.
    pub deadline_hours: Option<f64>,
    pub cost_limit_device_hours: Option<f64>,
}

impl Default for Wants {
    fn default() -> Self {
        Wants {
            priority: 0,
            memory_gib: 0.0,
            labels: Vec::new(),
            may_span: false,
            preemptible: true,
            estimate: Estimate::Rough,
            deadline_hours: None,
            cost_limit_device_hours: None,
        }
    }
}

/// How well a job's runtime is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Estimate {
    None,
    Exact,
    /// Right within a factor of about two.
    Rough,
    /// Twice the truth.
    Padded,
}

/// Jobs that keep coming.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    pub project: String,
    /// On average over a week.
    pub jobs_per_day: f64,
    #[serde(default = "Stream::steady")]
    pub pattern: Pattern,
    /// Jobs that come together on average, as the retrainings of a search.
    #[serde(default = "Stream::burst")]
    pub burst: f64,
    pub sizes: Vec<Size>,
    pub hours: Runtime,
    /// Data sets, of which a burst reads one.
    #[serde(default)]
    pub data: Vec<String>,
    #[serde(default)]
    pub wants: Wants,
}

impl Stream {
    fn burst() -> f64 {
        1.0
    }

    fn steady() -> Pattern {
        Pattern::Steady
    }
}

/// When people submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    Steady,
    /// By day, on weekdays above all.
    Office,
    /// In the evening, for the night and the weekend.
    Nights,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    pub devices: usize,
    #[serde(default = "Size::one")]
    pub weight: f64,
}

impl Size {
    fn one() -> f64 {
        1.0
    }
}

/// Log-normal runtimes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    pub median: f64,
    /// Standard deviation of the logarithm; 0 for equal runtimes.
    #[serde(default)]
    pub spread: f64,
    pub max: f64,
}

/// One job of a trace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traced {
    pub project: String,
    pub submit_hours: f64,
    pub devices: usize,
    pub hours: f64,
    /// Overrules the kind of estimate.
    pub estimate_hours: Option<f64>,
    #[serde(default)]
    pub data: Vec<String>,
    #[serde(default)]
    pub wants: Wants,
}

/// A node that takes no jobs for a while.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    pub node: String,
    pub kind: OutageKind,
    pub from_hours: f64,
    pub hours: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutageKind {
    /// What runs there is lost since its last checkpoint.
    Fail,
    Drain,
    Cordon,
}

/// What running costs beside the training itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSpec {
    /// Time between checkpoints.
    pub checkpoint_every_s: u64,
    /// Time to go on from one.
    pub restart_s: u64,
    /// Time to bring a data set to a node that lacks it.
    pub data_load_s: u64,
}

impl Default for RunSpec {
    fn default() -> Self {
        RunSpec { checkpoint_every_s: 1800, restart_s: 120, data_load_s: 300 }
    }
}
