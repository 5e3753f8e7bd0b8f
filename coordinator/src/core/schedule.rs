//! Rows as facts of the planner, and its plan as what is to be written: which waiting jobs
//! go first, why the others wait, who makes way, which slots are kept for whom.
//!
//! A slot is a device of the planner, as wide as it has devices; a job takes one slot, or, where
//! it may be spread, several that make up its devices ([`super::gang`]).

pub mod estimate;
mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cakes::labels::Labels;
use cakes_planner as planner;
use cakes_planner::{CheckedFacts, FactsError, Part, Plan, Policy, Reason, StopReason};
use uuid::Uuid;

use self::estimate::{Estimate, Known, Work};
use self::facts::Owned;
use super::lease;
use super::ranks::{self, Ranked};
use super::worker::Device;

/// Jobs of the front of the queue that get ranks, beside two for every slot.
const FRONT_MIN: usize = 32;
const FRONT_MAX: usize = 500;
/// Jobs of a kind (project, priority, devices, memory, labels, deadline) that a round needs to
/// know: more than get ranks, so that one of them tells what stands behind the front.
pub const ALIKE_MAX: i64 = 512;
/// Supernets go before what else their project has submitted: all retrainings of their
/// search wait for them.
const SUPERNET_LEAD: i64 = 1 << 40;
/// Use of devices is written down when so much time has passed; what ends before that is
/// not counted for the rest of it.
const ACCOUNT_S: f64 = 5.0;
const DAY_S: f64 = 86_400.0;

/// What an operator sets of rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Silence after which a worker counts as lost.
    pub lease_ttl: Duration,
    pub policy: Policy,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { lease_ttl: lease::Policy::default().lease_ttl, policy: Policy::default() }
    }
}

/// A project, and what it has used.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectRow {
    pub name: String,
    pub share: u32,
    pub device_quota: Option<i32>,
    pub device_s_quota: Option<i64>,
    pub period_days: i32,
    /// Time since the begin of the period.
    pub period_age_s: f64,
    pub used_device_s: f64,
    pub usage_device_s: f64,
    /// Time since both were written down.
    pub usage_age_s: f64,
}

/// A worker that was heard of lately.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRow {
    pub id: String,
    pub schedule: planner::Schedule,
    pub devices: Vec<Device>,
    pub labels: Labels,
    /// Slots that are kept for a job now.
    pub kept: BTreeMap<String, Uuid>,
    /// Time since each of them was first kept for its job.
    pub kept_age_s: BTreeMap<String, f64>,
    /// Slots that asked within [`super::gang::KEPT_MAX`] for their part of a job.
    pub asks: BTreeMap<String, Uuid>,
    /// Kept slots of which an attempt ended within that time: they have hardly had the time to ask.
    pub freed: BTreeSet<String>,
    /// Whether its slots may train with those of other workers.
    pub joins_gangs: bool,
}

/// What a job is, waiting or running. Times are seconds of one clock.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    pub id: Uuid,
    pub project: String,
    pub priority: i32,
    pub is_supernet: bool,
    pub position: i64,
    pub create_s: i64,
    pub memory_mib: i64,
    pub device_count: i32,
    /// Whether its devices may be of several slots.
    pub spreads: bool,
    pub preemption_count: i32,
    /// What its worker must be labelled with.
    pub worker_labels: Labels,
    pub deadline_s: Option<i64>,
    /// Most device-seconds that it may take.
    pub cost_limit_device_s: Option<i64>,
    /// Those that its ended attempts took; only known of a job with a limit.
    pub spent_device_s: i64,
}

/// A job that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingRow {
    pub job: JobRow,
    /// Of its last grant.
    pub epoch: i64,
    /// Earliest start, after a failure.
    pub run_after_s: Option<i64>,
    /// The worker that it keeps away from at present.
    pub avoids: Option<String>,
    pub work: Work,
    pub ranked: Ranked,
    /// The reason that is written down.
    pub plan_reason: Option<String>,
}

/// A job that a worker has.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningRow {
    pub job: JobRow,
    pub epoch: i64,
    pub worker: String,
    pub device: String,
    /// Workers and devices of the other members of a gang.
    pub others: Vec<(String, String)>,
    pub grant_s: i64,
    /// Estimated time to its end.
    pub remaining_s: Option<f64>,
    /// It has started, and nobody has told it to stop.
    pub may_be_stopped: bool,
    pub is_stopping: bool,
}

/// All rows that a round is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub now_s: i64,
    pub projects: Vec<ProjectRow>,
    pub workers: Vec<WorkerRow>,
    pub running: Vec<RunningRow>,
    pub waiting: Vec<WaitingRow>,
    /// What is known of jobs that waiting ones may be like.
    pub known: Known,
}

impl Snapshot {
    /// How long a waiting job is going to train, where anything tells it.
    pub fn estimate(&self, row: &WaitingRow) -> Option<Estimate> {
        self.known.estimate(&row.work, row.job.device_count)
    }
}

