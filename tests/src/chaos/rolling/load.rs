//! What goes on meanwhile: workers that work, clients that submit, list and watch, commands.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use cakes_proto::v1::job_service_client::JobServiceClient;
use cakes_proto::v1::report_entry::Entry;
use cakes_proto::v1::{self, JobState};
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Response, Status};
use uuid::Uuid;

use super::super::work::{Client, Clients};
use crate::fake::{Attempt, FakeWorker, NoOp, Servers, connect, step_report};

/// Between two calls of one client.
const PAUSE: Duration = Duration::from_millis(150);
/// Between two connections of one visitor; all of them stay below what one address may open.
const VISIT_INTERVAL: Duration = Duration::from_millis(25);
/// Between two reports of a short job, and how many it has.
const STEP: Duration = Duration::from_millis(100);
const STEPS: u64 = 3;
/// For the first job to be submitted.
const FIRST_JOB_LIMIT: Duration = Duration::from_secs(30);

/// That somebody is to come to an end. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_told(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What became of calls. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    calls: AtomicU64,
    streams: AtomicU64,
    resumed: AtomicU64,
    commands: AtomicU64,
    visits: AtomicU64,
    /// Answers after which a call was repeated, by what they said.
    repeated: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::Relaxed)
    }

    pub fn streams(&self) -> u64 {
        self.0.streams.load(Ordering::Relaxed)
    }

    pub fn resumed(&self) -> u64 {
        self.0.resumed.load(Ordering::Relaxed)
    }

    pub fn commands(&self) -> u64 {
        self.0.commands.load(Ordering::Relaxed)
    }

    pub fn visits(&self) -> u64 {
        self.0.visits.load(Ordering::Relaxed)
    }

    /// Answers after which a call was repeated, by what they said.
    pub fn repeated(&self) -> BTreeMap<String, u64> {
        self.0.repeated.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn repeats(&self, status: &Status) {
        let mut repeated = self.0.repeated.lock().unwrap_or_else(PoisonError::into_inner);
        *repeated.entry(format!("{:?}: {}", status.code(), status.message())).or_default() += 1;
    }

    /// A call that is repeated while its outcome is unknown.
    async fn persist<T, F>(&self, client: &Client, call: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let counted = |channel| {
            let calling = call(channel);
            async { calling.await.inspect_err(|status| self.repeats(status)) }
        };
        client.persist(counted).await
    }
}

/// Takes jobs and does them, until there are no more behind the stop.
///
/// # Errors
/// A call is refused.
pub async fn work(worker: FakeWorker, stop: Stop) -> Result<()> {
    loop {
        let Some(mut attempt) = worker.acquire().await? else {
            if stop.is_told() {
                return Ok(());
            }
            tokio::time::sleep(STEP).await;
            continue;
        };
        let outcome = NoOp::of_json(&attempt.trainer_job_json)?;
        worker.start(&attempt).await?;
        for step in 1..=STEPS {
            tokio::time::sleep(STEP).await;
            let (entries, progress) = step_report(step.min(outcome.step_count), outcome.step_count);
            worker.report(&mut attempt, entries, progress).await?;
        }
        worker.commit(&mut attempt, outcome.step_count).await?;
        worker.complete(&attempt, &outcome).await?;
    }
}

/// Takes one job, tells which, and holds it until told to end: its lease has to be renewed over
/// everything that happens. Writes a line of log with every report; how many.
///
/// # Errors
/// A call is refused, or there is no job.
pub async fn hold(worker: FakeWorker, took: oneshot::Sender<String>, stop: Stop) -> Result<u64> {
    let mut attempt = first(&worker).await?;
    worker.start(&attempt).await?;
    let _ = took.send(attempt.token.job_id.clone());
    let outcome = NoOp::of_json(&attempt.trainer_job_json)?;
    let mut lines = 0;
    let mut interval = tokio::time::interval(worker.report_interval());
    while !stop.is_told() {
        interval.tick().await;
        lines += 1;
        let text = format!("line {lines}");
        let log = v1::LogLine { time: Some(chrono::Utc::now().into()), text, ..v1::LogLine::default() };
        let (_, progress) = step_report(1, outcome.step_count);
        worker.report(&mut attempt, vec![Entry::Log(log)], progress).await?;
    }
    let (entries, progress) = step_report(outcome.step_count, outcome.step_count);
    worker.report(&mut attempt, entries, progress).await?;
    worker.commit(&mut attempt, outcome.step_count).await?;
    worker.complete(&attempt, &outcome).await?;
    Ok(lines)
}

async fn first(worker: &FakeWorker) -> Result<Attempt> {
    let began = Instant::now();
    loop {
        if let Some(attempt) = worker.acquire().await? {
            return Ok(attempt);
        }
        ensure!(began.elapsed() < FIRST_JOB_LIMIT, "there is no job to hold");
        tokio::time::sleep(STEP).await;
    }
}

