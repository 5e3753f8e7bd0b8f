//! Why a job waits: as data, and as a sentence for its owner.

use crate::facts::{Facts, JobId, LabelNo, NodeNo, ProjectNo};

/// Most nodes that a sentence names.
const NODES_NAMED_MAX: usize = 4;

/// The nearest obstacle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It failed lately and is not tried again yet.
    HeldBack { until_s: u64 },
    /// It would take, or has taken, more device-seconds than its owner allows it.
    CostLimit { limit_device_s: u64, spent_device_s: u64, estimate_device_s: u64 },
    /// Its project may not have so many devices at once, those included that are kept for
    /// other jobs of it.
    DeviceQuota { project: ProjectNo, quota: usize, in_use: usize, wanted: usize },
    /// Another job of its project waits for the quota of devices, and goes first.
    QuotaInTurn { project: ProjectNo, first: JobId },
    /// Its project has used up its device-seconds, or has promised them to what runs.
    DeviceTimeQuota { project: ProjectNo, quota_device_s: u64, taken_device_s: u64, wanted_device_s: u64 },
    /// There is no node.
    NoNodes,
    /// No node has all of its labels.
    NoLabels { labels: Vec<LabelNo> },
    /// No slot of a node with its labels has so many devices.
    TooNarrow { wanted: usize, widest: usize },
    /// No device of a node with its labels has so much memory.
    TooLittleMemory { wanted_mib: u64, most_mib: u64 },
    /// No node (all nodes, if it may use several) has so many fitting devices.
    TooFewDevices { wanted: usize, most: usize, may_span: bool },
    /// It spreads, and slots are given as a whole: those that fit have enough devices together, but
    /// no choice of them has exactly so many.
    NotMadeUp { wanted: usize, fitting: usize },
    /// What fits is cordoned, draining or lost.
    Closed { node_count: usize },
    /// What fits is the node that it keeps away from.
    KeepsAway { node: NodeNo },
    /// Devices are collected for it; estimated to be complete at that time.
    Reserved { nodes: Vec<NodeNo>, wanted: usize, free: usize, promised_s: u64 },
    /// Others save checkpoints and make way for it.
    BeingCleared { nodes: Vec<NodeNo>, stop_count: usize },
    /// Enough devices are free, but not on one node.
    Fragmented { wanted: usize, free: usize, most_on_one_node: usize },
    /// It spreads, and enough devices are free, but no choice of their slots has exactly so many.
    NotMadeUpNow { wanted: usize, free: usize },
    /// The devices that are free are kept for that job, and this one may not be done by then.
    WouldDelay { job: JobId, estimate_s: Option<u64> },
    /// Fitting devices are in use.
    Busy { wanted: usize, width: usize, free: usize, fitting: usize, ahead: usize, first: Option<JobId> },
    /// Jobs start strictly in the order of their submission (only without the planner).
    InTurn { first: JobId, ahead: usize },
}

