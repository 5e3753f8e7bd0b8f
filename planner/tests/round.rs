//! What holds for every round, whatever the facts.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use cakes_planner::{Plan, Schedule, StopReason};
use proptest::prelude::*;
use support::{Cluster, draw, slots};

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
        prop_assert_eq!(slots(&placement.parts).count(), job.device_count);
        prop_assert!(placement.parts.len() == 1 || job.may_span);
        for (node, device) in slots(&placement.parts) {
            let node_facts = &cluster.nodes[node];
            prop_assert_eq!(node_facts.schedule, Schedule::Ready, "a node that takes no jobs");
            prop_assert!(node_facts.devices[device].memory_mib >= job.memory_mib);
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
        let in_use = running.iter().map(|running| running.device_count()).sum::<usize>()
            + starting.iter().map(|job| job.device_count).sum::<usize>();
        prop_assert!(project.device_quota.is_none_or(|quota| in_use <= quota));
        let promised = running.iter().map(|running| {
            let ran_s = cluster.now_s - running.start_s;
            running.job.estimate_s.unwrap_or(0).saturating_sub(ran_s) * running.device_count() as u64
        });
        let wanted = starting.iter().map(|job| job.estimate_s.unwrap_or(0) * job.device_count as u64);
        let taken = project.used_device_s + promised.sum::<u64>() + wanted.sum::<u64>();
        prop_assert!(project.device_s_quota.is_none_or(|quota| taken <= quota));
    }
    for job in cluster.waiting.iter().filter(|job| starts.contains(&job.id)) {
        let cost = job.spent_device_s + job.estimate_s.unwrap_or(0) * job.device_count as u64;
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
