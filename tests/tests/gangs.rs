//! A training on slots of two workers: it computes what one worker with two devices does, and a
//! daemon that is killed ends it for both, behind the last checkpoint.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::{JobKind, SearchState};
use cakes_tests::api::{can_be_interrupted, supernet};
use cakes_tests::search::{LONG, Length, tiny};
use cakes_tests::{Cluster, Options, scenario, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A search whose supernet trains on two devices.
fn on_two_devices(name: &str, length: Length, is_spread: bool) -> Value {
    let mut file = tiny(name, length, length);
    let training = &mut file["search"]["supernet"]["training"];
    training["devices"] = 2.into();
    training["batch_size"] = 2.into();
    training["spread"] = is_spread.into();
    file["search"]["budgets"] = json!([0.5]);
    file["search"]["baselines"] = json!([]);
    file
}

/// Starts workers that take part in gangs: they reach each other on this machine alone.
fn start_joining(cluster: &mut Cluster, names: &[&str]) -> Result<()> {
    names.iter().try_for_each(|name| cluster.start_worker_with(name, &["--advertise-address", "127.0.0.1"]))
}

/// Losses of a job's steps.
fn losses(cluster: &Cluster, job: &str) -> Result<Vec<f64>> {
    let said = cluster.sql(&format!(
        "select string_agg(value::text, ' ' order by step) from metric
         where key = 'train/loss' and job_id = '{job}'"
    ))?;
    said.split(' ').map(|value| value.parse().with_context(|| format!("'{said}' are no losses"))).collect()
}

#[test]
fn two_workers_compute_what_one_with_two_devices_does() {
    let options = Options { workers: &[], ..Options::default() };
    scenario(options, async |cluster| -> Result<()> {
        let api = cluster.api()?;
        let length = Length { epochs: 1, steps_per_epoch: 6, checkpoint_every_epochs: 1 };
        cluster.start_worker_with("wide", &["--devices", "cpu+cpu"])?;
        let alone = api.submit(&on_two_devices("alone", length, false)).await?.search.context("no search")?;
        api.until_ended(&alone.id, SearchState::Succeeded).await?;
        cluster.stop_worker("wide", Signal::SIGTERM)?;

        start_joining(cluster, &["left", "right"])?;
        let gang = api.submit(&on_two_devices("gang", length, true)).await?.search.context("no search")?;
        let job = supernet(&gang)?.id.clone();
        api.until_ended(&gang.id, SearchState::Succeeded).await?;
        let members = cluster.sql(&format!(
            "select string_agg(distinct worker_id, ' ' order by worker_id) from attempt_member
             where job_id = '{job}'"
        ))?;
        ensure!(members == "left right", "{members}");
        ensure!(cluster.sql("select count(*) from live_slot")? == "0", "a slot is taken for ever");
        let (one, two) = (losses(cluster, &supernet(&alone)?.id)?, losses(cluster, &job)?);
        ensure!(one.len() == 6 && two.len() == 6, "{one:?}, {two:?}");
        for (one, two) in one.iter().zip(&two) {
            ensure!((one - two).abs() <= 1e-5, "{one} on one worker, {two} on two");
        }
        Ok(())
    });
}

#[test]
fn a_killed_daemon_ends_the_gang_and_another_one_goes_on_from_the_checkpoint() {
    let options = Options { workers: &[], ..Options::default() };
    scenario(options, async |cluster| -> Result<()> {
        start_joining(cluster, &["left", "right"])?;
        let api = cluster.api()?;
        let search = api.submit(&on_two_devices("killed", LONG, true)).await?.search.context("no search")?;
        let job = supernet(&search)?.id.clone();
        let begun = api.until_job(&search.id, "the supernet has a checkpoint", |job| {
            job.kind() == JobKind::Supernet && can_be_interrupted(job)
        });
        let begun = begun.await?;
        let saved = begun.progress.as_ref().map_or(0, |progress| progress.checkpoint_step);
        let explained = api.explain(&job).await?.explanation;
        ensure!(["left cpu", "right cpu"].iter().all(|slot| explained.contains(slot)), "{explained}");
        let follower = cluster.sql("select worker_id from attempt_member where member = 1")?;
        ensure!(follower != begun.worker_id, "{follower} leads and follows");
        cluster.kill_worker(&follower)?;

        // The leader's trainer ends although its daemon lives.
        until("the ranks of the leader end", Duration::from_secs(60), async || {
            let folder = format!("worker-{}/", begun.worker_id);
            let left = cluster.trainers().into_iter().any(|trainer| trainer.command.contains(&folder));
            Ok((!left).then_some(()))
        })
        .await?;
        start_joining(cluster, &["spare"])?;
        api.until_ended(&search.id, SearchState::Succeeded).await?;
        let attempts = api.explain(&job).await?.attempts;
        ensure!(attempts.len() == 2, "{attempts:#?}");
        ensure!(attempts[0].outcome.contains(&follower), "{attempts:#?}");
        ensure!(attempts[1].resume_step >= saved && saved > 0, "{attempts:#?}");
        let halves = cluster
            .sql(&format!("select count(*) from attempt where job_id = '{job}' and member_count <> 2"))?;
        ensure!(halves == "0", "an attempt has more members than devices");
        Ok(())
    });
}
