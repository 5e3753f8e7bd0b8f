//! The jobs and failures of a simulation, all of them, before it begins.

use std::f64::consts::TAU;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::scenario::{Estimate, OutageKind, Pattern, Scenario, Stream, Wants};
use crate::facts::{DataNo, Job, JobId, LabelNo, Names, ProjectNo};

const HOUR_S: f64 = 3600.0;
const WEEK_HOURS: u64 = 168;

/// A job and what only the simulator knows of it.
#[derive(Clone, Debug)]
pub(super) struct Submission {
    pub job: Job,
    pub runtime_s: u64,
}

/// Numbers of texts, in the order in which they were first named.
pub(super) struct Naming<'a> {
    scenario: &'a Scenario,
    pub names: Names,
}

impl<'a> Naming<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        Naming { scenario, names: Names::default() }
    }

    pub fn labels(&mut self, labels: &[String]) -> Vec<LabelNo> {
        labels.iter().map(|label| LabelNo(number(&mut self.names.labels, label))).collect()
    }

    fn data(&mut self, data: &str) -> DataNo {
        DataNo(number(&mut self.names.data, data))
    }

    fn project(&self, name: &str) -> ProjectNo {
        let place = self.scenario.projects.iter().position(|project| project.name == name);
        ProjectNo(place.unwrap_or(0))
    }
}

fn number(texts: &mut Vec<String>, text: &str) -> usize {
    texts.iter().position(|known| known == text).unwrap_or_else(|| {
        texts.push(text.to_owned());
        texts.len() - 1
    })
}

/// By submit time; ids are the order.
pub(super) fn submissions(scenario: &Scenario, naming: &mut Naming<'_>) -> Vec<Submission> {
    let mut all = Vec::new();
    for traced in &scenario.jobs {
        let runtime_s = seconds(traced.hours).max(1);
        let submit_s = seconds(traced.submit_hours);
        let mut job = job(naming, &traced.project, &traced.wants, submit_s, traced.devices);
        job.data = traced.data.iter().map(|data| naming.data(data)).collect();
        job.estimate_s = match traced.estimate_hours {
            Some(hours) => Some(seconds(hours).max(1)),
            None => estimate_s(traced.wants.estimate, runtime_s, &mut random(scenario, 0)),
        };
        all.push(Submission { job, runtime_s });
    }
    for (place, stream) in scenario.streams.iter().enumerate() {
        // Another stream does not change what this one brings.
        let mut random = random(scenario, place as u64 + 1);
        for hour in 0..u64::from(scenario.days) * 24 {
            add_hour(&mut all, naming, stream, hour, &mut random);
        }
    }
    // Stable: jobs of the same second keep the order of the file.
    all.sort_by_key(|submission| submission.job.submit_s);
    for (place, submission) in all.iter_mut().enumerate() {
        submission.job.id = JobId(place as u128 + 1);
    }
    all
}

fn random(scenario: &Scenario, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(scenario.seed);
    random.set_stream(stream);
    random
}

fn add_hour(
    all: &mut Vec<Submission>,
    naming: &mut Naming<'_>,
    stream: &Stream,
    hour: u64,
    random: &mut ChaCha8Rng,
) {
    let bursts_per_hour = stream.jobs_per_day / 24.0 / stream.burst * weight(stream.pattern, hour);
    if bursts_per_hour <= 0.0 {
        return;
    }
    let mut at_hours = exponential(random) / bursts_per_hour;
    while at_hours < 1.0 {
        let submit_s = seconds(hour as f64 + at_hours);
        let data = (!stream.data.is_empty())
            .then(|| naming.data(&stream.data[random.random_range(0..stream.data.len())]));
        for _ in 0..burst(stream.burst, random) {
            let devices = size(stream, random);
            let mut job = job(naming, &stream.project, &stream.wants, submit_s, devices);
            let hours = stream.hours.median * (stream.hours.spread * normal(random)).exp();
            let runtime_s = seconds(hours.min(stream.hours.max)).max(60);
            job.estimate_s = estimate_s(stream.wants.estimate, runtime_s, random);
            job.data = data.into_iter().collect();
            all.push(Submission { job, runtime_s });
        }
        at_hours += exponential(random) / bursts_per_hour;
    }
}