/// Submits jobs until told to stop; the ids that were acknowledged.
///
/// # Errors
/// A call is refused, or a repetition gets another job.
pub async fn submit(clients: Arc<Clients>, tally: Tally, stop: Stop) -> Result<Vec<Uuid>> {
    let mut ids = Vec::new();
    while !stop.is_told() {
        let request = clients.small_request()?;
        let call = |channel| {
            let request = request.clone();
            async move { JobServiceClient::new(channel).submit_retrain(request).await }
        };
        let id = tally.persist(&clients.client, call).await.context("submit a job")?.id;
        let again = tally.persist(&clients.client, call).await.context("submit a job again")?.id;
        ensure!(id == again, "{} is {id} and {again}", request.request_id);
        ids.push(id.parse().context("a job's id is no UUID")?);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(ids)
}

/// Lists jobs and reads one of them until told to stop.
///
/// # Errors
/// A call is refused.
pub async fn list(client: Client, tally: Tally, stop: Stop) -> Result<()> {
    while !stop.is_told() {
        let call = |channel| async move {
            let request = v1::ListJobsRequest { page_size: 10, ..v1::ListJobsRequest::default() };
            JobServiceClient::new(channel).list_jobs(request).await
        };
        let listed = tally.persist(&client, call).await.context("list jobs")?;
        if let Some(job) = listed.jobs.first() {
            let call = |channel| {
                let request = v1::GetJobRequest { id: job.id.clone(), ..v1::GetJobRequest::default() };
                async move { JobServiceClient::new(channel).get_job(request).await }
            };
            tally.persist(&client, call).await.context("read a job")?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Follows a job to its end; where the stream breaks, another one goes on behind the last message.
///
/// # Errors
/// The stream is refused, ends early, sends something twice or goes back.
pub async fn watch(servers: Servers, tally: Tally, id: String) -> Result<()> {
    let mut seen = v1::Job::default();
    loop {
        let (server, channel) = servers.current();
        let request = v1::WatchJobRequest { id: id.clone(), resume_token: seen.resume_token.clone() };
        let status = match JobServiceClient::new(channel).watch_job(request).await {
            Err(status) => status,
            Ok(stream) => {
                tally.0.streams.fetch_add(1, Ordering::Relaxed);
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(job)) => {
                            ensure!(job.resume_token != seen.resume_token, "{id} is sent twice");
                            let step = |job: &v1::Job| job.progress.as_ref().map_or(0, |found| found.step);
                            ensure!(
                                job.attempt_count >= seen.attempt_count && step(&job) >= step(&seen),
                                "{id} goes back"
                            );
                            if job.end_time.is_some() {
                                ensure!(job.state() == JobState::Succeeded, "{id}: {job:?}");
                                return Ok(());
                            }
                            seen = job;
                        }
                        Ok(None) => bail!("the stream of {id} ended before the job"),
                        Err(status) => break status,
                    }
                }
            }
        };
        ensure!(is_interruption(&status), "the stream of {id} ended with {status:?}");
        tally.repeats(&status);
        tally.0.resumed.fetch_add(1, Ordering::Relaxed);
        servers.leave(server);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether it says that a coordinator went away, as the commands judge it.
pub fn is_interruption(status: &Status) -> bool {
    is_interruption_text(&format!("{:?}: {}", status.code(), status.message()))
}

/// The same of what a [`Tally`] keeps.
pub fn is_interruption_text(said: &str) -> bool {
    ["Unavailable: ", "Cancelled: ", "Unknown: "].iter().any(|code| said.starts_with(code))
        || said.starts_with("Internal: h2 protocol error")
}

/// Runs short commands one after the other until told to stop. None of them tries twice.
///
/// # Errors
/// One fails.
pub async fn commands(
    command: impl Fn(&[&str]) -> Result<std::process::Command>,
    tally: Tally,
    stop: Stop,
) -> Result<()> {
    while !stop.is_told() {
        for arguments in [&["job", "list", "--limit", "5"][..], &["worker", "list"], &["project", "list"]] {
            let said = run(command(arguments)?).await?;
            ensure!(said.status.success(), "cakes {}: {said:?}", arguments.join(" "));
            tally.0.commands.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Comes over a connection of its own for each call, many times a second, until told to stop:
/// in whatever moment nobody is taken, somebody comes. None of the calls is repeated.
///
/// # Errors
/// A call fails.
pub async fn visit(url: String, tally: Tally, stop: Stop) -> Result<()> {
    while !stop.is_told() {
        let mut fleet = FleetServiceClient::new(connect(&url)?);
        fleet
            .list_projects(v1::ListProjectsRequest {})
            .await
            .context("a call over a connection of its own")?;
        tally.0.visits.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(VISIT_INTERVAL).await;
    }
    Ok(())
}

/// Runs a command to its end, without blocking this thread.
///
/// # Errors
/// It cannot be started.
pub async fn run(command: std::process::Command) -> Result<std::process::Output> {
    let mut command = tokio::process::Command::from(command);
    Ok(command.stdin(Stdio::null()).kill_on_drop(true).output().await?)
}
