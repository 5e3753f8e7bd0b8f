//! Why a job is where it is, as one paragraph for its owner.

use std::fmt::{self, Display};
use std::time::Duration;

use cakes::labels::Labels;

use super::assign::OVERTAKE_MAX;
use super::job::JobState;
use super::schedule::estimate::Estimate;
use super::worker::Schedule;

/// What is known of a job and of the workers that could take it.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub state: JobState,
    pub state_reason: String,
    /// Attempts so far.
    pub attempt_count: i64,
    /// Position among the waiting jobs, from 1; 0 if it does not wait.
    pub queue_position: u32,
    /// Time until its back-off ends; `None` or zero when it may go.
    pub back_off: Option<Duration>,
    pub memory_mib: u64,
    /// Devices that it trains on at once.
    pub device_count: u32,
    /// Whether they may be of several slots.
    pub spreads: bool,
    /// What its worker must be labelled with.
    pub worker_labels: Labels,
    /// Of a job that may not take more than so much.
    pub cost: Option<Cost>,
    pub step: i64,
    pub step_count: i64,
    /// Step of the last committed checkpoint, 0 for none.
    pub checkpoint_step: i64,
    /// Worker and device of the live attempt.
    pub runs_on: Option<Placement>,
    /// A worker that it keeps away from for a while, after a fault there.
    pub avoided_worker: Option<String>,
    /// Why the planner does not start it, where that has to do with other jobs.
    pub planned: Option<String>,
    /// How long a waiting job is going to train, where anything tells it.
    pub estimate: Option<Estimate>,
    pub workers: Vec<WorkerFacts>,
}

/// What a job has taken, and what it may, in device-seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub taken_device_s: i64,
    pub limit_device_s: i64,
}

impl Display for Cost {
    /// `2.51 of the 2.50 device-hours that it may`; short ones in seconds.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { taken_device_s, limit_device_s } = *self;
        if limit_device_s < 360 {
            return write!(formatter, "{taken_device_s} of the {limit_device_s} device-seconds that it may");
        }
        let hours = |seconds: i64| seconds as f64 / 3600.0;
        let (taken, limit) = (hours(taken_device_s), hours(limit_device_s));
        write!(formatter, "{taken:.2} of the {limit:.2} device-hours that it may")
    }
}

/// Where an attempt lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub worker: String,
    pub device: String,
    /// Workers and devices of the other members of a gang.
    pub others: Vec<(String, String)>,
    /// Time until its lease runs out unless it is renewed.
    pub lease_left: Duration,
}

/// A registered worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerFacts {
    pub id: String,
    pub schedule: Schedule,
    /// Not heard of for longer than a lease lasts.
    pub lost: bool,
    /// Why it gets no jobs for a while.
    pub suspect: Option<String>,
    pub labels: Labels,
    /// Whether its slots may train with those of other workers.
    pub joins_gangs: bool,
    pub devices: Vec<DeviceFacts>,
}

/// A device of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    pub name: String,
    pub memory_mib: u64,
    /// Devices of the slot.
    pub count: u32,
    pub busy: bool,
}

impl DeviceFacts {
    fn fits(&self, facts: &Facts) -> bool {
        self.memory_mib >= facts.memory_mib && self.count >= facts.device_count
    }
}

/// The paragraph.
pub fn explain(facts: &Facts) -> String {
    match facts.state {
        JobState::Queued => queued(facts),
        JobState::Leased => format!("Offered to {}, which has not started it yet.", place(facts)),
        JobState::Running => running(facts),
        JobState::Succeeded => format!("Done after {}.", attempts(facts.attempt_count)),
        JobState::Failed => with_reason(&format!("Failed after {}", attempts(facts.attempt_count)), facts),
        JobState::Cancelling => {
            format!("Cancelled; waits for {} to stop, or for its lease to run out.", place(facts))
        }
        JobState::Cancelled => with_reason("Cancelled", facts),
        JobState::Pausing => format!("Waits for {} to save a checkpoint and stop.", place(facts)),
        JobState::Paused => paused(facts),
    }
}

fn paused(facts: &Facts) -> String {
    match facts.cost {
        Some(cost) if cost.taken_device_s >= cost.limit_device_s => format!(
            "Paused: it has taken {cost}; `cakes job resume --cost-limit HOURS` with more lets it go on from step {}.",
            facts.checkpoint_step
        ),
        _ => "Paused; `cakes job resume` queues it again.".to_owned(),
    }
}

fn with_reason(start: &str, facts: &Facts) -> String {
    match facts.state_reason.as_str() {
        "" => format!("{start}. `cakes job retry` queues it again."),
        reason => format!("{start}: {reason}. `cakes job retry` queues it again."),
    }
}

