//! What holds for rounds over rows.

#[path = "schedule_gang_tests.rs"]
mod gangs;

use proptest::prelude::*;

use super::estimate::{By, Kind, Pace};
use super::*;

const NOW_S: i64 = 1_000_000;

fn job(number: u128) -> JobRow {
    JobRow {
        id: Uuid::from_u128(number),
        project: "default".to_owned(),
        priority: 0,
        is_supernet: false,
        position: number as i64,
        create_s: NOW_S - 1000 + number as i64,
        memory_mib: 0,
        device_count: 1,
        spreads: false,
        preemption_count: 0,
        worker_labels: Labels::default(),
        deadline_s: None,
        cost_limit_device_s: None,
        spent_device_s: 0,
    }
}

fn natural(job: &JobRow) -> i64 {
    (job.position << 10) - (i64::from(job.priority) << 44) - if job.is_supernet { 1 << 43 } else { 0 }
}

fn waits(job: JobRow) -> WaitingRow {
    let rank = natural(&job);
    WaitingRow {
        ranked: Ranked { rank, natural: rank },
        job,
        epoch: 0,
        run_after_s: None,
        avoids: None,
        work: Work::default(),
        plan_reason: None,
    }
}

fn runs(job: JobRow, worker: &str) -> RunningRow {
    RunningRow {
        job,
        epoch: 3,
        worker: worker.to_owned(),
        device: "cpu".to_owned(),
        others: Vec::new(),
        grant_s: NOW_S - 7200,
        remaining_s: None,
        may_be_stopped: true,
        is_stopping: false,
    }
}

fn worker(id: &str, widths: &[u32]) -> WorkerRow {
    let device = |(number, count): (usize, &u32)| Device {
        name: if number == 0 { "cpu".to_owned() } else { format!("cpu:{number}") },
        model: String::new(),
        memory_mib: 1000,
        count: *count,
    };
    WorkerRow {
        id: id.to_owned(),
        schedule: planner::Schedule::Ready,
        devices: widths.iter().enumerate().map(device).collect(),
        labels: Labels::default(),
        kept: BTreeMap::new(),
        kept_age_s: BTreeMap::new(),
        asks: BTreeMap::new(),
        freed: BTreeSet::new(),
        joins_gangs: true,
    }
}

fn project(name: &str, share: u32) -> ProjectRow {
    ProjectRow {
        name: name.to_owned(),
        share,
        device_quota: None,
        device_s_quota: None,
        period_days: 30,
        period_age_s: 3600.0,
        used_device_s: 0.0,
        usage_device_s: 0.0,
        usage_age_s: 1.0,
    }
}

fn snapshot() -> Snapshot {
    Snapshot { now_s: NOW_S, projects: vec![project("default", 1)], ..Snapshot::default() }
}

fn decided(snapshot: &Snapshot) -> Decisions {
    decide(snapshot, &Policy::default()).unwrap()
}

/// The rows once decisions are written.
fn after(snapshot: &Snapshot, decisions: &Decisions) -> Snapshot {
    let mut after = snapshot.clone();
    for row in &mut after.waiting {
        if let Some((_, rank)) = decisions.ranks.iter().find(|(id, _)| *id == row.job.id) {
            row.ranked.rank = rank.unwrap_or(row.ranked.natural);
        }
        if let Some((_, reason)) = decisions.reasons.iter().find(|(id, _)| *id == row.job.id) {
            row.plan_reason = reason.map(str::to_owned);
        }
    }
    for row in &mut after.running {
        if decisions.stops.iter().any(|stop| stop.job == row.job.id) {
            (row.may_be_stopped, row.is_stopping) = (false, true);
        }
    }
    for (id, kept) in &decisions.kept {
        if let Some(worker) = after.workers.iter_mut().find(|worker| worker.id == *id) {
            worker.kept = kept.clone();
        }
    }
    for account in &decisions.accounts {
        if let Some(project) = after.projects.iter_mut().find(|project| project.name == account.project) {
            project.used_device_s = account.used_device_s;
            project.usage_device_s = account.usage_device_s;
            project.usage_age_s = 0.0;
            project.period_age_s -= f64::from(account.period_count * project.period_days) * DAY_S;
        }
    }
    after
}

