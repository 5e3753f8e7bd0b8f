//! What holds over many rounds, while others keep coming.

mod support;

use std::collections::BTreeMap;

use cakes_planner::{
    DataNo, Job, JobId, NodeNo, Part, Plan, Policy, ProjectNo, Reason, Running, Schedule, StopReason,
};
use proptest::prelude::*;
use support::world::World;
use support::{Cluster, HOUR_S, job, node, project};

const STEP_S: u64 = 600;

/// A job that keeps coming.
#[derive(Clone, Debug)]
struct Newcomer {
    device_count: usize,
    may_span: bool,
    priority: i32,
    project: usize,
    runtime_s: u64,
    /// The estimate as a share of the truth in percent; 0 for none.
    estimate_percent: u64,
}

fn newcomer() -> impl Strategy<Value = Newcomer> {
    let estimates = prop::sample::select(vec![0, 1, 100, 100, 300]);
    (1_usize..4, any::<bool>(), 0_i32..3, 0_usize..3, 60_u64..4 * HOUR_S, estimates).prop_map(
        |(device_count, may_span, priority, project, runtime_s, estimate_percent)| Newcomer {
            device_count,
            may_span,
            priority,
            project,
            runtime_s,
            estimate_percent,
        },
    )
}

fn submitted(newcomer: &Newcomer, id: u128, now_s: u64) -> Job {
    let estimate_s = newcomer.runtime_s * newcomer.estimate_percent / 100;
    Job {
        device_count: newcomer.device_count,
        may_span: newcomer.may_span,
        priority: newcomer.priority,
        project: ProjectNo(newcomer.project),
        estimate_s: (newcomer.estimate_percent > 0).then(|| estimate_s.max(1)),
        submit_s: now_s,
        ..job(id)
    }
}

