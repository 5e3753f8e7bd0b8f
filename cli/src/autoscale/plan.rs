//! What to submit and what to cancel: facts, memory and time in, a decision out.

use std::collections::BTreeMap;
use std::time::Duration;

/// What the operator wants.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Allocations that are kept even if nothing waits.
    pub min: u32,
    /// Allocations at most, those that wait in the batch system included.
    pub max: u32,
    /// Jobs that one allocation can train at a time; 1 or more.
    pub devices_each: u32,
    /// How long a worker has nothing to do, or a waiting allocation is not needed,
    /// before it is cancelled.
    pub idle_limit: Duration,
    /// How long a worker may take from the start of its allocation to its first word.
    pub start_limit: Duration,
    /// Pause after a first failure; each further one doubles it, up to [`PAUSE_MAX`].
    pub pause: Duration,
}

/// Longest pause between two tries to submit.
pub const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// How far an allocation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits in the batch system.
    Pending,
    /// Runs; its worker has not been heard of.
    Starting,
    /// Its worker takes jobs: how many at a time, and how many it has.
    Ready { devices: u32, jobs: u32 },
    /// Its worker takes no more, or the batch system ends it.
    Leaving,
}

/// An allocation of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// As the batch system calls it.
    pub id: String,
    pub phase: Phase,
}

/// What was read just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Devices that the queued jobs need.
    pub waiting: u32,
    /// Free devices of workers that are not ours.
    pub free_elsewhere: u32,
    /// Ours, the oldest first.
    pub allocations: Vec<Allocation>,
}

/// For how long things have been as they are. Empty at a start, which makes the
/// planner wait longer and never act sooner. Times count from any fixed moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    allocations: BTreeMap<String, Seen>,
    /// Since when more allocations wait than are needed.
    surplus_since: Option<Duration>,
    /// Since when jobs wait although a worker of ours has nothing to do.
    left_since: Option<Duration>,
    /// Devices for jobs that a free worker left alone for the whole idle limit: none
    /// is submitted for them.
    refused: u32,
    /// Failures one after the other.
    failures: u32,
    /// Until when nothing is submitted.
    paused_until: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// Its worker was heard of at least once.
    came: bool,
    /// It and we wait for its worker, or its worker for a job, since then.
    waits_since: Option<Duration>,
}

/// Why an allocation is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It waits, and fewer jobs do.
    NotNeeded,
    /// Its worker had no job for the idle limit.
    Idle,
    /// Its worker was not heard of for the start limit.
    NeverCame,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub submit: u32,
    /// With a worker that has a job: never.
    pub cancel: Vec<(String, Why)>,
    /// Allocations that ended without a worker; their submission counts as failed.
    pub vanished: Vec<String>,
}

impl Memory {
    /// Allocations were submitted.
    pub fn submitted(&mut self, ids: &[String]) {
        for id in ids {
            self.allocations.insert(id.clone(), Seen { came: false, waits_since: None });
        }
    }

    /// A submission failed, or what was submitted died at once: the pause until the next.
    pub fn failed(&mut self, policy: &Policy, now: Duration) -> Duration {
        let pause = policy.pause.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.paused_until = Some(now + pause);
        pause
    }

    /// Devices for jobs that no free worker takes.
    pub fn refused(&self) -> u32 {
        self.refused
    }

    /// Brings the memory up to date; the allocations that ended without a worker.
    fn look(&mut self, facts: &Facts, now: Duration) -> Vec<String> {
        let known = std::mem::take(&mut self.allocations);
        for allocation in &facts.allocations {
            let before = known.get(&allocation.id);
            let is_ready = matches!(allocation.phase, Phase::Ready { .. });
            let waits = matches!(allocation.phase, Phase::Starting | Phase::Ready { jobs: 0, .. });
            // One that has come waits for jobs from then on, not since it started.
            let changed = is_ready && before.is_some_and(|seen| !seen.came);
            let since = before.and_then(|seen| seen.waits_since).filter(|_| !changed).unwrap_or(now);
            let seen = Seen {
                came: is_ready || before.is_some_and(|seen| seen.came),
                waits_since: waits.then_some(since),
            };
            if changed {
                self.failures = 0;
                self.paused_until = None;
            }
            self.allocations.insert(allocation.id.clone(), seen);
        }
        let is_gone = |id: &&String| !self.allocations.contains_key(*id);
        known.iter().filter(|(_, seen)| !seen.came).map(|(id, _)| id).filter(is_gone).cloned().collect()
    }

