//! The event loop.
//!
//! ```text
//!   submissions ─┐                       ┌─► placements: a run, and the event of its end
//!   ends, stops ─┼─► events up to the ───┤
//!   failures    ─┘   next round, the plan└─► stops: the event of having stopped
//! ```
//!
//! What a job costs beside its training: loading data to a node that lacks it, going on
//! from a checkpoint, saving one to make way, and after a failure all since the last one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::fleet::Fleet;
use super::scenario::Scenario;
use super::tally::{Tally, Waste};
use super::trace::{Change, Naming, Submission, changes, submissions};
use super::{Progress, Report};
use crate::facts::{CheckedFacts, Facts, FactsError, Job, JobId, Names, Running};
use crate::plan::{Placement, Plan, Reservation, StopReason};

const DAY_S: u64 = 24 * 3600;
/// Time after which is planned though nothing happened: jobs age, promises pass.
const IDLE_ROUND_S: u64 = 900;

/// What will happen to a run, if it is still the same one then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ends { place: usize, attempt: u32 },
    Stopped { place: usize, attempt: u32 },
}

/// What the simulator knows of a job.
#[derive(Clone, Copy, Default)]
struct Life {
    /// Of the training itself.
    left_s: u64,
    attempt: u32,
    /// Of the present attempt, before its training goes on.
    overhead_s: u64,
    stop_reason: Option<StopReason>,
}

pub(super) struct Engine<'a> {
    scenario: &'a Scenario,
    names: Names,
    now_s: u64,
    /// The earliest.
    next_round_s: u64,
    submissions: Vec<Submission>,
    next_submission: usize,
    changes: Vec<Change>,
    next_change: usize,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    lives: Vec<Life>,
    fleet: Fleet,
    waiting: Vec<Job>,
    running: Vec<Running>,
    reservations: Vec<Reservation>,
    tally: Tally,
}