/// What the planner thinks of a job that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Why it does not start at once, where that has to do with other jobs.
    pub reason: Option<String>,
    pub estimate: Option<Estimate>,
}

/// What is to be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    /// New ranks of waiting jobs; `None` takes one back.
    pub ranks: Vec<(Uuid, Option<i64>)>,
    /// New reasons of waiting jobs; `None` takes one back.
    pub reasons: Vec<(Uuid, Option<&'static str>)>,
    pub stops: Vec<Yield>,
    /// Jobs that have taken all that they may, with their epochs: they are to be paused.
    pub spent: Vec<(Uuid, i64)>,
    /// Workers with the slots that are kept for a job from now on.
    pub kept: Vec<(String, BTreeMap<String, Uuid>)>,
    pub accounts: Vec<Account>,
}

/// An attempt that is to save a checkpoint and make way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Yield {
    pub job: Uuid,
    pub epoch: i64,
    pub by: Uuid,
}

/// What a project has used up to now.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    pub project: String,
    pub used_device_s: f64,
    pub usage_device_s: f64,
    /// Periods that are over since the present one began.
    pub period_count: i32,
}

impl Decisions {
    pub fn is_empty(&self) -> bool {
        *self == Decisions::default()
    }
}

/// Plans a round.
///
/// # Errors
/// Rows contradict each other.
pub fn decide(snapshot: &Snapshot, policy: &Policy) -> Result<Decisions, FactsError> {
    let owned = Owned::of(snapshot, policy);
    let facts = owned.facts(snapshot, policy).check()?;
    let plan = planner::plan(&facts);
    Ok(Decisions {
        ranks: new_ranks(snapshot, &facts, &plan),
        reasons: new_reasons(snapshot, &plan),
        stops: yields(snapshot, &plan),
        spent: spent(snapshot, &plan),
        kept: new_kept(snapshot, &plan),
        accounts: owned.accounts,
    })
}

/// Why each job waits that does not start at once, in a sentence for its owner; of reasons
/// that have to do with other jobs, and of those that spread also which slots make up their devices.
/// Those of the job itself and of workers are told by [`super::explain`].
///
/// # Errors
/// Rows contradict each other.
pub fn sentences(snapshot: &Snapshot, policy: &Policy) -> Result<BTreeMap<Uuid, String>, FactsError> {
    let owned = Owned::of(snapshot, policy);
    let facts = owned.facts(snapshot, policy).check()?;
    let plan = planner::plan(&facts);
    let spreads: BTreeSet<u128> =
        facts.get().waiting.iter().filter(|job| job.spreads).map(|job| job.id.0).collect();
    let is_of_others = |reason: &Reason| written(reason).is_some() || matches!(reason, Reason::Busy { .. });
    let waits = plan.waiting.iter().filter(|wait| {
        is_of_others(&wait.reason) || spreads.contains(&wait.job.0) && is_of_slots(&wait.reason)
    });
    Ok(waits.map(|wait| (Uuid::from_u128(wait.job.0), wait.reason.sentence(facts.get()))).collect())
}

/// What jobs that wait are told: [`sentences`], and how long they are going to train.
///
/// # Errors
/// Rows contradict each other.
pub fn outlooks(snapshot: &Snapshot, policy: &Policy) -> Result<BTreeMap<Uuid, Outlook>, FactsError> {
    let mut reasons = sentences(snapshot, policy)?;
    let outlook = |row: &WaitingRow| {
        let (reason, estimate) = (reasons.remove(&row.job.id), snapshot.estimate(row));
        (row.job.id, Outlook { reason, estimate })
    };
    Ok(snapshot.waiting.iter().map(outlook).collect())
}

/// The word that is written down with a job: of reasons that nobody sees from the rows of
/// jobs and workers.
fn written(reason: &Reason) -> Option<&'static str> {
    match reason {
        Reason::DeviceQuota { .. }
        | Reason::QuotaInTurn { .. }
        | Reason::DeviceTimeQuota { .. }
        | Reason::Reserved { .. }
        | Reason::BeingCleared { .. }
        | Reason::WouldDelay { .. } => Some(reason.word()),
        _ => None,
    }
}

/// Whether it says which slots there are for a job, and how many devices these have together.
fn is_of_slots(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::TooFewDevices { .. }
            | Reason::NotMadeUp { .. }
            | Reason::NotMadeUpNow { .. }
            | Reason::Closed { .. }
            | Reason::KeepsAway { .. }
    )
}

fn is_quota(reason: &Reason) -> bool {
    matches!(reason, Reason::DeviceQuota { .. } | Reason::QuotaInTurn { .. } | Reason::DeviceTimeQuota { .. })
}

