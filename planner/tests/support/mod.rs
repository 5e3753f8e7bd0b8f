//! Clusters to plan for: drawn ones, and one that lives on from round to round.

// Each test program uses a part of it.
#![allow(dead_code)]

pub mod draw;
pub mod world;

use std::num::NonZeroU32;

use cakes_planner::{
    Device, Facts, Job, JobId, Names, Node, Part, Plan, Policy, Project, ProjectNo, Reservation, Running,
    Schedule,
};

pub const HOUR_S: u64 = 3600;

/// Facts that own what they are made of.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub now_s: u64,
    pub policy: Policy,
    pub names: Names,
    pub projects: Vec<Project>,
    pub nodes: Vec<Node>,
    pub running: Vec<Running>,
    pub waiting: Vec<Job>,
    pub reservations: Vec<Reservation>,
}

impl Cluster {
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            now_s: self.now_s,
            policy: &self.policy,
            names: &self.names,
            projects: &self.projects,
            nodes: &self.nodes,
            running: &self.running,
            waiting: &self.waiting,
            reservations: &self.reservations,
        }
    }

    #[track_caller]
    pub fn plan(&self) -> Plan {
        cakes_planner::plan(&self.facts().check().unwrap())
    }

    /// The cluster at the same moment, once the plan has been carried out.
    pub fn after(&self, plan: &Plan) -> Cluster {
        let mut after = self.clone();
        after.reservations.clone_from(&plan.reservations);
        for running in &mut after.running {
            running.is_stopping |= plan.stops.iter().any(|stop| stop.job == running.job.id);
        }
        for placement in &plan.placements {
            let place = after.waiting.iter().position(|job| job.id == placement.job).unwrap();
            after.running.push(Running {
                job: after.waiting.remove(place),
                parts: placement.parts.clone(),
                start_s: after.now_s,
                is_stopping: false,
            });
        }
        after
    }

    pub fn job(&self, id: JobId) -> &Job {
        let running = self.running.iter().map(|running| &running.job);
        self.waiting.iter().chain(running).find(|job| job.id == id).unwrap()
    }
}

/// A job of one device that has no wishes.
pub fn job(id: u128) -> Job {
    Job {
        id: JobId(id),
        project: ProjectNo(0),
        priority: 0,
        submit_s: 0,
        not_before_s: 0,
        device_count: 1,
        width: 1,
        memory_mib: 0,
        labels: Vec::new(),
        may_span: false,
        spreads: false,
        kept: Vec::new(),
        estimate_s: None,
        deadline_s: None,
        cost_limit_device_s: None,
        spent_device_s: 0,
        data: Vec::new(),
        is_preemptible: true,
        preemption_count: 0,
        avoids: None,
        place: 0,
    }
}

pub fn project(name: &str, share: u32) -> Project {
    Project {
        name: name.to_owned(),
        share: NonZeroU32::new(share).unwrap(),
        usage_device_s: 0.0,
        device_quota: None,
        device_s_quota: None,
        used_device_s: 0,
    }
}

pub fn node(name: &str, device_count: usize) -> Node {
    Node {
        name: name.to_owned(),
        devices: vec![Device { memory_mib: 80_000, width: 1 }; device_count],
        labels: Vec::new(),
        schedule: Schedule::Ready,
        data: Vec::new(),
        joins: true,
    }
}

pub fn slots(parts: &[Part]) -> impl Iterator<Item = (usize, usize)> {
    parts.iter().flat_map(|part| part.devices.iter().map(|device| (part.node.0, *device)))
}
