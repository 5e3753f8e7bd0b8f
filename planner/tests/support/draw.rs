//! Small clusters of every kind, so that limits and gangs meet often.

use std::num::NonZeroU32;

use cakes_planner::{
    DataNo, Device, Job, JobId, LabelNo, Names, Node, NodeNo, Part, Policy, Project, ProjectNo, Running,
    Schedule,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::Cluster;

const NOW_S: u64 = 1_000_000;

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let device = (select(vec![8_u64, 16, 32]), select(vec![1_usize, 1, 2, 4]));
    let device = device.prop_map(|(memory_mib, width)| Device { memory_mib, width });
    let schedules = vec![
        Schedule::Ready,
        Schedule::Ready,
        Schedule::Ready,
        Schedule::Cordoned,
        Schedule::Draining,
        Schedule::Lost,
    ];
    let labels = subsequence(vec![LabelNo(0), LabelNo(1)], 0..=2);
    let data = subsequence(vec![DataNo(0), DataNo(1)], 0..=2);
    let node = (vec(device, 1..5), labels, select(schedules), data, select(vec![true, true, false]));
    let node = node.prop_map(|(devices, labels, schedule, data, joins)| Node {
        name: "node".into(),
        devices,
        labels,
        schedule,
        data,
        joins,
    });
    vec(node, 0..5)
}

fn projects() -> impl Strategy<Value = Vec<Project>> {
    let project = (1_u32..4, 0_u32..100_000, of(0_usize..8), of(0_u64..40_000), 0_u64..20_000);
    let project = project.prop_map(|(share, usage, device_quota, device_s_quota, used_device_s)| Project {
        name: "project".into(),
        share: NonZeroU32::new(share).unwrap(),
        usage_device_s: f64::from(usage),
        device_quota,
        device_s_quota,
        used_device_s,
    });
    vec(project, 3)
}

fn job() -> impl Strategy<Value = Job> {
    let limits =
        (of(1_u64..9000), of(NOW_S - 100..NOW_S + 40_000), of(0_u64..30_000), 0_u64..9000, 0_u64..60_000);
    let wants = (
        1_usize..6,
        select(vec![0_u64, 8, 16, 32, 64]),
        subsequence(vec![LabelNo(0), LabelNo(1)], 0..=2),
        subsequence(vec![DataNo(0), DataNo(1)], 0..=2),
        any::<bool>(),
        of((0_usize..5).prop_map(NodeNo)),
        (select(vec![1_usize, 1, 1, 2, 3]), -1_i64..2),
    );
    let kind = (
        0_usize..3,
        -1_i32..3,
        any::<bool>(),
        any::<bool>(),
        select(vec![0_u32, 0, 1, 3]),
        select(vec![0, 0, 0, 0, NOW_S + 60]),
    );
    (limits, wants, kind).prop_map(|(limits, wants, kind)| {
        let (estimate_s, deadline_s, cost_limit_device_s, spent_device_s, waited_s) = limits;
        let (device_count, memory_mib, labels, data, may_span, avoids, (width, place)) = wants;
        let (project, priority, is_preemptible, spreads, preemption_count, not_before_s) = kind;
        // One on a wide device, which narrow ones may stand for.
        let (device_count, width, may_span) =
            if spreads { (1, device_count + 1, false) } else { (device_count, width, may_span) };
        Job {
            id: JobId(0),
            project: ProjectNo(project),
            priority,
            submit_s: NOW_S - waited_s,
            not_before_s,
            device_count,
            width,
            memory_mib,
            // Most jobs ask for none.
            labels: if waited_s % 3 == 0 { labels } else { Vec::new() },
            may_span,
            spreads,
            kept: Vec::new(),
            estimate_s,
            deadline_s,
            cost_limit_device_s: cost_limit_device_s.filter(|_| waited_s % 2 == 0),
            spent_device_s,
            data,
            is_preemptible,
            preemption_count,
            avoids: avoids.filter(|_| waited_s % 5 == 0),
            place,
        }
    })
}

/// Devices of nodes that may make up a job of that width, by the bits of a drawn number; sometimes one
/// of a node that is gone.
fn kept(nodes: &[Node], width: usize, drawn: u32) -> Vec<Part> {
    let mut left = width;
    let mut parts = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        let mut devices = Vec::new();
        for (device, size) in node.devices.iter().enumerate() {
            let is_drawn = (drawn >> (4 * place + device)) & 1 == 1;
            if is_drawn && size.width <= left {
                left -= size.width;
                devices.push(device);
            }
        }
        if !devices.is_empty() {
            parts.push(Part { node: NodeNo(place), devices });
        }
    }
    if drawn >> 29 == 0 {
        parts.push(Part { node: NodeNo(nodes.len()), devices: vec![0] });
    }
    parts
}

/// A cluster in which some jobs run and others wait.
pub fn cluster() -> impl Strategy<Value = Cluster> {
    let ran_s = select(vec![60_u64, 63, 3600, 7201, 9000, 10_001]);
    let start = (any::<bool>(), ran_s, 0_usize..5, of(any::<u32>()));
    let jobs = vec((job(), start), 0..14);
    (nodes(), projects(), jobs, 0_usize..3, any::<bool>()).prop_map(
        |(nodes, projects, jobs, reservation_count, preempts)| {
            let names = Names {
                labels: vec!["gpu=a".into(), "gpu=b".into()],
                data: vec!["lung".into(), "brain".into()],
            };
            let policy = Policy { reservation_count, preempts, preemption_gap: 1, ..Policy::default() };
            let mut cluster = Cluster { now_s: NOW_S, policy, names, projects, nodes, ..Cluster::default() };
            let mut free: Vec<Vec<usize>> =
                cluster.nodes.iter().map(|node| (0..node.devices.len()).collect()).collect();
            for (number, (mut job, (runs, ran_s, node, drawn))) in jobs.into_iter().enumerate() {
                job.id = JobId(number as u128 + 1);
                let wide = |slot: &usize| cluster.nodes[node].devices[*slot].width >= job.width;
                let fitting: Vec<usize> = free
                    .get(node)
                    .into_iter()
                    .flatten()
                    .copied()
                    .filter(wide)
                    .take(job.device_count)
                    .collect();
                if !runs || fitting.len() < job.device_count {
                    if let Some(drawn) = drawn.filter(|_| job.spreads) {
                        job.kept = kept(&cluster.nodes, job.width, drawn);
                    }
                    cluster.waiting.push(job);
                    continue;
                }
                free[node].retain(|slot| !fitting.contains(slot));
                let devices = fitting;
                let parts = vec![Part { node: NodeNo(node), devices }];
                let is_stopping = ran_s % 7 == 0;
                cluster.running.push(Running { job, parts, start_s: NOW_S - ran_s, is_stopping });
            }
            cluster
        },
    )
}
