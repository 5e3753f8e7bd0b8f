//! What Slurm and the coordinator say, put together.

use std::collections::BTreeSet;

use cakes::labels::Labels;
use cakes_proto::v1::{Job, Worker, WorkerState};

use super::plan::{Allocation, Facts, Phase};
use super::slurm::Row;

/// Queued jobs that a device of a worker with these labels could start; those that a quota
/// holds, or that ask for other workers, would leave it idle.
pub fn startable(queued: &[Job], labels: &Labels) -> u32 {
    let suits = |job: &&Job| Labels::new(job.worker_labels.clone()).is_ok_and(|asked| labels.include(&asked));
    let startable = queued.iter().filter(|job| !job.is_held).filter(suits).count();
    u32::try_from(startable).unwrap_or(u32::MAX)
}

/// Allocations with their workers, and what else is free. An allocation's worker is the
/// one that the batch script names in the allocation's comment. `names` are those of
/// earlier allocations too: a worker that has just ended looks ready for as long as a
/// lease lasts, and nobody should wait for it. What is free elsewhere counts where it could
/// start all that waits for workers with these labels.
pub fn gather(
    waiting: u32,
    rows: &[Row],
    workers: &[Worker],
    labels: &Labels,
    names: &mut BTreeSet<String>,
) -> Facts {
    names.extend(rows.iter().filter_map(|row| row.worker.clone()));
    let free = |worker: &Worker| devices(worker).saturating_sub(jobs(worker));
    let suits = |worker: &&Worker| Labels::new(worker.labels.clone()).is_ok_and(|its| its.include(labels));
    let elsewhere =
        workers.iter().filter(|worker| takes_jobs(worker) && !names.contains(&worker.id)).filter(suits);
    Facts {
        waiting,
        free_elsewhere: elsewhere.map(free).sum(),
        allocations: rows
            .iter()
            .map(|row| Allocation { id: row.id.clone(), phase: phase(row, workers) })
            .collect(),
    }
}

fn phase(row: &Row, workers: &[Worker]) -> Phase {
    match row.state.as_str() {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "SPECIAL_EXIT" => return Phase::Pending,
        // A suspended one holds what it has, and its worker may have a job.
        "RUNNING" | "SUSPENDED" | "STOPPED" | "RESIZING" | "SIGNALING" => {}
        _ => return Phase::Leaving,
    }
    let worker = workers.iter().find(|worker| row.worker.as_deref() == Some(worker.id.as_str()));
    match worker {
        None => Phase::Starting,
        Some(worker) if takes_jobs(worker) => Phase::Ready { devices: devices(worker), jobs: jobs(worker) },
        // An earlier daemon of this node's; this one is about to register.
        Some(worker) if worker.state() == WorkerState::Lost && worker.job_ids.is_empty() => Phase::Starting,
        Some(_) => Phase::Leaving,
    }
}

fn takes_jobs(worker: &Worker) -> bool {
    worker.state() == WorkerState::Ready
}

fn devices(worker: &Worker) -> u32 {
    u32::try_from(worker.devices.len()).unwrap_or(u32::MAX)
}

fn jobs(worker: &Worker) -> u32 {
    u32::try_from(worker.job_ids.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use cakes_proto::v1::Device;

    use super::*;

    fn row(id: &str, state: &str, worker: Option<&str>) -> Row {
        Row { id: id.to_owned(), state: state.to_owned(), worker: worker.map(str::to_owned) }
    }

    fn worker(id: &str, state: WorkerState, jobs: &[&str]) -> Worker {
        Worker {
            id: id.to_owned(),
            state: state.into(),
            devices: vec![Device::default(); 2],
            job_ids: jobs.iter().map(|job| (*job).to_owned()).collect(),
            ..Worker::default()
        }
    }

    #[test]
    fn jobs_that_a_quota_holds_are_not_counted() {
        let job = |is_held| Job { is_held, ..Job::default() };
        let none = Labels::default();
        assert_eq!(startable(&[job(false), job(true), job(false), job(true), job(true)], &none), 2);
        assert_eq!(startable(&[job(true)], &none), 0);
    }

    #[test]
    fn jobs_that_ask_for_other_workers_are_not_counted() {
        let job =
            |asked: &str| Job { worker_labels: asked.parse::<Labels>().unwrap().into(), ..Job::default() };
        let queued = [job(""), job("gpu=h200"), job("gpu=a100"), job("gpu=h200,site=basel")];
        let counted = |labels: &str| startable(&queued, &labels.parse().unwrap());
        assert_eq!(["", "gpu=a100", "gpu=h200,site=basel"].map(counted), [1, 2, 3]);
    }

    #[test]
    fn allocations_are_as_far_as_their_workers() {
        let workers = [
            worker("n1", WorkerState::Ready, &["a"]),
            worker("n2", WorkerState::Lost, &[]),
            worker("n3", WorkerState::Draining, &["b"]),
            worker("n4", WorkerState::Lost, &["c"]),
            worker("big-box", WorkerState::Ready, &[]),
            worker("old-box", WorkerState::Suspect, &[]),
        ];
        let rows = [
            row("1", "RUNNING", Some("n1")),
            row("2", "RUNNING", Some("n2")),
            row("3", "RUNNING", Some("n3")),
            row("4", "RUNNING", Some("n4")),
            row("5", "RUNNING", None),
            row("6_0", "PENDING", None),
            row("7", "COMPLETING", Some("n1")),
        ];
        let mut names = BTreeSet::new();
        let facts = gather(3, &rows, &workers, &Labels::default(), &mut names);
        assert_eq!((facts.waiting, facts.free_elsewhere), (3, 2), "two devices of big-box");
        let phases: Vec<Phase> = facts.allocations.iter().map(|allocation| allocation.phase).collect();
        let expected = [
            Phase::Ready { devices: 2, jobs: 1 },
            Phase::Starting,
            Phase::Leaving,
            Phase::Leaving,
            Phase::Starting,
            Phase::Pending,
            Phase::Leaving,
        ];
        assert_eq!(phases, expected);
        let after = gather(0, &[], &workers, &Labels::default(), &mut names);
        assert_eq!(after.free_elsewhere, 2, "n1 has ended with its allocation");
        let labels = "gpu=h200".parse().unwrap();
        assert_eq!(gather(1, &[], &workers, &labels, &mut names).free_elsewhere, 0, "big-box has no labels");
    }
}
