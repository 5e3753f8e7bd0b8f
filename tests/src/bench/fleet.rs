//! Many workers that renew and report at the protocol's interval, while a queue
//! waits. Every worker trains one job at a time; a share of them ends its job and
//! takes the next one, so that acquiring is measured under the load of reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::latency::Stopwatch;
use super::rig::Rig;
use super::usage::{allow_open_files, open_files, rss_mib};
use super::{Place, fill};
use crate::fake::{Attempt, FakeWorker, Kind, NoOp, connect, step_report};

/// Below the server's limits of calls and streams per connection.
const WORKERS_PER_CONNECTION: usize = 50;

/// Workers that come up at a time.
const RAMP: usize = 32;

/// A job is done after so many reports.
const REPORTS_PER_JOB: u64 = 30;

/// Open files beside those of the workers' connections.
const FILES_OF_ALL_ELSE: u64 = 256;

/// What to measure.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Workers of each measurement, each on a coordinator and a database of its own.
    pub workers: Vec<u32>,
    /// How long calls are measured, once all workers train.
    pub duration: Duration,
    /// Jobs that wait from the start.
    pub queued: u64,
    /// Time between two reports of a worker.
    pub report_interval: Duration,
    pub place: Place,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FleetRow {
    pub workers: u32,
    pub queued: u64,
    pub report_interval_ms: u64,
    /// What the workers want to report, and what they got through.
    pub wanted_reports_per_s: f64,
    pub reports_per_s: f64,
    pub report_p50_ms: Option<f64>,
    pub report_p99_ms: Option<f64>,
    /// While the others report.
    pub acquire_p50_ms: Option<f64>,
    pub acquire_p99_ms: Option<f64>,
    pub acquires: usize,
    pub complete_p99_ms: Option<f64>,
    /// Until all workers trained.
    pub ramp_s: f64,
    /// Of the coordinator, at the end.
    pub rss_mib: f64,
    pub connections: usize,
    pub open_files: usize,
    pub coordinator_cpus: f64,
    pub postgres_cpus: f64,
    pub workers_cpus: f64,
    /// Calls that got no answer and were sent again.
    pub repeated: u64,
}

/// Measures, and tells of each row as soon as it is known.
///
/// # Errors
/// Something fails: a worker that loses its lease, too.
pub async fn run(options: &FleetOptions, mut tell: impl FnMut(&FleetRow)) -> Result<Vec<FleetRow>> {
    ensure!(
        options.workers.iter().all(|count| (1..=20_000).contains(count)),
        "--workers: must be 1 to 20000"
    );
    ensure!(options.duration >= Duration::from_secs(1), "--seconds: must be at least 1");
    let mut rows = Vec::new();
    for workers in &options.workers {
        let row = measure(options, *workers).await?;
        tell(&row);
        rows.push(row);
    }
    Ok(rows)
}

async fn measure(options: &FleetOptions, workers: u32) -> Result<FleetRow> {
    let connections = (workers as usize).div_ceil(WORKERS_PER_CONNECTION);
    allow_open_files(connections as u64 + FILES_OF_ALL_ELSE)?;
    let rig = Rig::start(&options.place, options.report_interval).await?;
    let template = rig.submit(1).await?.pop().context("no job was submitted")?;
    // Jobs that end are replaced: there are always this many.
    fill::copies(&rig.database, &template, 0, options.queued.max(u64::from(workers) * 2)).await?;

    let stopwatch = Arc::new(Stopwatch::default());
    let channels: Vec<Channel> =
        (0..connections).map(|_| connect(&rig.cluster.url())).collect::<Result<_, _>>()?;
    let began = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let fleet: Vec<JoinHandle<Result<()>>> = futures::stream::iter(0..workers)
        .map(|number| {
            let (rig, stopwatch, stop) = (&rig, stopwatch.clone(), stop.clone());
            let channel = channels[number as usize % channels.len()].clone();
            async move {
                let worker = rig.worker(channel, &format!("fleet-{number}"), stopwatch).await?;
                let attempt = begin(&worker).await?;
                anyhow::Ok(tokio::spawn(train(worker, attempt, rig.noop.clone(), u64::from(number), stop)))
            }
        })
        .buffer_unordered(RAMP)
        .try_collect()
        .await?;
    let ramp_s = began.elapsed().as_secs_f64();
    let mut fleet: FuturesUnordered<_> = fleet.into_iter().collect();

    let cpu = rig.cpu()?;
    stopwatch.set(true);
    let began = Instant::now();
    tokio::select! {
        () = tokio::time::sleep(options.duration) => {}
        ended = fleet.next() => {
            // Nobody stops before it is told to.
            ended.context("there is no worker")???;
            anyhow::bail!("a worker stopped by itself");
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    stopwatch.set(false);
    let cpu = rig.cpu()?.since(cpu);
    let coordinator = rig.cluster.coordinator_pid()?;
    let (rss_mib, open_files) = (rss_mib(coordinator)?, open_files(coordinator));
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = fleet.next().await {
        ended??;
    }
    let milliseconds = |kind: Kind, percent: u8| stopwatch.taken(kind).percentile_ms(percent);
    Ok(FleetRow {
        workers,
        queued: options.queued,
        report_interval_ms: u64::try_from(options.report_interval.as_millis()).unwrap_or(u64::MAX),
        wanted_reports_per_s: f64::from(workers) / options.report_interval.as_secs_f64(),
        reports_per_s: stopwatch.taken(Kind::Report).len() as f64 / elapsed,
        report_p50_ms: milliseconds(Kind::Report, 50),
        report_p99_ms: milliseconds(Kind::Report, 99),
        acquire_p50_ms: milliseconds(Kind::Acquire, 50),
        acquire_p99_ms: milliseconds(Kind::Acquire, 99),
        acquires: stopwatch.taken(Kind::Acquire).len(),
        complete_p99_ms: milliseconds(Kind::Complete, 99),
        ramp_s,
        rss_mib,
        connections,
        open_files,
        coordinator_cpus: cpu.coordinator_s / elapsed,
        postgres_cpus: cpu.postgres_s / elapsed,
        workers_cpus: cpu.workers_s / elapsed,
        repeated: stopwatch.repeated(),
    })
}

async fn begin(worker: &FakeWorker) -> Result<Attempt> {
    let attempt = worker.acquire().await?.context("the queue is empty; queue more with --queued")?;
    worker.start(&attempt).await?;
    Ok(attempt)
}

/// Reports at the interval; ends a job and begins the next one now and then.
async fn train(
    worker: FakeWorker,
    mut attempt: Attempt,
    noop: Arc<NoOp>,
    number: u64,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let interval = worker.report_interval();
    // Neither reports nor ends of jobs fall together.
    let phase = f64::from(u32::try_from(number * 7919 % 1000).unwrap_or(0)) / 1000.0;
    tokio::time::sleep(interval.mul_f64(phase)).await;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut report = number;
    loop {
        ticks.tick().await;
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        report += 1;
        let (entries, progress) = step_report(report, noop.step_count.max(report));
        worker.report(&mut attempt, entries, progress).await?;
        if report.is_multiple_of(REPORTS_PER_JOB) {
            attempt.save_last(noop.step_count);
            worker.complete(&attempt, &noop).await?;
            attempt = begin(&worker).await?;
        }
    }
}
