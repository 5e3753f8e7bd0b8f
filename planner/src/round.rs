//! One round: every waiting job is considered once, in order.

use std::collections::BTreeMap;

use crate::board::Board;
use crate::facts::{CheckedFacts, Facts, Job, JobId, Running, Schedule};
use crate::fit::choose;
use crate::order::classes;
use crate::plan::{Placement, Plan, Reservation, Stop, StopReason};
use crate::preempt::clear;
use crate::reason::Reason;
use crate::reserve::{Claim, being_cleared, reserve, still_fits};
use crate::shape::Shapes;
use crate::spread;
use crate::standing::{Standing, device_s, own_limit};
use crate::waits::{Wait, Why, explained};

/// Decides who starts where, who makes way, and why the others wait.
pub fn plan(facts: &CheckedFacts<'_>) -> Plan {
    let facts = facts.get();
    let mut round = Round::new(facts);
    let lookahead_s = facts.policy.lookahead_s;
    for mut class in classes(facts) {
        round.put_back(&class.holders);
        for place in std::mem::take(&mut class.holders) {
            round.consider(place);
        }
        for elders in std::mem::take(&mut class.elders) {
            // What no device could help does not stand in the way of the next.
            elders.into_iter().find(|place| round.consider(*place) != Outcome::Limited);
        }
        while let Some(mut turn) = class.next(&round.standings, lookahead_s) {
            turn.any(|place| round.consider(place) == Outcome::Starts);
        }
    }
    round.end()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Starts,
    Waits,
    /// Whatever becomes free.
    Limited,
    /// It was considered before.
    Known,
}

pub(crate) struct Round<'a> {
    facts: &'a Facts<'a>,
    pub board: Board<'a>,
    pub shapes: Shapes<'a>,
    standings: Vec<Standing>,
    held: BTreeMap<JobId, &'a Reservation>,
    /// Of jobs whose turn has not come, their places in the claims.
    put_back: BTreeMap<JobId, usize>,
    is_considered: Vec<bool>,
    /// Lowest priority of a running job that can make way.
    lowest_priority: Option<i32>,
    reservation_count: usize,
    plan: Plan,
    waits: Vec<Wait<'a>>,
}

impl<'a> Round<'a> {
    pub fn new(facts: &'a Facts<'a>) -> Self {
        let stops: Vec<Stop> = facts.running.iter().filter_map(|running| stop(facts, running)).collect();
        let is_told = |running: &Running| stops.iter().any(|stop| stop.job == running.job.id);
        let is_stopping =
            facts.running.iter().map(|running| running.is_stopping || is_told(running)).collect();
        let preemptible = facts.running.iter().filter(|running| running.job.is_preemptible);
        let lowest = preemptible.map(|running| running.job.priority).min();
        Round {
            facts,
            board: Board::new(facts, is_stopping),
            shapes: Shapes::default(),
            standings: Standing::of_all(facts),
            held: facts.reservations.iter().map(|held| (held.job, held)).collect(),
            put_back: BTreeMap::new(),
            is_considered: vec![false; facts.waiting.len()],
            lowest_priority: lowest.filter(|_| facts.policy.preempts),
            reservation_count: 0,
            plan: Plan { stops, ..Plan::default() },
            waits: Vec::new(),
        }
    }

    /// Puts reservations of the last round on the board, so that none of these jobs takes
    /// what is kept for another.
    fn put_back(&mut self, places: &[usize]) {
        for place in places {
            let job = &self.facts.waiting[*place];
            let Some(held) = self.held.get(&job.id) else { continue };
            let number = self.shapes.number(self.facts, job);
            if let Some(slots) = still_fits(&self.board, self.shapes.get(number), job, held) {
                self.put_back.insert(job.id, self.board.claims.len());
                self.board.claim(&slots, (*held).clone());
            }
        }
    }

    fn consider(&mut self, place: usize) -> Outcome {
        let job = &self.facts.waiting[place];
        if std::mem::replace(&mut self.is_considered[place], true) {
            return Outcome::Known;
        }
        if let Some(claim) = self.put_back.remove(&job.id) {
            self.board.unclaim(claim);
            self.shapes.forget_failures();
        }
        let end_s = self.facts.now_s.saturating_add(job.estimate_s.unwrap_or(0));
        if job.deadline_s.is_some_and(|deadline_s| end_s > deadline_s) {
            self.plan.late.push(job.id);
        }
        let number = self.shapes.number(self.facts, job);
        if let Some(reason) = self.limit(job, number) {
            self.wait(job, number, Why::Known(reason));
            return Outcome::Limited;
        }
        if self.start(job, number) {
            return Outcome::Starts;
        }
        let why = self.keep(job, number);
        let waited_s = self.facts.now_s.saturating_sub(job.submit_s);
        if matches!(why, Why::Devices) && waited_s >= self.facts.policy.patience_s {
            self.standings[job.project.0].keep_quota(job);
        }
        self.wait(job, number, why);
        Outcome::Waits
    }

