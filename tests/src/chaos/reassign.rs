//! How long a job is without a worker: from the end of a daemon, of a trainer, or
//! from the wish to drain a worker, to the start of the next attempt.
//!
//! Daemons and drains are those of fakes; trainers are real ones. Others wait for
//! work and ask once a second, as idle workers do. Nothing else is broken.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use cakes_proto::v1::{DesiredState, DrainWorkerRequest, FailureClass};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::task::{AbortHandle, JoinSet};

use super::faults::seen;
use super::history::{Grant, History, grant_of};
use super::plant::{Plant, Sizes};
use super::schedule::Random;
use super::work::Clients;
use crate::fake::{Attempt, FakeWorker, NoOp, Refusal, step_report};
use crate::search::Length;

/// What to measure.
#[derive(Clone, Debug)]
pub struct ReassignOptions {
    /// Of each kind.
    pub samples: usize,
    pub lease_ttl: Duration,
    pub report_interval: Duration,
    pub trainers: usize,
    pub parent: PathBuf,
}

/// Times of one kind of loss.
#[derive(Clone, Debug, Serialize)]
pub struct ReassignRow {
    pub loss: &'static str,
    pub samples: usize,
    pub p50_s: Option<f64>,
    pub p90_s: Option<f64>,
    pub p99_s: Option<f64>,
    pub longest_s: Option<f64>,
}

/// Idle workers.
const SPARES: usize = 24;
const ASK_INTERVAL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(3600);

/// Measures, and tells of each row as soon as it is known.
///
/// # Errors
/// Something fails, or a job is not taken over.
pub async fn run(options: &ReassignOptions, mut tell: impl FnMut(&ReassignRow)) -> Result<Vec<ReassignRow>> {
    let sizes = Sizes {
        coordinators: 2,
        workers: options.trainers,
        lease_ttl: options.lease_ttl,
        report_interval: options.report_interval,
        section_limit: Duration::from_secs(120),
        drain_time: Duration::ZERO,
    };
    let plant = Arc::new(Plant::start(&options.parent, sizes).await?);
    let history = Arc::new(History::default());
    let clients = Clients::start(plant.clone(), history.clone(), 1).await?;
    let wanted = Arc::new(AtomicUsize::new(0));
    let mut spares = JoinSet::new();
    for number in 0..SPARES {
        let worker = register(&plant, &history, &format!("spare-{number}")).await?;
        spares.spawn(take_over(worker, wanted.clone()));
    }
    let bench = Bench { plant, history, clients, wanted, samples: options.samples };
    let mut rows = Vec::new();
    for loss in ["daemon", "drain", "trainer"] {
        let lost = match loss {
            "trainer" => Box::pin(bench.trainers()).await?,
            _ => Box::pin(bench.holders(loss)).await?,
        };
        let row = bench.row(loss, &lost).await?;
        tell(&row);
        rows.push(row);
    }
    spares.abort_all();
    bench.plant.stop().await?;
    Ok(rows)
}

async fn register(plant: &Plant, history: &Arc<History>, name: &str) -> Result<FakeWorker> {
    let servers = Plant::servers(&plant.client_proxies, name.len())?;
    Ok(FakeWorker::register(servers, name, PATIENCE, history.clone()).await?)
}

/// An idle worker: takes what waits, and is done with it at once.
async fn take_over(worker: FakeWorker, wanted: Arc<AtomicUsize>) -> Result<(), Refusal> {
    let mut random = Random::new(worker.incarnation() + worker.id().len() as u64);
    loop {
        tokio::time::sleep(ASK_INTERVAL.mul_f64(0.5 + random.below(1000) as f64 / 2000.0)).await;
        if wanted.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let Some(mut attempt) = worker.acquire().await? else { continue };
        let Ok(noop) = NoOp::of_json(&attempt.trainer_job_json) else { continue };
        // A job that was done already up to its last call has its checkpoint.
        if let Err(refusal) = worker.run(&mut attempt, &noop).await {
            eprintln!("{}: {refusal}", worker.id());
        }
    }
}

/// Works on one job until it is asked to give it back.
async fn hold(worker: FakeWorker, mut attempt: Attempt) -> Result<(), Refusal> {
    worker.start(&attempt).await?;
    let mut step = 0;
    loop {
        step += 1;
        let (entries, progress) = step_report(step, u64::MAX >> 1);
        let desired = worker.report(&mut attempt, entries, progress).await?;
        if desired == DesiredState::Yield {
            worker.commit(&mut attempt, step).await?;
            return worker.fail(&attempt, FailureClass::Lost, "handed back as asked").await;
        }
        tokio::time::sleep(worker.report_interval()).await;
    }
}

struct Bench {
    plant: Arc<Plant>,
    history: Arc<History>,
    clients: Arc<Clients>,
    wanted: Arc<AtomicUsize>,
    samples: usize,
}