impl Reason {
    /// A stable word for each kind, for tables and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Reason::HeldBack { .. } => "held_back",
            Reason::CostLimit { .. } => "cost_limit",
            Reason::DeviceQuota { .. } => "device_quota",
            Reason::QuotaInTurn { .. } => "quota_in_turn",
            Reason::DeviceTimeQuota { .. } => "device_time_quota",
            Reason::NoNodes => "no_nodes",
            Reason::NoLabels { .. } => "no_labels",
            Reason::TooNarrow { .. } => "too_narrow",
            Reason::TooLittleMemory { .. } => "too_little_memory",
            Reason::TooFewDevices { .. } => "too_few_devices",
            Reason::NotMadeUp { .. } => "not_made_up",
            Reason::Closed { .. } => "nodes_closed",
            Reason::KeepsAway { .. } => "keeps_away",
            Reason::Reserved { .. } => "reserved",
            Reason::BeingCleared { .. } => "being_cleared",
            Reason::Fragmented { .. } => "fragmented",
            Reason::NotMadeUpNow { .. } => "not_made_up_now",
            Reason::WouldDelay { .. } => "would_delay",
            Reason::Busy { .. } => "devices_busy",
            Reason::InTurn { .. } => "in_turn",
        }
    }

    /// Whether it can start once devices become free, without anybody changing a limit,
    /// a node or the job itself.
    pub fn is_about_devices(&self) -> bool {
        matches!(
            self,
            Reason::Reserved { .. }
                | Reason::BeingCleared { .. }
                | Reason::Fragmented { .. }
                | Reason::NotMadeUpNow { .. }
                | Reason::WouldDelay { .. }
                | Reason::Busy { .. }
                | Reason::InTurn { .. }
        )
    }

    /// The obstacle, and what to do about it where something can be done.
    pub fn sentence(&self, facts: &Facts<'_>) -> String {
        let project = |number: &ProjectNo| facts.projects.get(number.0).map_or("?", |it| it.name.as_str());
        let node = |number: &NodeNo| facts.nodes.get(number.0).map_or("?", |it| it.name.as_str());
        match self {
            Reason::HeldBack { until_s } => {
                format!("It is held back for {} after a failure.", span(until_s.saturating_sub(facts.now_s)))
            }
            Reason::CostLimit { limit_device_s, spent_device_s, estimate_device_s } => format!(
                "It may take {} device-hours, has taken {} and would take {} more; raise its cost limit.",
                hours(*limit_device_s),
                hours(*spent_device_s),
                hours(*estimate_device_s)
            ),
            Reason::DeviceQuota { project: number, quota, wanted, .. } if wanted > quota => format!(
                "It needs {}, and project {} may have {quota} at once; an operator can raise the quota.",
                devices(*wanted),
                project(number)
            ),
            Reason::DeviceQuota { project: number, quota, in_use, wanted } => format!(
                "Project {} uses or waits for {in_use} of the {quota} devices that it may have at once; it needs \
                 {wanted}.",
                project(number)
            ),
            Reason::QuotaInTurn { project: number, first } => format!(
                "Job {first}, which is before it, waits until project {} uses fewer devices.",
                project(number)
            ),
            Reason::DeviceTimeQuota { project: number, quota_device_s, taken_device_s, wanted_device_s } => {
                format!(
                    "Project {} has used or promised {} of its {} device-hours, and it would take {}; \
                     an operator can raise the quota.",
                    project(number),
                    hours(*taken_device_s),
                    hours(*quota_device_s),
                    hours(*wanted_device_s)
                )
            }
            Reason::NoNodes => "No worker has registered; start one with `cakes-worker --server URL`.".into(),
            Reason::NoLabels { labels } => {
                let texts = labels.iter().map(|label| facts.names.labels.get(label.0).map_or("?", |it| it));
                format!("No node is labelled {}.", texts.collect::<Vec<_>>().join(" and "))
            }
            Reason::TooNarrow { wanted, widest } => format!(
                "It trains on {wanted} devices at once; the widest slot has {widest}. Start a worker with \
                 `--devices cuda:0+cuda:1`, as many with + between."
            ),
            Reason::TooLittleMemory { wanted_mib, most_mib } => format!(
                "It needs {wanted_mib} MiB of memory on each device; the largest that fits has {most_mib} MiB."
            ),
            Reason::TooFewDevices { wanted, most, may_span: true } => {
                format!("It needs {}; all nodes together have {most} that fit.", devices(*wanted))
            }
            Reason::TooFewDevices { wanted, most, may_span: false } => {
                format!("It needs {} of one node; no node has more than {most} that fit.", devices(*wanted))
            }
            Reason::NotMadeUp { wanted, fitting } => format!(
                "It needs exactly {}, and slots are given as a whole: those that fit have {fitting} together, \
                 but none of them make up {wanted}; start a worker with narrower ones.",
                devices(*wanted)
            ),
            Reason::Closed { node_count } => format!(
                "Nodes that fit ({node_count}) are cordoned, draining or lost; `cakes worker uncordon` lets \
                 one take jobs."
            ),
            Reason::KeepsAway { node: number } => {
                format!("Only node {} fits, which it keeps away from after a fault there.", node(number))
            }
            Reason::Reserved { nodes, wanted, free, promised_s } => format!(
                "It is next: devices of {} are kept for it, {free} of {wanted} are free, the others are \
                 estimated to be {}.",
                listed(nodes, node),
                match promised_s.saturating_sub(facts.now_s) {
                    0 => "free soon (they should have been already)".to_owned(),
                    left => format!("free in {}", span(left)),
                }
            ),
            Reason::BeingCleared { nodes, stop_count } => format!(
                "Jobs of lower priority ({stop_count}) save checkpoints and make way for it on {}.",
                listed(nodes, node)
            ),
            Reason::Fragmented { wanted, free, most_on_one_node } => format!(
                "It needs {} of one node; {free} are free, but at most {most_on_one_node} on one node.",
                devices(*wanted)
            ),
            Reason::NotMadeUpNow { wanted, free } => format!(
                "It needs exactly {}, and slots are given as a whole: {free} are free, but none of their slots \
                 make up {wanted}.",
                devices(*wanted)
            ),
            Reason::WouldDelay { job, estimate_s: Some(estimate_s) } => format!(
                "The free devices are kept for job {job}, which would start later: it is estimated to take {}.",
                span(*estimate_s)
            ),
            Reason::WouldDelay { job, estimate_s: None } => format!(
                "The free devices are kept for job {job}; with an estimate of its runtime it might go first."
            ),
            Reason::Busy { wanted, width, free, fitting, ahead, first } => {
                let before = match first {
                    Some(first) if *ahead == 1 => format!(" One waiting job is before it, {first}."),
                    Some(first) => format!(" {ahead} waiting jobs are before it, the first is {first}."),
                    None => " No job is before it.".to_owned(),
                };
                let wanted = match width {
                    1 => devices(*wanted),
                    width => format!("a slot of {width} devices"),
                };
                format!("It needs {wanted}; {free} of {fitting} that fit are free.{before}")
            }
            Reason::InTurn { first, ahead } => {
                format!("Jobs start in the order of submission: {ahead} are before it, the first is {first}.")
            }
        }
    }
}

fn devices(count: usize) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{count} devices") }
}

/// `node a`, `nodes a and b`; of many the first.
fn listed<'a>(nodes: &[NodeNo], name: impl Fn(&NodeNo) -> &'a str) -> String {
    let names: Vec<&str> = nodes.iter().take(NODES_NAMED_MAX).map(name).collect();
    match (names.as_slice(), nodes.len() - names.len()) {
        ([one], 0) => format!("node {one}"),
        ([first @ .., last], 0) => format!("nodes {} and {last}", first.join(", ")),
        (names, others) => format!("nodes {} and {others} more", names.join(", ")),
    }
}

fn hours(device_s: u64) -> String {
    format!("{:.1}", device_s as f64 / 3600.0)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        7200..172_800 => format!("{:.1} h", seconds as f64 / 3600.0),
        _ => format!("{:.1} days", seconds as f64 / 86_400.0),
    }
}
