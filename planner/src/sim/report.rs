//! What a simulation says in the end. It holds no time of the machine that ran it.

use std::fmt::Write;

use serde::Serialize;

/// Hours in which half, nineteen of twenty, and all waited at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub p50: f64,
    pub p95: f64,
    pub max: f64,
}

pub(super) fn spread(mut values: Vec<u64>, unit: f64) -> Spread {
    values.sort_unstable();
    let Some(last) = values.len().checked_sub(1) else { return Spread::default() };
    // The smallest value that so many are not above.
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100).max(1);
        (values[(rank - 1).min(last)] as f64 / unit * 10_000.0).round() / 10_000.0
    };
    Spread { p50: at(50), p95: at(95), max: at(100) }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub name: String,
    /// The rule that picked jobs.
    pub policy: String,
    pub seed: u64,
    pub days: u32,
    pub devices: u64,
    pub jobs: u64,
    pub done: u64,
    pub running_at_end: u64,
    pub waiting_at_end: u64,
    /// Why these wait.
    pub waiting_reasons: Vec<Name>,
    /// Device-seconds in use, loading and saving included, of those of nodes that were up.
    pub utilisation: f64,
    pub up_device_hours: f64,
    /// From submission to the first start; a job that never started waits until the end.
    pub wait_hours: Spread,
    pub projects: Vec<ProjectReport>,
    /// Jobs that were told to make way, each time.
    pub preemptions: u64,
    /// Jobs that were told to leave a draining node.
    pub drained: u64,
    /// Attempts that ended with their node.
    pub failures: u64,
    pub cut_off_by_cost_limit: u64,
    pub lost_device_hours: LostReport,
    pub deadlines: DeadlineReport,
    /// Share of starts with data at which nothing had to be loaded.
    pub data_cached: f64,
    /// Those that waited longest of the jobs that waited for longer than starving_hours.
    pub starving: Vec<StarvingJob>,
    pub starving_count: u64,
    pub starving_hours: f64,
    pub rounds: u64,
    /// Most jobs that waited at a round.
    pub queue_max: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Name {
    pub name: String,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProjectReport {
    pub name: String,
    pub share: u32,
    pub jobs: u64,
    pub done: u64,
    pub wait_hours: Spread,
    /// Time from submission to end over the runtime (10 minutes at least), of done jobs.
    pub slowdown_mean: f64,
    pub device_hours: f64,
    /// Of all device-hours in use.
    pub received: f64,
    /// What the shares give at every moment to those who want devices then.
    pub owed: f64,
}

/// Device-hours in use that brought no job forward.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LostReport {
    pub preemption: f64,
    pub drain: f64,
    pub failure: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DeadlineReport {
    pub met: u64,
    pub missed: u64,
    /// Neither, when the simulation ended.
    pub open: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StarvingJob {
    /// In the order of submission, from 1.
    pub number: u64,
    pub project: String,
    pub devices: u64,
    pub wait_hours: f64,
    pub started: bool,
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<14}{value}");
        };
        if !self.name.is_empty() {
            line("simulation", self.name.clone());
        }
        line("policy", self.policy.clone());
        line("seed", self.seed.to_string());
        line("cluster", format!("{} devices, {} days", self.devices, self.days));
        line(
            "jobs",
            format!(
                "{}: {} done, {} running and {} waiting at the end",
                self.jobs, self.done, self.running_at_end, self.waiting_at_end
            ),
        );
        let reasons = self.waiting_reasons.iter().map(|name| format!("{} {}", name.count, name.name));
        if !self.waiting_reasons.is_empty() {
            line("waiting", reasons.collect::<Vec<_>>().join(", "));
        }
        line(
            "utilisation",
            format!("{:.1} % of {:.0} device-hours", self.utilisation * 100.0, self.up_device_hours),
        );
        line("wait", waits(&self.wait_hours));
        line(
            "preemptions",
            format!("{}, {:.1} device-hours lost", self.preemptions, self.lost_device_hours.preemption),
        );
        line(
            "failures",
            format!("{} attempts, {:.1} device-hours lost", self.failures, self.lost_device_hours.failure),
        );
        line(
            "drained",
            format!("{} attempts, {:.1} device-hours lost", self.drained, self.lost_device_hours.drain),
        );
        line("cost limits", format!("{} jobs cut off", self.cut_off_by_cost_limit));
        let DeadlineReport { met, missed, open } = self.deadlines;
        line("deadlines", format!("{met} met, {missed} missed, {open} open"));
        line("data", format!("there at {:.1} % of the starts that read some", self.data_cached * 100.0));
        line("starving", format!("{} jobs waited for over {} h", self.starving_count, self.starving_hours));
        for job in &self.starving {
            let since = if job.started { "until it started" } else { "and waits still" };
            let StarvingJob { number, project, devices, wait_hours, .. } = job;
            line("", format!("job {number} of {project}, {devices} devices: {wait_hours:.1} h {since}"));
        }
        line("rounds", format!("{}, up to {} jobs waiting", self.rounds, self.queue_max));
        text + "\n" + &self.project_table()
    }

    fn project_table(&self) -> String {
        let head = [
            "project", "share", "jobs", "done", "wait p50", "p95", "max", "slowdown", "device-h", "owed",
            "received",
        ];
        let row = |project: &ProjectReport| {
            [
                project.name.clone(),
                project.share.to_string(),
                project.jobs.to_string(),
                project.done.to_string(),
                format!("{:.2} h", project.wait_hours.p50),
                format!("{:.2} h", project.wait_hours.p95),
                format!("{:.2} h", project.wait_hours.max),
                format!("{:.2}", project.slowdown_mean),
                format!("{:.0}", project.device_hours),
                format!("{:.1} %", project.owed * 100.0),
                format!("{:.1} %", project.received * 100.0),
            ]
        };
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.projects.iter().map(row));
        let width = |column: usize| {
            rows.iter().map(|row: &[String; 11]| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        text
    }
}

fn waits(spread: &Spread) -> String {
    format!("p50 {:.2} h, p95 {:.2} h, max {:.2} h", spread.p50, spread.p95, spread.max)
}