fn running(facts: &Facts) -> String {
    let lease = facts.runs_on.as_ref().map_or(0, |placement| placement.lease_left.as_secs());
    let saved = match facts.checkpoint_step {
        0 => "no checkpoint yet".to_owned(),
        step => format!("last checkpoint at step {step}"),
    };
    format!(
        "Runs on {}: step {} of {}, {saved}; its lease lasts {lease} s unless renewed.",
        place(facts),
        facts.step,
        facts.step_count
    )
}

fn place(facts: &Facts) -> String {
    match &facts.runs_on {
        Some(placement) if placement.others.is_empty() => {
            format!("worker {}, {}", placement.worker, placement.device)
        }
        Some(placement) => {
            let first = std::iter::once((&placement.worker, &placement.device));
            let others = placement.others.iter().map(|(worker, device)| (worker, device));
            let slots: Vec<String> =
                first.chain(others).map(|(worker, device)| format!("{worker} {device}")).collect();
            format!("workers {}", slots.join(", "))
        }
        None => "its worker".to_owned(),
    }
}

fn attempts(count: i64) -> String {
    if count == 1 { "1 attempt".to_owned() } else { format!("{count} attempts") }
}

/// The first obstacle that stands in the way, from the nearest to the job to the
/// farthest.
fn queued(facts: &Facts) -> String {
    let mut text = format!("Waits at position {} of the queue. {}", facts.queue_position, obstacle(facts));
    if let Some(estimate) = &facts.estimate {
        text += &format!(" It is estimated to take {estimate}.");
    }
    if facts.attempt_count > 0 {
        let from = match facts.checkpoint_step {
            0 => "from the start".to_owned(),
            step => format!("from step {step}"),
        };
        text += &format!(" After {} it will go on {from}.", attempts(facts.attempt_count));
        if !facts.state_reason.is_empty() {
            text += &format!(" The last one ended with: {}.", facts.state_reason);
        }
    }
    text
}

fn obstacle(facts: &Facts) -> String {
    if let Some(back_off) = facts.back_off.filter(|left| !left.is_zero()) {
        return format!("It is held back for {:.0} s after a failure.", back_off.as_secs_f64().ceil());
    }
    let present: Vec<&WorkerFacts> = facts.workers.iter().filter(|worker| !worker.lost).collect();
    if present.is_empty() {
        return match facts.workers.as_slice() {
            [] => "No worker has registered; start one with `cakes-worker --server URL`.".to_owned(),
            [WorkerFacts { id, .. }] => format!("The only worker, {id}, has not been heard of lately."),
            workers => format!("None of the {} registered workers has been heard of lately.", workers.len()),
        };
    }
    let open: Vec<&WorkerFacts> =
        present.iter().copied().filter(|worker| worker.schedule == Schedule::Ready).collect();
    let ready: Vec<&WorkerFacts> = open.iter().copied().filter(|worker| worker.suspect.is_none()).collect();
    if let (true, Some(WorkerFacts { id, suspect: Some(reason), .. })) = (ready.is_empty(), open.first()) {
        return format!(
            "Worker {id} gets no jobs for a while: {reason}; `cakes worker uncordon {id}` lets it take jobs now."
        );
    }
    if ready.is_empty() {
        let who = match present.as_slice() {
            [WorkerFacts { id, .. }] => format!("The only present worker, {id}, is"),
            present => format!("All {} present workers are", present.len()),
        };
        return format!("{who} cordoned or draining; `cakes worker uncordon` lets one take jobs.");
    }
    let ready: Vec<&WorkerFacts> =
        ready.into_iter().filter(|worker| worker.labels.include(&facts.worker_labels)).collect();
    if ready.is_empty() {
        return format!(
            "No ready worker is labelled {}; start one with `--labels`, or submit without worker_labels.",
            facts.worker_labels
        );
    }
    let devices =
        || ready.iter().flat_map(|worker| worker.devices.iter().map(move |device| (worker, device)));
    let wide = || devices().filter(|(_, slot)| slot.count >= facts.device_count);
    let joining = || devices().filter(|(worker, _)| worker.joins_gangs);
    let together: u32 = joining().map(|(_, slot)| slot.count).sum();
    let is_spread = facts.spreads && together >= facts.device_count;
    let largest = if is_spread { joining().map(|(_, slot)| slot.memory_mib).max() } else { None };
    let Some(largest) = largest.max(wide().map(|(_, slot)| slot.memory_mib).max()) else {
        let (wanted, most) = (facts.device_count, devices().map(|(_, slot)| slot.count).max().unwrap_or(0));
        return format!(
            "It trains on {wanted} devices at once; the widest slot of a ready worker has {most}. Start one with \
             `--devices cuda:0+cuda:1`, as many with + between."
        );
    };
    if largest < facts.memory_mib {
        return format!(
            "It needs about {} MiB of memory; the largest device of a ready worker has {largest} MiB.",
            facts.memory_mib
        );
    }
    if let Some(planned) = &facts.planned {
        return planned.clone();
    }
    if is_spread && wide().next().is_none() {
        return "Slots of several workers are kept for it; it starts when all of them have asked for it."
            .to_owned();
    }
    let mut free = devices().filter(|(_, device)| !device.busy && device.fits(facts));
    match free.find(|(worker, _)| Some(&worker.id) != facts.avoided_worker.as_ref()) {
        Some((worker, _)) => format!("Worker {} is free and will be offered it at its next call.", worker.id),
        None => match &facts.avoided_worker {
            Some(avoided) if free_device_of(facts, avoided) => {
                format!("Only worker {avoided} is free, which it keeps away from after a fault there.")
            }
            _ => format!(
                "All fitting devices are busy ({} in all). A worker that has the data of a job like it at hand, \
                 submitted at most {OVERTAKE_MAX} later, takes that one first.",
                devices().count()
            ),
        },
    }
}

