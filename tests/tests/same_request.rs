//! Clients that repeat themselves.

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::ListSearchesRequest;
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::{Cluster, Options, scenario};

#[test]
fn two_clients_with_one_request_id_get_one_search() {
    let options = Options { workers: &[], ..Options::default() };
    scenario(options, async |cluster| submit_twice(cluster).await);
}

async fn submit_twice(cluster: &Cluster) -> Result<()> {
    let file = tiny("twice", SHORT, SHORT);
    let path = cluster.folder().join("search.json");
    std::fs::write(&path, file.to_string())?;
    let path = path.to_str().context("path")?;

    // Two commands and eight calls at once.
    let (api, submit) = (cluster.api()?, ["search", "submit", path]);
    let (first, second, calls) = tokio::join!(cluster.cakes(&submit), cluster.cakes(&submit), async {
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let (api, file) = (api.clone(), file.clone());
                tokio::spawn(async move { api.submit(&file).await })
            })
            .collect();
        let mut ids = Vec::new();
        for call in calls {
            ids.push(call.await??.search.context("no search")?.id);
        }
        anyhow::Ok(ids)
    });
    for finished in [first?, second?] {
        ensure!(finished.code == Some(0), "{finished:?}");
    }
    let mut ids = calls?;
    ids.dedup();
    ensure!(ids.len() == 1, "{ids:?}");
    let listed = api.searches().list_searches(ListSearchesRequest::default()).await?.into_inner();
    ensure!(listed.searches.len() == 1 && listed.searches[0].id == ids[0], "{listed:#?}");

    // The same id with another description is a mistake.
    let mut other = file;
    other["search"]["budgets"] = serde_json::json!([0.5]);
    let error = api.submit(&other).await.err().context("another search under the same id was accepted")?;
    let status: &tonic::Status = error.downcast_ref().context("no status")?;
    ensure!(status.code() == tonic::Code::AlreadyExists, "{status:?}");
    Ok(())
}
