//! Every example in the help of `cakes`, and of the commands of `cakes-coordinator`, run
//! against a real service.
//!
//! Ids, digests, files and names of the examples are replaced by some that exist. What
//! changes a job is tried on one that waits, in an order in which each can be done.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cakes_proto::v1::{JobKind, JobState, SearchState};
use cakes_tests::search::{LONG, SHORT, tiny};
use cakes_tests::{Cluster, Options, examples, scenario};

#[test]
fn every_example_of_the_help_does_what_it_says() {
    scenario(Options { workers: &["gpu-01"], ..Options::default() }, async |cluster| whole(cluster).await);
}

#[test]
fn every_example_of_the_coordinators_commands_does_what_it_says() {
    scenario(Options { workers: &[], ..Options::default() }, async |cluster| {
        let mut failures = Vec::new();
        for example in examples::of(cluster, "cakes-coordinator").await? {
            // Without a verb it serves.
            let verb = example.split_whitespace().nth(1).filter(|word| !word.starts_with('-'));
            if verb.is_some() {
                failures.extend(administer(cluster, &example).await.err());
            }
        }
        let failures: Vec<String> = failures.iter().map(|error| format!("{error:#}")).collect();
        ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
        Ok(())
    });
}

/// Beside the coordinator that runs.
async fn administer(cluster: &Cluster, example: &str) -> Result<()> {
    let line = example.replace("deploy/examples", &deployed_examples());
    let words = own_words(&line)?;
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let mut command = tokio::process::Command::from(cluster.command("cakes-coordinator", &words)?);
    command.env("CAKES_DATABASE_URL", cluster.database_url()?).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(120), command.output());
    let output = output.await.with_context(|| format!("{line}: does not end"))??;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{line}\n{}: {error}{out}", output.status);
    // No rows are no lines of JSON.
    let may_be_silent = line.contains("--json");
    ensure!(may_be_silent || !out.trim().is_empty() || !error.trim().is_empty(), "{line}: says nothing");
    Ok(())
}

/// The words before what belongs to the shell and other programs.
fn own_words(line: &str) -> Result<Vec<String>> {
    let words = shlex::split(line).with_context(|| format!("{line}: quotes are not closed"))?;
    Ok(words.into_iter().take_while(|word| ![">", "&&", "|"].contains(&word.as_str())).collect())
}

fn deployed_examples() -> String {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").display().to_string()
}

/// Verbs that change something, in an order in which each finds what it needs.
const LAST: [&str; 16] = [
    "project set",
    "project grant",
    "project members",
    "project revoke",
    "search submit urgent",
    "job pause",
    "job resume",
    "job cancel",
    "job retry",
    "search cancel",
    "worker cordon",
    "worker drain",
    "worker uncordon",
    "webhook remove",
    "context use",
    "context remove",
];

/// The first needs no service, and its own tests give it data sets of every kind; the second
/// needs Slurm, which tests/slurm.rs has.
const ELSEWHERE: [&str; 2] = ["cakes dataset", "cakes worker autoscale"];

/// What takes longer than an example may, or never ends by itself.
const ENDLESS: [&str; 2] = ["--watch", "cakes top"];

struct Names {
    /// A search that has succeeded, with its front.
    search: String,
    /// One of its retrainings.
    job: String,
    /// Step of its checkpoint.
    step: String,
    digest: String,
    /// A search whose job waits.
    open_search: String,
    waiting_job: String,
    webhook: String,
}

