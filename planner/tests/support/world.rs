//! A cluster that lives on: jobs end when their true runtime is over, stopped ones come
//! back to the queue, use of devices is counted and decays.

use std::collections::BTreeMap;

use cakes_planner::{Job, JobId, Plan, usage};

use super::Cluster;

#[derive(Default)]
pub struct World {
    pub cluster: Cluster,
    /// True runtimes of jobs, what is left of them.
    pub runtime_s: BTreeMap<JobId, u64>,
    pub first_start_s: BTreeMap<JobId, u64>,
    pub received_device_s: Vec<u64>,
}

impl World {
    pub fn submit(&mut self, job: Job, runtime_s: u64) {
        self.runtime_s.insert(job.id, runtime_s);
        self.cluster.waiting.push(job);
    }

    /// Plans, carries the plan out and lets the time pass.
    pub fn step(&mut self, step_s: u64) -> Plan {
        let plan = self.cluster.plan();
        for placement in &plan.placements {
            self.first_start_s.entry(placement.job).or_insert(self.cluster.now_s);
        }
        self.cluster = self.cluster.after(&plan);
        self.pass(step_s);
        plan
    }

    fn pass(&mut self, step_s: u64) {
        let cluster = &mut self.cluster;
        let half_life_s = cluster.policy.half_life_s;
        self.received_device_s.resize(cluster.projects.len(), 0);
        for (number, project) in cluster.projects.iter_mut().enumerate() {
            let of_it = cluster.running.iter().filter(|running| running.job.project.0 == number);
            let in_use = of_it.map(|running| running.weight()).sum();
            let took_device_s = in_use as u64 * step_s;
            project.usage_device_s = usage::decayed(project.usage_device_s, in_use, step_s, half_life_s);
            project.used_device_s += took_device_s;
            self.received_device_s[number] += took_device_s;
        }
        cluster.now_s += step_s;
        for mut running in std::mem::take(&mut cluster.running) {
            let ran_s = cluster.now_s - running.start_s;
            let left_s = self.runtime_s.get_mut(&running.job.id).unwrap();
            if ran_s >= *left_s {
                continue;
            }
            if !running.is_stopping {
                cluster.running.push(running);
                continue;
            }
            *left_s -= ran_s;
            running.job.spent_device_s += ran_s * running.weight() as u64;
            running.job.estimate_s =
                running.job.estimate_s.map(|estimate_s| estimate_s.saturating_sub(ran_s).max(1));
            running.job.preemption_count += 1;
            cluster.waiting.push(running.job);
        }
    }
}