impl<'a> Engine<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        let mut naming = Naming::new(scenario);
        let submissions = submissions(scenario, &mut naming);
        let fleet = Fleet::new(scenario, &mut naming);
        let life = |submission: &Submission| Life { left_s: submission.runtime_s, ..Life::default() };
        Engine {
            scenario,
            names: naming.names,
            now_s: 0,
            next_round_s: 0,
            lives: submissions.iter().map(life).collect(),
            tally: Tally::new(scenario, &submissions),
            submissions,
            next_submission: 0,
            changes: changes(scenario),
            next_change: 0,
            events: BinaryHeap::new(),
            fleet,
            waiting: Vec::new(),
            running: Vec::new(),
            reservations: Vec::new(),
        }
    }

    pub fn run(
        mut self,
        plan: &mut dyn FnMut(&CheckedFacts<'_>) -> Plan,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, FactsError> {
        let end_s = u64::from(self.scenario.days) * DAY_S;
        let mut day = 0;
        while let Some(round_s) = self.next_round_s().filter(|round_s| *round_s < end_s) {
            self.events_until(round_s);
            self.advance(round_s);
            self.round(plan)?;
            self.next_round_s = round_s + self.scenario.round_s;
            if round_s / DAY_S > day {
                day = round_s / DAY_S;
                progress(Progress {
                    day,
                    days: self.scenario.days.into(),
                    waiting: self.waiting.len(),
                    running: self.running.len(),
                });
            }
        }
        self.events_until(end_s);
        self.advance(end_s);
        // For the reasons of those that still wait.
        let last = plan(&self.facts().check()?);
        Ok(self.tally.report(self.scenario, &self.waiting, &self.running, &last))
    }

    /// The first round after what happens next.
    fn next_round_s(&self) -> Option<u64> {
        let submission = self.submissions.get(self.next_submission).map(|it| it.job.submit_s);
        let change = self.changes.get(self.next_change).map(|change| change.at_s);
        let event = self.events.peek().map(|Reverse((at_s, _))| *at_s);
        let idle = (!self.waiting.is_empty()).then_some(self.now_s + IDLE_ROUND_S);
        let first_s = [submission, change, event, idle].into_iter().flatten().min()?;
        let round_s = self.scenario.round_s;
        Some((first_s.div_ceil(round_s) * round_s).max(self.next_round_s))
    }

    /// Failures before ends, ends before submissions of the same second.
    fn events_until(&mut self, until_s: u64) {
        loop {
            let change = self.changes.get(self.next_change).map(|change| (change.at_s, 0));
            let event = self.events.peek().map(|Reverse((at_s, _))| (*at_s, 1));
            let submission = self.submissions.get(self.next_submission).map(|it| (it.job.submit_s, 2));
            let first = [change, event, submission].into_iter().flatten().min();
            let Some((at_s, kind)) = first.filter(|(at_s, _)| *at_s <= until_s) else { return };
            self.advance(at_s);
            match kind {
                0 => self.change(),
                1 => self.event(),
                _ => self.submit(),
            }
        }
    }

    fn advance(&mut self, to_s: u64) {
        self.tally.pass(to_s - self.now_s, self.fleet.up_device_count());
        self.now_s = to_s;
    }

    fn submit(&mut self) {
        let job = self.submissions[self.next_submission].job.clone();
        self.next_submission += 1;
        self.queue(job);
    }

    fn queue(&mut self, job: Job) {
        self.tally.queued(&job);
        self.waiting.push(job);
    }

    fn event(&mut self) {
        let Some(Reverse((_, event))) = self.events.pop() else { return };
        let (Event::Ends { place, attempt } | Event::Stopped { place, attempt }) = event;
        if self.lives[place].attempt != attempt {
            return;
        }
        let Some(running) = self.take_running(JobId(place as u128 + 1)) else { return };
        match event {
            Event::Ends { .. } => {
                self.lives[place].attempt += 1;
                self.lives[place].left_s = 0;
                self.tally.done(&running.job, place, self.now_s);
            }
            Event::Stopped { .. } => self.stopped(place, running),
        }
    }

    fn take_running(&mut self, id: JobId) -> Option<Running> {
        let place = self.running.iter().position(|running| running.job.id == id)?;
        let running = self.running.remove(place);
        self.tally.freed(&running.job);
        Some(running)
    }

    /// It trained until it was told to stop, then saved.
    fn stopped(&mut self, place: usize, mut running: Running) {
        let life = &mut self.lives[place];
        let checkpoint_s = self.scenario.policy.checkpoint_s;
        let ran_s = self.now_s - running.start_s;
        let trained_s = ran_s.saturating_sub(checkpoint_s).saturating_sub(life.overhead_s).min(life.left_s);
        let reason = life.stop_reason.take();
        if matches!(reason, Some(StopReason::Preempted { .. })) {
            running.job.preemption_count += 1;
        }
        let waste = match reason {
            Some(StopReason::Preempted { .. }) => Waste::Preemption,
            _ => Waste::Drain,
        };
        self.tally.wasted(waste, running.job.device_count, ran_s - trained_s);
        self.requeue(place, running, trained_s, reason);
    }

    /// All since the last checkpoint is lost.
    fn failed(&mut self, place: usize, running: Running) {
        let ran_s = self.now_s - running.start_s;
        let trained_s = ran_s.saturating_sub(self.lives[place].overhead_s);
        let every_s = self.scenario.run.checkpoint_every_s;
        let saved_s = (trained_s / every_s * every_s).min(self.lives[place].left_s);
        self.tally.wasted(Waste::Failure, running.job.device_count, ran_s - saved_s);
        self.requeue(place, running, saved_s, None);
    }

    fn requeue(&mut self, place: usize, running: Running, saved_s: u64, reason: Option<StopReason>) {
        let life = &mut self.lives[place];
        life.attempt += 1;
        life.left_s = (life.left_s - saved_s).max(1);
        let mut job = running.job;
        job.spent_device_s += (self.now_s - running.start_s) * job.device_count as u64;
        let left_s =
            |estimate_s: u64| estimate_s.saturating_sub(saved_s).max(self.scenario.run.restart_s + 60);
        job.estimate_s = job.estimate_s.map(left_s);
        match reason {
            Some(StopReason::CostLimit) => self.tally.cut_off(place),
            _ => self.queue(job),
        }
    }

    fn change(&mut self) {
        let change = self.changes[self.next_change];
        self.next_change += 1;
        if !self.fleet.change(&change) {
            return;
        }
        let is_there = |running: &Running| running.parts.iter().any(|part| part.node.0 == change.node);
        let hit: Vec<JobId> = self.running.iter().filter(|it| is_there(it)).map(|it| it.job.id).collect();
        for id in hit {
            if let Some(running) = self.take_running(id) {
                self.failed(place_of(id), running);
            }
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            now_s: self.now_s,
            policy: &self.scenario.policy,
            names: &self.names,
            projects: self.tally.projects(),
            nodes: self.fleet.nodes(),
            running: &self.running,
            waiting: &self.waiting,
            reservations: &self.reservations,
        }
    }

    fn round(&mut self, plan: &mut dyn FnMut(&CheckedFacts<'_>) -> Plan) -> Result<(), FactsError> {
        let Plan { placements, stops, reservations, .. } = plan(&self.facts().check()?);
        self.tally.round(self.waiting.len());
        self.reservations = reservations;
        for stop in stops {
            let place = place_of(stop.job);
            self.lives[place].stop_reason = Some(stop.reason);
            self.tally.stops(stop.reason);
            let attempt = self.lives[place].attempt;
            let at_s = self.now_s + self.scenario.policy.checkpoint_s;
            self.events.push(Reverse((at_s, Event::Stopped { place, attempt })));
            self.running.iter_mut().filter(|it| it.job.id == stop.job).for_each(|it| it.is_stopping = true);
        }
        if placements.is_empty() {
            return Ok(());
        }
        let mut starting: Vec<Placement> = placements;
        starting.sort_unstable_by_key(|placement| placement.job);
        let is_starting = |job: &Job| starting.binary_search_by_key(&job.id, |it| it.job).is_ok();
        let (jobs, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(is_starting);
        self.waiting = waiting;
        for job in jobs {
            if let Ok(place) = starting.binary_search_by_key(&job.id, |it| it.job) {
                let parts = std::mem::take(&mut starting[place].parts);
                self.start(job, parts);
            }
        }
        Ok(())
    }

    fn start(&mut self, job: Job, parts: Vec<crate::facts::Part>) {
        let place = place_of(job.id);
        let missing = self.fleet.load(&job, &parts, self.now_s);
        self.tally.started(&job, place, self.now_s, missing);
        let life = &mut self.lives[place];
        life.overhead_s = missing as u64 * self.scenario.run.data_load_s;
        if life.attempt > 0 {
            life.overhead_s += self.scenario.run.restart_s;
        }
        let event = Event::Ends { place, attempt: life.attempt };
        self.events.push(Reverse((self.now_s + life.overhead_s + life.left_s, event)));
        self.running.push(Running { job, parts, start_s: self.now_s, is_stopping: false });
    }
}

fn place_of(id: JobId) -> usize {
    usize::try_from(id.0).unwrap_or(usize::MAX) - 1
}
