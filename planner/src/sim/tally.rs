//! What is counted while a simulation runs.

use super::report::{DeadlineReport, LostReport, Name, ProjectReport, Report, StarvingJob, spread};
use super::scenario::Scenario;
use super::trace::{Submission, seconds};
use crate::facts::{Job, Project, Running};
use crate::plan::{Plan, StopReason};
use crate::usage::decayed;

/// Shorter jobs count as so long in a slowdown, lest a minute's wait of a second's job
/// weigh as much as an hour's of a minute's.
const SLOWDOWN_BOUND_S: u64 = 600;
/// Most starving jobs that are named.
const NAMED_MAX: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Waste {
    Preemption,
    Drain,
    Failure,
}

#[derive(Clone, Default)]
struct Record {
    project: usize,
    device_count: usize,
    submit_s: u64,
    runtime_s: u64,
    deadline_s: Option<u64>,
    start_s: Option<u64>,
    done_s: Option<u64>,
}

#[derive(Default)]
struct Demand {
    in_use: usize,
    waiting: usize,
    owed_device_s: f64,
}

pub(super) struct Tally {
    half_life_s: u64,
    now_s: u64,
    projects: Vec<Project>,
    demands: Vec<Demand>,
    records: Vec<Record>,
    up_device_s: u64,
    rounds: u64,
    queue_max: usize,
    preemptions: u64,
    drains: u64,
    cut_off: u64,
    failures: u64,
    lost_device_s: [u64; 3],
    data_wanted: u64,
    data_loads: u64,
}

impl Tally {
    pub fn new(scenario: &Scenario, submissions: &[Submission]) -> Self {
        let project = |spec: &super::scenario::ProjectSpec| Project {
            name: spec.name.clone(),
            share: spec.share,
            usage_device_s: 0.0,
            device_quota: spec.device_quota,
            device_s_quota: spec.device_hour_quota.map(seconds),
            used_device_s: 0,
        };
        let record = |submission: &Submission| Record {
            project: submission.job.project.0,
            device_count: submission.job.device_count,
            submit_s: submission.job.submit_s,
            runtime_s: submission.runtime_s,
            deadline_s: submission.job.deadline_s,
            start_s: None,
            done_s: None,
        };
        Tally {
            half_life_s: scenario.policy.half_life_s,
            now_s: 0,
            projects: scenario.projects.iter().map(project).collect(),
            demands: scenario.projects.iter().map(|_| Demand::default()).collect(),
            records: submissions.iter().map(record).collect(),
            up_device_s: 0,
            rounds: 0,
            queue_max: 0,
            preemptions: 0,
            drains: 0,
            cut_off: 0,
            failures: 0,
            lost_device_s: [0; 3],
            data_wanted: 0,
            data_loads: 0,
        }
    }

    pub fn projects(&self) -> &[Project] {
        &self.projects
    }

    pub fn pass(&mut self, elapsed_s: u64, up_device_count: usize) {
        if elapsed_s == 0 {
            return;
        }
        self.now_s += elapsed_s;
        self.up_device_s += up_device_count as u64 * elapsed_s;
        for (project, demand) in self.projects.iter_mut().zip(&self.demands) {
            project.usage_device_s =
                decayed(project.usage_device_s, demand.in_use, elapsed_s, self.half_life_s);
            project.used_device_s += demand.in_use as u64 * elapsed_s;
        }
        self.owe(up_device_count as f64, elapsed_s as f64);
    }

    /// By the shares, and what a project does not want goes to the others by theirs.
    fn owe(&mut self, devices: f64, elapsed_s: f64) {
        let wanted = |number: usize| {
            let demand = &self.demands[number];
            let quota = self.projects[number].device_quota.unwrap_or(usize::MAX);
            (demand.in_use + demand.waiting).min(quota) as f64
        };
        let share = |number: usize| f64::from(self.projects[number].share.get());
        let mut open: Vec<(f64, usize)> =
            (0..self.projects.len()).map(|number| (wanted(number) / share(number), number)).collect();
        open.sort_by(|left, right| left.0.total_cmp(&right.0).then(left.1.cmp(&right.1)));
        let mut left = devices;
        let mut shares: f64 = open.iter().map(|(_, number)| share(*number)).sum();
        let mut owed = vec![0.0; open.len()];
        for (_, number) in open {
            owed[number] = wanted(number).min(left * share(number) / shares);
            left -= owed[number];
            shares -= share(number);
        }
        for (demand, owed) in self.demands.iter_mut().zip(owed) {
            demand.owed_device_s += owed * elapsed_s;
        }
    }

    pub fn queued(&mut self, job: &Job) {
        self.demands[job.project.0].waiting += job.device_count;
    }

    pub fn started(&mut self, job: &Job, place: usize, now_s: u64, missing: usize) {
        let demand = &mut self.demands[job.project.0];
        demand.waiting -= job.device_count;
        demand.in_use += job.device_count;
        self.records[place].start_s.get_or_insert(now_s);
        self.data_wanted += u64::from(!job.data.is_empty());
        self.data_loads += u64::from(missing > 0);
    }

    pub fn freed(&mut self, job: &Job) {
        self.demands[job.project.0].in_use -= job.device_count;
    }

    pub fn done(&mut self, _: &Job, place: usize, now_s: u64) {
        self.records[place].done_s = Some(now_s);
    }

    pub fn cut_off(&mut self, _: usize) {
        self.cut_off += 1;
    }

    pub fn stops(&mut self, reason: StopReason) {
        match reason {
            StopReason::Preempted { .. } => self.preemptions += 1,
            StopReason::Drains => self.drains += 1,
            StopReason::CostLimit => {}
        }
    }

