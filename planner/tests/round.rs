//! What holds for every round, whatever the facts.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use cakes_planner::{
    Device, Job, Node, NodeNo, Part, Plan, Project, ProjectNo, Running, Schedule, StopReason,
};
use proptest::prelude::*;
use support::{Cluster, draw, job, node, project, slots};

fn no_device_is_used_twice(cluster: &Cluster, plan: &Plan) -> Result<(), TestCaseError> {
    let mut used: BTreeSet<(usize, usize)> =
        cluster.running.iter().flat_map(|running| slots(&running.parts)).collect();
    for slot in plan.placements.iter().flat_map(|placement| slots(&placement.parts)) {
        prop_assert!(used.insert(slot), "{slot:?} is used twice");
    }
    Ok(())
}

fn all_or_nothing_where_it_fits(cluster: &Cluster, plan: &Plan) -> Result<(), TestCaseError> {
    for placement in &plan.placements {
        let job = cluster.job(placement.job);
        let is_spread = job.spreads && slots(&placement.parts).count() > 1;
        if is_spread {
            let width = |(node, device): (usize, usize)| cluster.nodes[node].devices[device].width;
            prop_assert_eq!(slots(&placement.parts).map(width).sum::<usize>(), job.width, "exactly");
        } else {
            prop_assert_eq!(slots(&placement.parts).count(), job.device_count);
            prop_assert!(placement.parts.len() == 1 || job.may_span);
        }
        for (node, device) in slots(&placement.parts) {
            let node_facts = &cluster.nodes[node];
            prop_assert!(node_facts.joins || !is_spread);
            prop_assert_eq!(node_facts.schedule, Schedule::Ready, "a node that takes no jobs");
            prop_assert!(node_facts.devices[device].memory_mib >= job.memory_mib);
            prop_assert!(node_facts.devices[device].width >= job.width || is_spread);
            prop_assert!(job.labels.iter().all(|label| node_facts.labels.contains(label)));
            prop_assert!(job.avoids.is_none_or(|avoided| avoided.0 != node));
        }
        prop_assert!(job.not_before_s <= cluster.now_s);
    }
    Ok(())
}

fn no_quota_is_breached(cluster: &Cluster, plan: &Plan) -> Result<(), TestCaseError> {
    let starts: BTreeSet<_> = plan.placements.iter().map(|placement| placement.job).collect();
    for (number, project) in cluster.projects.iter().enumerate() {
        let running: Vec<_> =
            cluster.running.iter().filter(|running| running.job.project.0 == number).collect();
        let starting: Vec<_> = cluster
            .waiting
            .iter()
            .filter(|job| starts.contains(&job.id) && job.project.0 == number)
            .collect();
        if starting.is_empty() {
            continue;
        }
        let in_use = running.iter().map(|running| running.weight()).sum::<usize>()
            + starting.iter().map(|job| job.weight()).sum::<usize>();
        prop_assert!(project.device_quota.is_none_or(|quota| in_use <= quota));
        let promised = running.iter().map(|running| {
            let ran_s = cluster.now_s - running.start_s;
            running.job.estimate_s.unwrap_or(0).saturating_sub(ran_s) * running.weight() as u64
        });
        let wanted = starting.iter().map(|job| job.estimate_s.unwrap_or(0) * job.weight() as u64);
        let taken = project.used_device_s + promised.sum::<u64>() + wanted.sum::<u64>();
        prop_assert!(project.device_s_quota.is_none_or(|quota| taken <= quota));
    }
    for job in cluster.waiting.iter().filter(|job| starts.contains(&job.id)) {
        let cost = job.spent_device_s + job.estimate_s.unwrap_or(0) * job.weight() as u64;
        prop_assert!(job.cost_limit_device_s.is_none_or(|limit| cost <= limit && job.spent_device_s < limit));
    }
    Ok(())
}

fn nobody_makes_way_for_an_equal(cluster: &Cluster, plan: &Plan) -> Result<(), TestCaseError> {
    let mut stopped = BTreeSet::new();
    for stop in &plan.stops {
        prop_assert!(stopped.insert(stop.job), "told to stop twice");
        let running = cluster.running.iter().find(|running| running.job.id == stop.job);
        let running = running.expect("only a running job can stop");
        prop_assert!(!running.is_stopping);
        let StopReason::Preempted { by } = stop.reason else { continue };
        let by = cluster.waiting.iter().find(|job| job.id == by).expect("only a waiting job needs devices");
        prop_assert!(running.job.priority < by.priority);
        prop_assert!(running.job.is_preemptible && cluster.policy.preempts);
        prop_assert!(cluster.now_s - running.start_s >= cluster.policy.min_run_s);
        prop_assert!(running.job.preemption_count < cluster.policy.preemption_count_max);
        prop_assert!(plan.waiting.iter().any(|waiting| waiting.job == by.id), "it needed nobody to stop");
    }
    Ok(())
}