    /// A free worker takes a job that it can train within a second or so; one that it
    /// leaves alone for the idle limit no other of its kind will take.
    fn judge_refused(&mut self, policy: &Policy, facts: &Facts, now: Duration) {
        self.refused = self.refused.min(facts.waiting);
        let is_free = |allocation: &Allocation| matches!(allocation.phase, Phase::Ready { jobs: 0, .. });
        if facts.waiting == self.refused || !facts.allocations.iter().any(is_free) {
            self.left_since = None;
            return;
        }
        let since = *self.left_since.get_or_insert(now);
        if now.saturating_sub(since) >= policy.idle_limit {
            self.refused = facts.waiting;
            self.left_since = None;
        }
    }

    fn waits_for(&self, id: &str, now: Duration) -> Duration {
        let since = self.allocations.get(id).and_then(|seen| seen.waits_since);
        since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

/// Decides. Asked again with the same facts before anything has changed, it asks for
/// the same again; who carries a plan out must therefore read the facts anew.
pub fn plan(policy: &Policy, memory: &mut Memory, facts: &Facts, now: Duration) -> Plan {
    let mut plan = Plan { vanished: memory.look(facts, now), ..Plan::default() };
    if !plan.vanished.is_empty() {
        memory.failed(policy, now);
    }
    memory.judge_refused(policy, facts, now);

    let is_overdue = |allocation: &Allocation| {
        allocation.phase == Phase::Starting && memory.waits_for(&allocation.id, now) >= policy.start_limit
    };
    let overdue = facts.allocations.iter().filter(|allocation| is_overdue(allocation));
    plan.cancel.extend(overdue.map(|allocation| (allocation.id.clone(), Why::NeverCame)));

    let free: u32 = facts.free_elsewhere.saturating_add(facts.allocations.iter().map(free_devices).sum());
    let short = (facts.waiting - memory.refused).saturating_sub(free);
    let needed = short.div_ceil(policy.devices_each);
    let is_coming = |allocation: &&Allocation| {
        matches!(allocation.phase, Phase::Pending | Phase::Starting) && !is_overdue(allocation)
    };
    let coming = count(facts.allocations.iter().filter(is_coming).count());

    // Allocations that may go without falling below the least.
    let held = count(facts.allocations.len() - plan.cancel.len());
    let mut spare = held.saturating_sub(policy.min);
    cancel_surplus(policy, memory, facts, coming.saturating_sub(needed), &mut spare, now, &mut plan);
    cancel_idle(policy, memory, facts, &mut spare, now, &mut plan);

    if memory.paused_until.is_none_or(|until| now >= until) {
        let wanted = needed.saturating_sub(coming).max(policy.min.saturating_sub(held));
        // What is being cancelled still holds its place.
        plan.submit = wanted.min(policy.max.saturating_sub(count(facts.allocations.len())));
    }
    plan
}

fn free_devices(allocation: &Allocation) -> u32 {
    match allocation.phase {
        Phase::Ready { devices, jobs } => devices.saturating_sub(jobs),
        Phase::Pending | Phase::Starting | Phase::Leaving => 0,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Waiting allocations that have not been needed for the idle limit, the youngest first.
fn cancel_surplus(
    policy: &Policy,
    memory: &mut Memory,
    facts: &Facts,
    surplus: u32,
    spare: &mut u32,
    now: Duration,
    plan: &mut Plan,
) {
    if surplus == 0 {
        memory.surplus_since = None;
        return;
    }
    let since = *memory.surplus_since.get_or_insert(now);
    if now.saturating_sub(since) < policy.idle_limit {
        return;
    }
    let pending = facts.allocations.iter().rev().filter(|allocation| allocation.phase == Phase::Pending);
    for allocation in pending.take(surplus.min(*spare) as usize) {
        forget(memory, plan, allocation, Why::NotNeeded);
        *spare -= 1;
    }
}

/// Workers without a job for the idle limit, unless they are about to get one.
fn cancel_idle(
    policy: &Policy,
    memory: &mut Memory,
    facts: &Facts,
    spare: &mut u32,
    now: Duration,
    plan: &mut Plan,
) {
    if facts.waiting > memory.refused {
        return;
    }
    let is_idle = |memory: &Memory, allocation: &Allocation| {
        matches!(allocation.phase, Phase::Ready { jobs: 0, .. })
            && memory.waits_for(&allocation.id, now) >= policy.idle_limit
    };
    for allocation in facts.allocations.iter().rev() {
        if *spare > 0 && is_idle(memory, allocation) {
            forget(memory, plan, allocation, Why::Idle);
            *spare -= 1;
        }
    }
}

/// What we end ourselves has not vanished.
fn forget(memory: &mut Memory, plan: &mut Plan, allocation: &Allocation, why: Why) {
    if let Some(seen) = memory.allocations.get_mut(&allocation.id) {
        seen.came = true;
    }
    plan.cancel.push((allocation.id.clone(), why));
}

#[cfg(test)]
mod tests;
