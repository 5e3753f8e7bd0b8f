//! Daemons that are asked to stop while they work.

use anyhow::Context;
use cakes_proto::v1::{JobKind, SearchState};
use cakes_tests::api::can_be_interrupted;
use cakes_tests::search::{LONG, SHORT, tiny};
use cakes_tests::{Options, scenario};
use nix::sys::signal::Signal;

/// [`Cluster::interrupt`](cakes_tests::Cluster::interrupt) fails if a process
/// is left: trainers and Postgres too.
#[test]
fn an_interrupt_in_the_middle_of_a_training_leaves_no_process() {
    let options = Options { private_database: true, ..Options::default() };
    scenario(options, async |cluster| {
        let api = cluster.api()?;
        let search = api.submit(&tiny("interrupted", LONG, SHORT)).await?.search.context("no search")?;
        api.until_job(&search.id, "the supernet has a checkpoint", can_be_interrupted).await?;
        cluster.interrupt()
    });
}

#[test]
fn a_worker_that_is_stopped_hands_its_job_over_with_a_checkpoint() {
    scenario(Options { workers: &["a"], ..Options::default() }, async |cluster| {
        let api = cluster.api()?;
        let mut file = tiny("handed-over", LONG, SHORT);
        file["search"]["budgets"] = serde_json::json!([0.5]);
        file["search"]["baselines"] = serde_json::json!([]);
        let search = api.submit(&file).await?.search.context("no search")?;
        let job = api.until_job(&search.id, "the supernet has a checkpoint", can_be_interrupted).await?;
        let reached = job.progress.as_ref().map_or(0, |progress| progress.step);
        cluster.stop_worker("a", Signal::SIGTERM)?;
        cluster.start_worker("b")?;
        let ended = api.until_ended(&search.id, SearchState::Succeeded).await?;
        let supernet =
            ended.jobs.iter().find(|job| job.kind() == JobKind::Supernet).context("no supernet")?;
        let attempts = api.explain(&supernet.id).await?.attempts;
        // Nothing that was seen is trained again.
        anyhow::ensure!(attempts.len() == 2 && attempts[1].resume_step >= reached, "{attempts:#?}");
        Ok(())
    });
}