fn who_has_taken_all_that_it_may_is_told_to_stop(
    cluster: &Cluster,
    plan: &Plan,
) -> Result<(), TestCaseError> {
    for running in cluster.running.iter().filter(|running| !running.is_stopping) {
        let told = plan.stops.iter().find(|stop| stop.job == running.job.id).map(|stop| stop.reason);
        let took_device_s = (cluster.now_s - running.start_s) * running.weight() as u64;
        let spent_device_s = running.job.spent_device_s + took_device_s;
        let is_spent = running.job.cost_limit_device_s.is_some_and(|limit| spent_device_s >= limit);
        if told != Some(StopReason::Drains) {
            prop_assert_eq!(told == Some(StopReason::CostLimit), is_spent, "{:?}", running);
        }
    }
    Ok(())
}

/// Whether a job that spreads would start on what was kept for it: several slots that make up its
/// devices, and that nobody else has or is to have.
fn may_stay(cluster: &Cluster, plan: &Plan, job: &Job) -> bool {
    let running = cluster.running.iter().flat_map(|running| slots(&running.parts));
    let others = plan.placements.iter().filter(|placement| placement.job != job.id);
    let placed = others.flat_map(|placement| slots(&placement.parts));
    let held = plan.reservations.iter().flat_map(|held| slots(&held.parts));
    let taken: BTreeSet<(usize, usize)> = running.chain(placed).chain(held).collect();
    let is_open = |(node, device): (usize, usize)| {
        let Some(facts) = cluster.nodes.get(node) else { return false };
        facts.joins
            && facts.schedule == Schedule::Ready
            && job.labels.iter().all(|label| facts.labels.contains(label))
            && job.avoids.is_none_or(|avoided| avoided.0 != node)
            && facts.devices[device].memory_mib >= job.memory_mib
            && !taken.contains(&(node, device))
    };
    let width = |(node, device): (usize, usize)| cluster.nodes[node].devices[device].width;
    slots(&job.kept).count() > 1
        && slots(&job.kept).all(is_open)
        && slots(&job.kept).map(width).sum::<usize>() == job.width
}

fn who_spreads_stays_where_slots_were_kept(cluster: &Cluster, plan: &Plan) -> Result<(), TestCaseError> {
    for placement in &plan.placements {
        let job = cluster.job(placement.job);
        if slots(&placement.parts).count() > 1 && job.spreads && may_stay(cluster, plan, job) {
            prop_assert_eq!(&placement.parts, &job.kept);
        }
    }
    Ok(())
}

fn every_job_that_waits_knows_why(cluster: &Cluster, plan: &Plan) -> Result<(), TestCaseError> {
    let mut told: BTreeMap<_, usize> = BTreeMap::new();
    for placement in &plan.placements {
        *told.entry(placement.job).or_default() += 1;
    }
    for (place, waiting) in plan.waiting.iter().enumerate() {
        *told.entry(waiting.job).or_default() += 1;
        prop_assert_eq!(waiting.position, place + 1);
        let sentence = waiting.reason.sentence(&cluster.facts());
        prop_assert!(sentence.len() > 20 && !sentence.contains('?'), "{}", sentence);
        prop_assert!(sentence.ends_with('.') || sentence.ends_with("URL`."), "{}", sentence);
    }
    let wanted: BTreeMap<_, usize> = cluster.waiting.iter().map(|job| (job.id, 1)).collect();
    prop_assert_eq!(told, wanted);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(700))]

    #[test]
    fn a_round_keeps_its_promises(cluster in draw::cluster()) {
        let plan = cluster.plan();
        no_device_is_used_twice(&cluster, &plan)?;
        all_or_nothing_where_it_fits(&cluster, &plan)?;
        no_quota_is_breached(&cluster, &plan)?;
        nobody_makes_way_for_an_equal(&cluster, &plan)?;
        who_has_taken_all_that_it_may_is_told_to_stop(&cluster, &plan)?;
        who_spreads_stays_where_slots_were_kept(&cluster, &plan)?;
        every_job_that_waits_knows_why(&cluster, &plan)?;
    }

    #[test]
    fn the_same_facts_in_any_order_give_the_same_plan(
        (cluster, shuffled) in draw::cluster().prop_flat_map(|cluster| {
            let order = Just(cluster.waiting.clone()).prop_shuffle();
            (Just(cluster), order)
        })
    ) {
        let other = Cluster { waiting: shuffled, ..cluster.clone() };
        prop_assert_eq!(cluster.plan(), other.plan());
    }

    #[test]
    fn planning_again_moves_nothing(cluster in draw::cluster()) {
        let mut plan = cluster.plan();
        let mut after = cluster;
        for _ in 0..3 {
            after = after.after(&plan);
            let again = after.plan();
            prop_assert!(again.placements.is_empty(), "{plan:#?}\n{again:#?}");
            prop_assert!(again.stops.is_empty(), "{plan:#?}\n{again:#?}");
            plan = again;
        }
    }
}