fn drawn() -> impl Strategy<Value = Snapshot> {
    let row = (0_usize..3, -10_i32..20, any::<bool>(), 1_i32..4, 0_i64..2000, any::<bool>(), 0_u32..4);
    let rows = proptest::collection::vec(row, 0..24);
    let widths = proptest::collection::vec(proptest::collection::vec(1_u32..4, 1..4), 0..4);
    let quotas = proptest::collection::vec((1_u32..4, proptest::option::of(0_i32..6)), 3);
    (rows, widths, quotas).prop_map(|(rows, widths, quotas)| {
        let mut snapshot = snapshot();
        let named = |(number, (share, device_quota)): (usize, (u32, Option<i32>))| ProjectRow {
            device_quota,
            ..project(&format!("p{number}"), share)
        };
        snapshot.projects = quotas.into_iter().enumerate().map(named).collect();
        let workers = widths.iter().enumerate();
        snapshot.workers = workers.map(|(number, widths)| worker(&format!("w{number}"), widths)).collect();
        for (number, (project, priority, is_supernet, device_count, memory_mib, is_running, node)) in
            (1..).zip(rows)
        {
            let job = JobRow {
                project: format!("p{project}"),
                priority,
                is_supernet,
                device_count,
                spreads: device_count > 1 && number % 2 == 0,
                memory_mib,
                ..job(number)
            };
            if is_running {
                snapshot.running.push(runs(job, &format!("w{node}")));
            } else {
                snapshot.waiting.push(waits(job));
            }
        }
        snapshot
    })
}

proptest! {
    /// What is written once is not written again, and no row is, where nothing changes.
    #[test]
    fn a_second_round_at_the_same_moment_writes_nothing(snapshot in drawn()) {
        let first = decided(&snapshot);
        // Who was told to stop may have to do with who is kept a slot, so twice.
        let written = after(&snapshot, &first);
        let second = decided(&written);
        prop_assert!(second.stops.is_empty(), "{first:#?}\n{second:#?}");
        prop_assert!(decided(&after(&written, &second)).is_empty(), "{second:#?}");
    }

    /// Only an attempt that may be stopped is, and only for a much higher priority.
    #[test]
    fn nobody_makes_way_for_a_neighbour(snapshot in drawn()) {
        for stop in decided(&snapshot).stops {
            let victim = snapshot.running.iter().find(|row| row.job.id == stop.job).unwrap();
            let by = snapshot.waiting.iter().find(|row| row.job.id == stop.by).unwrap();
            prop_assert!(victim.may_be_stopped && victim.epoch == stop.epoch);
            prop_assert!(victim.job.priority + 5 <= by.job.priority);
        }
    }

    /// Jobs that a quota keeps back say so, and nobody else does.
    #[test]
    fn a_project_over_its_quota_is_held(snapshot in drawn()) {
        let written = after(&snapshot, &decided(&snapshot));
        for row in &written.waiting {
            let project = snapshot.projects.iter().find(|project| project.name == row.job.project).unwrap();
            let held = matches!(
                row.plan_reason.as_deref(),
                Some("device_quota" | "quota_in_turn" | "device_time_quota")
            );
            prop_assert!(!held || project.device_quota.is_some());
        }
    }

    /// Every slot that is kept is kept for a job that waits and fits it; or several, whose devices are
    /// as many as it asks for, if it may be spread.
    #[test]
    fn slots_are_kept_for_who_fits(snapshot in drawn()) {
        let mut widths: BTreeMap<Uuid, Vec<i64>> = BTreeMap::new();
        for (id, kept) in decided(&snapshot).kept {
            let worker = snapshot.workers.iter().find(|worker| worker.id == id).unwrap();
            for (name, job) in kept {
                let device = worker.devices.iter().find(|device| device.name == name).unwrap();
                widths.entry(job).or_default().push(i64::from(device.count));
            }
        }
        for (job, widths) in widths {
            let row = snapshot.waiting.iter().find(|row| row.job.id == job).unwrap();
            let (asked, all) = (i64::from(row.job.device_count), widths.iter().sum::<i64>());
            let is_spread = row.job.spreads && all == asked;
            prop_assert!(is_spread || widths.iter().all(|width| *width >= asked), "{widths:?} for {asked}");
        }
    }
}

