//! Jobs that do nothing, as fast as they go: acquire, start, one report, complete with
//! the checkpoint that a result must name; each call durable and awaited before the
//! next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::latency::Stopwatch;
use super::rig::Rig;
use super::usage::rss_mib;
use super::{Place, fill, limit};
use crate::fake::{FakeWorker, Kind, NoOp, connect};

/// What to measure.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// Jobs of each measurement.
    pub jobs: u32,
    /// Workers of each measurement; each has a connection of its own and does one
    /// job at a time.
    pub workers: Vec<u32>,
    /// Finished jobs in the tables before each round of measurements, rising.
    pub finished: Vec<u64>,
    pub place: Place,
}

/// Most clients of pgbench: the private Postgres takes a hundred connections, of which the coordinator
/// has its share.
const LIMIT_CLIENTS_MAX: u32 = 64;

/// One measurement beside pgbench's with as many clients, 64 at the most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueRow {
    pub workers: u32,
    /// Finished jobs in the tables at the start.
    pub finished: u64,
    pub jobs_per_s: f64,
    pub pg_limit_jobs_per_s: f64,
    pub share_of_limit: f64,
    pub acquire_p50_ms: Option<f64>,
    pub acquire_p99_ms: Option<f64>,
    pub start_p50_ms: Option<f64>,
    pub start_p99_ms: Option<f64>,
    pub report_p50_ms: Option<f64>,
    pub report_p99_ms: Option<f64>,
    pub complete_p50_ms: Option<f64>,
    pub complete_p99_ms: Option<f64>,
    /// Of the coordinator, at the end.
    pub rss_mib: f64,
    pub submitted_per_s: f64,
    /// Transactions that wrote, per job.
    pub commits_per_job: f64,
    /// Write-ahead log, per job.
    pub wal_kib_per_job: f64,
    /// Processor time per job.
    pub coordinator_cpu_ms: f64,
    pub postgres_cpu_ms: f64,
    pub workers_cpu_ms: f64,
    /// Calls that got no answer and were sent again.
    pub repeated: u64,
}

/// Measures, and tells of each row as soon as it is known.
///
/// # Errors
/// Something fails, or a job is missing from the database afterwards.
pub async fn run(options: &QueueOptions, mut tell: impl FnMut(&QueueRow)) -> Result<Vec<QueueRow>> {
    ensure!(options.jobs > 0, "--jobs: must be at least 1");
    ensure!(options.workers.iter().all(|count| (1..=1000).contains(count)), "--workers: must be 1 to 1000");
    ensure!(options.finished.is_sorted(), "--finished: numbers must rise");
    let rig = Rig::start(&options.place, Duration::from_secs(2)).await?;
    let mut rows = Vec::new();
    for wanted in &options.finished {
        let present = rig.succeeded().await?;
        if *wanted > present {
            fill::copies(&rig.database, &rig.finished_job, present, wanted - present).await?;
        }
        for workers in &options.workers {
            let row = measure(&rig, *workers, options.jobs).await?;
            tell(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

async fn measure(rig: &Rig, workers: u32, jobs: u32) -> Result<QueueRow> {
    let finished = rig.succeeded().await?;
    let began = Instant::now();
    rig.submit(jobs).await?;
    let submitted_per_s = f64::from(jobs) / began.elapsed().as_secs_f64();

    let stopwatch = Arc::new(Stopwatch::default());
    let mut fleet = Vec::new();
    for number in 0..workers {
        let channel = connect(&rig.cluster.url())?;
        fleet.push(rig.worker(channel, &format!("queue-{number}"), stopwatch.clone()).await?);
    }
    let before = (rig.cpu()?, commits(rig).await?, wal_bytes(rig).await?);
    stopwatch.set(true);
    let began = Instant::now();
    let tasks: Vec<_> =
        fleet.into_iter().map(|worker| tokio::spawn(drain(worker, rig.noop.clone()))).collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    let elapsed = began.elapsed().as_secs_f64();
    stopwatch.set(false);
    let after = (rig.cpu()?, commits(rig).await?, wal_bytes(rig).await?);
    ensure!(done == jobs, "the workers were given {done} of {jobs} jobs");
    let stored = rig.succeeded().await? - finished;
    ensure!(stored == u64::from(jobs), "{stored} of {jobs} jobs are stored as succeeded");

    let clients_jobs = jobs.saturating_mul(3);
    let limit =
        limit::measure(&rig.database, rig.cluster.folder(), workers.min(LIMIT_CLIENTS_MAX), clients_jobs)
            .await?;
    let per_job = |total: f64| total / f64::from(jobs);
    let milliseconds = |kind: Kind, percent: u8| stopwatch.taken(kind).percentile_ms(percent);
    let cpu = after.0.since(before.0);
    let jobs_per_s = f64::from(jobs) / elapsed;
    Ok(QueueRow {
        workers,
        finished,
        jobs_per_s,
        pg_limit_jobs_per_s: limit.jobs_per_s,
        share_of_limit: jobs_per_s / limit.jobs_per_s,
        acquire_p50_ms: milliseconds(Kind::Acquire, 50),
        acquire_p99_ms: milliseconds(Kind::Acquire, 99),
        start_p50_ms: milliseconds(Kind::Start, 50),
        start_p99_ms: milliseconds(Kind::Start, 99),
        report_p50_ms: milliseconds(Kind::Report, 50),
        report_p99_ms: milliseconds(Kind::Report, 99),
        complete_p50_ms: milliseconds(Kind::Complete, 50),
        complete_p99_ms: milliseconds(Kind::Complete, 99),
        rss_mib: rss_mib(rig.cluster.coordinator_pid()?)?,
        submitted_per_s,
        commits_per_job: per_job(after.1.saturating_sub(before.1) as f64),
        wal_kib_per_job: per_job(after.2.saturating_sub(before.2) as f64 / 1024.0),
        coordinator_cpu_ms: per_job(cpu.coordinator_s * 1e3),
        postgres_cpu_ms: per_job(cpu.postgres_s * 1e3),
        workers_cpu_ms: per_job(cpu.workers_s * 1e3),
        repeated: stopwatch.repeated(),
    })
}

/// Does jobs until there are none; how many.
async fn drain(worker: FakeWorker, noop: Arc<NoOp>) -> Result<u32> {
    let mut done = 0;
    while let Some(mut attempt) = worker.acquire().await? {
        worker.run(&mut attempt, &noop).await?;
        done += 1;
    }
    Ok(done)
}

/// Transactions that wrote, since the database exists.
async fn commits(rig: &Rig) -> Result<u64> {
    rig.database.number("select pg_snapshot_xmax(pg_current_snapshot())").await
}

async fn wal_bytes(rig: &Rig) -> Result<u64> {
    rig.database.number("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").await
}