/// A slot of several devices is for one job: who needs it gets it, and nobody else breaks
/// into it while a narrow one is free.
#[test]
fn slots_of_several_devices_are_left_to_those_who_need_them() {
    let device = |width| Device { memory_mib: 80_000, width };
    let wide = Job { width: 2, place: 1, ..job(2) };
    let cluster = Cluster {
        projects: vec![project("all", 1)],
        nodes: vec![
            Node { devices: vec![device(2)], ..node("a", 0) },
            Node { devices: vec![device(1)], ..node("b", 0) },
        ],
        waiting: vec![job(1), wide.clone()],
        ..Cluster::default()
    };
    let at: BTreeMap<_, _> = cluster
        .plan()
        .placements
        .iter()
        .map(|placement| (placement.job.0, placement.parts[0].node.0))
        .collect();
    assert_eq!(at, BTreeMap::from([(1, 1), (2, 0)]));

    // While the slot is in use it is kept: a narrow job that comes behind does not get it.
    let busy = Running {
        job: job(3),
        parts: vec![Part { node: NodeNo(0), devices: vec![0] }],
        start_s: 0,
        is_stopping: false,
    };
    let blocked = Cluster { running: vec![busy], waiting: vec![wide.clone()], ..cluster.clone() };
    let plan = blocked.plan();
    assert_eq!(plan.reservations[0].parts, vec![Part { node: NodeNo(0), devices: vec![0] }]);
    assert_eq!(plan.waiting[0].reason.word(), "reserved");

    let narrow = Cluster { nodes: vec![node("b", 2)], waiting: vec![wide], ..cluster };
    let plan = narrow.plan();
    assert_eq!(plan.waiting[0].reason.word(), "too_narrow");
    let sentence = plan.waiting[0].reason.sentence(&narrow.facts());
    assert!(sentence.contains("2 devices at once; the widest slot has 1"), "{sentence}");
}

/// A node with slots of so many devices.
fn with(name: &str, widths: &[usize]) -> Node {
    let device = |width: &usize| Device { memory_mib: 80_000, width: *width };
    Node { devices: widths.iter().map(device).collect(), ..node(name, 0) }
}