#[test]
fn the_order_of_submission_needs_no_rows() {
    let mut snapshot = snapshot();
    snapshot.workers = vec![worker("a", &[1, 1])];
    snapshot.waiting = (1..2000).map(|number| waits(job(number))).collect();
    assert!(decided(&snapshot).is_empty());
    let supernet = JobRow { is_supernet: true, ..job(2000) };
    snapshot.waiting.push(waits(supernet));
    assert!(decided(&snapshot).is_empty(), "a supernet goes first by itself");
}

/// The first job was granted between the statements that read: it is in both lists.
#[test]
fn nobody_is_moved_before_the_place_of_a_job_that_has_just_started() {
    let snapshot = Snapshot {
        workers: vec![worker("a", &[1])],
        running: vec![runs(job(1), "a")],
        waiting: (1..=4).map(|number| waits(job(number))).collect(),
        ..snapshot()
    };
    assert_eq!(decided(&snapshot).ranks, []);
}

/// Two projects of equal shares take turns, whoever came first.
#[test]
fn projects_take_turns() {
    let mut snapshot = snapshot();
    snapshot.projects = vec![project("early", 1), project("late", 1)];
    snapshot.workers = vec![worker("a", &[1])];
    let of =
        |number: u128| JobRow { project: if number <= 40 { "early" } else { "late" }.into(), ..job(number) };
    snapshot.waiting = (1..=80).map(|number| waits(of(number))).collect();
    let mut rows = after(&snapshot, &decided(&snapshot)).waiting;
    rows.sort_by_key(|row| row.ranked.rank);
    let late = rows[..20].iter().filter(|row| row.job.project == "late").count();
    assert_eq!(late, 10);
}

#[test]
fn old_jobs_go_before_newcomers_of_a_higher_priority() {
    let mut snapshot = snapshot();
    let policy = Policy::default();
    let day_s = i64::try_from(policy.age_step_s).unwrap() * 2;
    let old = JobRow { create_s: NOW_S - 3 * day_s, ..job(1) };
    snapshot.now_s = NOW_S;
    snapshot.waiting = vec![waits(JobRow { priority: 3, create_s: NOW_S - 1, ..job(2) }), waits(old)];
    let mut rows = after(&snapshot, &decided(&snapshot)).waiting;
    rows.sort_by_key(|row| row.ranked.rank);
    assert_eq!(rows[0].job.id, Uuid::from_u128(1));
}

#[test]
fn a_job_of_a_high_priority_takes_the_slot_of_a_low_one() {
    let mut snapshot = snapshot();
    snapshot.workers = vec![worker("a", &[1])];
    snapshot.running = vec![runs(job(1), "a")];
    snapshot.waiting = vec![waits(JobRow { priority: 10, ..job(2) })];
    let decisions = decided(&snapshot);
    let by = Uuid::from_u128(2);
    assert_eq!(decisions.stops, vec![Yield { job: Uuid::from_u128(1), epoch: 3, by }]);
    assert_eq!(decisions.reasons, vec![(by, Some("being_cleared"))]);
    assert_eq!(decisions.kept, vec![("a".to_owned(), BTreeMap::from([("cpu".to_owned(), by)]))]);
    let sentence = sentences(&snapshot, &Policy::default()).unwrap().remove(&by).unwrap();
    assert!(sentence.contains("make way for it on node a"), "{sentence}");
    let young = Policy { min_run_s: 3 * 3600, ..Policy::default() };
    assert!(decide(&snapshot, &young).unwrap().stops.is_empty());
    snapshot.running[0].job.preemption_count = 3;
    assert!(decided(&snapshot).stops.is_empty());
}

