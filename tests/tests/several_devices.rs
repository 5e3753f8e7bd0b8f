//! A training on two devices waits for a slot of two, and goes on from its checkpoint when
//! one of its processes is killed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::{JobKind, SearchState};
use cakes_tests::api::{can_be_interrupted, supernet};
use cakes_tests::search::{LONG, tiny};
use cakes_tests::{Options, scenario, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn two_devices_are_one_slot_and_a_killed_one_costs_what_was_not_saved() {
    let options = Options { workers: &["narrow"], ..Options::default() };
    scenario(options, async |cluster| -> Result<()> {
        let api = cluster.api()?;
        let mut file = tiny("devices", LONG, LONG);
        file["search"]["supernet"]["training"]["devices"] = 2.into();
        file["search"]["supernet"]["training"]["batch_size"] = 2.into();
        file["search"]["budgets"] = serde_json::json!([0.5]);
        file["search"]["baselines"] = serde_json::json!([]);
        let search = api.submit(&file).await?.search.context("no search")?;
        let job = supernet(&search)?.id.clone();
        until("the job tells what it waits for", Duration::from_secs(60), async || {
            let text = api.explain(&job).await?.explanation;
            Ok(text.contains("2 devices at once; the widest slot of a ready worker has 1").then_some(()))
        })
        .await?;

        cluster.start_worker_with("wide", &["--devices", "cpu+cpu"])?;
        let begun = api.until_job(&search.id, "the supernet has a checkpoint", |job| {
            job.kind() == JobKind::Supernet && can_be_interrupted(job)
        });
        let begun = begun.await?;
        ensure!(begun.worker_id == "wide", "{begun:#?}");
        let saved = begun.progress.as_ref().map_or(0, |progress| progress.checkpoint_step);
        let second = cluster.trainers().into_iter().find(|trainer| trainer.command.contains(" rank "));
        kill(Pid::from_raw(second.context("no second process")?.pid), Signal::SIGKILL)?;

        // The machine is taken to be at fault; the job goes elsewhere.
        cluster.start_worker_with("elsewhere", &["--devices", "cpu+cpu"])?;
        let ended = api.until_ended(&search.id, SearchState::Succeeded).await?;
        let attempts = api.explain(&job).await?.attempts;
        ensure!(attempts.len() == 2, "{attempts:#?}");
        ensure!(attempts[0].outcome.contains("rank 1: was ended by signal 9"), "{attempts:#?}");
        ensure!(attempts[1].resume_step >= saved && attempts[1].worker_id == "elsewhere", "{attempts:#?}");
        ensure!(api.front(&ended.id).await?.entries.len() == 1);
        Ok(())
    });
}
