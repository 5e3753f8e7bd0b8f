//! Scenarios that make no sense are refused, with the field and the remedy.

use std::collections::BTreeSet;

use super::scenario::{Scenario, Wants};

/// More is a slip of the unit, and would fill the memory.
const DAYS_MAX: u32 = 3660;
const NODES_MAX: u64 = 100_000;
const DEVICES_MAX: u32 = 64;
const JOBS_MAX: f64 = 5_000_000.0;
const HOURS_MAX: f64 = 24.0 * DAYS_MAX as f64;

/// A field that cannot be simulated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ScenarioError {
    /// As `streams[2].hours.median`.
    pub field: String,
    pub problem: String,
}

type Checked = Result<(), ScenarioError>;

fn require(holds: bool, field: &str, problem: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(ScenarioError { field: field.to_owned(), problem: problem() }) }
}

fn within(field: &str, value: f64, least: f64, most: f64) -> Checked {
    require(value >= least && value <= most, field, || {
        format!("{value} is out of range; give {least} to {most}")
    })
}

impl Scenario {
    /// # Errors
    /// The first field that makes no sense.
    pub fn check(&self) -> Checked {
        within("days", self.days.into(), 1.0, DAYS_MAX.into())?;
        within("round_s", self.round_s as f64, 1.0, 3600.0)?;
        within("starving_hours", self.starving_hours, 0.0, HOURS_MAX)?;
        within("policy.half_life_s", self.policy.half_life_s as f64, 60.0, HOURS_MAX * 3600.0)?;
        within("policy.age_step_s", self.policy.age_step_s as f64, 60.0, HOURS_MAX * 3600.0)?;
        within("policy.checkpoint_s", self.policy.checkpoint_s as f64, 0.0, 86_400.0)?;
        within("run.checkpoint_every_s", self.run.checkpoint_every_s as f64, 1.0, HOURS_MAX * 3600.0)?;
        within("run.restart_s", self.run.restart_s as f64, 0.0, 86_400.0)?;
        within("run.data_load_s", self.run.data_load_s as f64, 0.0, 86_400.0)?;
        self.check_nodes()?;
        self.check_projects()?;
        require(!(self.streams.is_empty() && self.jobs.is_empty()), "streams", || {
            "there is nothing to run; add [[streams]] or [[jobs]]".into()
        })?;
        self.check_streams()?;
        self.check_jobs()?;
        self.check_outages()
    }

    fn check_nodes(&self) -> Checked {
        require(!self.nodes.is_empty(), "nodes", || "there is no node; add [[nodes]]".into())?;
        let mut names = BTreeSet::new();
        for (place, nodes) in self.nodes.iter().enumerate() {
            let field = |name: &str| format!("nodes[{place}].{name}");
            require(names.insert(&nodes.name), &field("name"), || {
                format!("'{}' occurs twice; give each group of nodes its own name", nodes.name)
            })?;
            within(&field("devices"), nodes.devices.into(), 1.0, DEVICES_MAX.into())?;
            within(&field("memory_gib"), nodes.memory_gib, 0.0, 1e6)?;
            within(&field("days_between_failures"), nodes.days_between_failures, 0.0, 1e6)?;
            within(&field("repair_hours"), nodes.repair_hours, 0.0, HOURS_MAX)?;
        }
        let count: u64 = self.nodes.iter().map(|nodes| u64::from(nodes.count)).sum();
        within("nodes[].count", count as f64, 1.0, NODES_MAX as f64)
    }

    fn check_projects(&self) -> Checked {
        require(!self.projects.is_empty(), "projects", || "there is no project; add [[projects]]".into())?;
        let mut names = BTreeSet::new();
        for (place, project) in self.projects.iter().enumerate() {
            require(names.insert(&project.name), &format!("projects[{place}].name"), || {
                format!("'{}' occurs twice; give each project its own name", project.name)
            })?;
            let quota = project.device_hour_quota.unwrap_or(0.0);
            within(&format!("projects[{place}].device_hour_quota"), quota, 0.0, 1e12)?;
        }
        Ok(())
    }

