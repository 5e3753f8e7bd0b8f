//! `cakes worker autoscale`: as many Slurm allocations as the queue has use for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cakes::labels::Labels;
use cakes::spec::Violation;
use cakes_proto::v1;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde::Serialize;

use super::repeat;
use crate::autoscale::facts;
use crate::autoscale::plan::{self, Facts, Memory, Plan, Policy, Why};
use crate::autoscale::slurm::{Pool, SlurmError};
use crate::client::{Client, rpc};
use crate::error::{CommandError, Outcome};
use crate::output::{self, Format};

/// Queued jobs after which no more are counted; more than any cluster lets one user submit.
const JOBS_MAX: u32 = 1000;
/// Queued jobs that are read at a time, and how often in one look.
const PAGE_SIZE: i32 = 1000;
const PAGES_MAX: u32 = 20;

#[derive(Debug, Args)]
pub struct AutoscaleArguments {
    /// Batch script that runs one worker, see deploy/slurm/worker.sbatch.
    #[arg(long, value_name = "FILE")]
    script: PathBuf,
    /// Name of this pool: its allocations are Slurm jobs of yours called cakes-NAME, and
    /// no others are touched.
    #[arg(long, value_name = "NAME", default_value = "workers", value_parser = pool_name)]
    pool: String,
    /// Allocations that are kept even if nothing waits.
    #[arg(long, value_name = "N", default_value_t = 0)]
    min: u32,
    /// Allocations at most, those that wait in Slurm included.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    max: u32,
    /// Devices of one allocation: jobs that it trains at a time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    devices_each: u32,
    /// What its workers are labelled with, as gpu=h200,site=basel: they get it as CAKES_LABELS, and jobs that
    /// ask for other labels do not count.
    #[arg(long, env = "CAKES_LABELS", value_name = "LIST", default_value = "", hide_default_value = true, value_parser = labels)]
    labels: Labels,
    /// How long a worker has no job, or a waiting allocation is not needed, before it is given back.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    idle: Duration,
    /// How long a worker may take from the start of its allocation to its first word.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    start_limit: Duration,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = repeat::seconds)]
    interval: Duration,
    /// Look once and end.
    #[arg(long)]
    once: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Handed to sbatch: partition, GPUs, time, account.
    #[arg(last = true, value_name = "SBATCH OPTION")]
    sbatch: Vec<String>,
}

fn pool_name(text: &str) -> Result<String, String> {
    match cakes::spec::is_valid_name(text) {
        true => Ok(text.to_owned()),
        false => Err("must be 1 to 64 characters of a-z, 0-9, '.', '_', '-'".to_owned()),
    }
}

fn labels(list: &str) -> Result<Labels, String> {
    list.parse().map_err(|violation: Violation| violation.problem)
}

/// Something that was done, or could not be: one line.
#[derive(Debug, Serialize)]
struct Change {
    time: DateTime<Utc>,
    what: &'static str,
    allocations: Vec<String>,
    why: String,
}

/// # Errors
/// The first look fails, or the output cannot be written.
pub async fn run(
    client: Client,
    format: Format,
    arguments: AutoscaleArguments,
) -> Result<Outcome, CommandError> {
    if arguments.min > arguments.max {
        return Err(CommandError::invalid(format!(
            "--min {} is above --max {}",
            arguments.min, arguments.max
        )));
    }
    let script = std::path::absolute(&arguments.script)
        .and_then(|path| path.metadata().map(|_| path))
        .map_err(|error| CommandError::file(&arguments.script, error))?;
    let policy = Policy {
        min: arguments.min,
        max: arguments.max,
        devices_each: arguments.devices_each,
        idle_limit: arguments.idle,
        start_limit: arguments.start_limit,
        pause: Duration::from_secs(30),
    };
    let pool = Pool {
        job_name: format!("cakes-{}", arguments.pool),
        script,
        labels: arguments.labels,
        sbatch: arguments.sbatch,
    };
    let scaler = Scaler { client, format, policy, pool, is_dry: arguments.dry_run, begin: Instant::now() };
    let mut state = State::default();
    scaler.step(&mut state).await?;
    if arguments.once {
        return Ok(Outcome::Done);
    }
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut trouble = String::new();
    loop {
        tokio::select! {
            _ = &mut interrupted => return Ok(Outcome::Done),
            () = tokio::time::sleep(arguments.interval) => {}
        }
        match scaler.step(&mut state).await {
            Ok(()) => trouble.clear(),
            Err(error @ CommandError::Output(_)) => return Err(error),
            // Nothing is known now, so nothing is done; it is said once.
            Err(error) if error.to_string() != trouble => {
                trouble = error.to_string();
                output::note(&format!("nothing is changed: {trouble}"));
            }
            Err(_) => {}
        }
    }
}

/// What lasts from one look to the next.
#[derive(Default)]
struct State {
    memory: Memory,
    /// Of our allocations' workers.
    names: BTreeSet<String>,
}

struct Scaler {
    client: Client,
    format: Format,
    policy: Policy,
    pool: Pool,
    is_dry: bool,
    begin: Instant,
}