/// A job that spreads takes one slot where one is free, else slots of few nodes that make up exactly
/// its devices, and those that were kept for it if they still do.
#[test]
fn a_job_that_spreads_takes_exactly_its_devices_of_few_nodes() {
    let spread = Job { width: 4, spreads: true, ..job(1) };
    let cluster = |nodes: Vec<Node>| Cluster {
        projects: vec![project("all", 1)],
        nodes,
        waiting: vec![spread.clone()],
        ..Cluster::default()
    };
    let placed = |cluster: &Cluster| -> Vec<(usize, usize)> {
        let plan = cluster.plan();
        plan.placements.iter().flat_map(|placement| slots(&placement.parts)).collect()
    };
    let narrow = [with("a", &[1, 1]), with("b", &[2, 1]), with("c", &[2])];
    assert_eq!(placed(&cluster([narrow.to_vec(), vec![with("d", &[4])]].concat())), [(3, 0)], "one slot");
    assert_eq!(placed(&cluster(vec![with("a", &[1, 1, 2]), with("b", &[3, 2])])), [(0, 0), (0, 1), (0, 2)]);
    assert_eq!(placed(&cluster(narrow.to_vec())), [(0, 0), (1, 0), (1, 1)], "two of three nodes");
    assert!(placed(&cluster(vec![with("a", &[3]), with("b", &[3])])).is_empty(), "nothing is left over");
    let alone = Node { joins: false, ..with("c", &[2]) };
    assert_eq!(placed(&cluster(vec![with("a", &[1, 1]), with("b", &[2]), alone])), [(0, 0), (0, 1), (1, 0)]);
    let mut stays = cluster(narrow.to_vec());
    stays.waiting[0].kept =
        vec![Part { node: NodeNo(0), devices: vec![0, 1] }, Part { node: NodeNo(2), devices: vec![0] }];
    assert_eq!(placed(&stays), [(0, 0), (0, 1), (2, 0)]);

    // What is left to it when it keeps away from a node must make up its devices, too.
    let mut avoids = cluster(vec![with("a", &[3]), with("b", &[3]), with("c", &[4])]);
    avoids.waiting[0].avoids = Some(NodeNo(2));
    assert_eq!(avoids.plan().waiting[0].reason.word(), "keeps_away");
    avoids.nodes[1] = with("b", &[1]);
    assert_eq!(placed(&avoids), [(0, 0), (1, 0)]);

    // Until all are free, those that are stay kept: nobody gets half.
    let busy = Running {
        job: Job { width: 2, estimate_s: Some(support::HOUR_S), ..job(3) },
        parts: vec![Part { node: NodeNo(2), devices: vec![0] }],
        start_s: 0,
        is_stopping: false,
    };
    let mut blocked =
        Cluster { running: vec![busy], ..cluster(vec![with("a", &[1]), with("b", &[1]), with("c", &[2])]) };
    let plan = blocked.plan();
    assert!(plan.placements.is_empty());
    assert_eq!(slots(&plan.reservations[0].parts).count(), 3);
    assert_eq!(plan.waiting[0].reason.word(), "reserved");
    // Where the last of them is far off, others may have them.
    blocked.running[0].job.estimate_s = Some(2 * support::HOUR_S);
    blocked.waiting.push(job(4));
    let plan = blocked.plan();
    assert!(plan.reservations.is_empty() && plan.placements.len() == 1);
    blocked.now_s = blocked.policy.patience_s;
    blocked.running[0].start_s = blocked.now_s;
    let plan = blocked.plan();
    assert_eq!((plan.reservations.len(), plan.placements.len()), (1, 0), "it has waited for long");

    let plan = cluster(vec![with("a", &[1, 1])]).plan();
    assert_eq!(plan.waiting[0].reason.word(), "too_few_devices");
    let quota = Project { device_quota: Some(3), ..project("all", 1) };
    let plan = Cluster { projects: vec![quota], ..cluster(narrow.to_vec()) }.plan();
    assert_eq!(plan.waiting[0].reason.word(), "device_quota");
}

/// Why it waits is told in devices, of all nodes that it may have parts of.
#[test]
fn a_job_that_spreads_is_told_whether_slots_make_up_its_devices() {
    let cluster = |nodes: Vec<Node>, busy_s: Option<u64>| {
        let last = NodeNo(nodes.len() - 1);
        let runs = |estimate_s: u64| Running {
            job: Job { estimate_s: Some(estimate_s), ..job(9) },
            parts: vec![Part { node: last, devices: vec![0] }],
            start_s: 0,
            is_stopping: false,
        };
        Cluster {
            projects: vec![project("all", 1)],
            running: busy_s.into_iter().map(runs).collect(),
            waiting: vec![Job { width: 4, spreads: true, ..job(1) }],
            nodes,
            ..Cluster::default()
        }
    };
    let told = |cluster: &Cluster| {
        let plan = cluster.plan();
        assert!(plan.placements.is_empty());
        let reason = &plan.waiting[0].reason;
        (reason.word(), reason.sentence(&cluster.facts()))
    };
    let (word, sentence) = told(&cluster(vec![with("a", &[3]), with("b", &[3])], None));
    assert_eq!(word, "not_made_up");
    assert!(sentence.contains("have 6 together, but none of them make up 4"), "{sentence}");

    let nodes = vec![with("a", &[3]), with("b", &[3]), with("c", &[1])];
    let (word, sentence) = told(&cluster(nodes.clone(), Some(2 * support::HOUR_S)));
    assert_eq!(word, "not_made_up_now");
    assert!(sentence.contains("6 are free"), "{sentence}");
    let (word, sentence) = told(&cluster(nodes, Some(support::HOUR_S / 2)));
    assert_eq!(word, "reserved");
    assert!(sentence.contains("devices of nodes a and c are kept for it, 3 of 4 are free"), "{sentence}");

    // What is free where it may not go is none of it.
    let nodes = vec![with("a", &[2, 2]), with("b", &[2]), with("c", &[2])];
    let mut avoids = cluster(nodes, Some(2 * support::HOUR_S));
    avoids.waiting[0].avoids = Some(NodeNo(0));
    let (word, sentence) = told(&avoids);
    assert_eq!(word, "devices_busy");
    assert!(sentence.contains("2 of 4 that fit are free"), "{sentence}");
}