/// An attempt on a slot that its worker has no more takes no other one, and counts.
#[test]
fn strays_count_for_their_project_and_block_nobody() {
    let mut snapshot = snapshot();
    snapshot.projects[0].device_quota = Some(1);
    snapshot.workers = vec![worker("a", &[1])];
    let gone = RunningRow { device: "cuda:7".to_owned(), ..runs(job(1), "a") };
    snapshot.running = vec![gone];
    snapshot.waiting = vec![waits(job(2))];
    assert_eq!(decided(&snapshot).reasons, vec![(Uuid::from_u128(2), Some("device_quota"))]);
    snapshot.projects[0].device_quota = Some(2);
    assert!(decided(&snapshot).reasons.is_empty());
}

#[test]
fn use_is_counted_from_the_grant_and_anew_in_a_new_period() {
    let mut snapshot = snapshot();
    snapshot.projects[0] = ProjectRow {
        usage_age_s: 86_400.0,
        used_device_s: 50.0,
        period_age_s: 90_000.0,
        ..project("default", 1)
    };
    let two = JobRow { device_count: 2, ..job(1) };
    snapshot.running = vec![RunningRow { grant_s: NOW_S - 100, ..runs(two, "a") }];
    let account = &decided(&snapshot).accounts[0];
    assert!((account.used_device_s - 250.0).abs() < 1e-6, "{account:?}");
    assert!((account.usage_device_s - 200.0).abs() < 1.0, "{account:?}");
    // A month later a new period began ten seconds ago.
    snapshot.projects[0].period_age_s = 30.0 * 86_400.0 + 10.0;
    let account = &decided(&snapshot).accounts[0];
    assert_eq!((account.used_device_s, account.period_count), (20.0, 1));
    // Nothing is written of who has nothing.
    snapshot.running.clear();
    snapshot.projects[0].period_age_s = 100.0;
    assert!(decided(&snapshot).accounts.is_empty());
}

/// Nobody makes way, and no slot is kept, for a job that may not run there.
#[test]
fn a_job_is_planned_where_it_may_run() {
    let mut snapshot = snapshot();
    let labelled = |id: &str, labels: &str| WorkerRow { labels: labels.parse().unwrap(), ..worker(id, &[1]) };
    snapshot.workers = vec![labelled("a", ""), labelled("b", "gpu=h200")];
    snapshot.running = vec![runs(job(1), "a"), runs(job(2), "b")];
    let asks =
        |number, labels: &str| JobRow { priority: 10, worker_labels: labels.parse().unwrap(), ..job(number) };
    snapshot.waiting = vec![waits(asks(3, "gpu=h200"))];
    let stopped: Vec<Uuid> = decided(&snapshot).stops.iter().map(|stop| stop.job).collect();
    assert_eq!(stopped, [Uuid::from_u128(2)]);
    snapshot.waiting = vec![waits(asks(3, "gpu=a100"))];
    assert!(decided(&snapshot).stops.is_empty());
}

/// Running ones count what they have taken so far; `runs` has run for two hours.
#[test]
fn a_job_that_has_taken_what_it_may_is_paused() {
    let mut snapshot = snapshot();
    snapshot.workers = vec![worker("a", &[1]), worker("b", &[1])];
    let limited = |number, limit_s, spent_s| JobRow {
        cost_limit_device_s: Some(limit_s),
        spent_device_s: spent_s,
        ..job(number)
    };
    snapshot.running = vec![runs(limited(1, 7200 + 100, 100), "a"), runs(limited(2, 7200 + 100, 99), "b")];
    snapshot.waiting = vec![waits(limited(3, 50, 50)), waits(limited(4, 50, 49)), waits(job(5))];
    assert_eq!(decided(&snapshot).spent, [(Uuid::from_u128(1), 3), (Uuid::from_u128(3), 0)]);
    snapshot.running[0].is_stopping = true;
    assert_eq!(decided(&snapshot).spent, [(Uuid::from_u128(3), 0)], "it was told");
}

/// So many steps of an hour each.
fn hours(step_count: i64) -> Work {
    Work { step_count, step_s: Some(3600.0), kind: None }
}

