//! Workers that a real Slurm places: a controller and two nodes on this machine.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cakes_proto::v1::{CancelSearchRequest, JobKind, ListWorkersRequest, Search, SearchState, WorkerState};
use cakes_tests::api::can_be_interrupted;
use cakes_tests::daemon::Daemon;
use cakes_tests::search::{LONG, Length, SHORT, tiny};
use cakes_tests::slurm::Slurm;
use cakes_tests::{Api, Cluster, Options, binaries, scenario, until};
use nix::sys::signal::Signal;
use serde_json::json;

const WITHIN: Duration = Duration::from_secs(120);

/// Nobody but Slurm starts workers.
const OPTIONS: Options = Options { workers: &[], ..Options::DEFAULT };

#[test]
fn a_search_of_ten_jobs_brings_workers_and_lets_them_go() {
    scenario(OPTIONS, async |cluster| {
        let slurm = Slurm::start(cluster.folder(), &["n1", "n2"])?;
        let api = cluster.api()?;
        let mut autoscaler = autoscaler(cluster, &slurm, "2", "3s")?;
        let some = Length { epochs: 8, checkpoint_every_epochs: 4, ..LONG };
        let mut file = tiny("ten", SHORT, some);
        file["search"]["budgets"] = json!([0.4, 0.7]);
        file["search"]["baselines"] = json!(["c3d"]);
        file["search"]["retrain"]["seeds"] = json!([0, 1, 2]);
        let search = api.submit(&file).await?.search.context("no search")?;
        let both = until("both nodes have a worker at once", WITHIN, async || {
            let names = ready_workers(&api).await?;
            Ok((names == ["n1", "n2"]).then_some(()))
        });
        told(cluster, both.await)?;
        let workers = api.fleet().list_workers(ListWorkersRequest {}).await?.into_inner().workers;
        let are_labelled =
            workers.iter().all(|worker| worker.labels.get("site").is_some_and(|site| site == "basel"));
        ensure!(are_labelled, "the labels of the pool are not those of its workers: {workers:?}");
        let ended = told(cluster, api.until_ended(&search.id, SearchState::Succeeded).await)?;
        ensure!(ended.jobs.len() == 10 && workers_of(&ended) == ["n1", "n2"], "{ended:#?}");
        let gone = until("the workers leave with the queue", WITHIN, async || {
            Ok(allocations(&slurm)?.iter().all(|(_, state)| is_over(state)).then_some(()))
        });
        told(cluster, gone.await)?;
        for (id, state) in allocations(&slurm)? {
            // Each was told to end and did so by itself, or had not begun.
            ensure!(state == "COMPLETED" || state == "CANCELLED", "{id}: {state}");
        }
        let said = fs::read_to_string(cluster.folder().join("autoscaler.log"))?;
        ensure!(said.contains("submitted") && said.contains("no job for 3s"), "{said}");
        autoscaler.stop(Signal::SIGINT, WITHIN)?;
        slurm.stop()
    });
}

#[test]
fn a_time_limit_in_the_middle_of_a_job_costs_no_step_that_was_seen() {
    scenario(OPTIONS, async |cluster| {
        let slurm = Slurm::start(cluster.folder(), &["n1", "n2"])?;
        let api = cluster.api()?;
        let script = script();
        let words = ["worker", "autoscale", "--script", &script, "--max", "8", "--once", "--dry-run"];
        let mut dry = in_slurm(cluster, &slurm, cluster.cakes_command(&words)?)?;
        let said = String::from_utf8(dry.output()?.stdout)?;
        ensure!(said.contains("would submit 0; jobs waiting: 0, allocations before: 0"), "{said}");
        two_on_one_node(cluster, &slurm, &api).await?;

        let mut first = autoscaler(cluster, &slurm, "4", "60s")?;
        let long = Length { epochs: 2000, ..LONG };
        let mut file = tiny("limited", long, SHORT);
        // Baselines would be queued beside the supernet.
        file["search"]["baselines"] = json!([]);
        let search = api.submit(&file).await?.search.context("no search")?;
        let submitted = until("an allocation is submitted", WITHIN, async || {
            Ok(of_pool(&slurm)?.into_iter().find(|(_, state)| !is_over(state)))
        });
        let (allocation, _) = told(cluster, submitted.await)?;
        let began = Instant::now();
        // One that starts anew in the middle submits nothing twice.
        first.signal(Signal::SIGKILL)?;
        first.wait(WITHIN)?;
        let mut second = autoscaler(cluster, &slurm, "4", "60s")?;
        let seen = api.until_job(&search.id, "the supernet has a checkpoint", can_be_interrupted).await;
        let seen = told(cluster, seen)?;
        let reached = seen.progress.as_ref().map_or(0, |progress| progress.step);
        ensure!(of_pool(&slurm)?.len() == 1, "{:?}", of_pool(&slurm)?);

        // Within the five minutes of the script's signal, which Slurm sends when it looks next.
        let limit = began.elapsed().as_secs() / 60 + 4;
        slurm.tell("scontrol", &["update", &format!("JobId={allocation}"), &format!("TimeLimit={limit}")])?;
        let taken = until("the job goes on in another allocation", WITHIN, async || {
            let attempts = api.explain(&seen.id).await?.attempts;
            Ok((attempts.len() > 1 && attempts[1].start_time.is_some()).then_some(attempts))
        });
        let attempts = told(cluster, taken.await)?;
        ensure!(attempts[1].resume_step >= reached, "seen at {reached}: {attempts:#?}");
        let states = of_pool(&slurm)?;
        let ended = states.iter().find(|(id, _)| *id == allocation).map(|(_, state)| state.as_str());
        ensure!(states.len() == 2 && matches!(ended, Some("COMPLETED" | "COMPLETING")), "{states:?}");

        let request = CancelSearchRequest {
            id: search.id,
            reason: "seen enough".to_owned(),
            ..CancelSearchRequest::default()
        };
        api.searches().cancel_search(request).await?;
        second.stop(Signal::SIGINT, WITHIN)?;
        end_all(&slurm)?;
        slurm.stop()
    });
}