/// Others make way for it too, as many as it needs and those of the lowest priorities.
#[test]
fn others_make_way_for_a_job_that_spreads() {
    let at = |node: usize| vec![Part { node: NodeNo(node), devices: vec![0] }];
    let running = |id: u128, priority: i32, node: usize| Running {
        job: Job { priority, ..job(id) },
        parts: at(node),
        start_s: 0,
        is_stopping: false,
    };
    let mut cluster = Cluster {
        now_s: 2 * support::HOUR_S,
        projects: vec![project("all", 1)],
        nodes: ["a", "b", "c", "d"].map(|name| node(name, 1)).to_vec(),
        running: vec![running(11, 3, 0), running(12, 1, 1), running(13, 2, 2)],
        waiting: vec![Job { width: 3, spreads: true, priority: 50, ..job(1) }],
        ..Cluster::default()
    };
    let stopped = |plan: &Plan| -> Vec<u128> { plan.stops.iter().map(|stop| stop.job.0).collect() };
    let plan = cluster.plan();
    assert_eq!(stopped(&plan), [12, 13]);
    assert_eq!(slots(&plan.reservations[0].parts).collect::<Vec<_>>(), [(1, 0), (2, 0), (3, 0)]);
    assert_eq!(plan.waiting[0].reason.word(), "being_cleared");

    cluster.running.iter_mut().skip(1).for_each(|running| running.is_stopping = true);
    let plan = cluster.plan();
    assert!(plan.stops.is_empty() && plan.placements.is_empty(), "they save their checkpoints");
    cluster.running.truncate(1);
    assert_eq!(cluster.plan().placements.len(), 1);

    cluster.running = vec![running(11, 50, 0), running(12, 50, 1)];
    assert!(stopped(&cluster.plan()).is_empty(), "nobody makes way for an equal");
}

/// A project of its own quota counts every device of a slot.
#[test]
fn a_job_on_two_devices_counts_twice() {
    let cluster = Cluster {
        projects: vec![Project { device_quota: Some(3), ..project("all", 1) }],
        nodes: vec![Node { devices: vec![Device { memory_mib: 80_000, width: 2 }; 3], ..node("a", 0) }],
        waiting: (1..=2).map(|id| Job { width: 2, ..job(id) }).collect(),
        ..Cluster::default()
    };
    let plan = cluster.plan();
    assert_eq!(plan.placements.len(), 1);
    assert_eq!(plan.waiting[0].reason.word(), "device_quota");
}

/// Within a project the place goes before the time of submission.
#[test]
fn places_order_the_jobs_of_a_project() {
    let cluster = Cluster {
        now_s: 10,
        projects: vec![project("all", 1)],
        nodes: vec![node("a", 1)],
        waiting: vec![Job { submit_s: 1, place: 5, ..job(1) }, Job { submit_s: 9, place: -5, ..job(2) }],
        ..Cluster::default()
    };
    assert_eq!(cluster.plan().placements[0].job.0, 2);
}

/// Who is next in line takes turns by the shares, whoever was submitted first.
#[test]
fn projects_take_turns_in_the_line() {
    let cluster = Cluster {
        projects: vec![project("one", 1), project("two", 2)],
        nodes: vec![node("a", 1)],
        waiting: (0..12)
            .map(|id| Job { project: ProjectNo(usize::from(id >= 6)), submit_s: id, ..job(id.into()) })
            .collect(),
        now_s: 20,
        ..Cluster::default()
    };
    let line = cakes_planner::line(&cluster.facts().check().unwrap(), 9);
    let of_one = line.iter().filter(|id| id.0 < 6).count();
    assert_eq!((line.len(), of_one), (9, 3));
    assert_eq!(cakes_planner::line(&cluster.facts().check().unwrap(), 99).len(), 12);
}