fn world(node_sizes: &[usize], shares: &[u32]) -> World {
    let cluster = Cluster {
        now_s: 1_000_000,
        policy: Policy {
            half_life_s: 12 * HOUR_S,
            age_step_s: HOUR_S,
            patience_s: 3 * HOUR_S,
            preemption_gap: 1,
            assumed_runtime_s: 2 * HOUR_S,
            ..Policy::default()
        },
        projects: shares.iter().map(|share| project("project", *share)).collect(),
        nodes: node_sizes.iter().map(|size| node("node", *size)).collect(),
        ..Cluster::default()
    };
    World { cluster, ..World::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Among newcomers of any priority, project and size whose estimates may be wrong, with
    /// more of them than the cluster can run.
    #[test]
    fn nobody_starves(
        sizes in prop::collection::vec(1_usize..6, 1..4),
        kinds in prop::collection::vec(newcomer(), 5..15),
        reservation_count in 1_usize..4,
        (wants_all, may_span, project) in (any::<bool>(), any::<bool>(), 0_usize..3),
        quota in prop::option::of(0_usize..3),
    ) {
        let mut world = world(&sizes, &[1, 2, 3]);
        world.cluster.policy.reservation_count = reservation_count;
        let largest = *sizes.iter().max().unwrap();
        let sum: usize = sizes.iter().sum();
        let most = if may_span { sum } else { largest };
        let watched = Job {
            device_count: if wants_all { most } else { 1 + most / 2 },
            may_span,
            project: ProjectNo(project),
            priority: -1,
            submit_s: world.cluster.now_s,
            ..job(1)
        };
        // Not less than it needs.
        world.cluster.projects[project].device_quota = quota.map(|more| watched.device_count + more);
        let begin_s = world.cluster.now_s;
        world.submit(watched, HOUR_S);
        let mut next = 1_u128;
        let mut round = 0;
        while !world.first_start_s.contains_key(&JobId(1)) {
            for kind in kinds.iter().cycle().skip(round % kinds.len()).take(sum) {
                if world.cluster.waiting.len() > 3 * sum + 10 {
                    break;
                }
                next += 1;
                let job = submitted(kind, next, world.cluster.now_s);
                world.submit(job, kind.runtime_s);
            }
            round += 1;
            let plan = world.step(STEP_S);
            let waited_s = world.cluster.now_s - begin_s;
            let why = plan.waiting.iter().find(|waiting| waiting.job == JobId(1));
            prop_assert!(waited_s < 200 * HOUR_S, "it waits for {waited_s} s: {why:?}");
        }
    }

    /// As long as estimates are right and nobody of a higher class comes, a job starts by
    /// the moment that it was promised.
    #[test]
    fn backfill_delays_nobody(
        sizes in prop::collection::vec(2_usize..6, 1..4),
        kinds in prop::collection::vec(newcomer(), 30),
    ) {
        let mut world = world(&sizes, &[1, 1, 1]);
        let mut promises: BTreeMap<JobId, u64> = BTreeMap::new();
        for round in 0..150 {
            for kind in kinds.iter().skip(round % 30).take(2) {
                let exact = Newcomer { priority: 0, estimate_percent: 100, ..kind.clone() };
                let runtime_s = kind.runtime_s.div_ceil(STEP_S) * STEP_S;
                let next = world.runtime_s.len() as u128 + 1;
                let job = submitted(&Newcomer { runtime_s, ..exact }, next, world.cluster.now_s);
                if world.cluster.waiting.len() < 25 {
                    world.submit(job, runtime_s);
                }
            }
            for held in world.step(STEP_S).reservations {
                promises.entry(held.job).or_insert(held.promised_s);
            }
        }
        for (job, promised_s) in promises {
            if let Some(start_s) = world.first_start_s.get(&job) {
                prop_assert!(*start_s <= promised_s, "{job} at {start_s}, promised {promised_s}");
            }
        }
    }

    /// Of projects that always want more, each gets its share, in jobs of any length.
    #[test]
    fn use_follows_the_shares(
        shares in prop::collection::vec(1_u32..8, 2..4),
        hours in prop::collection::vec(1_u64..5, 3),
    ) {
        let mut world = world(&[8, 8], &shares);
        let mut next = 0;
        for _ in 0..6 * 24 * 14 {
            for (number, hours) in hours.iter().enumerate().take(shares.len()) {
                let waiting = world.cluster.waiting.iter().filter(|job| job.project.0 == number).count();
                for _ in waiting..16 {
                    next += 1;
                    let submit_s = world.cluster.now_s;
                    world.submit(Job { project: ProjectNo(number), submit_s, ..job(next) }, hours * HOUR_S);
                }
            }
            world.step(STEP_S);
        }
        let sum: u64 = world.received_device_s.iter().sum();
        let share_sum: u32 = shares.iter().sum();
        for (received, share) in world.received_device_s.iter().zip(&shares) {
            let (received, owed) = (*received as f64 / sum as f64, f64::from(*share) / f64::from(share_sum));
            prop_assert!((received - owed).abs() < 0.04, "{received} of {owed}, {:?}", world.received_device_s);
        }
    }
}

#[test]
fn a_victim_saves_first_and_its_devices_go_to_whom_they_were_cleared_for() {
    let mut world = world(&[2], &[1]);
    world.submit(Job { device_count: 2, ..job(1) }, 10 * HOUR_S);
    world.step(HOUR_S);
    let submit_s = world.cluster.now_s;
    world.submit(Job { device_count: 2, priority: 1, submit_s, ..job(2) }, HOUR_S);
    // It would fit as soon as one device is free.
    world.submit(Job { submit_s: submit_s - 60, ..job(3) }, HOUR_S);
    let plan = world.step(60);
    assert_eq!(plan.placements, []);
    assert_eq!(plan.stops[0].reason, StopReason::Preempted { by: JobId(2) });
    let reason = &plan.waiting[0].reason;
    assert!(matches!(reason, Reason::BeingCleared { stop_count: 1, .. }), "{reason:?}");
    let plan = world.step(60);
    assert_eq!(plan.placements.iter().map(|it| it.job).collect::<Vec<_>>(), [JobId(2)]);
}

#[test]
fn only_a_lower_priority_that_can_be_saved_makes_way() {
    let stops = |change: &dyn Fn(&mut World)| {
        let mut world = world(&[1], &[1]);
        world.submit(job(1), 10 * HOUR_S);
        world.step(HOUR_S);
        change(&mut world);
        let submit_s = world.cluster.now_s;
        world.submit(Job { priority: 1, submit_s, ..job(2) }, HOUR_S);
        world.cluster.plan().stops.len()
    };
    assert_eq!(stops(&|_| {}), 1);
    assert_eq!(stops(&|world| world.cluster.running[0].job.priority = 1), 0);
    assert_eq!(stops(&|world| world.cluster.policy.preemption_gap = 2), 0);
    assert_eq!(stops(&|world| world.cluster.running[0].job.is_preemptible = false), 0);
    assert_eq!(stops(&|world| world.cluster.running[0].job.preemption_count = 3), 0);
    assert_eq!(stops(&|world| world.cluster.running[0].start_s = world.cluster.now_s - 60), 0);
    assert_eq!(stops(&|world| world.cluster.policy.preempts = false), 0);
}

/// Of two projects, the first with the higher use: a gang of three of each waits for the
/// larger node, where a job of the second runs; a younger job of the first runs beside it.
fn two_gangs() -> Cluster {
    let mut cluster = world(&[3, 2], &[1, 1]).cluster;
    cluster.policy.reservation_count = 1;
    cluster.projects[0].usage_device_s = 1e6;
    let now_s = cluster.now_s;
    let runs = |job: Job, node: usize, devices: Vec<usize>| Running {
        job,
        parts: vec![Part { node: NodeNo(node), devices }],
        start_s: now_s - 60,
        is_stopping: false,
    };
    let other = ProjectNo(1);
    cluster.running = vec![
        runs(Job { project: other, submit_s: now_s - 60, ..job(1) }, 0, vec![0]),
        runs(Job { submit_s: now_s - 60, ..job(2) }, 1, vec![0]),
    ];
    let gang = Job { device_count: 3, submit_s: now_s - 10 * HOUR_S, ..job(3) };
    cluster.waiting = vec![gang.clone(), Job { id: JobId(4), project: other, ..gang }];
    cluster
}

#[test]
fn a_gang_that_its_own_project_overtakes_goes_first_after_a_while() {
    let mut cluster = two_gangs();
    assert_eq!(cluster.plan().reservations[0].job, JobId(3));
    cluster.policy.patience_s = 11 * HOUR_S;
    assert_eq!(cluster.plan().reservations[0].job, JobId(4));
    // Once devices are collected for it, it stays so.
    cluster.reservations = Cluster { reservations: Vec::new(), ..two_gangs() }.plan().reservations;
    assert_eq!(cluster.plan().reservations[0].job, JobId(3));
}

#[test]
fn what_a_gang_waits_for_is_not_used_up_by_its_own_project() {
    let mut cluster = two_gangs();
    cluster.projects[0].device_quota = Some(4);
    let short = Job { estimate_s: Some(60), submit_s: cluster.now_s, ..job(5) };
    cluster.waiting.push(short);
    let why = |plan: &Plan| plan.waiting.iter().find(|it| it.job == JobId(5)).map(|it| it.reason.word());
    // One device runs, three are kept.
    assert_eq!(why(&cluster.plan()), Some("device_quota"));
    cluster.projects[0].device_quota = Some(5);
    assert_eq!(why(&cluster.plan()), None);
    // The gang itself waits for the quota, and does not see it go.
    cluster.projects[0].device_quota = Some(3);
    assert_eq!(why(&cluster.plan()), Some("quota_in_turn"));
}

#[test]
fn gangs_keep_whole_nodes_and_data_decides_between_equals() {
    let mut cluster = Cluster { nodes: vec![node("a", 4), node("b", 4), node("c", 4)], ..Cluster::default() };
    cluster.names.data = vec!["lung".into()];
    cluster.projects = vec![project("p", 1)];
    cluster.nodes[1].data = vec![DataNo(0)];
    cluster.waiting = vec![
        Job { data: vec![DataNo(0)], ..job(1) },
        job(2),
        Job { device_count: 4, ..job(3) },
        Job { device_count: 4, ..job(4) },
    ];
    let plan = cluster.plan();
    let nodes: Vec<usize> = plan.placements.iter().map(|it| it.parts[0].node.0).collect();
    assert_eq!(nodes, [1, 1, 0, 2]);
}

#[test]
fn a_draining_node_hands_back_what_can_be_saved() {
    let mut world = world(&[1, 1], &[1]);
    world.submit(job(1), 10 * HOUR_S);
    world.submit(Job { is_preemptible: false, ..job(2) }, 10 * HOUR_S);
    world.step(60);
    for node in &mut world.cluster.nodes {
        node.schedule = Schedule::Draining;
    }
    world.submit(job(3), HOUR_S);
    let plan = world.step(60);
    let stops: Vec<_> = plan.stops.iter().map(|stop| (stop.job, stop.reason)).collect();
    assert_eq!(stops, [(JobId(1), StopReason::Drains)]);
    assert_eq!(plan.waiting[0].reason, Reason::Closed { node_count: 2 });
}

#[test]
fn a_deadline_goes_first_within_its_project_and_a_spent_limit_stops() {
    let mut world = world(&[1], &[1]);
    let now_s = world.cluster.now_s;
    world.submit(job(1), HOUR_S);
    let deadline_s = Some(now_s + 2 * HOUR_S);
    let estimate_s = Some(HOUR_S);
    world.submit(Job { deadline_s, estimate_s, submit_s: now_s, ..job(2) }, HOUR_S);
    let hopeless = Job { deadline_s: Some(now_s + 60), estimate_s, submit_s: now_s, ..job(3) };
    world.submit(hopeless, HOUR_S);
    let plan = world.step(60);
    assert_eq!(plan.placements[0].job, JobId(2));
    assert_eq!(plan.late, [JobId(3)]);
    world.cluster.running[0].job.cost_limit_device_s = Some(60);
    assert_eq!(world.step(60).stops[0].reason, StopReason::CostLimit);
    let spent = Job { cost_limit_device_s: Some(10), spent_device_s: 10, ..job(4) };
    world.submit(spent, HOUR_S);
    let plan = world.step(60);
    let why = &plan.waiting.iter().find(|waiting| waiting.job == JobId(4)).unwrap().reason;
    assert_eq!(why.word(), "cost_limit");
}