fn free_device_of(facts: &Facts, id: &str) -> bool {
    let worker = facts.workers.iter().find(|worker| worker.id == id);
    let takes_it = |worker: &&WorkerFacts| worker.labels.include(&facts.worker_labels);
    worker
        .filter(takes_it)
        .is_some_and(|worker| worker.devices.iter().any(|device| !device.busy && device.fits(facts)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::schedule::estimate::By;

    fn facts() -> Facts {
        Facts {
            state: JobState::Queued,
            state_reason: String::new(),
            attempt_count: 0,
            queue_position: 3,
            back_off: None,
            memory_mib: 1000,
            device_count: 1,
            spreads: false,
            worker_labels: Labels::default(),
            cost: None,
            step: 0,
            step_count: 100,
            checkpoint_step: 0,
            runs_on: None,
            avoided_worker: None,
            planned: None,
            estimate: None,
            workers: Vec::new(),
        }
    }

    fn worker(id: &str, memory_mib: u64, busy: bool) -> WorkerFacts {
        let devices = vec![DeviceFacts { name: "cpu".into(), memory_mib, count: 2, busy }];
        WorkerFacts {
            id: id.into(),
            schedule: Schedule::Ready,
            lost: false,
            suspect: None,
            labels: Labels::default(),
            joins_gangs: true,
            devices,
        }
    }

    #[track_caller]
    fn says(facts: &Facts, part: &str) {
        let text = explain(facts);
        assert!(text.contains(part), "'{text}' lacks '{part}'");
    }

    #[test]
    fn a_waiting_job_names_the_first_obstacle() {
        says(&facts(), "position 3");
        let three = Facts { device_count: 3, workers: vec![worker("a", 2000, false)], ..facts() };
        says(&three, "3 devices at once; the widest slot of a ready worker has 2");
        says(&Facts { device_count: 2, ..three }, "Worker a is free");
        says(&facts(), "No worker has registered");
        let lost = WorkerFacts { lost: true, ..worker("a", 2000, false) };
        says(&Facts { workers: vec![lost.clone()], ..facts() }, "The only worker, a, has not been heard of");
        says(&Facts { workers: vec![lost.clone(), lost], ..facts() }, "None of the 2 registered");
        let cordoned = WorkerFacts { schedule: Schedule::Cordoned, ..worker("a", 2000, false) };
        says(
            &Facts { workers: vec![cordoned.clone()], ..facts() },
            "The only present worker, a, is cordoned or",
        );
        says(&Facts { workers: vec![cordoned.clone(), cordoned], ..facts() }, "All 2 present workers are");
        let suspect = WorkerFacts { suspect: Some("its disk is full".into()), ..worker("a", 2000, false) };
        says(&Facts { workers: vec![suspect.clone()], ..facts() }, "a while: its disk is full");
        says(&Facts { workers: vec![suspect, worker("b", 2000, false)], ..facts() }, "Worker b is free");
        let labels = Labels::new(BTreeMap::from([("gpu".to_owned(), "h200".to_owned())])).unwrap();
        let picky =
            Facts { worker_labels: labels.clone(), workers: vec![worker("a", 2000, false)], ..facts() };
        says(&picky, "No ready worker is labelled gpu=h200");
        let labelled = WorkerFacts { labels, ..worker("b", 2000, false) };
        says(&Facts { workers: vec![worker("a", 2000, false), labelled], ..picky }, "Worker b is free");
        says(&Facts { workers: vec![worker("a", 500, false)], ..facts() }, "about 1000 MiB");
        let busy = Facts { workers: vec![worker("a", 2000, true)], ..facts() };
        says(&busy, "busy (1 in all)");
        says(&busy, "submitted at most 32 later, takes that one first");
        says(
            &Facts { planned: Some("Its project has used its quota.".into()), ..busy },
            "has used its quota",
        );
        says(&Facts { workers: vec![worker("a", 2000, false)], ..facts() }, "Worker a is free");
        let avoided = Some("a".to_owned());
        says(
            &Facts { workers: vec![worker("a", 2000, false)], avoided_worker: avoided, ..facts() },
            "keeps away",
        );
        says(&Facts { back_off: Some(Duration::from_millis(2500)), ..facts() }, "held back for 3 s");
    }

    #[test]
    fn a_job_that_is_spread_is_not_too_wide_for_several_slots_and_names_all_of_them() {
        let workers = vec![worker("a", 2000, true), worker("b", 2000, false)];
        let spread = Facts { device_count: 4, spreads: true, workers, ..facts() };
        says(&spread, "it starts when all of them have asked for it");
        let planned = Some("It needs 4 devices; 2 of 4 that fit are free.".to_owned());
        says(&Facts { planned, ..spread.clone() }, "2 of 4 that fit");
        says(&Facts { device_count: 5, ..spread.clone() }, "5 devices at once; the widest slot");
        let mut alone = spread.clone();
        alone.workers[1].joins_gangs = false;
        says(&alone, "4 devices at once; the widest slot");
        let others = vec![("gpu-2".to_owned(), "cuda:0".to_owned())];
        let placement =
            Placement { worker: "gpu-1".into(), device: "cuda:0".into(), others, lease_left: Duration::ZERO };
        let runs = Facts { state: JobState::Running, runs_on: Some(placement), ..spread };
        says(&runs, "Runs on workers gpu-1 cuda:0, gpu-2 cuda:0:");
    }

    #[test]
    fn a_job_that_is_tried_again_says_from_where_and_why() {
        let again =
            Facts { attempt_count: 2, checkpoint_step: 40, state_reason: "lease expired".into(), ..facts() };
        says(&again, "from step 40");
        says(&again, "lease expired");
    }

    /// Behind why it waits, and before what became of it.
    #[test]
    fn a_job_that_waits_says_how_long_it_is_going_to_take() {
        let of = |by| Facts { estimate: Some(Estimate { train_s: 7741, by }), ..facts() };
        let alike = of(By::Alike { count: 3 });
        says(&alike, "URL`. It is estimated to take about 2 h 10 min of training, by 3 jobs like it.");
        let again = Facts { attempt_count: 1, checkpoint_step: 40, ..of(By::Itself) };
        says(
            &again,
            "2 h 10 min of training, by its last attempt. After 1 attempt it will go on from step 40.",
        );
        assert!(!explain(&facts()).contains("estimated"), "nobody knows");
        assert!(!explain(&Facts { state: JobState::Running, ..alike }).contains("estimated"));
    }

    #[test]
    fn a_job_that_runs_says_what_would_be_left_of_it() {
        let runs = Facts { state: JobState::Running, step: 7, ..facts() };
        says(&runs, "no checkpoint yet");
        says(&Facts { checkpoint_step: 5, ..runs }, "last checkpoint at step 5");
    }

    #[test]
    fn a_job_that_may_take_no_more_says_how_it_may() {
        let cost = Some(Cost { taken_device_s: 7201, limit_device_s: 7200 });
        let spent = Facts { state: JobState::Paused, cost, checkpoint_step: 40, ..facts() };
        says(&spent, "has taken 2.00 of the 2.00 device-hours that it may; `cakes job resume --cost-limit");
        says(&spent, "from step 40");
        let cost = Some(Cost { taken_device_s: 13, limit_device_s: 11 });
        says(&Facts { cost, ..spent.clone() }, "taken 13 of the 11 device-seconds");
        let cost = Some(Cost { taken_device_s: 7199, limit_device_s: 7200 });
        says(&Facts { cost, ..spent }, "Paused; `cakes job resume` queues");
    }

    #[test]
    fn every_state_has_its_words() {
        for state in JobState::ALL {
            assert!(explain(&Facts { state: *state, ..facts() }).ends_with('.'), "{state}");
        }
    }
}