impl Scaler {
    /// Looks, decides, does.
    async fn step(&self, state: &mut State) -> Result<(), CommandError> {
        let facts = self.look(&mut state.names).await?;
        let memory = &mut state.memory;
        let refused_before = memory.refused();
        let plan = plan::plan(&self.policy, memory, &facts, self.begin.elapsed());
        if memory.refused() > refused_before {
            let jobs = memory.refused();
            let why = format!("jobs that no free worker takes: {jobs}; `cakes job explain` says why");
            self.say("none", Vec::new(), why)?;
        }
        if !plan.vanished.is_empty() {
            let why = "they ended and no worker had come; see Slurm's output of them";
            self.say("lost", plan.vanished.clone(), why.to_owned())?;
        }
        if self.is_dry {
            return self.say_plan(&plan, &facts);
        }
        self.cancel(&plan).await?;
        self.submit(&plan, &facts, memory).await
    }

    /// In this order a job that is given out meanwhile counts twice as being trained, and
    /// never as waiting: too little is submitted rather than too much.
    async fn look(&self, names: &mut BTreeSet<String>) -> Result<Facts, CommandError> {
        let rows = self.pool.list().await?;
        let workers = self.workers().await?;
        let waiting = self.startable().await?;
        Ok(facts::gather(waiting, &rows, &workers, &self.pool.labels, names))
    }

    /// Queued jobs that a device could start. They may stand behind many that a quota holds.
    async fn startable(&self) -> Result<u32, CommandError> {
        let mut request = v1::ListJobsRequest {
            states: vec![v1::JobState::Queued.into()],
            page_size: PAGE_SIZE,
            ..Default::default()
        };
        let mut found = 0;
        for _ in 0..PAGES_MAX {
            let page = rpc!(self.client, jobs.list_jobs, "JobService/ListJobs", request.clone())?;
            found += facts::startable(&page.jobs, &self.pool.labels);
            if found >= JOBS_MAX || page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        Ok(found)
    }

    async fn workers(&self) -> Result<Vec<v1::Worker>, CommandError> {
        let request = v1::ListWorkersRequest {};
        Ok(rpc!(self.client, fleet.list_workers, "FleetService/ListWorkers", request)?.workers)
    }

    async fn cancel(&self, plan: &Plan) -> Result<(), CommandError> {
        if plan.cancel.is_empty() {
            return Ok(());
        }
        // A worker that was idle may have got a job while the plan was made.
        let rows = self.pool.list().await?;
        let now = facts::gather(0, &rows, &self.workers().await?, &self.pool.labels, &mut BTreeSet::new());
        let is_busy = |phase| matches!(phase, plan::Phase::Ready { jobs: 1.., .. });
        let busy: BTreeSet<&str> = now
            .allocations
            .iter()
            .filter(|allocation| is_busy(allocation.phase))
            .map(|allocation| allocation.id.as_str())
            .collect();
        for (id, why) in plan.cancel.iter().filter(|(id, _)| !busy.contains(id.as_str())) {
            let done = match why {
                Why::NotNeeded => self.pool.cancel_pending(id).await,
                Why::Idle => self.pool.end(id).await,
                Why::NeverCame => self.pool.kill(id).await,
            };
            match done {
                Ok(()) => self.say("cancelled", vec![id.clone()], self.words(*why))?,
                Err(error) => self.say("failed", vec![id.clone()], error.to_string())?,
            }
        }
        Ok(())
    }

    async fn submit(&self, plan: &Plan, facts: &Facts, memory: &mut Memory) -> Result<(), CommandError> {
        if plan.submit == 0 {
            return Ok(());
        }
        match self.pool.submit(plan.submit).await {
            Ok(ids) => {
                memory.submitted(&ids);
                self.say("submitted", ids, reason(facts))
            }
            Err(error) => {
                let pause = memory.failed(&self.policy, self.begin.elapsed());
                let why = format!("{error}; the next try is in {}", humantime::format_duration(pause));
                self.say("failed", Vec::new(), why)
            }
        }
    }

    fn words(&self, why: Why) -> String {
        match why {
            Why::NotNeeded => "too few jobs wait for it".to_owned(),
            Why::Idle => format!("no job for {}", humantime::format_duration(self.policy.idle_limit)),
            Why::NeverCame => {
                format!("no worker came within {}", humantime::format_duration(self.policy.start_limit))
            }
        }
    }

    fn say_plan(&self, plan: &Plan, facts: &Facts) -> Result<(), CommandError> {
        for (id, why) in &plan.cancel {
            self.say("would cancel", vec![id.clone()], self.words(*why))?;
        }
        let would = format!("would submit {}; {}", plan.submit, reason(facts));
        self.say("dry run", Vec::new(), would)
    }

    fn say(&self, what: &'static str, allocations: Vec<String>, why: String) -> Result<(), CommandError> {
        let change = Change { time: Utc::now(), what, allocations, why };
        output::line(&match self.format {
            Format::Table => text(&change),
            Format::Json => output::json_line(&change)?,
            Format::Yaml => format!("---\n{}", output::yaml(&change)?.trim_end()),
        })
    }
}

fn reason(facts: &Facts) -> String {
    format!("jobs waiting: {}, allocations before: {}", facts.waiting, facts.allocations.len())
}

fn text(change: &Change) -> String {
    let time = change.time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let ids = change.allocations.join(" ");
    let space = if ids.is_empty() { "" } else { " " };
    format!("{time} {}{space}{ids}: {}", change.what, change.why)
}

impl From<SlurmError> for CommandError {
    fn from(error: SlurmError) -> Self {
        CommandError::Failed(error.to_string())
    }
}