    pub fn wasted(&mut self, waste: Waste, device_count: usize, seconds: u64) {
        self.failures += u64::from(waste == Waste::Failure);
        self.lost_device_s[waste as usize] += device_count as u64 * seconds;
    }

    pub fn round(&mut self, waiting: usize) {
        self.rounds += 1;
        self.queue_max = self.queue_max.max(waiting);
    }

    pub fn report(self, scenario: &Scenario, waiting: &[Job], running: &[Running], last: &Plan) -> Report {
        let devices = scenario.nodes.iter().map(|nodes| u64::from(nodes.count) * u64::from(nodes.devices));
        let used: u64 = self.projects.iter().map(|project| project.used_device_s).sum();
        let mut reasons: Vec<Name> = Vec::new();
        for reason in last.waiting.iter().map(|waiting| waiting.reason.word()) {
            match reasons.iter_mut().find(|known| known.name == reason) {
                Some(known) => known.count += 1,
                None => reasons.push(Name { name: reason.to_owned(), count: 1 }),
            }
        }
        reasons.sort_by(|left, right| right.count.cmp(&left.count).then(left.name.cmp(&right.name)));
        let waits: Vec<u64> = self.records.iter().map(|record| self.wait_s(record)).collect();
        Report {
            name: scenario.name.clone(),
            policy: String::new(),
            seed: scenario.seed,
            days: scenario.days,
            devices: devices.sum(),
            jobs: self.records.len() as u64,
            done: self.records.iter().filter(|record| record.done_s.is_some()).count() as u64,
            running_at_end: running.len() as u64,
            waiting_at_end: waiting.len() as u64,
            waiting_reasons: reasons,
            utilisation: ratio(used as f64, self.up_device_s as f64),
            up_device_hours: hours(self.up_device_s as f64),
            wait_hours: spread(waits, 3600.0),
            projects: (0..self.projects.len()).map(|number| self.project(number, used)).collect(),
            preemptions: self.preemptions,
            drained: self.drains,
            failures: self.failures,
            cut_off_by_cost_limit: self.cut_off,
            lost_device_hours: LostReport {
                preemption: hours(self.lost_device_s[Waste::Preemption as usize] as f64),
                drain: hours(self.lost_device_s[Waste::Drain as usize] as f64),
                failure: hours(self.lost_device_s[Waste::Failure as usize] as f64),
            },
            deadlines: self.deadlines(),
            data_cached: ratio((self.data_wanted - self.data_loads) as f64, self.data_wanted as f64),
            starving: self.starving(scenario),
            starving_count: self.starving_places(scenario).len() as u64,
            starving_hours: scenario.starving_hours,
            rounds: self.rounds,
            queue_max: self.queue_max as u64,
        }
    }

    /// Until its first start, or until now.
    fn wait_s(&self, record: &Record) -> u64 {
        record.start_s.unwrap_or(self.now_s).saturating_sub(record.submit_s)
    }

    fn project(&self, number: usize, used_device_s: u64) -> ProjectReport {
        let project = &self.projects[number];
        let records: Vec<&Record> = self.records.iter().filter(|record| record.project == number).collect();
        let slowdown = |record: &&Record| {
            let turnaround_s = record.done_s?.saturating_sub(record.submit_s);
            Some((turnaround_s as f64 / record.runtime_s.max(SLOWDOWN_BOUND_S) as f64).max(1.0))
        };
        let slowdowns: Vec<f64> = records.iter().filter_map(slowdown).collect();
        let owed: f64 = self.demands.iter().map(|demand| demand.owed_device_s).sum();
        let waits = records.iter().map(|record| self.wait_s(record)).collect();
        ProjectReport {
            name: project.name.clone(),
            share: project.share.get(),
            jobs: records.len() as u64,
            done: slowdowns.len() as u64,
            wait_hours: spread(waits, 3600.0),
            slowdown_mean: ratio(slowdowns.iter().sum(), slowdowns.len() as f64),
            device_hours: hours(project.used_device_s as f64),
            received: ratio(project.used_device_s as f64, used_device_s as f64),
            owed: ratio(self.demands[number].owed_device_s, owed),
        }
    }

    fn deadlines(&self) -> DeadlineReport {
        let mut report = DeadlineReport::default();
        for record in &self.records {
            let Some(deadline_s) = record.deadline_s else { continue };
            match record.done_s {
                Some(done_s) if done_s <= deadline_s => report.met += 1,
                None if deadline_s > self.now_s => report.open += 1,
                _ => report.missed += 1,
            }
        }
        report
    }

    /// The longest waits first.
    fn starving_places(&self, scenario: &Scenario) -> Vec<usize> {
        let limit_s = seconds(scenario.starving_hours);
        let mut places: Vec<usize> =
            (0..self.records.len()).filter(|place| self.wait_s(&self.records[*place]) > limit_s).collect();
        places.sort_by_key(|place| (std::cmp::Reverse(self.wait_s(&self.records[*place])), *place));
        places
    }

    fn starving(&self, scenario: &Scenario) -> Vec<StarvingJob> {
        let places = self.starving_places(scenario);
        let job = |place: usize| {
            let record = &self.records[place];
            StarvingJob {
                number: place as u64 + 1,
                project: self.projects[record.project].name.clone(),
                devices: record.device_count as u64,
                wait_hours: hours(self.wait_s(record) as f64),
                started: record.start_s.is_some(),
            }
        };
        places.into_iter().take(NAMED_MAX).map(job).collect()
    }
}

fn hours(seconds: f64) -> f64 {
    round(seconds / 3600.0)
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { round(part / whole) } else { 0.0 }
}

/// Four places are enough for people, and for comparing.
fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}
