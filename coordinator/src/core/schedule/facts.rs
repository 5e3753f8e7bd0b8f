//! Rows as what the planner calls facts.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use cakes::labels::Labels;
use cakes_planner as planner;
use cakes_planner::{Facts, LabelNo, Names, Node, NodeNo, Part, Policy, ProjectNo, usage};
use uuid::Uuid;

use super::{
    ACCOUNT_S, Account, DAY_S, JobRow, ProjectRow, RunningRow, SUPERNET_LEAD, Snapshot, WaitingRow, WorkerRow,
};
use crate::core::gang;
use crate::core::worker::Device;

/// What facts are made of.
pub(super) struct Owned {
    names: Names,
    projects: Vec<planner::Project>,
    nodes: Vec<Node>,
    running: Vec<planner::Running>,
    waiting: Vec<planner::Job>,
    pub(super) accounts: Vec<Account>,
}

impl Owned {
    pub(super) fn of(snapshot: &Snapshot, policy: &Policy) -> Self {
        let known = KnownLabels::of(snapshot);
        let mut nodes: Vec<Node> =
            snapshot.workers.iter().map(|worker| node(snapshot, worker, &known)).collect();
        let running = running(snapshot, &known, &mut nodes);
        let ids: BTreeSet<Uuid> = snapshot.running.iter().map(|row| row.job.id).collect();
        // Granted between two statements that read.
        let waiting = snapshot.waiting.iter().filter(|row| !ids.contains(&row.job.id));
        let waiting = waiting.map(|row| waiting_job(snapshot, &known, row)).collect();
        let (projects, accounts) = projects(snapshot, policy);
        let accounts = accounts.into_iter().flatten().collect();
        Owned { names: known.names(), projects, nodes, running, waiting, accounts }
    }

    pub(super) fn facts<'a>(&'a self, snapshot: &Snapshot, policy: &'a Policy) -> Facts<'a> {
        Facts {
            now_s: seconds(snapshot.now_s),
            policy,
            names: &self.names,
            projects: &self.projects,
            nodes: &self.nodes,
            running: &self.running,
            waiting: &self.waiting,
            // What is kept is known of each job that likes to stay there.
            reservations: &[],
        }
    }
}

fn seconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0)
}

/// Every label of a worker or a job by its number, which is its place among them.
struct KnownLabels<'a>(BTreeMap<(&'a str, &'a str), LabelNo>);

impl<'a> KnownLabels<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let workers = snapshot.workers.iter().map(|worker| &worker.labels);
        let running = snapshot.running.iter().map(|row| &row.job.worker_labels);
        let waiting = snapshot.waiting.iter().map(|row| &row.job.worker_labels);
        let all: BTreeSet<_> = workers.chain(running).chain(waiting).flat_map(Labels::iter).collect();
        KnownLabels(all.into_iter().zip((0..).map(LabelNo)).collect())
    }

    fn numbers(&self, labels: &Labels) -> Vec<LabelNo> {
        labels.iter().filter_map(|label| self.0.get(&label).copied()).collect()
    }

    fn names(&self) -> Names {
        let labels = self.0.keys().map(|(key, value)| format!("{key}={value}")).collect();
        Names { labels, ..Names::default() }
    }
}

/// A slot that was kept for a part of a job for long enough, was free meanwhile, and does not ask
/// for its part, is of no width: others take its place.
fn node(snapshot: &Snapshot, worker: &WorkerRow, known: &KnownLabels<'_>) -> Node {
    let device = |device: &Device| planner::Device {
        memory_mib: device.memory_mib,
        width: match is_silent(snapshot, worker, device) {
            true => 0,
            false => usize::try_from(device.count.max(1)).unwrap_or(1),
        },
    };
    Node {
        name: worker.id.clone(),
        devices: worker.devices.iter().map(device).collect(),
        labels: known.numbers(&worker.labels),
        schedule: worker.schedule,
        data: Vec::new(),
        joins: worker.joins_gangs,
    }
}