fn new_ranks(snapshot: &Snapshot, facts: &CheckedFacts<'_>, plan: &Plan) -> Vec<(Uuid, Option<i64>)> {
    let held: BTreeSet<u128> =
        plan.waiting.iter().filter(|wait| is_quota(&wait.reason)).map(|wait| wait.job.0).collect();
    // Not those that were granted while the rows were read: the first ones, as a rule, and
    // the whole front would be put before the places that they had.
    let waiting: BTreeSet<u128> = facts.get().waiting.iter().map(|job| job.id.0).collect();
    let is_served =
        |row: &&WaitingRow| waiting.contains(&row.job.id.as_u128()) && !held.contains(&row.job.id.as_u128());
    let served: Vec<&WaitingRow> = snapshot.waiting.iter().filter(is_served).collect();
    let slots: usize = snapshot.workers.iter().map(|worker| worker.devices.len()).sum();
    let wanted = (FRONT_MIN + 2 * slots).min(FRONT_MAX);
    let places: BTreeMap<u128, usize> =
        served.iter().enumerate().map(|(place, row)| (row.job.id.as_u128(), place)).collect();
    let line = planner::line(facts, wanted + held.len());
    let front: Vec<usize> = line.iter().filter_map(|job| places.get(&job.0).copied()).take(wanted).collect();
    let ranked: Vec<Ranked> = served.iter().map(|row| row.ranked).collect();
    ranks::arrange(&ranked, &front).into_iter().map(|(place, rank)| (served[place].job.id, rank)).collect()
}

fn new_reasons(snapshot: &Snapshot, plan: &Plan) -> Vec<(Uuid, Option<&'static str>)> {
    let words: BTreeMap<u128, &'static str> =
        plan.waiting.iter().filter_map(|wait| Some((wait.job.0, written(&wait.reason)?))).collect();
    let new = |row: &WaitingRow| {
        let word = words.get(&row.job.id.as_u128()).copied();
        (word != row.plan_reason.as_deref()).then_some((row.job.id, word))
    };
    snapshot.waiting.iter().filter_map(new).collect()
}

/// Those on draining workers are told so by their worker's schedule.
fn yields(snapshot: &Snapshot, plan: &Plan) -> Vec<Yield> {
    let told = plan.stops.iter().filter_map(|stop| match stop.reason {
        StopReason::Preempted { by } => Some((stop.job.0, Uuid::from_u128(by.0))),
        StopReason::Drains | StopReason::CostLimit => None,
    });
    let of = |(job, by)| {
        let row = snapshot.running.iter().find(|row| row.job.id.as_u128() == job)?;
        Some(Yield { job: row.job.id, epoch: row.epoch, by })
    };
    told.filter_map(of).collect()
}

fn spent(snapshot: &Snapshot, plan: &Plan) -> Vec<(Uuid, i64)> {
    let stops = plan.stops.iter().filter(|stop| stop.reason == StopReason::CostLimit).map(|stop| stop.job.0);
    let waits = plan.waiting.iter().filter(|wait| matches!(wait.reason, Reason::CostLimit { .. }));
    let jobs: BTreeSet<u128> = stops.chain(waits.map(|wait| wait.job.0)).collect();
    let running = snapshot.running.iter().map(|row| (row.job.id, row.epoch));
    let waiting = snapshot.waiting.iter().map(|row| (row.job.id, row.epoch));
    running.chain(waiting).filter(|(job, _)| jobs.contains(&job.as_u128())).collect()
}

/// Slots that a job waits for, and wide ones that are free for one that starts there, or several
/// for one that is spread: a narrow job might take them first. Where another job starts now, none
/// is kept.
fn new_kept(snapshot: &Snapshot, plan: &Plan) -> Vec<(String, BTreeMap<String, Uuid>)> {
    let wide = |job: u128| {
        snapshot.waiting.iter().any(|row| row.job.id.as_u128() == job && row.job.device_count > 1)
    };
    let placed =
        plan.placements.iter().filter(|placed| wide(placed.job.0)).map(|placed| (placed.job, &placed.parts));
    let starts: BTreeSet<(usize, usize)> =
        plan.placements.iter().flat_map(|placed| slots(&placed.parts)).collect();
    let is_free = |parts: &Vec<Part>| slots(parts).all(|slot| !starts.contains(&slot));
    let reserved =
        plan.reservations.iter().filter(|held| is_free(&held.parts)).map(|held| (held.job, &held.parts));
    let mut kept: BTreeMap<usize, BTreeMap<String, Uuid>> = BTreeMap::new();
    for (job, part) in
        placed.chain(reserved).flat_map(|(job, parts)| parts.iter().map(move |part| (job, part)))
    {
        let Some(worker) = snapshot.workers.get(part.node.0) else { continue };
        for device in part.devices.iter().filter_map(|device| worker.devices.get(*device)) {
            kept.entry(part.node.0).or_default().insert(device.name.clone(), Uuid::from_u128(job.0));
        }
    }
    let workers = snapshot.workers.iter().enumerate();
    let new = workers.filter_map(|(place, worker)| {
        let kept = kept.remove(&place).unwrap_or_default();
        (kept != worker.kept).then(|| (worker.id.clone(), kept))
    });
    new.collect()
}

fn slots(parts: &[Part]) -> impl Iterator<Item = (usize, usize)> {
    parts.iter().flat_map(|part| part.devices.iter().map(|device| (part.node.0, *device)))
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
