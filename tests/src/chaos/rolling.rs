//! Two coordinators are replaced, one after the other, while everybody works; then the tables
//! come forward by a migration that neither of them knows.
//!
//! ```text
//!  workers, clients ─► the addresses of both, the next where one does not answer ─► coordinators
//!  commands ─► one address, which goes by health ────────────────────────────────┘
//!
//!  per coordinator:  SIGTERM ─► it says that it does not serve, and serves ─► it takes nothing
//!                    new, streams end, calls are answered ─► its end ─► the next one serves
//! ```

mod balancer;
mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sqlx::Executor;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

use super::history::{Answers, History};
use super::plant::{Plant, Sizes, end};
use super::work::{Client, Clients};
use crate::fake::FakeWorker;
use crate::{binaries, until};
use balancer::Balancer;
use load::{Stop, Tally};

/// What to run.
#[derive(Clone, Debug)]
pub struct RollingOptions {
    pub workers: usize,
    pub lease_ttl: Duration,
    pub report_interval: Duration,
    /// How long a coordinator serves after it has said that it does not.
    pub drain_time: Duration,
    /// Where files are put.
    pub parent: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct RollingReport {
    /// Answers to workers.
    pub workers: Answers,
    /// Calls of clients, and those of their answers after which a call was repeated.
    pub calls: u64,
    pub repeated: BTreeMap<String, u64>,
    /// Streams that were opened, and how often one went on where another broke.
    pub streams: u64,
    pub resumed: u64,
    /// Commands that ran, calls that came over a connection of their own, and connections of
    /// both that nobody took.
    pub commands: u64,
    pub visits: u64,
    pub refused: u64,
    /// From the signal to a new coordinator that serves, of each.
    pub replaced: Vec<Duration>,
    pub jobs: usize,
    /// What is wrong, in words.
    pub problems: Vec<String>,
}

impl RollingReport {
    /// Repeated calls that no interruption explains.
    pub fn unexplained(&self) -> Vec<&String> {
        self.repeated.keys().filter(|said| !load::is_interruption_text(said)).collect()
    }
}

/// How long a worker repeats a call.
const PATIENCE: Duration = Duration::from_secs(60);
/// For work to go on.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
/// Jobs that are done between two steps.
const PROGRESS: i64 = 12;

/// Runs it all.
///
/// # Errors
/// Something fails that may not.
pub async fn run(options: &RollingOptions) -> Result<RollingReport> {
    let sizes = Sizes {
        coordinators: 2,
        workers: 0,
        lease_ttl: options.lease_ttl,
        report_interval: options.report_interval,
        section_limit: Duration::from_secs(120),
        drain_time: options.drain_time,
    };
    let plant = Arc::new(Plant::start(&options.parent, sizes).await?);
    match Box::pin(with_plant(options, &plant)).await {
        Ok(report) => plant.stop().await.map(|()| report),
        Err(error) => {
            plant.keep();
            Err(error.context(format!("logs and data are kept in {}", plant.folder().display())))
        }
    }
}

async fn with_plant(options: &RollingOptions, plant: &Arc<Plant>) -> Result<RollingReport> {
    let history = Arc::new(History::default());
    let clients = Clients::start(plant.clone(), history.clone(), 1).await?;
    let mut load = Load::start(options, plant, &history, &clients).await?;
    let mut replaced = Vec::new();
    for number in 0..2 {
        load.until_progress(plant).await?;
        let began = Instant::now();
        let old = plant.coordinators[number].lock().await.daemon.take();
        let ending = tokio::spawn(end(old, Signal::SIGTERM));
        load.balancer.until_serving(number, false).await?;
        ending.await?.with_context(|| format!("coordinator {number} does not end well"))?;
        plant.start_coordinator(number).await?;
        load.balancer.until_serving(number, true).await?;
        replaced.push(began.elapsed());
    }
    load.until_progress(plant).await?;
    migrate_ahead(plant).await?;
    load.until_progress(plant).await?;
    let jobs = load.stop().await?;
    let problems = problems(plant, &history, &jobs).await?;
    Ok(RollingReport {
        workers: history.answers(),
        calls: load.tally.calls(),
        repeated: load.tally.repeated(),
        streams: load.tally.streams(),
        resumed: load.tally.resumed(),
        commands: load.tally.commands(),
        visits: load.tally.visits(),
        refused: load.balancer.refused(),
        replaced,
        jobs: jobs.len(),
        problems,
    })
}

/// Everybody who works meanwhile.
struct Load {
    balancer: Balancer,
    tally: Tally,
    /// No new jobs, no more questions.
    stop: Stop,
    /// The held job may end.
    release: Stop,
    submitter: JoinHandle<Result<Vec<Uuid>>>,
    others: JoinSet<Result<()>>,
    holder: JoinHandle<Result<u64>>,
    /// What was printed of the log of the held job, and of the job itself at its end.
    printed: [JoinHandle<Result<String>>; 2],
}

impl Load {
    async fn start(
        options: &RollingOptions,
        plant: &Arc<Plant>,
        history: &Arc<History>,
        clients: &Arc<Clients>,
    ) -> Result<Self> {
        let balancer = Balancer::start(&plant.addresses).await?;
        let (tally, stop, release) = (Tally::default(), Stop::default(), Stop::default());
        let submitter = tokio::spawn(load::submit(clients.clone(), tally.clone(), stop.clone()));
        let register = async |name: &str, first| -> Result<FakeWorker> {
            let servers = Plant::servers(&plant.client_proxies, first)?;
            Ok(FakeWorker::register(servers, name, PATIENCE, history.clone()).await?)
        };
        let (took, held) = oneshot::channel();
        let holder = tokio::spawn(load::hold(register("holder", 0).await?, took, release.clone()));
        let held = held.await.context("no job is held")?;

        let mut others = JoinSet::new();
        for number in 0..options.workers {
            let worker = register(&format!("worker-{number}"), number).await?;
            others.spawn(load::work(worker, stop.clone()));
        }
        for first in 0..2 {
            let servers = Plant::servers(&plant.client_proxies, first)?;
            others.spawn(load::list(Client::new(servers.clone()), tally.clone(), stop.clone()));
            others.spawn(load::watch(servers, tally.clone(), held.clone()));
        }
        let commands = Commands { server: balancer.url() };
        let short = commands.clone();
        let run = move |arguments: &[&str]| short.command(arguments);
        others.spawn(load::commands(run, tally.clone(), stop.clone()));
        for _ in 0..2 {
            others.spawn(load::visit(balancer.url(), tally.clone(), stop.clone()));
        }
        let printed = [&["job", "logs", &held, "--follow"][..], &["job", "watch", &held]].map(|arguments| {
            let command = commands.command(arguments);
            tokio::spawn(async move {
                let said = load::run(command?).await?;
                ensure!(said.status.success(), "a command that follows a job: {said:?}");
                Ok(String::from_utf8_lossy(&said.stdout).into_owned())
            })
        });
        Ok(Load { balancer, tally, stop, release, submitter, others, holder, printed })
    }

