//! Where a project stands: what it has, what it may still take, how far from its share.

use crate::facts::{Facts, Job, JobId};
use crate::reason::Reason;

pub(crate) struct Standing {
    usage_device_s: f64,
    share: f64,
    in_use: usize,
    /// Devices that are kept for jobs of it.
    claimed: usize,
    /// Device-seconds of the period that were used, or are promised to what runs or has
    /// devices kept for it.
    taken_device_s: u64,
    /// A job that waits until the project uses fewer devices. Smaller ones behind it
    /// would keep it waiting for ever.
    blocked: Option<JobId>,
    /// Whether the quota is kept for a job that waits for long, though no devices are.
    has_patient: bool,
}

impl Standing {
    pub fn of_all(facts: &Facts<'_>) -> Vec<Standing> {
        let mut all: Vec<Standing> = facts
            .projects
            .iter()
            .map(|project| Standing {
                usage_device_s: project.usage_device_s,
                share: f64::from(project.share.get()),
                in_use: 0,
                claimed: 0,
                blocked: None,
                has_patient: false,
                taken_device_s: project.used_device_s,
            })
            .collect();
        for running in facts.running {
            let ran_s = facts.now_s.saturating_sub(running.start_s);
            let left_s = running.job.estimate_s.unwrap_or(0).saturating_sub(ran_s);
            all[running.job.project.0].take(running.weight(), left_s);
        }
        all
    }

    fn take(&mut self, device_count: usize, left_s: u64) {
        self.in_use += device_count;
        self.taken_device_s = self.taken_device_s.saturating_add(device_s(device_count, left_s));
    }

    /// Of a job that starts.
    pub fn start(&mut self, job: &Job) {
        self.take(job.weight(), job.estimate_s.unwrap_or(0));
    }

    /// Of a job for which devices are kept.
    pub fn claim(&mut self, job: &Job) {
        self.claimed += job.weight();
        let estimate_device_s = device_s(job.weight(), job.estimate_s.unwrap_or(0));
        self.taken_device_s = self.taken_device_s.saturating_add(estimate_device_s);
    }

    /// Of the first job that has waited for long and for which no devices are kept yet:
    /// those that come behind it shall not use the quota up in front of it.
    pub fn keep_quota(&mut self, job: &Job) {
        if !std::mem::replace(&mut self.has_patient, true) {
            self.claimed += job.weight();
        }
    }

    /// Use per share; the project with the least goes first.
    pub fn score(&self, lookahead_s: u64) -> f64 {
        (self.usage_device_s + self.in_use as f64 * lookahead_s as f64) / self.share
    }

    /// The quota that keeps the job from starting.
    pub fn quota(&mut self, facts: &Facts<'_>, job: &Job) -> Option<Reason> {
        let project = &facts.projects[job.project.0];
        let wanted = job.weight();
        if let Some(quota) = project.device_quota {
            let in_use = self.in_use + self.claimed;
            if wanted > quota || in_use + wanted > quota {
                if wanted <= quota {
                    self.blocked.get_or_insert(job.id);
                }
                return Some(Reason::DeviceQuota { project: job.project, quota, in_use, wanted });
            }
        }
        if let Some(first) = self.blocked {
            return Some(Reason::QuotaInTurn { project: job.project, first });
        }
        // Without an estimate it may start as long as anything is left.
        let wanted_device_s = device_s(wanted, job.estimate_s.unwrap_or(0));
        let quota_device_s = project.device_s_quota?;
        let is_left = self.taken_device_s < quota_device_s
            && self.taken_device_s.saturating_add(wanted_device_s) <= quota_device_s;
        (!is_left).then_some(Reason::DeviceTimeQuota {
            project: job.project,
            quota_device_s,
            taken_device_s: self.taken_device_s,
            wanted_device_s,
        })
    }
}

pub(crate) fn device_s(device_count: usize, seconds: u64) -> u64 {
    seconds.saturating_mul(device_count as u64)
}

/// The limit of the job's own that keeps it from starting.
pub(crate) fn own_limit(facts: &Facts<'_>, job: &Job) -> Option<Reason> {
    if job.not_before_s > facts.now_s {
        return Some(Reason::HeldBack { until_s: job.not_before_s });
    }
    let limit_device_s = job.cost_limit_device_s?;
    let estimate_device_s = device_s(job.weight(), job.estimate_s.unwrap_or(0));
    let spent_device_s = job.spent_device_s;
    let is_left =
        spent_device_s < limit_device_s && spent_device_s.saturating_add(estimate_device_s) <= limit_device_s;
    (!is_left).then_some(Reason::CostLimit { limit_device_s, spent_device_s, estimate_device_s })
}
