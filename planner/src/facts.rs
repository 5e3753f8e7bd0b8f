//! What a round knows. Projects, nodes, labels and data sets are numbered by their
//! place in these lists; their names are for people.

use std::fmt;
use std::num::NonZeroU32;

use crate::plan::Reservation;
use crate::policy::Policy;

/// A job's UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u128);

impl fmt::Display for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:032x}", self.0);
        let parts = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
        formatter.write_str(&parts.join("-"))
    }
}

/// Place in [`Facts::projects`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectNo(pub usize);

/// Place in [`Facts::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNo(pub usize);

/// Place in [`Names::labels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelNo(pub usize);

/// Place in [`Names::data`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataNo(pub usize);

/// Texts of labels, as `gpu=h200`, and of data sets.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub labels: Vec<String>,
    pub data: Vec<String>,
}

/// Whose jobs they are.
#[derive(Clone, Debug)]
pub struct Project {
    pub name: String,
    /// Weight against other projects that want devices.
    pub share: NonZeroU32,
    /// Device-seconds used, older ones counting less; see [`crate::usage`].
    pub usage_device_s: f64,
    /// Most devices at once.
    pub device_quota: Option<usize>,
    /// Most device-seconds within the period that `used_device_s` is counted over.
    pub device_s_quota: Option<u64>,
    /// Device-seconds of the period, undecayed.
    pub used_device_s: u64,
}

/// What a job is, waiting or running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    pub project: ProjectNo,
    /// Higher goes first.
    pub priority: i32,
    /// First submission; going back to the queue does not change it.
    pub submit_s: u64,
    /// Earliest start, after a failure; 0 for at once.
    pub not_before_s: u64,
    /// Devices that it needs at the same time.
    pub device_count: usize,
    /// What each of them must be at least as wide as; see [`Device::width`]. 1 for most.
    pub width: usize,
    /// Memory that it needs of each device; 0 fits everywhere.
    pub memory_mib: u64,
    /// What its nodes must be labelled with.
    pub labels: Vec<LabelNo>,
    /// Whether its devices may be of several nodes.
    pub may_span: bool,
    /// Of a job on one device of some width: whether several narrower ones may stand for it, of
    /// several nodes too, that have exactly that width together. It takes one where it can.
    pub spreads: bool,
    /// Devices that were kept for it before; it likes to stay with them where it spreads.
    pub kept: Vec<Part>,
    /// Estimated time from its next (or present) start to its end.
    pub estimate_s: Option<u64>,
    /// When it is wanted to be done.
    pub deadline_s: Option<u64>,
    /// Most device-seconds that it may take.
    pub cost_limit_device_s: Option<u64>,
    /// Device-seconds that its ended attempts took.
    pub spent_device_s: u64,
    /// Data sets that it reads.
    pub data: Vec<DataNo>,
    /// Whether it can save a checkpoint and make way.
    pub is_preemptible: bool,
    /// How often it has made way for others.
    pub preemption_count: u32,
    /// A node that it keeps away from, after a fault there.
    pub avoids: Option<NodeNo>,
    /// Order among jobs of its project, the least first; equal ones go by submission.
    pub place: i64,
}

/// What a node may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Takes jobs.
    Ready,
    /// Finishes what it has and takes no more.
    Cordoned,
    /// Saves and hands back what can be saved, and takes no more.
    Draining,
    /// Not heard of.
    Lost,
}

/// Something that trains one job at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Of each of those that it stands for.
    pub memory_mib: u64,
    /// Devices that are only given together, to one job: 1, or those of a slot of several.
    pub width: usize,
}

impl Device {
    pub(crate) fn fits(&self, memory_mib: u64, width: usize) -> bool {
        self.memory_mib >= memory_mib && self.width >= width
    }

    /// Whether it may stand for a part of that width.
    pub(crate) fn is_part(&self, memory_mib: u64, width: usize) -> bool {
        self.memory_mib >= memory_mib && (1..=width).contains(&self.width)
    }
}

/// A machine with devices.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub devices: Vec<Device>,
    pub labels: Vec<LabelNo>,
    pub schedule: Schedule,
    /// Data sets on its disk.
    pub data: Vec<DataNo>,
    /// Whether its devices may stand for parts of a job that spreads.
    pub joins: bool,
}

/// Devices of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub node: NodeNo,
    /// Places in [`Node::devices`], ascending.
    pub devices: Vec<usize>,
}

/// A job on its devices.
#[derive(Clone, Debug)]
pub struct Running {
    pub job: Job,
    pub parts: Vec<Part>,
    pub start_s: u64,
    /// Whether it was told to save a checkpoint and stop.
    pub is_stopping: bool,
}