impl Bench {
    /// Losses of fakes, at random moments of a report's interval and a sweep's.
    async fn holders(&self, loss: &str) -> Result<BTreeMap<Grant, SystemTime>> {
        self.wanted.store(0, Ordering::Relaxed);
        // Questions of before are answered by then.
        tokio::time::sleep(ASK_INTERVAL * 2).await;
        let mut holding = JoinSet::new();
        let mut held: Vec<(String, Grant, AbortHandle)> = Vec::new();
        for number in 0..self.samples {
            self.clients.submit_big(100_000).await?;
            let name = format!("{loss}-{number}");
            let worker = register(&self.plant, &self.history, &name).await?;
            let attempt = worker.acquire().await?.context("the submitted job is not offered")?;
            let grant = grant_of(&attempt.token).context("a grant names no job")?;
            held.push((name, grant, holding.spawn(hold(worker, attempt))));
        }
        let mut random = Random::new(7);
        let mut lost = BTreeMap::new();
        self.wanted.store(1, Ordering::Relaxed);
        for (name, grant, task) in held {
            tokio::time::sleep(Duration::from_millis(random.below(200))).await;
            lost.insert(grant, SystemTime::now());
            if loss == "drain" {
                self.drain(&name).await?;
            } else {
                task.abort();
            }
        }
        self.until_taken(&lost).await?;
        Ok(lost)
    }

    async fn drain(&self, id: &str) -> Result<()> {
        let call = |channel| {
            let request = DrainWorkerRequest { id: id.to_owned() };
            async move { FleetServiceClient::new(channel).drain_worker(request).await }
        };
        self.clients.client.persist(call).await.map(drop).context("drain a worker")
    }

    /// Losses of real trainers.
    async fn trainers(&self) -> Result<BTreeMap<Grant, SystemTime>> {
        self.wanted.store(0, Ordering::Relaxed);
        let workers = self.plant.workers.len();
        ensure!(workers > 0, "there are no real workers");
        for number in 0..workers {
            self.plant.start_worker(number).await?;
        }
        let mut lost: BTreeMap<Grant, SystemTime> = BTreeMap::new();
        let length = Length { epochs: 100, steps_per_epoch: 20, checkpoint_every_epochs: 1 };
        let mut number = 0;
        while lost.len() < self.samples {
            let queued = "select count(*) from job where state = 'queued' and run_after is null";
            let queued: i64 = sqlx::query_scalar(queued).fetch_one(&self.plant.pool).await?;
            for _ in queued..8 {
                self.clients.submit_small(length).await?;
            }
            number = (number + 1) % workers;
            for trainer in self.plant.trainers(number) {
                let grant = (trainer.job, trainer.epoch);
                if lost.contains_key(&grant) || !self.trains(grant).await? {
                    continue;
                }
                kill(Pid::from_raw(trainer.pid), Signal::SIGKILL)?;
                lost.insert(grant, SystemTime::now());
            }
            self.wanted.store(self.due(&lost).await?, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.wanted.store(1, Ordering::Relaxed);
        self.until_taken(&lost).await?;
        Ok(lost)
    }

    async fn trains(&self, (job, epoch): Grant) -> Result<bool> {
        let statement = "select coalesce((select last_step > resume_step from attempt
            where job_id = $1 and epoch = $2 and state = 'running'), false)";
        Ok(sqlx::query_scalar(statement).bind(job).bind(epoch).fetch_one(&self.plant.pool).await?)
    }

    /// How many lost jobs may be taken now; others in the queue are left to real workers.
    async fn due(&self, lost: &BTreeMap<Grant, SystemTime>) -> Result<usize> {
        let jobs: Vec<uuid::Uuid> = lost.keys().map(|(job, _)| *job).collect();
        let statement = "select count(*) from job where id = any($1) and state = 'queued'
            and (run_after is null or run_after <= clock_timestamp())";
        let count: i64 = sqlx::query_scalar(statement).bind(jobs).fetch_one(&self.plant.pool).await?;
        Ok(count.unsigned_abs() as usize)
    }

    /// Of these grants, how many were followed by the start of another attempt.
    async fn taken(&self, lost: &BTreeMap<Grant, SystemTime>) -> Result<usize> {
        Ok(self.times(lost).await?.len())
    }

    async fn until_taken(&self, lost: &BTreeMap<Grant, SystemTime>) -> Result<()> {
        let patience = self.plant.sizes.lease_ttl * 2 + Duration::from_secs(120);
        let all = seen(patience, async || Ok((self.taken(lost).await? == lost.len()).then_some(())));
        ensure!(all.await.is_some(), "not every job was taken over within {patience:?}");
        Ok(())
    }

    async fn times(&self, lost: &BTreeMap<Grant, SystemTime>) -> Result<Vec<f64>> {
        let (mut jobs, mut epochs, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for ((job, epoch), at) in lost {
            jobs.push(*job);
            epochs.push(*epoch);
            times.push(chrono::DateTime::<chrono::Utc>::from(*at));
        }
        let statement = "select extract(epoch from start_time - lost.at)::float8 as seconds
            from unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) as lost (job_id, epoch, at)
            join attempt on attempt.job_id = lost.job_id and attempt.epoch = lost.epoch + 1
            where start_time is not null order by seconds";
        let query = sqlx::query_scalar(statement).bind(jobs).bind(epochs).bind(times);
        Ok(query.fetch_all(&self.plant.pool).await?)
    }

    async fn row(&self, loss: &'static str, lost: &BTreeMap<Grant, SystemTime>) -> Result<ReassignRow> {
        let times = self.times(lost).await?;
        let percentile = |percent| super::percentile(&times, percent);
        Ok(ReassignRow {
            loss,
            samples: times.len(),
            p50_s: percentile(50),
            p90_s: percentile(90),
            p99_s: percentile(99),
            longest_s: times.last().copied(),
        })
    }
}