    fn check_streams(&self) -> Checked {
        let mut jobs = 0.0;
        for (place, stream) in self.streams.iter().enumerate() {
            let field = |name: &str| format!("streams[{place}].{name}");
            self.check_project(&field("project"), &stream.project)?;
            within(&field("jobs_per_day"), stream.jobs_per_day, 0.0, 1e6)?;
            jobs += stream.jobs_per_day * f64::from(self.days);
            within(&field("jobs_per_day"), jobs, 0.0, JOBS_MAX)?;
            within(&field("burst"), stream.burst, 1.0, 10_000.0)?;
            require(!stream.sizes.is_empty(), &field("sizes"), || {
                "there is no size; add { devices = 1 }".into()
            })?;
            for (number, size) in stream.sizes.iter().enumerate() {
                let field = |name: &str| field(&format!("sizes[{number}].{name}"));
                within(&field("devices"), size.devices as f64, 1.0, 1e6)?;
                within(&field("weight"), size.weight, 1e-9, 1e9)?;
            }
            within(&field("hours.median"), stream.hours.median, 0.001, HOURS_MAX)?;
            within(&field("hours.max"), stream.hours.max, stream.hours.median, HOURS_MAX)?;
            within(&field("hours.spread"), stream.hours.spread, 0.0, 5.0)?;
            check_wants(&field("wants"), &stream.wants)?;
        }
        Ok(())
    }

    fn check_jobs(&self) -> Checked {
        let end_hours = f64::from(self.days) * 24.0;
        for (place, job) in self.jobs.iter().enumerate() {
            let field = |name: &str| format!("jobs[{place}].{name}");
            self.check_project(&field("project"), &job.project)?;
            within(&field("submit_hours"), job.submit_hours, 0.0, end_hours)?;
            within(&field("devices"), job.devices as f64, 1.0, 1e6)?;
            within(&field("hours"), job.hours, 0.001, HOURS_MAX)?;
            within(&field("estimate_hours"), job.estimate_hours.unwrap_or(1.0), 0.001, HOURS_MAX)?;
            check_wants(&field("wants"), &job.wants)?;
        }
        Ok(())
    }

    fn check_outages(&self) -> Checked {
        let names: BTreeSet<String> = self.node_names().map(|(_, name)| name).collect();
        for (place, outage) in self.outages.iter().enumerate() {
            let field = |name: &str| format!("outages[{place}].{name}");
            require(names.contains(&outage.node), &field("node"), || {
                let first = names.first().map_or("", String::as_str);
                format!("there is no node '{}'; nodes are named as '{first}'", outage.node)
            })?;
            within(&field("from_hours"), outage.from_hours, 0.0, HOURS_MAX)?;
            within(&field("hours"), outage.hours, 0.0, HOURS_MAX)?;
        }
        Ok(())
    }

    fn check_project(&self, field: &str, name: &str) -> Checked {
        require(self.projects.iter().any(|project| project.name == name), field, || {
            let known: Vec<&str> = self.projects.iter().map(|project| project.name.as_str()).collect();
            format!(
                "there is no project '{name}'; add it to [[projects]], or name one of {}",
                known.join(", ")
            )
        })
    }

    /// Each node: its group's place, and its name.
    pub(super) fn node_names(&self) -> impl Iterator<Item = (usize, String)> {
        self.nodes.iter().enumerate().flat_map(|(group, nodes)| {
            (1..=nodes.count).map(move |number| (group, format!("{}-{number}", nodes.name)))
        })
    }
}

fn check_wants(field: &str, wants: &Wants) -> Checked {
    within(&format!("{field}.memory_gib"), wants.memory_gib, 0.0, 1e6)?;
    within(&format!("{field}.deadline_hours"), wants.deadline_hours.unwrap_or(1.0), 0.0, HOURS_MAX)?;
    let limit = wants.cost_limit_device_hours.unwrap_or(1.0);
    within(&format!("{field}.cost_limit_device_hours"), limit, 0.0, 1e12)
}