async fn whole(cluster: &Cluster) -> Result<()> {
    let mut names = fill(cluster).await?;
    let mut examples = examples::of(cluster, "cakes").await?;
    examples.retain(|example| !ELSEWHERE.iter().any(|other| example.starts_with(other)));
    ensure!(examples.len() > 40, "{examples:#?}");
    let rank = |example: &String| LAST.iter().position(|verb| example.starts_with(&format!("cakes {verb}")));
    let (mut changing, harmless): (Vec<_>, Vec<_>) =
        examples.into_iter().partition(|example| rank(example).is_some());
    changing.sort_by_key(rank);
    let mut failures = Vec::new();
    for example in &harmless {
        failures.extend(run(cluster, example, &names).await.err());
    }
    leave_one_waiting(cluster, &mut names).await?;
    for example in &changing {
        failures.extend(run(cluster, example, &names).await.err());
    }
    let failures: Vec<String> = failures.iter().map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

/// A search with its front, and the files that examples name.
async fn fill(cluster: &Cluster) -> Result<Names> {
    let api = cluster.api()?;
    let mut described = tiny("done", SHORT, SHORT);
    // Wide enough for counts that are multiples of 8.
    described["search"]["backbone"]["encoder_decoder"]["base_width"] = 8.into();
    std::fs::write(cluster.folder().join("search.json"), described.to_string())?;
    // JSON is YAML too.
    std::fs::write(cluster.folder().join("search.yaml"), described.to_string())?;
    let urgent = tiny("urgent", LONG, LONG);
    std::fs::write(cluster.folder().join("urgent.yaml"), urgent.to_string())?;
    let done = api.submit(&described).await?.search.context("no search")?;
    let done = api.until_ended(&done.id, SearchState::Succeeded).await?;
    let job = done.jobs.iter().find(|job| job.kind() == JobKind::Retrain).context("no retraining")?;

    let digest = job.architecture_digest.clone();
    let architecture = cluster.cakes(&["arch", "get", &digest, "-o", "json"]).await?;
    std::fs::write(cluster.folder().join("net.json"), architecture.stdout)?;
    let checkpoints = cluster.cakes(&["job", "checkpoints", &job.id, "-o", "json"]).await?;
    let checkpoints: serde_json::Value = serde_json::from_str(&checkpoints.stdout)?;
    let step = &checkpoints["checkpoints"][0]["step"];
    let step = step.as_str().map_or_else(|| step.to_string(), str::to_owned);
    let named = cluster.cakes(&["context", "set", "lab", &cluster.url()]).await?;
    ensure!(named.code == Some(0), "{named:?}");
    // 32 bytes of no value.
    std::fs::write(cluster.folder().join("secret.txt"), "c2VjcmV0cyBvZiB0ZXN0cyBhcmUgMzIgYnl0ZXMuLi4=")?;
    let words = ["--event", "job-failed", "--secret-file", "secret.txt", "-o", "json"];
    let added = cluster.cakes(&[&["webhook", "add", "http://127.0.0.1:9/"], &words[..]].concat()).await?;
    let webhook: serde_json::Value =
        serde_json::from_str(&added.stdout).with_context(|| format!("{added:?}"))?;
    Ok(Names {
        search: done.id.clone(),
        job: job.id.clone(),
        step,
        digest,
        open_search: String::new(),
        waiting_job: String::new(),
        webhook: webhook["id"].as_str().context("no webhook")?.to_owned(),
    })
}

/// A search whose supernet waits, because no worker takes jobs.
async fn leave_one_waiting(cluster: &Cluster, names: &mut Names) -> Result<()> {
    let api = cluster.api()?;
    let cordoned = cluster.cakes(&["worker", "cordon", "gpu-01"]).await?;
    ensure!(cordoned.code == Some(0), "{cordoned:?}");
    let open = api.submit(&tiny("open", LONG, LONG)).await?.search.context("no search")?;
    let open = api.search(&open.id).await?;
    let waiting = open.jobs.first().context("no job")?;
    ensure!(waiting.state() == JobState::Queued, "{waiting:?}");
    names.waiting_job.clone_from(&waiting.id);
    names.open_search = open.id;
    Ok(())
}

/// Words of an example and what stands for them here.
fn replacements(example: &str, names: &Names) -> BTreeMap<&'static str, String> {
    let changes = LAST.iter().any(|verb| example.starts_with(&format!("cakes {verb}")));
    let of_search = example.starts_with("cakes search");
    let id = match (of_search, changes) {
        _ if example.starts_with("cakes webhook") => &names.webhook,
        (true, true) => &names.open_search,
        (true, false) => &names.search,
        (false, true) => &names.waiting_job,
        (false, false) => &names.job,
    };
    BTreeMap::from([
        ("--search 0198f3a2-7c1e", format!("--search {}", names.search)),
        ("--weights 0198f3a2-7c1e", format!("--weights {}", names.job)),
        ("0198f3a2-7c1e", id.clone()),
        ("--step 4000", format!("--step {}", names.step)),
        ("4650aa08568a", names.digest.clone()),
        ("deploy/examples", deployed_examples()),
    ])
}

async fn run(cluster: &Cluster, example: &str, names: &Names) -> Result<()> {
    let mut line = example.to_owned();
    for (word, here) in replacements(example, names) {
        line = replace(&line, word, &here);
    }
    if line.contains("job reproduce") && line.contains("--check") {
        repeat_job(cluster).await?;
    }
    let words = own_words(&line)?;
    let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let is_endless = ENDLESS.iter().any(|text| line.contains(text)) && !line.contains("--once");
    let mut command = tokio::process::Command::from(cluster.cakes_command(&arguments)?);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn()?;
    let pid = child.id().context("it has no process id")?;
    let output = child.wait_with_output();
    tokio::pin!(output);
    let limit = Duration::from_secs(if is_endless { 2 } else { 120 });
    let output = match tokio::time::timeout(limit, &mut output).await {
        Ok(output) => output?,
        Err(_) if is_endless => {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
            tokio::time::timeout(Duration::from_secs(60), output)
                .await
                .context("Ctrl-C does not end it")??
        }
        Err(_) => bail!("{line}: does not end"),
    };
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{line}\n{}: {error}{out}", output.status);
    ensure!(!out.trim().is_empty() || !error.trim().is_empty(), "{line}: says nothing");
    Ok(())
}

/// What the example before has printed: the training again, by the trainer alone.
async fn repeat_job(cluster: &Cluster) -> Result<()> {
    let words = ["run", "again/job.json", "--out", "again/run", "--methods", "again/methods/manifest.json"];
    let mut command = tokio::process::Command::from(cluster.command("cakes-trainer", &words)?);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    ensure!(output.status.success(), "cakes-trainer: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The longer words come first, and a word that is there already is left alone.
fn replace(line: &str, word: &str, here: &str) -> String {
    if line.contains(here) { line.to_owned() } else { line.replace(word, here) }
}