    /// Waits until more jobs are done, and nobody has failed.
    async fn until_progress(&mut self, plant: &Plant) -> Result<()> {
        let done = async || -> Result<i64> {
            let statement = "select count(*) from job where state = 'succeeded'";
            Ok(sqlx::query_scalar(statement).fetch_one(&plant.pool).await?)
        };
        let before = done().await?;
        let others = &mut self.others;
        until("work goes on", PROGRESS_LIMIT, async || {
            while let Some(ended) = others.try_join_next() {
                ended?.context("somebody failed")?;
            }
            Ok((done().await? >= before + PROGRESS).then_some(()))
        })
        .await
    }

    /// Lets everything come to its end; the jobs that were submitted.
    async fn stop(&mut self) -> Result<Vec<Uuid>> {
        self.stop.tell();
        let jobs = (&mut self.submitter).await??;
        self.release.tell();
        let lines = (&mut self.holder).await?.context("the held job")?;
        while let Some(ended) = self.others.join_next().await {
            ended?.context("somebody failed")?;
        }
        let [logs, watched] = &mut self.printed;
        let printed = logs.await??;
        let said: Vec<&str> =
            printed.lines().filter_map(|line| line.split_once(" line ")).map(|(_, n)| n).collect();
        let expected: Vec<String> = (1..=lines).map(|number| number.to_string()).collect();
        ensure!(said == expected, "of {lines} lines of log these were printed: {said:?}");
        let watched = watched.await??;
        ensure!(watched.contains("succeeded"), "the watched job: {watched}");
        Ok(jobs)
    }
}

/// `cakes` with one address.
#[derive(Clone, Debug)]
struct Commands {
    server: String,
}

impl Commands {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = binaries::command("cakes", "rolling")?;
        command.env("CAKES_SERVER", &self.server).env("CAKES_SETTINGS", "/nonexistent/settings.toml");
        command.args(arguments);
        Ok(command)
    }
}

/// Brings the tables forward as a later version's coordinator would: by what is added alone,
/// and not behind locks for which everybody else would have to wait.
async fn migrate_ahead(plant: &Plant) -> Result<()> {
    let statements = "set local lock_timeout = '500ms';
        create table tomorrow (id bigint primary key, job_id uuid references job (id));
        alter table job add column tomorrow text;
        alter table search add column tomorrow text not null default 'new';
        alter table worker add column tomorrow text;
        alter table attempt add column tomorrow integer;
        insert into _sqlx_migrations (version, description, success, checksum, execution_time)
            values (99991231, 'from the future', true, '\\x00', 0)";
    until("the tables come forward", PROGRESS_LIMIT, async || {
        let mut transaction = plant.pool.begin().await?;
        match transaction.execute(statements).await {
            Ok(_) => {
                transaction.commit().await?;
                Ok(Some(()))
            }
            // Somebody held a table; nobody waits for us meanwhile.
            Err(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| ["55P03", "40P01"].contains(&&*code)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    })
    .await
}

/// What is not as it should be in the database.
async fn problems(plant: &Plant, history: &History, jobs: &[Uuid]) -> Result<Vec<String>> {
    let mut problems = history.contradictions();
    let distinct: BTreeSet<&Uuid> = jobs.iter().collect();
    if distinct.len() != jobs.len() {
        problems.push("two submissions got one job".to_owned());
    }
    let checks = [
        ("submitted and not succeeded", "id = any($1) and state <> 'succeeded'"),
        ("tried twice, or taken from its worker", "id = any($1) and epoch <> 1"),
        ("known to nobody", "id <> all($1) and search_id is null"),
        (
            "without exactly one result",
            "id = any($1) and (select count(*) from result where job_id = job.id) <> 1",
        ),
    ];
    for (what, condition) in checks {
        let statement = format!("select count(*) from job where {condition}");
        let count: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).bind(jobs).fetch_one(&plant.pool).await?;
        if count > 0 {
            problems.push(format!("{count} jobs: {what}"));
        }
    }
    Ok(problems)
}
