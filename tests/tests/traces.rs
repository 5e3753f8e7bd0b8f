//! One trace leads from a submission to the steps of its trainings.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cakes_proto::v1::{Job, JobKind, SearchState};
use cakes_tests::api::can_be_interrupted;
use cakes_tests::cluster::Finished;
use cakes_tests::collector::{Collector, Span};
use cakes_tests::search::{LONG, Length, SHORT, tiny};
use cakes_tests::{Cluster, Options, scenario, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const WAIT: Duration = Duration::from_secs(120);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SUBMITTER: &str = "00f067aa0ba902b7";

const SUBMIT: &str = "cakes.v1.SearchService/SubmitSearch";
const COMPLETE: &str = "cakes.v1.WorkerService/Complete";

#[test]
fn a_training_step_belongs_to_the_trace_of_the_submission() {
    let collector = Collector::start().unwrap();
    let url: &'static str = collector.url().leak();
    let coordinator: &'static [&'static str] = vec!["--otlp-endpoint", url].leak();
    scenario(Options { workers: &[], coordinator, ..Options::default() }, async |cluster| {
        submit(cluster, url, SHORT).await?;
        // The submission is known to be exported, so that nothing of it is lost with the process.
        spans_until("the submission is exported", &collector, |spans| {
            [SUBMIT, "plan search", "cakes search submit"]
                .iter()
                .all(|name| spans.iter().any(|span| span.name == *name))
        })
        .await?;
        cluster.kill_coordinator()?;
        cluster.start_coordinator()?;
        cluster.start_worker_with("a", &["--otlp-endpoint", url])?;
        let api = cluster.api()?;
        let id = cluster.sql("select id from search")?;
        let search = api.until_ended(&id, SearchState::Succeeded).await?;
        let jobs = search.jobs.len();
        spans_until("all attempts are exported", &collector, |spans| {
            let count = |wanted: &dyn Fn(&Span) -> bool| spans.iter().filter(|span| wanted(span)).count();
            count(&|span| span.name == "job attempt") == jobs && count(&is_taken) == jobs
        })
        .await?;
        let log = cluster.coordinator_log()?;
        ensure!(log.contains(&format!("trace_id={TRACE}")), "the log names no trace:\n{log}");
        ensure!(
            cluster.worker_log("a")?.contains(&format!("trace_id={TRACE}")),
            "the worker's log names no trace"
        );
        look_at(&collector, jobs)
    });
}

#[test]
fn what_a_trainer_was_within_when_it_was_killed_has_failed() {
    let collector = Collector::start().unwrap();
    let url: &'static str = collector.url().leak();
    let coordinator: &'static [&'static str] = vec!["--otlp-endpoint", url].leak();
    scenario(Options { workers: &[], coordinator, ..Options::default() }, async |cluster| {
        submit(cluster, url, LONG).await?;
        cluster.start_worker_with("a", &["--otlp-endpoint", url])?;
        let api = cluster.api()?;
        let id = cluster.sql("select id from search")?;
        let wanted = |job: &Job| job.kind() == JobKind::Supernet && can_be_interrupted(job);
        let job = api.until_job(&id, "the supernet has a checkpoint", wanted).await?;
        let [trainer] = &cluster.trainers()[..] else { bail!("one trainer: {:?}", cluster.trainers()) };
        kill(Pid::from_raw(trainer.pid), Signal::SIGKILL)?;
        // A job that was killed keeps away from that worker for a while.
        cluster.start_worker_with("b", &["--otlp-endpoint", url])?;
        let is_of_job = |span: &&Span| span.attributes.get("cakes.job.id") == Some(&job.id);
        let named = |spans: &[Span], name: &str| -> Vec<Span> {
            spans.iter().filter(is_of_job).filter(|span| span.name == name).cloned().collect()
        };
        spans_until("the killed attempt and the second wait are exported", &collector, |spans| {
            !named(spans, "job attempt").is_empty() && named(spans, "job queued").len() == 2
        })
        .await?;
        let spans = collector.spans();
        let attempt = named(&spans, "job attempt").remove(0);
        let inside = |of: &Span, name: &str| {
            spans.iter().find(|span| span.parent == of.id && span.name == name && span.has_failed).cloned()
        };
        let trainer = inside(&attempt, "trainer").context("the trainer has not failed")?;
        ensure!(attempt.has_failed && inside(&trainer, "epoch").is_some(), "{attempt:?} {trainer:?}");
        let mut waits = named(&spans, "job queued");
        waits.sort_by_key(|span| span.start_ns);
        ensure!(waits[0].parent == waits[1].parent && waits[1].start_ns >= trainer.end_ns, "{waits:#?}");
        ensure!(attempt.parent == waits[0].id, "{attempt:?} {waits:#?}");
        let cancelled = cluster.cakes(&["search", "cancel", &id]).await?;
        ensure!(cancelled.code == Some(0), "{cancelled:?}");
        api.until_ended(&id, SearchState::Cancelled).await.map(drop)
    });
}