fn job(naming: &mut Naming<'_>, project: &str, wants: &Wants, submit_s: u64, device_count: usize) -> Job {
    Job {
        id: JobId(0),
        project: naming.project(project),
        priority: wants.priority,
        submit_s,
        not_before_s: 0,
        device_count,
        width: 1,
        memory_mib: mib(wants.memory_gib),
        labels: naming.labels(&wants.labels),
        may_span: wants.may_span,
        spreads: false,
        kept: Vec::new(),
        estimate_s: None,
        deadline_s: wants.deadline_hours.map(|hours| submit_s + seconds(hours)),
        cost_limit_device_s: wants.cost_limit_device_hours.map(seconds),
        spent_device_s: 0,
        data: Vec::new(),
        is_preemptible: wants.preemptible,
        preemption_count: 0,
        avoids: None,
        place: 0,
    }
}

pub(super) fn seconds(hours: f64) -> u64 {
    (hours * HOUR_S).round() as u64
}

pub(super) fn mib(gib: f64) -> u64 {
    (gib * 1024.0).round() as u64
}

/// Against the mean of a week; hour 0 is the first of a Monday.
fn weight(pattern: Pattern, hour: u64) -> f64 {
    let raw = |hour: u64| {
        let (day, hour) = (hour / 24 % 7, hour % 24);
        let is_weekend = day >= 5;
        match (pattern, hour) {
            (Pattern::Steady, _) => 1.0,
            (Pattern::Office, 8..19) if !is_weekend => 1.0,
            (Pattern::Office, 19..24) if !is_weekend => 0.3,
            (Pattern::Office, 8..24) => 0.15,
            (Pattern::Office, _) => 0.05,
            (Pattern::Nights, 17..23) if day == 4 => 2.0,
            (Pattern::Nights, 17..23) if !is_weekend => 1.0,
            (Pattern::Nights, _) => 0.05,
        }
    };
    let mean = (0..WEEK_HOURS).map(raw).sum::<f64>() / WEEK_HOURS as f64;
    raw(hour) / mean
}

fn size(stream: &Stream, random: &mut ChaCha8Rng) -> usize {
    let sum: f64 = stream.sizes.iter().map(|size| size.weight).sum();
    let mut left = random.random::<f64>() * sum;
    let chosen = stream.sizes.iter().find(|size| {
        left -= size.weight;
        left < 0.0
    });
    chosen.or(stream.sizes.last()).map_or(1, |size| size.devices)
}

/// From 1, with this mean.
fn burst(mean: f64, random: &mut ChaCha8Rng) -> u64 {
    if mean <= 1.0 {
        return 1;
    }
    let success = 1.0 / mean;
    1 + ((1.0 - random.random::<f64>()).ln() / (1.0 - success).ln()).floor() as u64
}

fn estimate_s(estimate: Estimate, runtime_s: u64, random: &mut ChaCha8Rng) -> Option<u64> {
    let factor = match estimate {
        Estimate::None => return None,
        Estimate::Exact => 1.0,
        Estimate::Rough => (0.5 * normal(random)).exp(),
        Estimate::Padded => 2.0,
    };
    Some(((runtime_s as f64 * factor).round() as u64).max(1))
}

fn exponential(random: &mut ChaCha8Rng) -> f64 {
    -(1.0 - random.random::<f64>()).ln()
}

fn normal(random: &mut ChaCha8Rng) -> f64 {
    (2.0 * exponential(random)).sqrt() * (TAU * random.random::<f64>()).cos()
}

/// A node's change, for the better or the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    pub at_s: u64,
    pub node: usize,
    pub kind: OutageKind,
    pub begins: bool,
}

/// By time.
pub(super) fn changes(scenario: &Scenario) -> Vec<Change> {
    let mut all = Vec::new();
    let mut add = |node, kind, from_s: u64, lasts_s: u64| {
        all.push(Change { at_s: from_s, node, kind, begins: true });
        all.push(Change { at_s: from_s + lasts_s.max(1), node, kind, begins: false });
    };
    let end_s = u64::from(scenario.days) * 24 * 3600;
    for (node, (group, name)) in scenario.node_names().enumerate() {
        for outage in scenario.outages.iter().filter(|outage| outage.node == name) {
            add(node, outage.kind, seconds(outage.from_hours), seconds(outage.hours));
        }
        let nodes = &scenario.nodes[group];
        if nodes.days_between_failures <= 0.0 {
            continue;
        }
        // Far from the numbers of the streams.
        let mut random = random(scenario, (1 << 32) + node as u64);
        let mut at_s = 0;
        loop {
            at_s += seconds(exponential(&mut random) * nodes.days_between_failures * 24.0);
            if at_s >= end_s {
                break;
            }
            add(node, OutageKind::Fail, at_s, seconds(nodes.repair_hours));
            at_s += seconds(nodes.repair_hours).max(1);
        }
    }
    all.sort_unstable();
    all
}
