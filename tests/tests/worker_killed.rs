//! `kill -9` of the worker that runs a job: the other goes on from the last
//! checkpoint.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::{Job, JobKind, SearchState};
use cakes_tests::api::can_be_interrupted;
use cakes_tests::search::{LONG, tiny};
use cakes_tests::{Api, Cluster, Options, scenario, until};

#[test]
fn the_other_worker_goes_on_from_the_last_checkpoint() {
    scenario(Options::default(), async |cluster| {
        let api = cluster.api()?;
        let mut file = tiny("killed", LONG, LONG);
        file["search"]["budgets"] = serde_json::json!([0.5]);
        file["search"]["baselines"] = serde_json::json!(["c3d"]);
        let search = api.submit(&file).await?.search.context("no search")?;
        for (kind, spare) in [(JobKind::Supernet, "c"), (JobKind::Retrain, "d")] {
            interrupt(cluster, &api, &search.id, kind).await?;
            cluster.start_worker(spare)?;
        }
        let ended = api.until_ended(&search.id, SearchState::Succeeded).await?;
        let front = api.front(&ended.id).await?;
        ensure!(front.entries.len() == 2 && front.pending_count == 0, "{front:#?}");
        Ok(())
    });
}

/// Kills the worker of a running job and sees another one go on.
async fn interrupt(cluster: &mut Cluster, api: &Api, search: &str, kind: JobKind) -> Result<()> {
    let wanted = |job: &Job| job.kind() == kind && can_be_interrupted(job);
    let job = api.until_job(search, &format!("a {kind:?} job has a checkpoint"), wanted).await?;
    let saved = job.progress.as_ref().map_or(0, |progress| progress.checkpoint_step);
    cluster.kill_worker(&job.worker_id)?;

    // Its trainer does not live on.
    let folder = format!("worker-{}/", job.worker_id);
    until("the trainer ends with its daemon", Duration::from_secs(60), async || {
        let orphaned = cluster.trainers().into_iter().any(|trainer| trainer.command.contains(&folder));
        Ok((!orphaned).then_some(()))
    })
    .await?;
    let taken = api.until_job(search, "another worker takes the job", |other| {
        other.id == job.id && other.worker_id != job.worker_id && other.progress.is_some()
    });
    let taken = taken.await?;
    let explained = api.explain(&job.id).await?;
    let last = explained.attempts.last().context("no attempts")?;
    ensure!(last.worker_id == taken.worker_id, "{explained:#?}");
    ensure!(last.resume_step >= saved && last.epoch == 2, "{explained:#?}");
    Ok(())
}