/// With the command, as a program would that has a trace of its own.
async fn submit(cluster: &Cluster, url: &str, length: Length) -> Result<()> {
    let path = cluster.folder().join("search.json");
    std::fs::write(&path, tiny("traced", length, SHORT).to_string())?;
    let mut command = cluster.cakes_command(&["search", "submit", path.to_str().context("path")?])?;
    command.env("TRACEPARENT", format!("00-{TRACE}-{SUBMITTER}-01")).env("TRACESTATE", "lab=7");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", url);
    let mut command = tokio::process::Command::from(command);
    let finished: Finished = command.stdin(Stdio::null()).output().await?.into();
    ensure!(finished.code == Some(0), "{finished:?}");
    let stored =
        cluster.sql("select count(*) from job where traceparent like '00-%' and tracestate = 'lab=7'")?;
    ensure!(stored != "0", "no job knows what it belongs to");
    Ok(())
}

async fn spans_until(what: &str, collector: &Collector, wanted: impl Fn(&[Span]) -> bool) -> Result<()> {
    until(what, WAIT, async || Ok(wanted(&collector.spans()).then_some(()))).await
}

fn look_at(collector: &Collector, jobs: usize) -> Result<()> {
    let spans = collector.spans();
    let of = |name: &str| spans.iter().filter(|span| span.name == name).cloned().collect::<Vec<_>>();
    let within = |name: &str| -> Result<Vec<Vec<Span>>> {
        let found = of(name);
        ensure!(!found.is_empty(), "no {name} among {:?}", names(&spans));
        found.iter().map(|span| collector.ancestors(span)).collect()
    };
    // Workers ask for jobs outside of any trace, and readers have their own.
    let traced: Vec<&Span> = spans.iter().filter(|span| span.trace == TRACE).collect();
    ensure!(spans.iter().filter(|span| span.trace != TRACE).all(|span| span.service == "cakes-coordinator"));

    let submission = [SUBMIT, "cakes search submit"];
    let attempt = ["job attempt", "job queued", "plan search"];
    for (name, inside) in [
        ("training step", &["epoch", "trainer"][..]),
        ("validate", &["epoch", "trainer"]),
        ("epoch", &["trainer"]),
        ("load data", &["trainer"]),
        ("build network", &["trainer"]),
        ("measure latency", &["trainer"]),
        ("save checkpoint", &["trainer"]),
        ("trainer", &[]),
        ("start trainer", &["prepare attempt"]),
        ("upload checkpoint", &[]),
        ("cakes.v1.WorkerService/Start", &[]),
    ] {
        for chain in within(name)? {
            let above: Vec<&str> = chain.iter().skip(1).map(|span| span.name.as_str()).collect();
            // A checkpoint is written while epochs go on, and a server's span stands in its client's.
            let expected: Vec<&str> = inside.iter().chain(&attempt).chain(&submission).copied().collect();
            let in_epoch: Vec<&str> = ["epoch"].iter().chain(&expected).copied().collect();
            let of_client = above.first() == Some(&name);
            let above = if of_client { &above[1..] } else { &above[..] };
            ensure!(
                above == expected || (name == "save checkpoint" && above == in_epoch),
                "{name} is in {above:?}, not in {expected:?}"
            );
            let last = chain.last().context("a chain is never empty")?;
            ensure!(last.parent == SUBMITTER && last.trace == TRACE, "{last:?}");
        }
    }
    for name in ["job queued", "job attempt", "trainer", COMPLETE] {
        let failed: Vec<Span> = of(name).into_iter().filter(|span| span.has_failed).collect();
        ensure!(failed.is_empty(), "{failed:#?}");
    }
    ensure!(of("job queued").len() == jobs && of("trainer").len() == jobs, "{:?}", names(&spans));
    ensure!(of("training step").len() >= 3 * jobs, "the first steps of each training are shown");

    // The supernet's job waited for the worker, which was started after the submission.
    let submitted = of(SUBMIT).first().context("no submission")?.end_ns;
    let queued = of("job queued").into_iter().min_by_key(|span| span.start_ns).context("no queue")?;
    ensure!(queued.start_ns < submitted && queued.end_ns > submitted, "{queued:?} {submitted}");
    for span in &traced {
        ensure!(span.start_ns <= span.end_ns, "{span:?}");
    }
    let call = of(SUBMIT).remove(0);
    let attribute = |name: &str| call.attributes.get(name).map(String::as_str);
    ensure!(
        attribute("rpc.system") == Some("grpc") && attribute("rpc.grpc.status_code") == Some("0"),
        "{call:?}"
    );
    ensure!(attribute("rpc.service") == Some("cakes.v1.SearchService"), "{call:?}");
    ensure!(attribute("rpc.method") == Some("SubmitSearch"), "{call:?}");
    let statement =
        of("INSERT").into_iter().find(|span| span.trace == TRACE).context("no statement is shown")?;
    ensure!(
        statement.attributes.get("db.system.name").map(String::as_str) == Some("postgresql"),
        "{statement:?}"
    );
    let services = ["cakes", "cakes-coordinator", "cakes-worker"];
    ensure!(services.iter().all(|service| traced.iter().any(|span| span.service == *service)));
    Ok(())
}

/// The coordinator's part of a worker's call.
fn is_taken(span: &Span) -> bool {
    span.name == COMPLETE && span.service == "cakes-coordinator"
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}
