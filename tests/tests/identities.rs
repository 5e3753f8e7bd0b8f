//! Who may do what, through the real programs: tokens of people and of workers.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_tests::cluster::Finished;
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::{Cluster, Options, scenario, until};
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn people_do_what_their_role_permits_and_workers_are_themselves_alone() {
    let options = Options { workers: &[], coordinator: &["--require-identity=true"], ..Options::default() };
    scenario(options, async |cluster| {
        let vera = issue(cluster, "vera", "viewer").await?;
        let olga = issue(cluster, "olga", "operator").await?;
        let of_a = issue(cluster, "a", "worker").await?;
        refuses_whom_nobody_knows(cluster, &vera, &olga).await?;
        no_worker_is_another(cluster, &of_a, &olga).await?;

        cluster.start_worker_with("a", &["--token-file", path(&of_a)?])?;
        let file = cluster.folder().join("search.json");
        fs::write(&file, tiny("known", SHORT, SHORT).to_string())?;
        let submitted =
            cakes(cluster, &olga, &["search", "submit", path(&file)?, "-o", "json", "-v"]).await?;
        ensure!(submitted.code == Some(0), "{submitted:?}");
        ensure!(submitted.stderr.contains(r#"-H "authorization: Bearer $CAKES_TOKEN""#), "{submitted:?}");
        let search: Value = serde_json::from_str(&submitted.stdout)?;
        let search = search.pointer("/search/id").or(search.pointer("/id")).and_then(Value::as_str);
        let search = search.with_context(|| format!("no id in {}", submitted.stdout))?;
        until("a job of the search has succeeded on the worker a", PATIENCE, async || {
            let shown = cakes(cluster, &vera, &["search", "get", search, "-o", "json"]).await?;
            ensure!(shown.code == Some(0), "{shown:?}");
            Ok(shown.stdout.contains("JOB_STATE_SUCCEEDED").then_some(()))
        })
        .await?;
        let workers = cakes(cluster, &vera, &["worker", "list", "-o", "json"]).await?;
        let workers: Value = serde_json::from_str(&workers.stdout)?;
        ensure!(workers["workers"].as_array().map(Vec::len) == Some(1), "{workers}");
        let cancelled = cakes(cluster, &olga, &["search", "cancel", search]).await?;
        ensure!(cancelled.code == Some(0), "{cancelled:?}");

        renews_its_token(cluster, &of_a).await?;
        cluster.stop_worker("a", Signal::SIGTERM)?;
        says_what_happened(cluster, search, &[&vera, &olga, &of_a]).await
    });
}

/// The file of a new token.
async fn issue(cluster: &Cluster, name: &str, role: &str) -> Result<PathBuf> {
    let file = cluster.folder().join(format!("{name}.token"));
    fs::write(&file, cluster.token(name, role).await?)?;
    Ok(file)
}

async fn cakes(cluster: &Cluster, token: &std::path::Path, arguments: &[&str]) -> Result<Finished> {
    cluster.cakes(&[arguments, &["--token-file", path(token)?]].concat()).await
}

fn path(file: &std::path::Path) -> Result<&str> {
    file.to_str().context("a path that is no text")
}

async fn refuses_whom_nobody_knows(
    cluster: &Cluster,
    vera: &std::path::Path,
    olga: &std::path::Path,
) -> Result<()> {
    let expect = |finished: &Finished, code: i32, parts: &[&str]| -> Result<()> {
        let said = parts.iter().all(|part| finished.stderr.contains(part));
        ensure!(finished.code == Some(code) && said, "{code} {parts:?}: {finished:?}");
        ensure!(!finished.stderr.contains("panicked"), "{finished:?}");
        Ok(())
    };
    let nobody = cluster.cakes(&["job", "list"]).await?;
    expect(&nobody, 4, &["list_jobs", "--token-file", "CAKES_TOKEN", "token issue"])?;
    let refused = cakes(cluster, vera, &["worker", "drain", "a"]).await?;
    expect(&refused, 4, &["'vera'", "viewer", "drain_worker", "operator", "ROLE_REQUIRED"])?;
    let gone = cluster.folder().join("gone.token");
    fs::write(&gone, format!("cakes_{}\n", "ab".repeat(32)))?;
    expect(&cakes(cluster, &gone, &["job", "list"]).await?, 4, &["does not know this token"])?;
    fs::write(&gone, "hunter2")?;
    let broken = cakes(cluster, &gone, &["job", "list"]).await?;
    expect(&broken, 2, &["gone.token holds no token"])?;
    ensure!(!broken.stderr.contains("hunter2"), "{broken:?}");
    // Nobody on the way to another machine may read it.
    let away = cakes(cluster, olga, &["job", "list", "--server", "http://192.0.2.1:7550"]).await?;
    expect(&away, 2, &["192.0.2.1", "unencrypted", "ssh -L"])?;

    // By the environment, and by the context.
    let mut command = cluster.cakes_command(&["job", "list"])?;
    command.env("CAKES_TOKEN", fs::read_to_string(vera)?.trim());
    let by_variable: Finished = tokio::process::Command::from(command).output().await?.into();
    ensure!(by_variable.code == Some(0), "{by_variable:?}");
    let set = cakes(cluster, olga, &["context", "set", "lab", &cluster.url()]).await?;
    ensure!(set.code == Some(0), "{set:?}");
    let mut command = cluster.cakes_command(&["worker", "list"])?;
    command.env_remove("CAKES_SERVER");
    let by_context: Finished = tokio::process::Command::from(command).output().await?.into();
    ensure!(by_context.code == Some(0), "{by_context:?}");
    Ok(())
}

/// Daemons that may not be who they say end, and say why.
async fn no_worker_is_another(
    cluster: &Cluster,
    of_a: &std::path::Path,
    olga: &std::path::Path,
) -> Result<()> {
    let cases: [(&str, Vec<&str>, &str); 3] = [
        ("b", vec!["--token-file", path(of_a)?], "may not speak for the worker 'b'"),
        ("b", vec!["--token-file", path(olga)?], "role worker"),
        ("b", vec![], "--token-file"),
    ];
    for (name, arguments, said) in cases {
        let mut command = tokio::process::Command::from(cluster.worker_command(name, &arguments)?);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ended: Finished =
            tokio::time::timeout(PATIENCE, command.output()).await.context("the worker goes on")??.into();
        ensure!(ended.code == Some(1) && ended.stderr.contains(said), "{said}: {ended:?}");
    }
    Ok(())
}

/// A revoked token is replaced in its file; the daemon goes on without a restart.
async fn renews_its_token(cluster: &Cluster, of_a: &std::path::Path) -> Result<()> {
    let revoked = cluster.administer(&["token", "revoke", "a"]).await?;
    ensure!(revoked.code == Some(0), "{revoked:?}");
    issue(cluster, "a", "worker").await?;
    let log = cluster.folder().join("worker-a.log");
    until("the worker takes the new token", PATIENCE, async || {
        Ok(fs::read_to_string(&log)?.contains("used from now on").then_some(()))
    })
    .await?;
    ensure!(of_a.exists());
    Ok(())
}

async fn says_what_happened(cluster: &Cluster, search: &str, tokens: &[&std::path::Path]) -> Result<()> {
    let listed = cluster.administer(&["audit", "list", "--json"]).await?;
    let rows: Vec<Value> = listed.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let is_there = |name: &str, action: &str, answer: &str| {
        rows.iter().any(|row| {
            row["token_name"] == name
                && row["action"] == action
                && row["answer"] == answer
                && row["via"] == "api"
        })
    };
    for (name, action, answer) in [
        ("olga", "submit_search", "ok"),
        ("olga", "cancel_search", "ok"),
        ("vera", "drain_worker", "FORBIDDEN"),
        ("olga", "register", "FORBIDDEN"),
        ("a", "register", "FORBIDDEN"),
    ] {
        ensure!(is_there(name, action, answer), "{name} {action} {answer} is missing in {}", listed.stdout);
    }
    ensure!(rows.iter().any(|row| row["object"] == search), "{}", listed.stdout);
    let logs = ["coordinator.log", "worker-a.log"].map(|log| fs::read_to_string(cluster.folder().join(log)));
    let [coordinator, worker] = logs;
    for text in [&listed.stdout, &coordinator?, &worker?] {
        for token in tokens {
            let secret = fs::read_to_string(token)?;
            ensure!(!text.contains(&secret.trim()[6..30]), "a token is in a log or a list");
        }
    }
    Ok(())
}
