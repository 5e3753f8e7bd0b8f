//! Who is considered before whom.
//!
//! ```text
//! class: the priority, lifted by age up to the highest that waits or runs
//!  └─ jobs that devices are collected for already, in their order of the last round
//!  └─ of each project one job that waits for long while younger ones of it run
//!  └─ the project with the least use per share, anew after every start
//!      └─ jobs that must start soon for their deadline, the most pressing first
//!          └─ place, then submit time, then id
//! ```

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::facts::{Facts, Job, JobId};
use crate::standing::Standing;

/// Waiting jobs of one class, as places in [`Facts::waiting`].
#[derive(Default)]
pub(crate) struct Class {
    /// Jobs that hold a reservation.
    pub holders: Vec<usize>,
    /// Of each project, its jobs that have waited for long and were overtaken by younger
    /// ones of it: it uses its share for what fits more easily, and may thus never come
    /// first with what does not. Only one of them goes first, lest a flood of them undo
    /// the shares.
    pub elders: Vec<Vec<usize>>,
    queues: Vec<Queue>,
}

struct Queue {
    project: usize,
    jobs: Vec<usize>,
    next: usize,
}

/// Classes, the highest first.
pub(crate) fn classes(facts: &Facts<'_>) -> Vec<Class> {
    // Of running jobs too: what starts changes no class.
    let running = facts.running.iter().map(|running| &running.job);
    let top = facts.waiting.iter().chain(running).map(|job| job.priority).max().unwrap_or(0);
    let holders: BTreeMap<JobId, usize> =
        facts.reservations.iter().enumerate().map(|(place, held)| (held.job, place)).collect();
    let mut youngest_s: Vec<u64> = vec![0; facts.projects.len()];
    for running in facts.running {
        let youngest_s = &mut youngest_s[running.job.project.0];
        *youngest_s = running.job.submit_s.max(*youngest_s);
    }
    let mut keys: Vec<_> = facts
        .waiting
        .iter()
        .enumerate()
        .map(|(place, job)| {
            let held = holders.get(&job.id).copied();
            // Holders keep their order: another might take what the first waits for.
            let group = held.unwrap_or(job.project.0);
            let class = Reverse(class(facts, job, top));
            (class, held.is_none(), group, latest_s(facts, job), job.place, job.submit_s, job.id, place)
        })
        .collect();
    keys.sort_unstable();
    let mut classes: Vec<Class> = Vec::new();
    let mut last = None;
    for (class, is_queued, project, .., place) in keys {
        if last.replace(class) != Some(class) {
            classes.push(Class::default());
        }
        let Some(class) = classes.last_mut() else { continue };
        if !is_queued {
            class.holders.push(place);
            continue;
        }
        class.add(project, place);
        let job = &facts.waiting[place];
        let waited_s = facts.now_s.saturating_sub(job.submit_s);
        if waited_s >= facts.policy.patience_s
            && job.submit_s < youngest_s[project]
            && let Some(elders) = class.elders.last_mut()
        {
            elders.push(place);
        }
    }
    classes
}

fn class(facts: &Facts<'_>, job: &Job, top: i32) -> i32 {
    let waited_s = facts.now_s.saturating_sub(job.submit_s);
    let levels = i32::try_from(waited_s / facts.policy.age_step_s.max(1)).unwrap_or(i32::MAX);
    job.priority.saturating_add(levels).min(top)
}

/// The last moment to start, if it is near and has not passed.
fn latest_s(facts: &Facts<'_>, job: &Job) -> u64 {
    let latest_s = job.deadline_s.and_then(|deadline_s| deadline_s.checked_sub(job.estimate_s.unwrap_or(0)));
    let is_near =
        |latest_s: &u64| *latest_s >= facts.now_s && latest_s - facts.now_s <= facts.policy.urgency_s;
    latest_s.filter(is_near).unwrap_or(u64::MAX)
}

impl Class {
    fn add(&mut self, project: usize, place: usize) {
        match self.queues.last_mut() {
            Some(queue) if queue.project == project => queue.jobs.push(place),
            _ => {
                self.queues.push(Queue { project, jobs: vec![place], next: 0 });
                self.elders.push(Vec::new());
            }
        }
    }

    /// The next job of the project with the least use per share, which is asked again
    /// only after a start: jobs that cannot start change nothing.
    pub fn next(&mut self, standings: &[Standing], lookahead_s: u64) -> Option<Turn<'_>> {
        let score = |queue: &&mut Queue| standings[queue.project].score(lookahead_s);
        let open = self.queues.iter_mut().filter(|queue| queue.next < queue.jobs.len());
        let least = open.min_by(|left, right| score(left).total_cmp(&score(right)));
        least.map(|queue| Turn { queue })
    }
}

/// A project's turn: its jobs in order, until one starts.
pub(crate) struct Turn<'a> {
    queue: &'a mut Queue,
}

impl Iterator for Turn<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let job = self.queue.jobs.get(self.queue.next).copied()?;
        self.queue.next += 1;
        Some(job)
    }
}
