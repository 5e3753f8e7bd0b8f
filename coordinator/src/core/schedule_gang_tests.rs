//! What holds for rounds over rows of jobs that take several slots.

use super::*;

/// Slots of two workers that make up a job's devices.
fn gang() -> Snapshot {
    let spread = JobRow { device_count: 2, spreads: true, ..job(1) };
    let workers = vec![worker("a", &[1]), worker("b", &[1]), worker("c", &[1])];
    Snapshot { workers, waiting: vec![waits(spread)], ..snapshot() }
}

fn kept_for(decisions: &Decisions, job: u128) -> Vec<&str> {
    let is_kept = |kept: &BTreeMap<String, Uuid>| kept.values().any(|id| id.as_u128() == job);
    decisions.kept.iter().filter(|(_, kept)| is_kept(kept)).map(|(id, _)| id.as_str()).collect()
}

/// All slots that are kept have been for so long.
fn aged(worker: &WorkerRow, age_s: f64) -> BTreeMap<String, f64> {
    worker.kept.keys().map(|device| (device.clone(), age_s)).collect()
}

#[test]
fn slots_that_make_up_a_spread_job_are_kept_and_stay_so_while_they_ask() {
    let decisions = decided(&gang());
    assert_eq!(kept_for(&decisions, 1), ["a", "b"]);
    let mut later = after(&gang(), &decisions);
    assert!(decided(&later).kept.is_empty(), "nothing changes");
    for worker in &mut later.workers {
        worker.kept_age_s = aged(worker, 60.0);
        worker.asks.clone_from(&worker.kept);
    }
    assert!(decided(&later).kept.is_empty(), "they ask, and wait for a lock or a quota");
    // One of them does not ask for its part: another takes its place, and stays there.
    later.workers[1].asks.clear();
    let moved = decided(&later);
    assert_eq!(kept_for(&moved, 1), ["c"]);
    assert!(moved.kept.iter().any(|(id, kept)| id == "b" && kept.is_empty()), "{moved:?}");
    let mut moved = after(&later, &moved);
    moved.workers.iter_mut().for_each(|worker| worker.kept_age_s = aged(worker, 1.0));
    assert!(decided(&moved).kept.is_empty(), "it does not go back and forth");
}

/// It was kept all the while that another job had it.
#[test]
fn a_slot_that_has_only_just_become_free_is_not_left_out_for_not_having_asked() {
    let mut later = after(&gang(), &decided(&gang()));
    later.workers[0].asks = later.workers[0].kept.clone();
    for worker in &mut later.workers {
        worker.kept_age_s = aged(worker, 600.0);
    }
    later.workers[1].freed.insert("cpu".to_owned());
    assert!(decided(&later).kept.is_empty(), "its job ended a moment ago");
    later.workers[1].freed.clear();
    assert_eq!(kept_for(&decided(&later), 1), ["c"], "it had its time");
}

/// What else becomes of the other slots of its worker does not matter.
#[test]
fn a_slot_is_left_out_by_its_own_time_alone() {
    let mut wide = gang();
    wide.workers = vec![worker("a", &[1, 1]), worker("b", &[1])];
    let mut later = after(&wide, &decided(&wide));
    assert_eq!(later.workers[0].kept.len(), 2, "of one worker, where one has enough");
    later.workers[0].kept_age_s = BTreeMap::from([("cpu".to_owned(), 60.0), ("cpu:1".to_owned(), 1.0)]);
    let moved = decided(&later);
    assert_eq!(kept_for(&moved, 1), ["a", "b"], "{moved:?}");
    let left = &moved.kept.iter().find(|(id, _)| id == "a").unwrap().1;
    assert_eq!(left.keys().collect::<Vec<_>>(), ["cpu:1"]);
}

#[test]
fn workers_that_join_no_gangs_are_left_alone_and_so_are_jobs_that_are_not_spread() {
    let mut alone = gang();
    alone.workers[0].joins_gangs = false;
    assert_eq!(kept_for(&decided(&alone), 1), ["b", "c"]);
    let mut whole = gang();
    whole.waiting[0].job.spreads = false;
    assert!(decided(&whole).kept.is_empty());
    let mut wide = gang();
    wide.workers.push(worker("d", &[2]));
    assert_eq!(kept_for(&decided(&wide), 1), ["d"], "one slot, where there is one");
}

/// A look at the workers would say that their slots are kept for it.
#[test]
fn a_job_whose_devices_no_slots_make_up_is_told_so() {
    let told = |widths: [u32; 2], joins_gangs: bool| {
        let mut snapshot = gang();
        snapshot.waiting[0].job.device_count = 4;
        snapshot.workers = vec![worker("a", &widths[..1]), worker("b", &widths[1..])];
        snapshot.workers[1].joins_gangs = joins_gangs;
        sentences(&snapshot, &Policy::default()).unwrap().remove(&Uuid::from_u128(1))
    };
    assert!(told([3, 3], true).is_some_and(|text| text.contains("none of them make up 4")));
    assert!(told([2, 2], false).is_some_and(|text| text.contains("all nodes together have 2 that fit")));
    assert_eq!(told([2, 2], true), None, "it starts");
}

#[test]
fn a_running_gang_has_all_its_slots_and_they_count_once() {
    let mut running = gang();
    let spread = running.waiting.remove(0).job;
    let others = vec![("b".to_owned(), "cpu".to_owned())];
    running.running = vec![RunningRow { others, ..runs(spread, "a") }];
    running.waiting = vec![waits(JobRow { device_count: 2, spreads: true, ..job(2) })];
    assert!(kept_for(&decided(&running), 2).is_empty(), "one slot is left, and the others are long busy");
    running.running[0].remaining_s = Some(60.0);
    assert_eq!(kept_for(&decided(&running), 2).len(), 2, "they are free soon");
    let projects = vec![ProjectRow { usage_age_s: 100.0, ..project("default", 1) }];
    let decisions = decided(&Snapshot { projects, ..running });
    let used_device_s = decisions.accounts[0].used_device_s;
    assert!((used_device_s - 200.0).abs() < 1e-6, "{used_device_s}");
}
