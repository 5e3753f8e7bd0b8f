//! What is left in the artifact store, and that nothing is missing which somebody needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::{Job, JobKind, ListCheckpointsRequest, SearchState, StoredCheckpoint};
use cakes_tests::api::{can_be_interrupted, supernet};
use cakes_tests::fake::{FakeWorker, Transcript, connect};
use cakes_tests::search::{Length, SHORT, tiny};
use cakes_tests::{Api, Cluster, Options, scenario, until};

const PATIENCE: Duration = Duration::from_secs(120);

/// Saves twenty times.
const SAVED_OFTEN: Length = Length { epochs: 60, steps_per_epoch: 20, checkpoint_every_epochs: 3 };

#[test]
fn only_what_is_needed_pinned_or_best_is_left() {
    let coordinator = &["--keep-checkpoints", "1", "--orphan-age", "1s"];
    scenario(Options { workers: &["a"], coordinator, ..Options::default() }, async |cluster| {
        trained_with_little_room(cluster).await
    });
}

async fn trained_with_little_room(cluster: &mut Cluster) -> Result<()> {
    let api = cluster.api()?;
    let mut file = tiny("kept", SAVED_OFTEN, SHORT);
    file["search"]["budgets"] = serde_json::json!([0.5]);
    file["search"]["baselines"] = serde_json::json!([]);
    let search = api.submit(&file).await?.search.context("no search")?.id;
    let wanted = |job: &Job| job.kind() == JobKind::Supernet && can_be_interrupted(job);
    let job = api.until_job(&search, "the supernet has a checkpoint", wanted).await?.id;
    let step = until("one can be pinned", PATIENCE, async || {
        // Others may have come meanwhile, and this one be given up.
        let step = checkpoints(&api, &job).await?.first().context("no checkpoint")?.step.to_string();
        let pinned = cluster.cakes(&["job", "pin", &job, "--step", &step]).await?;
        Ok((pinned.code == Some(0) && pinned.stdout.contains("pinned")).then_some(step))
    })
    .await?;
    let until_deleted = until("a checkpoint is deleted", PATIENCE, async || {
        let found = checkpoints(&api, &job).await?;
        Ok(found.iter().any(|checkpoint| checkpoint.delete_time.is_some()).then_some(()))
    });
    until_deleted.await?;

    // Uploads without a commit: of this attempt, and of one that nobody knows.
    let store = cluster.folder().join("artifacts");
    let first = folders(&store)?.into_iter().next().context("the store is empty")?;
    let prefix = first.rsplit_once('/').context("no prefix")?.0;
    let (orphan, unknown) = (format!("{prefix}/step-000099999"), "elsewhere/1-00000000/step-000000001");
    for key in [orphan.as_str(), unknown] {
        fs::create_dir_all(store.join(key))?;
        fs::write(store.join(key).join("weights.safetensors"), "half of it")?;
    }

    cluster.kill_worker("a")?;
    cluster.start_worker("b")?;
    api.until_ended(&search, SearchState::Succeeded).await?;
    let attempts = api.explain(&job).await?.attempts;
    let resumed = attempts.iter().find(|attempt| attempt.worker_id == "b").context("b had no attempt")?;
    ensure!(resumed.resume_step > 0, "{attempts:#?}");

    until("only what is kept is stored", PATIENCE, async || {
        let mut kept: BTreeSet<String> = BTreeSet::from([unknown.to_owned()]);
        for job in &api.search(&search).await?.jobs {
            let found = checkpoints(&api, &job.id).await?;
            kept.extend(
                found.into_iter().filter(|found| found.condemn_time.is_none()).map(|found| found.key),
            );
        }
        Ok((folders(&store)? == kept).then_some(()))
    })
    .await
    .with_context(|| format!("{:#?}", folders(&store)))?;
    let left = checkpoints(&api, &job).await?;
    let left: Vec<_> = left.iter().filter(|found| found.condemn_time.is_none()).collect();
    let reasons: Vec<&str> = left.iter().flat_map(|found| &found.kept_because).map(String::as_str).collect();
    ensure!(left.len() == 2, "{left:#?}");
    ensure!(reasons.contains(&"result") && reasons.contains(&"best"), "{left:#?}");
    ensure!(left.iter().any(|found| found.is_pinned && found.step.to_string() == step), "{left:#?}");
    export(cluster, &api, &search).await
}