/// By hand, as an array: two workers of one node have two names.
async fn two_on_one_node(cluster: &Cluster, slurm: &Slurm, api: &Api) -> Result<()> {
    let mut command = in_slurm(cluster, slurm, cluster.command("cakes", &[])?)?;
    let mut sbatch = Command::new("sbatch");
    for (name, value) in command.get_envs() {
        sbatch.env(name, value.unwrap_or_default());
    }
    sbatch.current_dir(cluster.folder()).args(["--array=0-1", "--nodelist=n1"]).arg(script());
    command = sbatch;
    ensure!(command.status()?.success(), "sbatch fails");
    let both = until("both tasks have a worker", WITHIN, async || {
        Ok((ready_workers(api).await? == ["n1", "n1-2"]).then_some(()))
    });
    told(cluster, both.await)?;
    end_all(slurm)?;
    until("both workers have gone", WITHIN, async || Ok(ready_workers(api).await?.is_empty().then_some(())))
        .await
}

fn script() -> String {
    format!("{}/../deploy/slurm/worker.sbatch", env!("CARGO_MANIFEST_DIR"))
}

/// What a worker's batch script and the autoscaler need to know.
fn in_slurm(cluster: &Cluster, slurm: &Slurm, mut command: Command) -> Result<Command> {
    fs::create_dir_all(cluster.data_root())?;
    command.env("SLURM_CONF", slurm.config()).env("CAKES_SERVER", cluster.url());
    command.env("CAKES_BIN", binaries::folder()?).env("CAKES_SCRATCH", cluster.folder().join("scratch"));
    command.env("CAKES_DATA_ROOT", cluster.data_root()).env("CAKES_DRAIN", "30s");
    Ok(command)
}

fn autoscaler(cluster: &Cluster, slurm: &Slurm, max: &str, idle: &str) -> Result<Daemon> {
    let script = script();
    let words = ["worker", "autoscale", "--script", &script, "--pool", "test", "--max", max];
    let labels = ["--labels", "site=basel"];
    // Each has its node for itself.
    let pace = ["--idle", idle, "--start-limit", "2m", "--interval", "0.5", "--", "--exclusive"];
    let mut command =
        in_slurm(cluster, slurm, cluster.cakes_command(&[&words[..], &labels[..], &pace[..]].concat())?)?;
    Daemon::start("autoscaler", &mut command, &cluster.folder().join("autoscaler.log"))
}

/// Workers that take jobs, by name.
async fn ready_workers(api: &Api) -> Result<Vec<String>> {
    let listed = api.fleet().list_workers(ListWorkersRequest {}).await?.into_inner().workers;
    let ready = listed.into_iter().filter(|worker| worker.state() == WorkerState::Ready);
    Ok(ready.map(|worker| worker.id).collect())
}

fn workers_of(search: &Search) -> Vec<&str> {
    let jobs = search.jobs.iter().filter(|job| job.kind() == JobKind::Retrain);
    let mut names: Vec<&str> = jobs.map(|job| job.worker_id.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Allocations that Slurm remembers, with their states.
fn allocations(slurm: &Slurm) -> Result<Vec<(String, String)>> {
    listed(slurm, &[])
}

/// Those of the autoscaler.
fn of_pool(slurm: &Slurm) -> Result<Vec<(String, String)>> {
    listed(slurm, &["--name=cakes-test"])
}

fn listed(slurm: &Slurm, more: &[&str]) -> Result<Vec<(String, String)>> {
    let words = ["--array", "--noheader", "--states=all", "--format=%i %T"];
    let text = slurm.tell("squeue", &[&words[..], more].concat())?;
    text.lines()
        .map(|line| {
            let (id, state) = line.trim().split_once(' ').context("squeue shows something else")?;
            Ok((id.to_owned(), state.to_owned()))
        })
        .collect()
}

fn is_over(state: &str) -> bool {
    !["PENDING", "CONFIGURING", "RUNNING", "COMPLETING"].contains(&state)
}

/// Lets all workers hand back what they have.
fn end_all(slurm: &Slurm) -> Result<()> {
    for (id, state) in allocations(slurm)? {
        if state == "RUNNING" {
            slurm.tell("scancel", &["--signal=TERM", "--batch", &id])?;
        } else if state == "PENDING" {
            slurm.tell("scancel", &[&id])?;
        }
    }
    Ok(())
}

/// What the autoscaler and the workers said stands beside a failure.
fn told<T>(cluster: &Cluster, outcome: Result<T>) -> Result<T> {
    let Err(error) = outcome else { return outcome };
    let mut said = String::new();
    for entry in fs::read_dir(cluster.folder())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("autoscaler") || name.starts_with("cakes-worker") {
            said += &format!("--- {name}\n{}", fs::read_to_string(entry.path()).unwrap_or_default());
        }
    }
    bail!("{error:?}\n{said}")
}