fn is_silent(snapshot: &Snapshot, worker: &WorkerRow, device: &Device) -> bool {
    let Some(job) = worker.kept.get(&device.name) else { return false };
    let is_part = |row: &WaitingRow| {
        row.job.id == *job && row.job.spreads && i64::from(row.job.device_count) > i64::from(device.count)
    };
    let is_busy = |row: &RunningRow| {
        let others = row.others.iter().map(|(worker, device)| (worker, device));
        let mut slots = std::iter::once((&row.worker, &row.device)).chain(others);
        slots.any(|slot| slot == (&worker.id, &device.name))
    };
    let kept_age_s = worker.kept_age_s.get(&device.name).copied().unwrap_or(0.0);
    kept_age_s > gang::KEPT_MAX.as_secs_f64()
        && worker.asks.get(&device.name) != Some(job)
        && !worker.freed.contains(&device.name)
        && snapshot.waiting.iter().any(is_part)
        && !snapshot.running.iter().any(is_busy)
}

/// Slots that were kept for the job before.
fn kept(snapshot: &Snapshot, job: Uuid) -> Vec<Part> {
    let of = |(number, worker): (usize, &WorkerRow)| {
        let devices = worker.devices.iter().enumerate();
        let is_its = |(_, device): &(usize, &Device)| worker.kept.get(&device.name) == Some(&job);
        let devices: Vec<usize> = devices.filter(is_its).map(|(place, _)| place).collect();
        (!devices.is_empty()).then_some(Part { node: NodeNo(number), devices })
    };
    snapshot.workers.iter().enumerate().filter_map(of).collect()
}

fn project_no(snapshot: &Snapshot, name: &str) -> ProjectNo {
    ProjectNo(snapshot.projects.iter().position(|project| project.name == name).unwrap_or(0))
}

fn job(snapshot: &Snapshot, known: &KnownLabels<'_>, row: &JobRow) -> planner::Job {
    planner::Job {
        id: planner::JobId(row.id.as_u128()),
        project: project_no(snapshot, &row.project),
        priority: row.priority,
        submit_s: seconds(row.create_s),
        not_before_s: 0,
        device_count: 1,
        width: usize::try_from(row.device_count).unwrap_or(1).max(1),
        memory_mib: u64::try_from(row.memory_mib).unwrap_or(0),
        labels: known.numbers(&row.worker_labels),
        may_span: false,
        spreads: row.spreads && row.device_count > 1,
        kept: Vec::new(),
        estimate_s: None,
        deadline_s: row.deadline_s.map(seconds),
        cost_limit_device_s: row.cost_limit_device_s.map(seconds),
        spent_device_s: seconds(row.spent_device_s),
        data: Vec::new(),
        is_preemptible: false,
        preemption_count: row.preemption_count.unsigned_abs(),
        avoids: None,
        place: row.position - if row.is_supernet { SUPERNET_LEAD } else { 0 },
    }
}

fn waiting_job(snapshot: &Snapshot, known: &KnownLabels<'_>, row: &WaitingRow) -> planner::Job {
    let of_avoided = |id: &String| snapshot.workers.iter().position(|worker| worker.id == *id).map(NodeNo);
    let spreads = row.job.spreads && row.job.device_count > 1;
    planner::Job {
        kept: if spreads { kept(snapshot, row.job.id) } else { Vec::new() },
        not_before_s: row.run_after_s.map_or(0, seconds),
        avoids: row.avoids.as_ref().and_then(of_avoided),
        estimate_s: snapshot.estimate(row).map(|estimate| at_most(snapshot, &row.job, estimate.train_s)),
        ..job(snapshot, known, &row.job)
    }
}

/// No longer than its limit of device-seconds lets it run, which pauses it then, nor than its project
/// may use in a whole period. A guess that it is going to take more must not keep it from starting.
fn at_most(snapshot: &Snapshot, row: &JobRow, train_s: u64) -> u64 {
    let limit =
        row.cost_limit_device_s.map(|limit| seconds(limit).saturating_sub(seconds(row.spent_device_s)));
    let project = snapshot.projects.iter().find(|project| project.name == row.project);
    let quota = project.and_then(|project| project.device_s_quota).map(seconds);
    let devices = u64::from(row.device_count.unsigned_abs().max(1));
    limit.into_iter().chain(quota).map(|device_s| device_s / devices).fold(train_s, u64::min)
}

