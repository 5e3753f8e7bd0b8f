//! Who gets in with which certificate, that a search trains over TLS, and that certificates
//! are exchanged while everything goes on.

mod certificates {
    pub mod made;
    pub mod matrix;
    pub mod page;
    pub mod rotation;
}

use anyhow::{Result, ensure};
use cakes_proto::v1::SearchState;
use cakes_tests::cluster::certificates::files_in;
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::{Cluster, Options, scenario};
use std::time::Duration;

#[test]
fn only_certificates_of_the_right_authority_with_one_name_are_taken() {
    let options = Options {
        workers: &[],
        tls: true,
        web: true,
        coordinator: &["--log-level", "info,cakes_coordinator::tls=debug"],
        ..Options::default()
    };
    scenario(options, async |cluster| {
        certificates::matrix::run(cluster).await?;
        certificates::page::run(cluster).await?;
        certificates::rotation::run(cluster).await
    });
}

#[test]
fn a_search_trains_over_tls_and_its_worker_gets_a_new_certificate_meanwhile() {
    scenario(Options { workers: &["a"], tls: true, ..Options::default() }, async |cluster| {
        train(cluster).await
    });
}

async fn train(cluster: &Cluster) -> Result<()> {
    let file = cluster.folder().join("search.json");
    std::fs::write(&file, tiny("over-tls", SHORT, SHORT).to_string())?;
    let submitted = cluster.cakes(&["search", "submit", "-o", "json", &file.to_string_lossy()]).await?;
    ensure!(submitted.code == Some(0), "{submitted:?}");
    let submitted: serde_json::Value = serde_json::from_str(&submitted.stdout)?;
    let id = submitted["search"]["id"].as_str().unwrap_or_default().to_owned();
    let api = cluster.api()?;
    api.until_job(&id, "the worker has a job", |job| job.worker_id == "a").await?;
    let folder = cluster.pki().join("workers/a");
    cluster.run_pki(&["renew", &folder.to_string_lossy()])?;
    cakes_tests::until("the worker connects anew", Duration::from_secs(60), async || {
        Ok(cluster.worker_log("a")?.contains("another certificate is in place").then_some(()))
    })
    .await?;
    api.until_ended(&id, SearchState::Succeeded).await?;
    let shown = cluster.cakes(&["search", "front", &id, "-v"]).await?;
    ensure!(shown.code == Some(0), "{shown:?}");
    let files = files_in(&cluster.pki().join("users/tester"));
    let key = files.key.unwrap_or_default().display().to_string();
    ensure!(
        shown.stderr.contains(&format!("-key '{key}'")) && !shown.stderr.contains("-plaintext"),
        "{shown:?}"
    );
    Ok(())
}
