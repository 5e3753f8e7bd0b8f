//! A search travels as one file from one service to another, and is the same there.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1;
use cakes_tests::cluster::Finished;
use cakes_tests::exhibit::{self, worker};
use cakes_tests::{Cluster, Options, scenario};
use serde_json::Value;
use tokio::process::Command;

const NO_WORKERS: Options =
    Options { workers: &[], lease_ttl: std::time::Duration::from_secs(60), ..Options::DEFAULT };

#[test]
fn a_search_is_the_same_where_it_is_imported() {
    scenario(NO_WORKERS, async |here| {
        let exhibit = exhibit::fill(here).await?;
        let there = &Cluster::start(NO_WORKERS)?;
        travels(here, there, &exhibit.finished).await?;
        snapshot(here, there, &exhibit.running).await
    });
}

async fn json(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let finished = done(cluster, &[arguments, &["-o", "json"]].concat()).await?;
    serde_json::from_str(&finished.stdout).with_context(|| finished.stdout)
}

async fn done(cluster: &Cluster, arguments: &[&str]) -> Result<Finished> {
    let finished = cluster.cakes(arguments).await?;
    ensure!(finished.code == Some(0), "cakes {arguments:?}: {finished:?}");
    Ok(finished)
}

async fn travels(here: &Cluster, there: &Cluster, id: &str) -> Result<()> {
    let file = here.folder().join("search.zip").display().to_string();
    done(here, &["search", "export", id, "--out", &file]).await?;
    documented_script(here.folder()).await?;
    let imported = json(there, &["search", "import", &file]).await?;
    ensure!(imported["is_new"] == true, "{imported}");
    let again = json(there, &["search", "import", &file]).await?;
    ensure!(again["is_new"].as_bool() != Some(true), "{again}");

    for command in [&["search", "front", id], &["search", "latency", id], &["search", "compare", id, id][..]]
    {
        same(here, there, command).await?;
    }
    let (mut before, mut after) =
        (json(here, &["search", "get", id]).await?, json(there, &["search", "get", id]).await?);
    ensure!(before["imported"].is_null() && after["imported"]["source"].is_string(), "{after}");
    forget_where_recorded(&mut before);
    forget_where_recorded(&mut after);
    ensure!(before == after, "{before:#}\n{after:#}");
    let jobs = before["jobs"].as_array().context("jobs")?;
    ensure!(jobs.len() > 10, "{}", jobs.len());
    ensure!(after["labels"]["owner"] == "ada" && after["notes"][0]["author"] == "ada", "{after:#}");
    let last = jobs.last().context("a job")?;
    let shown = json(there, &["job", "get", last["id"].as_str().context("an id")?]).await?;
    ensure!(shown["labels"]["keep"] == "" && shown["notes"][0]["author"] == "bob", "{shown:#}");
    for job in jobs.iter().rev().take(4) {
        let id = job["id"].as_str().context("an id")?;
        same(here, there, &["job", "get", id]).await?;
        let request = || v1::ListMetricsRequest { id: id.to_owned(), ..Default::default() };
        let curves = here.api()?.jobs().list_metrics(request()).await?.into_inner();
        ensure!(!curves.curves.is_empty());
        ensure!(curves == there.api()?.jobs().list_metrics(request()).await?.into_inner());
    }
    let request = || v1::GetArchitectureRequest {
        digest: last["architecture_digest"].as_str().unwrap_or_default().to_owned(),
    };
    let mut before = here.api()?.architectures().get_architecture(request()).await?.into_inner();
    let after = there.api()?.architectures().get_architecture(request()).await?.into_inner();
    ensure!(after.cost.is_some() && after.notes.iter().any(|note| note.author == "cleo"), "{after:?}");
    before.create_time = after.create_time;
    ensure!(before == after, "{before:?}\n{after:?}");
    let listed = done(there, &["search", "list"]).await?.stdout;
    ensure!(listed.contains("(imported)"), "{listed}");

    let back = there.folder().join("again.zip").display().to_string();
    done(there, &["search", "export", id, "--out", &back]).await?;
    let home = json(here, &["search", "import", &back]).await?;
    ensure!(home["is_new"].as_bool() != Some(true), "the same content, where it was made: {home}");
    only_read(there, id, jobs).await
}

/// What the documents say of how to read the file without cakes.
async fn documented_script(folder: &Path) -> Result<()> {
    let document = include_str!("../../docs/exchange.md");
    let script = document.split_once("```python\n").and_then(|(_, rest)| rest.split_once("```"));
    let (script, _) = script.context("no script in docs/exchange.md")?;
    let output = Command::new("python3").args(["-c", script]).current_dir(folder).output().await?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && out.contains("points of training losses"), "{error}{out}");
    ensure!(out.contains("supernet ") && out.contains("budget 0.45"), "{out}");
    Ok(())
}

async fn same(here: &Cluster, there: &Cluster, command: &[&str]) -> Result<()> {
    let (mut before, mut after) = (json(here, command).await?, json(there, command).await?);
    // An architecture is one row for all searches, made when it was first seen there, and an
    // import is marked as one.
    forget_where_recorded(&mut before);
    forget_where_recorded(&mut after);
    ensure!(before == after, "cakes {command:?}:\n{before:#}\n{after:#}");
    Ok(())
}

fn forget_where_recorded(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("imported");
            if fields.contains_key("digest") {
                fields.remove("create_time");
            }
            fields.values_mut().for_each(forget_where_recorded);
        }
        Value::Array(values) => values.iter_mut().for_each(forget_where_recorded),
        _ => {}
    }
}

/// Its weights are not here, and nobody trains it.
async fn only_read(there: &Cluster, id: &str, jobs: &[Value]) -> Result<()> {
    let job = jobs.last().and_then(|job| job["id"].as_str()).context("a job")?;
    let digest = jobs.last().and_then(|job| job["architecture_digest"].as_str()).context("a digest")?;
    let out = there.folder().join("net").display().to_string();
    let refused: [&[&str]; 4] = [
        &["search", "cancel", id],
        &["search", "derive", id, "--budget", "0.35"],
        &["job", "retry", job],
        &["arch", "export", digest, "--format", "onnx", "--weights", job, "--out", &out],
    ];
    for command in refused {
        let finished = there.cakes(command).await?;
        ensure!(
            finished.code == Some(4) && finished.stderr.contains("imported"),
            "{command:?}: {finished:?}"
        );
    }
    ensure!(worker(there, "idle").await?.acquire().await?.is_none(), "a job of elsewhere was offered");
    Ok(())
}

async fn snapshot(here: &Cluster, there: &Cluster, id: &str) -> Result<()> {
    let file = here.folder().join("running.zip").display().to_string();
    done(here, &["search", "export", id, "--out", &file]).await?;
    let imported = json(there, &["search", "import", &file]).await?;
    ensure!(imported["search"]["imported"]["is_snapshot"] == true, "{imported:#}");
    ensure!(imported["search"]["state"] == "SEARCH_STATE_CANCELLED", "{imported:#}");
    let shown = done(there, &["search", "get", id]).await?.stdout;
    ensure!(shown.contains("imported snapshot from"), "{shown}");
    Ok(())
}