/// The weights of a result are whole.
async fn export(cluster: &Cluster, api: &Api, search: &str) -> Result<()> {
    let search = api.search(search).await?;
    ensure!(supernet(&search)?.result.is_some(), "{search:#?}");
    let retrained = search.jobs.iter().find(|job| job.kind() == JobKind::Retrain).context("no retraining")?;
    let digest = &retrained.architecture_digest;
    let words =
        ["arch", "export", digest, "--format", "onnx", "--weights", &retrained.id, "--out", "net.onnx"];
    let exported = cluster.cakes(&words).await?;
    ensure!(exported.code == Some(0) && cluster.folder().join("net.onnx").is_file(), "{exported:?}");
    Ok(())
}

#[test]
fn on_a_full_disk_only_the_current_checkpoint_is_kept() {
    let coordinator = &["--disk-high-percent", "1", "--disk-low-percent", "0", "--keep-checkpoints", "10"];
    // Nobody reports for the fake worker.
    let lease_ttl = Duration::from_secs(600);
    let options = Options { workers: &[], coordinator, lease_ttl, ..Options::default() };
    scenario(options, async |cluster| saved_on_a_full_disk(cluster).await);
}

async fn saved_on_a_full_disk(cluster: &mut Cluster) -> Result<()> {
    let api = cluster.api()?;
    api.submit(&tiny("full", SHORT, SHORT)).await?;
    let channel = connect(&cluster.url())?;
    let worker = FakeWorker::register(channel, "fake", PATIENCE, Arc::new(Transcript::default())).await?;
    let mut attempt = worker.acquire().await?.context("no job")?;
    worker.start(&attempt).await?;
    let store = cluster.folder().join("artifacts");
    let mut last = String::new();
    for step in 1..=4 {
        last = format!("{}/step-{step:09}", attempt.prefix);
        fs::create_dir_all(store.join(&last))?;
        fs::write(store.join(&last).join("manifest.json"), "{}")?;
        worker.commit(&mut attempt, step).await?;
    }
    until("only the last one is stored", PATIENCE, async || {
        Ok((folders(&store)? == BTreeSet::from([last.clone()])).then_some(()))
    })
    .await?;
    let token = attempt.token.clone();
    let found = checkpoints(&api, &token.job_id).await?;
    ensure!(found.iter().skip(1).all(|found| found.condemn_reason.contains("nearly full")), "{found:#?}");
    let log = fs::read_to_string(cluster.folder().join("coordinator.log"))?;
    ensure!(log.contains("the artifact disk is nearly full"), "{log}");
    Ok(())
}

async fn checkpoints(api: &Api, job: &str) -> Result<Vec<StoredCheckpoint>> {
    let request = ListCheckpointsRequest { id: job.to_owned() };
    Ok(api.jobs().list_checkpoints(request).await?.into_inner().checkpoints)
}

/// Keys of folders that hold a file: job, attempt, name.
fn folders(store: &Path) -> Result<BTreeSet<String>> {
    let mut level = vec![(store.to_owned(), String::new())];
    for _ in 0..3 {
        let mut below = Vec::new();
        for (folder, key) in level {
            // Between two looks a folder may go.
            for entry in
                fs::read_dir(&folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
            {
                let name = entry.file_name().to_string_lossy().into_owned();
                let key = if key.is_empty() { name } else { format!("{key}/{name}") };
                below.push((entry.path(), key));
            }
        }
        level = below;
    }
    Ok(level.into_iter().map(|(_, key)| key).collect())
}