/// Running jobs on their slots. An attempt on a slot that its worker has no more, or that
/// another one has, stands on a node of its own.
fn running(snapshot: &Snapshot, known: &KnownLabels<'_>, nodes: &mut Vec<Node>) -> Vec<planner::Running> {
    let mut used: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut strays = Vec::new();
    let elsewhere = nodes.len();
    let mut place = |(worker, name): (&String, &String), width: usize| {
        let node = snapshot.workers.iter().position(|known| known.id == *worker);
        let slot = node.and_then(|node| {
            let devices = snapshot.workers[node].devices.iter().enumerate();
            let is_its =
                |(slot, device): &(usize, &Device)| device.name == *name && !used.contains(&(node, *slot));
            devices.into_iter().find(is_its).map(|(slot, _)| (node, slot))
        });
        let (node, slot) = slot.unwrap_or_else(|| {
            strays.push(planner::Device { memory_mib: 0, width });
            (elsewhere, strays.len() - 1)
        });
        used.insert((node, slot));
        Part { node: NodeNo(node), devices: vec![slot] }
    };
    let rows = snapshot.running.iter().map(|row| {
        let base = job(snapshot, known, &row.job);
        let ran_s = seconds(snapshot.now_s.saturating_sub(row.grant_s));
        let left_s = row.remaining_s.filter(|left| left.is_finite() && *left >= 0.0);
        let estimate_s = left_s.map(|left_s| ran_s.saturating_add(left_s as u64));
        let others = row.others.iter().map(|(worker, device)| (worker, device));
        let slots = std::iter::once((&row.worker, &row.device)).chain(others);
        planner::Running {
            parts: slots.map(|slot| place(slot, base.width)).collect(),
            job: planner::Job { is_preemptible: row.may_be_stopped || row.is_stopping, estimate_s, ..base },
            start_s: seconds(row.grant_s),
            is_stopping: row.is_stopping,
        }
    });
    let rows: Vec<planner::Running> = rows.collect();
    if !strays.is_empty() {
        let schedule = planner::Schedule::Lost;
        nodes.push(Node {
            name: "elsewhere".into(),
            devices: strays,
            labels: Vec::new(),
            schedule,
            data: Vec::new(),
            joins: false,
        });
    }
    rows
}

/// Use brought up to now, as if what runs now had run since it was written down; and what
/// is to be written.
fn projects(snapshot: &Snapshot, policy: &Policy) -> (Vec<planner::Project>, Vec<Option<Account>>) {
    let of = |row: &ProjectRow| {
        let elapsed_s = row.usage_age_s.max(0.0);
        // Of each attempt its devices, and how long it had them since then.
        let running = snapshot.running.iter().filter(|running| running.job.project == row.name);
        let takes: Vec<(usize, f64)> = running
            .map(|running| {
                let ran_s = seconds(snapshot.now_s.saturating_sub(running.grant_s)) as f64;
                (usize::try_from(running.job.device_count).unwrap_or(1), ran_s.min(elapsed_s))
            })
            .collect();
        let period_s = f64::from(row.period_days.max(1)) * DAY_S;
        let period_count = (row.period_age_s / period_s).floor().max(0.0);
        let (used_before_s, period_age_s) = match period_count > 0.0 {
            true => (0.0, row.period_age_s % period_s),
            false => (row.used_device_s, row.period_age_s),
        };
        let used_s = takes.iter().map(|(devices, ran_s)| *devices as f64 * ran_s.min(period_age_s));
        let used_device_s = used_before_s + used_s.sum::<f64>();
        let decayed = |before, devices, ran_s: f64| {
            usage::decayed(before, devices, ran_s.round() as u64, policy.half_life_s)
        };
        let usage_s = takes.iter().map(|(devices, ran_s)| decayed(0.0, *devices, *ran_s));
        let usage_device_s = decayed(row.usage_device_s, 0, elapsed_s) + usage_s.sum::<f64>();
        let is_due = period_count > 0.0 || !takes.is_empty() && elapsed_s >= ACCOUNT_S;
        let account = is_due.then(|| Account {
            project: row.name.clone(),
            used_device_s,
            usage_device_s,
            period_count: period_count as i32,
        });
        let project = planner::Project {
            name: row.name.clone(),
            share: NonZeroU32::new(row.share).unwrap_or(NonZeroU32::MIN),
            usage_device_s,
            device_quota: row.device_quota.map(|quota| usize::try_from(quota).unwrap_or(0)),
            device_s_quota: row.device_s_quota.map(seconds),
            used_device_s: used_device_s as u64,
        };
        (project, account)
    };
    snapshot.projects.iter().map(of).unzip()
}
