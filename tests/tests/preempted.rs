//! A job of a much higher priority makes another one save a checkpoint and wait.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::{JobKind, JobState, SearchState};
use cakes_tests::api::{can_be_interrupted, supernet};
use cakes_tests::search::{LONG, SHORT, tiny};
use cakes_tests::{Options, scenario, until};

#[test]
fn a_job_makes_way_with_a_checkpoint_and_goes_on_from_it() {
    // One that has just started makes way too, and once: no search has all its jobs at first.
    let options = Options {
        workers: &["a"],
        coordinator: &["--min-run", "0s", "--preemption-count-max", "1"],
        ..Options::default()
    };
    scenario(options, async |cluster| -> Result<()> {
        let api = cluster.api()?;
        let mut patient = tiny("patient", LONG, SHORT);
        patient["search"]["budgets"] = serde_json::json!([0.5]);
        patient["search"]["baselines"] = serde_json::json!([]);
        let patient = api.submit(&patient).await?.search.context("no search")?;
        let job = api.until_job(&patient.id, "the supernet has a checkpoint", can_be_interrupted).await?;
        let reached = job.progress.as_ref().map_or(0, |progress| progress.step);

        let mut urgent = tiny("urgent", SHORT, SHORT);
        urgent["search"]["budgets"] = serde_json::json!([0.5]);
        urgent["search"]["baselines"] = serde_json::json!([]);
        urgent["priority"] = 10.into();
        let urgent = api.submit(&urgent).await?.search.context("no search")?;
        let first = supernet(&urgent)?.id.clone();
        until("the job that makes way waits behind the other", Duration::from_secs(60), async || {
            let patient = api.explain(&job.id).await?;
            let urgent = api.explain(&first).await?;
            let state = |found: &cakes_proto::v1::ExplainJobResponse| {
                found.job.as_ref().map(cakes_proto::v1::Job::state)
            };
            let has_swapped = state(&patient) == Some(JobState::Queued)
                && matches!(state(&urgent), Some(JobState::Leased | JobState::Running | JobState::Succeeded));
            Ok(has_swapped.then_some(()))
        })
        .await?;

        let urgent = api.until_ended(&urgent.id, SearchState::Succeeded).await?;
        let patient = api.until_ended(&patient.id, SearchState::Succeeded).await?;
        ensure!(urgent.end_time.map(|time| time.seconds) <= patient.end_time.map(|time| time.seconds));
        let supernet =
            patient.jobs.iter().find(|job| job.kind() == JobKind::Supernet).context("no supernet")?;
        let attempts = api.explain(&supernet.id).await?.attempts;
        ensure!(attempts.len() == 2 && attempts[0].outcome.contains("handed back"), "{attempts:#?}");
        // Nothing that was seen is trained again.
        ensure!(attempts[1].resume_step >= reached && reached > 0, "{attempts:#?}");
        let of_urgent = &urgent.jobs[0];
        ensure!(api.explain(&of_urgent.id).await?.attempts.len() == 1, "nobody preempts the urgent one");
        Ok(())
    });
}
