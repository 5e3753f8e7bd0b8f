//! `kill -9` of the coordinator with its private Postgres in the middle of a search.

use anyhow::{Context, ensure};
use cakes_proto::v1::{JobKind, SearchState};
use cakes_tests::api::{can_be_interrupted, show};
use cakes_tests::search::{Length, SHORT, tiny};
use cakes_tests::{Options, scenario};

#[test]
fn a_search_survives_a_kill_of_the_coordinator() {
    let options = Options { private_database: true, ..Options::default() };
    scenario(options, async |cluster| {
        let api = cluster.api()?;
        let supernet = Length { epochs: 12, ..cakes_tests::search::LONG };
        let mut file = tiny("restart", supernet, SHORT);
        file["search"]["budgets"] = serde_json::json!([0.5]);
        file["search"]["baselines"] = serde_json::json!(["c3d"]);
        let search = api.submit(&file).await?.search.context("no search")?;
        api.until_job(&search.id, "the supernet has a checkpoint", can_be_interrupted).await?;
        cluster.kill_coordinator()?;
        cluster.start_coordinator()?;
        let ended = api.until_ended(&search.id, SearchState::Succeeded).await?;
        ensure!(
            ended.jobs.iter().filter(|job| job.kind() == JobKind::Retrain).count() == 2,
            "{}",
            show(&ended)
        );
        let front = api.front(&ended.id).await?;
        ensure!(front.entries.len() == 2, "{front:#?}");
        // The same request still is the same search.
        let again = api.submit(&file).await?.search.context("no search")?;
        ensure!(again.id == search.id, "{} is not {}", again.id, search.id);
        Ok(())
    });
}
