//! How long a round takes with 500 devices and 10,000 waiting jobs:
//! `cargo run -p cakes-planner --example round`.

use cakes_planner::*;
use std::num::NonZeroU32;
fn main() {
    let names = Names { labels: vec!["gpu=h200".into()], data: (0..8).map(|i| format!("d{i}")).collect() };
    let policy = Policy::default();
    let projects: Vec<Project> = (0..20)
        .map(|i| Project {
            name: format!("p{i}"),
            share: NonZeroU32::new(1 + i % 4).unwrap(),
            usage_device_s: f64::from(i) * 1e5,
            device_quota: None,
            device_s_quota: None,
            used_device_s: 0,
        })
        .collect();
    let nodes: Vec<Node> = (0..63)
        .map(|i| Node {
            name: format!("n{i}"),
            devices: vec![Device { memory_mib: 80_000, width: 1 }; if i < 62 { 8 } else { 4 }],
            labels: if i % 2 == 0 { vec![LabelNo(0)] } else { vec![] },
            schedule: Schedule::Ready,
            data: vec![DataNo(i % 8)],
            joins: false,
        })
        .collect();
    let now_s = 10_000_000;
    let job = |id: u128| {
        let r = (id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        Job {
            id: JobId(id),
            project: ProjectNo((r % 20) as usize),
            priority: (r / 20 % 3) as i32,
            submit_s: now_s - r % 500_000,
            not_before_s: 0,
            device_count: [1, 1, 1, 2, 4, 8, 16][(r / 60 % 7) as usize],
            width: 1,
            memory_mib: [0, 20_000, 40_000, 60_000][(r / 420 % 4) as usize],
            labels: if r.is_multiple_of(5) { vec![LabelNo(0)] } else { vec![] },
            may_span: r.is_multiple_of(7) || (r / 60 % 7) == 6,
            spreads: false,
            kept: Vec::new(),
            estimate_s: (!r.is_multiple_of(3)).then_some(600 + r % 40_000),
            deadline_s: None,
            cost_limit_device_s: None,
            spent_device_s: 0,
            data: vec![DataNo((r % 8) as usize)],
            is_preemptible: true,
            preemption_count: 0,
            avoids: None,
            place: 0,
        }
    };
    let mut waiting: Vec<Job> = (1..=10_500).map(job).collect();
    let mut running: Vec<Running> = vec![];
    for what in ["an empty cluster", "a full one", "half of it has become free"] {
        let facts = Facts {
            now_s,
            policy: &policy,
            names: &names,
            projects: &projects,
            nodes: &nodes,
            running: &running,
            waiting: &waiting,
            reservations: &[],
        };
        let mut times: Vec<f64> = (0..41)
            .map(|_| {
                let b = std::time::Instant::now();
                let f = facts.check().unwrap();
                std::hint::black_box(plan(&f));
                b.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let p = plan(&facts.check().unwrap());
        println!(
            "{what}: {} waiting, {} running, {} placed, {} stops, {} reserved: median {:.2} ms, max {:.2} ms",
            waiting.len(),
            running.len(),
            p.placements.len(),
            p.stops.len(),
            p.reservations.len(),
            times[20],
            times[40]
        );
        for pl in p.placements {
            let i = waiting.iter().position(|j| j.id == pl.job).unwrap();
            running.push(Running {
                job: waiting.remove(i),
                parts: pl.parts,
                start_s: now_s - 4000,
                is_stopping: false,
            });
        }
        if what == "a full one" {
            running.truncate(running.len() / 2);
        }
    }
}
