//! Bad input through the real programs: a message that names the culprit, the
//! right exit code, nothing half-written.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::WORKER_PROTOCOL;
use cakes_proto::v1::{JobState, ListSearchesRequest, RegisterRequest, SearchState};
use cakes_tests::api::show;
use cakes_tests::cluster::Finished;
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::{Cluster, Options, scenario};
use serde_json::{Value, json};

const ONE_WORKER: &[&str] = &["a"];

#[test]
fn bad_searches_are_refused_with_the_path_of_the_field() {
    let options = Options { workers: &[], ..Options::default() };
    scenario(options, async |cluster| {
        bad_searches(cluster).await?;
        bad_arguments(cluster).await?;
        let listed =
            cluster.api()?.searches().list_searches(ListSearchesRequest::default()).await?.into_inner();
        ensure!(listed.searches.is_empty(), "{listed:#?}");
        Ok(())
    });
}

async fn bad_searches(cluster: &Cluster) -> Result<()> {
    let cases: [(&str, Value, &str); 9] = [
        ("/search/budgts", json!([0.5]), "budgts"),
        ("/search/retrain/training/epochz", json!(3), "epochz"),
        ("/search/budgets", json!([0.0]), "budgets[0]"),
        ("/search/budgets", json!([0.5, -0.25]), "budgets[1]"),
        ("/search/patch/height", json!(15), "patch"),
        ("/search/supernet/training/epochs", json!(0), "supernet.training.epochs"),
        ("/search/retrain/training/warmup_steps", json!(100_000), "retrain.training.warmup_steps"),
        ("/search/backbone/encoder_decoder/classes", json!(3), "backbone.encoder_decoder.classes"),
        ("/search/name", json!("../etc"), "name"),
    ];
    for (index, (pointer, value, named)) in cases.into_iter().enumerate() {
        let mut file = tiny("bad", SHORT, SHORT);
        let (parent, key) = pointer.rsplit_once('/').context("no pointer")?;
        file.pointer_mut(parent).context(pointer)?[key] = value;
        let path = cluster.folder().join(format!("bad-{index}.json"));
        std::fs::write(&path, file.to_string())?;
        let finished = cluster.cakes(&["search", "submit", path.to_str().context("path")?]).await?;
        expect(&finished, 2, named)?;
    }
    Ok(())
}

async fn bad_arguments(cluster: &Cluster) -> Result<()> {
    let garbled = cluster.folder().join("garbled.json");
    std::fs::write(&garbled, "{ \"search\": ")?;
    let empty = cluster.folder().join("empty");
    std::fs::create_dir(&empty)?;
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let cases: [(Vec<String>, i32, &str); 6] = [
        (vec!["search".into(), "submit".into(), text(&garbled)], 2, "garbled.json"),
        (vec!["search".into(), "submit".into(), "missing.json".into()], 2, "missing.json"),
        (vec!["search".into(), "get".into(), "0123456789".into()], 2, "0123456789"),
        (vec!["dataset".into(), "check".into(), text(&empty)], 2, "empty"),
        (vec!["dataset".into(), "check".into(), "nowhere".into()], 2, "nowhere"),
        (
            vec!["--server".into(), "http://127.0.0.1:1".into(), "search".into(), "list".into()],
            1,
            "127.0.0.1:1",
        ),
    ];
    for (arguments, code, named) in cases {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        expect(&cluster.cakes(&arguments).await?, code, named)?;
    }
    Ok(())
}

fn expect(finished: &Finished, code: i32, named: &str) -> Result<()> {
    ensure!(finished.code == Some(code), "expected exit code {code}: {finished:#?}");
    let text = [finished.stdout.as_str(), &finished.stderr].concat();
    ensure!(text.contains(named), "expected '{named}' in {finished:#?}");
    ensure!(!text.contains("panicked"), "{finished:#?}");
    Ok(())
}

#[test]
fn a_data_set_that_a_worker_lacks_fails_the_search_and_is_named() {
    scenario(Options { workers: ONE_WORKER, ..Options::default() }, async |cluster| {
        let mut file = tiny("lost", SHORT, SHORT);
        file["search"]["dataset"] = json!({ "folder": { "path": "Task99_Nowhere" } });
        let path = cluster.folder().join("lost.json");
        std::fs::write(&path, file.to_string())?;
        let finished = cluster.cakes(&["search", "submit", "--wait", path.to_str().context("path")?]).await?;
        expect(&finished, 1, "Task99_Nowhere")?;

        let api = cluster.api()?;
        let listed = api.searches().list_searches(ListSearchesRequest::default()).await?.into_inner();
        let id = &listed.searches.first().context("no search")?.id;
        let search = api.until_ended(id, SearchState::Failed).await?;
        let job = cakes_tests::api::supernet(&search)?;
        // The job is wrong, so one attempt was enough.
        ensure!(job.state() == JobState::Failed && job.attempt_count == 1, "{}", show(&search));
        ensure!(job.state_reason.contains("Task99_Nowhere"), "{}", show(&search));
        Ok(())
    });
}

#[test]
fn a_coordinator_that_cannot_serve_says_why_and_touches_nothing() {
    let options = Options { workers: &[], ..Options::default() };
    scenario(options, async |cluster| {
        let port = cluster.url().rsplit(':').next().unwrap_or_default().to_owned();
        let taken = second_coordinator(cluster, &format!("127.0.0.1:{port}")).await?;
        ensure!(taken.code != Some(0), "{taken:?}");
        expect(&taken, taken.code.unwrap_or(-1), &port)?;

        cluster.sql(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
             values (99991231, 'from the future', true, '\\x00', 0)",
        )?;
        let newer = second_coordinator(cluster, "127.0.0.1:0").await?;
        ensure!(newer.code != Some(0), "{newer:?}");
        expect(&newer, newer.code.unwrap_or(-1), "99991231")?;
        Ok(())
    });
}

async fn second_coordinator(cluster: &Cluster, listen: &str) -> Result<Finished> {
    let mut command = tokio::process::Command::from(cluster.coordinator_command()?);
    command.args(["--listen", listen]).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(20), command.output());
    Ok(output.await.context("the second coordinator goes on")??.into())
}

#[test]
fn a_worker_of_another_protocol_is_refused() {
    let options = Options { workers: &[], ..Options::default() };
    scenario(options, async |cluster| {
        for protocol_version in [0, WORKER_PROTOCOL + 1] {
            let request = RegisterRequest {
                protocol_version,
                worker_id: "old".to_owned(),
                request_id: uuid::Uuid::new_v4().to_string(),
                devices: Vec::new(),
                version: "0.0.0".to_owned(),
                ..Default::default()
            };
            let status = cluster.api()?.worker().register(request).await.err().context("it was accepted")?;
            ensure!(status.code() == tonic::Code::FailedPrecondition, "{status:?}");
            let both = [protocol_version, WORKER_PROTOCOL].map(|version| version.to_string());
            ensure!(both.iter().all(|version| status.message().contains(version)), "{status:?}");
        }
        Ok(())
    });
}
