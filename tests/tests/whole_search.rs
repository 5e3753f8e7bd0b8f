//! A search from its submission to its front.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::{
    Architecture, GetArchitectureRequest, JobKind, JobState, ListArchitecturesRequest, SearchState,
};
use cakes_tests::api::show;
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::{Cluster, Options, scenario};

#[test]
fn a_search_ends_with_a_front_of_retrained_architectures() {
    scenario(Options::default(), async |cluster| whole(cluster).await);
}

async fn whole(cluster: &Cluster) -> Result<()> {
    let file = cluster.folder().join("search.json");
    let mut described = tiny("whole", SHORT, SHORT);
    described["search"]["retrain"]["supernet_weights"] = true.into();
    std::fs::write(&file, described.to_string())?;
    let submitted = cluster
        .cakes(&["search", "submit", "--wait", "-o", "json", file.to_str().unwrap_or_default()])
        .await?;
    ensure!(submitted.code == Some(0), "{submitted:?}");

    let api = cluster.api()?;
    let listed =
        api.searches().list_searches(cakes_proto::v1::ListSearchesRequest::default()).await?.into_inner();
    ensure!(listed.searches.len() == 1, "{listed:?}");
    let search = api.until_ended(&listed.searches[0].id, SearchState::Succeeded).await?;
    ensure!(search.jobs.iter().all(|job| job.state() == JobState::Succeeded), "{}", show(&search));

    // Parameters counted from the modules are those of the cost model.
    let plan = api.submit(&described).await?.plan.context("no plan")?;
    let supernet = cakes_tests::api::supernet(&search)?;
    let counted = supernet.result.as_ref().context("no result")?.param_count;
    ensure!(counted == plan.supernet_cost.context("no cost")?.param_count, "supernet: {counted}");
    let retrained: Vec<_> = search.jobs.iter().filter(|job| job.kind() == JobKind::Retrain).collect();
    for job in &retrained {
        let request = GetArchitectureRequest { digest: job.architecture_digest.clone() };
        let architecture = api.architectures().get_architecture(request).await?.into_inner();
        let (cost, result) =
            (architecture.cost.context("no cost")?, job.result.clone().context("no result")?);
        ensure!(result.param_count == cost.param_count, "{}: {result:?}", job.label);
        ensure!(result.mac_count == cost.mac_count, "{}: {result:?}", job.label);
        // Each has the supernet's weights, the baselines too.
        let log = cluster.cakes(&["job", "logs", &job.id]).await?;
        ensure!(log.stdout.contains("weights of a cost-priority supernet behind step 8"), "{log:?}");
    }

    // One job for each architecture, although two budgets ask for the same one.
    let digests: BTreeSet<&str> = retrained.iter().map(|job| job.architecture_digest.as_str()).collect();
    ensure!(digests.len() == retrained.len(), "{}", show(&search));
    let request = ListArchitecturesRequest { search_id: search.id.clone(), ..Default::default() };
    let known = api.architectures().list_architectures(request).await?.into_inner().architectures;
    let origins = |architecture: &Architecture| architecture.origins.len();
    ensure!(known.iter().map(origins).sum::<usize>() == 6, "{known:#?}");
    ensure!(known.iter().any(|architecture| origins(architecture) > 1), "{known:#?}");

    let front = api.front(&search.id).await?;
    ensure!(front.entries.len() == digests.len() && front.pending_count == 0, "{front:#?}");
    ensure!(front.entries.iter().any(|entry| entry.on_front), "{front:#?}");
    let macs: Vec<u64> = front
        .entries
        .iter()
        .filter_map(|entry| Some(entry.architecture.as_ref()?.cost.as_ref()?.mac_count))
        .collect();
    ensure!(macs.len() == digests.len() && macs.is_sorted(), "{macs:?}");
    ensure!(
        front.entries.iter().all(|entry| entry.latency_ms > 0.0 && entry.dice_per_class.len() == 3),
        "{front:#?}"
    );

    for arguments in
        [&["search", "front", &search.id][..], &["search", "get", &search.id], &["worker", "list"]]
    {
        let shown = cluster.cakes(arguments).await?;
        ensure!(shown.code == Some(0) && !shown.stdout.is_empty(), "{arguments:?}: {shown:?}");
    }
    Ok(())
}
