use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    min: 0,
    max: 4,
    devices_each: 1,
    idle_limit: Duration::from_secs(300),
    start_limit: Duration::from_secs(600),
    pause: Duration::from_secs(30),
};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1_000 + seconds)
}

fn facts(waiting: u32, phases: &[Phase]) -> Facts {
    let allocation = |(id, phase): (usize, &Phase)| Allocation { id: id.to_string(), phase: *phase };
    Facts { waiting, free_elsewhere: 0, allocations: phases.iter().enumerate().map(allocation).collect() }
}

fn decide(memory: &mut Memory, waiting: u32, phases: &[Phase], seconds: u64) -> Plan {
    plan(&POLICY, memory, &facts(waiting, phases), at(seconds))
}

fn cancelled(plan: &Plan) -> Vec<(&str, Why)> {
    plan.cancel.iter().map(|(id, why)| (id.as_str(), *why)).collect()
}

const BUSY: Phase = Phase::Ready { devices: 1, jobs: 1 };
const IDLE: Phase = Phase::Ready { devices: 1, jobs: 0 };

#[test]
fn what_waits_is_submitted_for_once_and_never_beyond_the_most() {
    let mut memory = Memory::default();
    assert_eq!(decide(&mut memory, 2, &[], 0).submit, 2);
    assert_eq!(decide(&mut memory, 2, &[Phase::Pending, Phase::Starting], 1).submit, 0);
    assert_eq!(decide(&mut memory, 9, &[BUSY, BUSY, Phase::Leaving], 2).submit, 1);
    assert_eq!(decide(&mut memory, 1, &[BUSY, IDLE], 3).submit, 0, "a free worker is about to take it");
}

#[test]
fn a_new_start_submits_nothing_twice() {
    let found = [Phase::Pending, Phase::Starting, BUSY];
    assert_eq!(decide(&mut Memory::default(), 2, &found, 0), Plan::default());
}

#[test]
fn allocations_with_several_devices_are_filled() {
    let policy = Policy { devices_each: 4, ..POLICY };
    let mut asked = facts(9, &[Phase::Ready { devices: 4, jobs: 2 }]);
    assert_eq!(plan(&policy, &mut Memory::default(), &asked, at(0)).submit, 2);
    asked.free_elsewhere = 7;
    assert_eq!(plan(&policy, &mut Memory::default(), &asked, at(0)).submit, 0);
}

#[test]
fn the_least_is_kept_whatever_waits() {
    let policy = Policy { min: 2, ..POLICY };
    let mut memory = Memory::default();
    assert_eq!(plan(&policy, &mut memory, &facts(0, &[]), at(0)).submit, 2);
    assert_eq!(plan(&policy, &mut memory, &facts(0, &[IDLE, IDLE, IDLE]), at(10)).cancel, vec![]);
    let later = plan(&policy, &mut memory, &facts(0, &[IDLE, IDLE, IDLE]), at(310));
    assert_eq!((cancelled(&later), later.submit), (vec![("2", Why::Idle)], 0));
}

#[test]
fn a_worker_that_trains_now_and_then_is_not_idle() {
    let mut memory = Memory::default();
    decide(&mut memory, 0, &[IDLE], 0);
    decide(&mut memory, 0, &[BUSY], 200);
    assert_eq!(cancelled(&decide(&mut memory, 0, &[IDLE], 310)), vec![]);
    assert_eq!(cancelled(&decide(&mut memory, 0, &[IDLE], 609)), vec![]);
    assert_eq!(cancelled(&decide(&mut memory, 0, &[IDLE], 610)), vec![("0", Why::Idle)]);
}

#[test]
fn the_time_before_a_worker_came_is_not_its_idle_time() {
    let mut memory = Memory::default();
    decide(&mut memory, 0, &[Phase::Starting], 0);
    decide(&mut memory, 0, &[IDLE], 299);
    assert_eq!(cancelled(&decide(&mut memory, 0, &[IDLE], 301)), vec![]);
    assert_eq!(cancelled(&decide(&mut memory, 0, &[IDLE], 599)), vec![("0", Why::Idle)]);
}

#[test]
fn waiting_allocations_go_when_they_were_not_needed_for_a_while() {
    let mut memory = Memory::default();
    let phases = [BUSY, Phase::Pending, Phase::Pending];
    assert_eq!(cancelled(&decide(&mut memory, 1, &phases, 0)), vec![]);
    assert_eq!(cancelled(&decide(&mut memory, 2, &phases, 100)), vec![], "needed again");
    assert_eq!(cancelled(&decide(&mut memory, 1, &phases, 200)), vec![]);
    assert_eq!(cancelled(&decide(&mut memory, 1, &phases, 500)), vec![("2", Why::NotNeeded)]);
}