/// All that a round decides from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Seconds of any one clock that all times here are of.
    pub now_s: u64,
    pub policy: &'a Policy,
    pub names: &'a Names,
    pub projects: &'a [Project],
    pub nodes: &'a [Node],
    pub running: &'a [Running],
    pub waiting: &'a [Job],
    /// Those of the last plan; without them a job that many devices are collected for
    /// may lose its place.
    pub reservations: &'a [Reservation],
}

/// Facts that do not fit each other.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FactsError {
    #[error("job {0} occurs twice; give each waiting and running job once")]
    Twice(JobId),
    #[error("job {job} names {what} number {number}, of which there are {count}; number them from 0")]
    Unknown { job: JobId, what: &'static str, number: usize, count: usize },
    #[error("job {0} needs no devices; give device_count and width, 1 or more each")]
    NoDevices(JobId),
    #[error("device {device} of node '{node}' is used by job {job} and by another; end one of them first")]
    Shared { job: JobId, node: String, device: usize },
    #[error("the usage of project '{0}' is no amount of time; give device-seconds, 0 or more")]
    Usage(String),
    #[error("node '{0}' names a label or a data set that has no name; add it to the names")]
    Unnamed(String),
}

/// Facts that were found to fit each other.
#[derive(Clone, Copy, Debug)]
pub struct CheckedFacts<'a>(Facts<'a>);

impl<'a> CheckedFacts<'a> {
    pub fn get(&self) -> &Facts<'a> {
        &self.0
    }
}

impl<'a> Facts<'a> {
    /// Looks whether every number names something, and no device or job is there twice.
    /// Reservations need no check: those that no longer fit are dropped.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(self) -> Result<CheckedFacts<'a>, FactsError> {
        self.check_names()?;
        for job in self.waiting.iter().chain(self.running.iter().map(|running| &running.job)) {
            self.check_job(job)?;
        }
        let running = self.running.iter().map(|running| running.job.id);
        let mut ids: Vec<JobId> = self.waiting.iter().map(|job| job.id).chain(running).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(FactsError::Twice(pair[0]));
        }
        self.check_parts()?;
        Ok(CheckedFacts(self))
    }

    fn check_names(&self) -> Result<(), FactsError> {
        let usable = |project: &Project| project.usage_device_s.is_finite() && project.usage_device_s >= 0.0;
        if let Some(project) = self.projects.iter().find(|project| !usable(project)) {
            return Err(FactsError::Usage(project.name.clone()));
        }
        let unnamed = |node: &&Node| {
            node.labels.iter().any(|label| label.0 >= self.names.labels.len())
                || node.data.iter().any(|data| data.0 >= self.names.data.len())
        };
        match self.nodes.iter().find(unnamed) {
            Some(node) => Err(FactsError::Unnamed(node.name.clone())),
            None => Ok(()),
        }
    }

    fn check_job(&self, job: &Job) -> Result<(), FactsError> {
        if job.device_count == 0 || job.width == 0 {
            return Err(FactsError::NoDevices(job.id));
        }
        let known = |what, number: usize, count| match number < count {
            true => Ok(()),
            false => Err(FactsError::Unknown { job: job.id, what, number, count }),
        };
        known("project", job.project.0, self.projects.len())?;
        for label in &job.labels {
            known("label", label.0, self.names.labels.len())?;
        }
        for data in &job.data {
            known("data set", data.0, self.names.data.len())?;
        }
        Ok(())
    }

    fn check_parts(&self) -> Result<(), FactsError> {
        let mut is_used: Vec<Vec<bool>> =
            self.nodes.iter().map(|node| vec![false; node.devices.len()]).collect();
        for running in self.running {
            let job = running.job.id;
            for part in &running.parts {
                let count = self.nodes.len();
                let devices = is_used.get_mut(part.node.0).ok_or(FactsError::Unknown {
                    job,
                    what: "node",
                    number: part.node.0,
                    count,
                })?;
                for &device in &part.devices {
                    let count = devices.len();
                    let used = devices.get_mut(device).ok_or(FactsError::Unknown {
                        job,
                        what: "device",
                        number: device,
                        count,
                    })?;
                    if std::mem::replace(used, true) {
                        let node = self.nodes[part.node.0].name.clone();
                        return Err(FactsError::Shared { job, node, device });
                    }
                }
            }
        }
        Ok(())
    }
}

impl Job {
    /// Devices that count against quotas and shares, of slots of several each one that it
    /// trains on.
    pub fn weight(&self) -> usize {
        self.device_count.saturating_mul(self.width)
    }
}

impl Running {
    /// Devices that it has, as [`Job::weight`] counts them.
    pub fn weight(&self) -> usize {
        if self.job.spreads {
            return self.job.weight();
        }
        let slot_count: usize = self.parts.iter().map(|part| part.devices.len()).sum();
        slot_count.saturating_mul(self.job.width)
    }
}