    /// What keeps the job from starting whatever becomes free.
    fn limit(&mut self, job: &Job, number: usize) -> Option<Reason> {
        if let Some(reason) = own_limit(self.facts, job) {
            return Some(reason);
        }
        let shape = self.shapes.get(number);
        if let Some(reason) = &shape.impossible {
            return Some(reason.clone());
        }
        if let Some(node) = shape.only_avoided(self.facts, job) {
            return Some(Reason::KeepsAway { node });
        }
        self.standings[job.project.0].quota(self.facts, job)
    }

    /// Starts the job if its devices are free.
    pub fn start(&mut self, job: &Job, number: usize) -> bool {
        let shape = self.shapes.get(number);
        let estimate_s = job.estimate_s.unwrap_or(u64::MAX);
        if shape.failed_estimate_s.is_some_and(|failed_s| estimate_s >= failed_s) {
            return false;
        }
        let spread = || job.spreads.then(|| spread::choose(&self.board, shape, job)).flatten();
        let Some(slots) = choose(&self.board, shape, job).or_else(spread) else {
            // Others of the shape may run where it may not.
            if job.avoids.is_none() {
                shape.failed_estimate_s = Some(estimate_s);
            }
            return false;
        };
        let runtime_s = job.estimate_s.unwrap_or(self.facts.policy.assumed_runtime_s);
        self.board.place(&slots, self.facts.now_s.saturating_add(runtime_s));
        self.standings[job.project.0].start(job);
        self.plan.placements.push(Placement { job: job.id, parts: self.board.parts(&slots) });
        true
    }

    /// Gets devices for the job that are not free yet, if it is its turn.
    fn keep(&mut self, job: &Job, number: usize) -> Why {
        let held = self.held.get(&job.id).copied();
        let shape = self.shapes.get(number);
        if let Some(claim) = held.and_then(|held| being_cleared(&self.board, shape, job, held)) {
            return self.claim(job, claim);
        }
        if let Some(claim) = self.preempt(job, number) {
            return self.claim(job, claim);
        }
        // One device comes to whoever is first when it is free; to collect is for gangs, and
        // wide ones are rare.
        let is_gang = job.weight() > 1;
        if !is_gang || self.reservation_count >= self.facts.policy.reservation_count {
            return Why::Devices;
        }
        match reserve(&self.board, self.shapes.get(number), job, held) {
            Some(claim) => {
                self.reservation_count += 1;
                self.claim(job, claim)
            }
            None => Why::Devices,
        }
    }

    fn claim(&mut self, job: &Job, claim: Claim) -> Why {
        self.standings[job.project.0].claim(job);
        self.board.claim(&claim.slots, claim.reservation);
        Why::Claim(self.board.claims.len() - 1)
    }

    /// Tells others to make way.
    fn preempt(&mut self, job: &Job, number: usize) -> Option<Claim> {
        let shape = self.shapes.get(number);
        let is_hopeless = shape.failed_priority.is_some_and(|failed| job.priority <= failed)
            || self.lowest_priority.is_none_or(|lowest| job.priority <= lowest);
        if is_hopeless {
            return None;
        }
        let Some(clearance) = clear(&self.board, shape, job) else {
            if job.avoids.is_none() {
                shape.failed_priority = Some(job.priority);
            }
            return None;
        };
        for victim in clearance.victims {
            self.board.stop(victim);
            let reason = StopReason::Preempted { by: job.id };
            self.plan.stops.push(Stop { job: self.facts.running[victim].job.id, reason });
        }
        self.shapes.forget_failures();
        let reservation = Reservation {
            job: job.id,
            parts: self.board.parts(&clearance.slots),
            promised_s: self.facts.now_s.saturating_add(self.facts.policy.checkpoint_s),
            move_count: 0,
            is_being_cleared: true,
        };
        Some(Claim { slots: clearance.slots, reservation })
    }

    pub fn wait(&mut self, job: &'a Job, shape: usize, why: Why) {
        self.waits.push(Wait { job, shape, why });
    }

    pub fn end(mut self) -> Plan {
        self.plan.waiting = explained(&self.board, &mut self.shapes, self.waits);
        self.board.claims.retain(|claim| !claim.parts.is_empty());
        self.plan.reservations = self.board.claims;
        self.plan
    }
}

/// Whether a running job has to stop for another reason than a waiting one.
fn stop(facts: &Facts<'_>, running: &Running) -> Option<Stop> {
    let Running { job, .. } = running;
    if running.is_stopping {
        return None;
    }
    let drains = |node: usize| facts.nodes[node].schedule == Schedule::Draining;
    if job.is_preemptible && running.parts.iter().any(|part| drains(part.node.0)) {
        return Some(Stop { job: job.id, reason: StopReason::Drains });
    }
    let took_device_s = device_s(running.weight(), facts.now_s.saturating_sub(running.start_s));
    let spent_device_s = job.spent_device_s.saturating_add(took_device_s);
    let is_spent = job.cost_limit_device_s.is_some_and(|limit_device_s| spent_device_s >= limit_device_s);
    is_spent.then_some(Stop { job: job.id, reason: StopReason::CostLimit })
}