#[test]
fn a_job_must_start_before_its_deadline_by_as_long_as_it_takes() {
    let mut snapshot = snapshot();
    snapshot.workers = vec![worker("a", &[1])];
    snapshot.running = vec![runs(job(1), "a")];
    let due = JobRow { deadline_s: Some(NOW_S + 10 * 3600), ..job(3) };
    snapshot.waiting = vec![waits(job(2)), waits(due)];
    assert_eq!(decided(&snapshot).ranks, [], "nobody knows that ten hours are not enough");
    snapshot.waiting[1].work = hours(3);
    assert_eq!(decided(&snapshot).ranks, [], "it has seven hours until it must start");
    snapshot.waiting[1].work = hours(5);
    let mut rows = after(&snapshot, &decided(&snapshot)).waiting;
    rows.sort_by_key(|row| row.ranked.rank);
    assert_eq!(rows[0].job.id, Uuid::from_u128(3));
}

/// It runs, and is paused when it has taken what it may.
#[test]
fn a_job_that_is_thought_to_take_more_than_it_may_is_started_all_the_same() {
    let mut snapshot = snapshot();
    snapshot.workers = vec![worker("a", &[2])];
    let limited = JobRow { device_count: 2, cost_limit_device_s: Some(7200), spent_device_s: 600, ..job(1) };
    snapshot.waiting = vec![WaitingRow { work: hours(5), ..waits(limited) }];
    let decisions = decided(&snapshot);
    assert_eq!((decisions.spent, decisions.reasons), (Vec::new(), Vec::new()));
    // It is expected to take just that.
    snapshot.projects[0].device_s_quota = Some(10_000);
    snapshot.projects[0].used_device_s = 3400.0;
    assert!(decided(&snapshot).reasons.is_empty());
    snapshot.projects[0].used_device_s = 3401.0;
    assert_eq!(decided(&snapshot).reasons, [(Uuid::from_u128(1), Some("device_time_quota"))]);
}

#[test]
fn a_job_that_is_thought_to_take_more_than_a_whole_period_s_quota_starts_when_nothing_of_it_is_used() {
    let mut snapshot = snapshot();
    snapshot.workers = vec![worker("a", &[1])];
    snapshot.projects[0].device_s_quota = Some(2 * 3600);
    snapshot.waiting = vec![WaitingRow { work: hours(5), ..waits(job(1)) }];
    assert!(decided(&snapshot).reasons.is_empty());
    snapshot.projects[0].used_device_s = 1.0;
    assert_eq!(decided(&snapshot).reasons, [(Uuid::from_u128(1), Some("device_time_quota"))]);
}

#[test]
fn a_job_that_would_take_more_than_the_device_hours_that_are_left_waits_for_them() {
    let mut snapshot = snapshot();
    snapshot.projects[0].device_s_quota = Some(4 * 3600);
    snapshot.workers = vec![worker("a", &[1, 1])];
    snapshot.waiting = vec![WaitingRow { work: hours(3), ..waits(job(1)) }, waits(job(2))];
    assert!(decided(&snapshot).reasons.is_empty(), "one starts, and nobody knows how long the other takes");
    snapshot.waiting[1].work = hours(2);
    assert_eq!(decided(&snapshot).reasons, [(Uuid::from_u128(2), Some("device_time_quota"))]);
    let told = outlooks(&snapshot, &Policy::default()).unwrap().remove(&Uuid::from_u128(2)).unwrap();
    assert!(told.reason.is_some_and(|reason| reason.contains("it would take 2.0")));
}

#[test]
fn a_job_that_waits_is_told_how_long_jobs_like_it_took() {
    let mut snapshot = snapshot();
    let kind = Kind { search: Uuid::from_u128(9), digest: "a".to_owned() };
    let work = Work { step_count: 30, step_s: None, kind: Some(kind.clone()) };
    let on_two = JobRow { device_count: 2, ..job(2) };
    snapshot.waiting = vec![WaitingRow { work: work.clone(), ..waits(job(1)) }, waits(job(3))];
    snapshot.waiting.push(WaitingRow { work, ..waits(on_two) });
    snapshot.known = Known::new([Pace { kind, device_count: 1, has_ended: true, step_s: 2.0 }]);
    let told = outlooks(&snapshot, &Policy::default()).unwrap();
    let estimates = [1, 2, 3].map(|number| told[&Uuid::from_u128(number)].estimate);
    let known = Estimate { train_s: 60, by: By::Alike { count: 1 } };
    assert_eq!(estimates, [Some(known), None, None]);
}