#[test]
fn a_worker_that_never_comes_is_replaced_after_a_pause() {
    let mut memory = Memory::default();
    assert_eq!(decide(&mut memory, 1, &[Phase::Starting], 0), Plan::default());
    let late = decide(&mut memory, 1, &[Phase::Starting], 600);
    assert_eq!(cancelled(&late), vec![("0", Why::NeverCame)]);
    let gone = decide(&mut memory, 1, &[], 610);
    assert_eq!((gone.vanished.len(), gone.submit), (1, 0), "{gone:?}");
    assert_eq!(decide(&mut memory, 1, &[], 639).submit, 0);
    assert_eq!(decide(&mut memory, 1, &[], 640).submit, 1);
}

#[test]
fn pauses_double_until_a_worker_comes() {
    let mut memory = Memory::default();
    for seconds in [30, 60, 120] {
        memory.submitted(&["x".to_owned()]);
        let gone = decide(&mut memory, 1, &[], 0);
        assert_eq!(gone.vanished, ["x"]);
        assert_eq!(decide(&mut memory, 1, &[], seconds - 1).submit, 0);
        assert_eq!(decide(&mut memory, 1, &[], seconds).submit, 1);
    }
    memory.submitted(&["0".to_owned()]);
    decide(&mut memory, 0, &[BUSY], 200);
    assert_eq!(memory.failed(&POLICY, at(200)), Duration::from_secs(30));
    for _ in 0..40 {
        memory.failed(&POLICY, at(0));
    }
    assert_eq!(memory.failed(&POLICY, at(0)), PAUSE_MAX);
}

#[test]
fn what_we_cancelled_has_not_vanished() {
    let mut memory = Memory::default();
    decide(&mut memory, 0, &[Phase::Pending], 0);
    assert_eq!(cancelled(&decide(&mut memory, 0, &[Phase::Pending], 300)), vec![("0", Why::NotNeeded)]);
    assert_eq!(decide(&mut memory, 0, &[], 310).vanished, Vec::<String>::new());
}

#[test]
fn jobs_that_no_worker_takes_hold_no_allocation() {
    let mut memory = Memory::default();
    // It was idle before the job came: that says nothing about the job.
    decide(&mut memory, 0, &[IDLE], 0);
    assert_eq!(decide(&mut memory, 1, &[IDLE], 299), Plan::default());
    assert_eq!(decide(&mut memory, 1, &[IDLE], 500), Plan::default());
    assert_eq!(cancelled(&decide(&mut memory, 1, &[IDLE], 599)), vec![("0", Why::Idle)]);
    assert_eq!(decide(&mut memory, 1, &[], 610).submit, 0);
    assert_eq!(decide(&mut memory, 2, &[], 620).submit, 1, "another job is another chance");
    decide(&mut memory, 0, &[], 630);
    assert_eq!(decide(&mut memory, 1, &[], 640).submit, 1, "the old one has gone");
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        Just(Phase::Pending),
        Just(Phase::Starting),
        Just(Phase::Leaving),
        (1_u32..4, 0_u32..4).prop_map(|(devices, jobs)| Phase::Ready { devices, jobs: jobs.min(devices) }),
    ]
}

proptest! {
    /// Whatever is seen, in whatever order.
    #[test]
    fn no_running_job_is_cancelled_and_both_bounds_hold(
        steps in proptest::collection::vec(
            (0_u32..12, 0_u32..3, proptest::collection::vec(phase(), 0..8), 0_u64..400), 1..12),
        min in 0_u32..3,
        room in 0_u32..5,
        devices_each in 1_u32..4,
    ) {
        let policy = Policy { min, max: min + room, devices_each, ..POLICY };
        let (mut memory, mut clock) = (Memory::default(), 0);
        for (waiting, free_elsewhere, phases, passed) in steps {
            clock += passed;
            let seen = Facts { free_elsewhere, ..facts(waiting, &phases) };
            let plan = plan(&policy, &mut memory, &seen, at(clock));
            let held = u32::try_from(phases.len()).unwrap();
            prop_assert!(plan.submit == 0 || held + plan.submit <= policy.max);
            for (id, why) in &plan.cancel {
                let phase = phases[id.parse::<usize>().unwrap()];
                let may = match why {
                    Why::NotNeeded => phase == Phase::Pending,
                    Why::Idle => matches!(phase, Phase::Ready { jobs: 0, .. }),
                    Why::NeverCame => phase == Phase::Starting,
                };
                prop_assert!(may, "{id} {why:?} {phase:?}");
            }
            let given_up = plan.cancel.iter().filter(|(_, why)| *why != Why::NeverCame).count();
            let late = plan.cancel.len() - given_up;
            prop_assert!(given_up == 0 || phases.len() - late - given_up >= min as usize);
        }
    }
}
