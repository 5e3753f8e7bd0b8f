//! What daemons count is what happened, and rules for alerts name metrics that there are.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::{GetJobRequest, JobState, SearchState};
use cakes_tests::scrape::{Scrape, documented, get, get_over_tls, said_address};
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::{Cluster, Options, scenario, until};
use cakes_tls::client::ClientFiles;
use tonic::Code;

const WAIT: Duration = Duration::from_secs(120);

#[test]
fn what_is_counted_is_what_happened() {
    let coordinator = &["--metrics-listen", "127.0.0.1:0"];
    scenario(Options { workers: &[], coordinator, ..Options::default() }, async |cluster| {
        count(cluster).await
    });
}

async fn count(cluster: &mut Cluster) -> Result<()> {
    cluster.start_worker_with("a", &["--metrics-listen", "127.0.0.1:0"])?;
    let coordinator = said_address(&cluster.coordinator_log()?, "has metrics on http://")?;
    let worker = until("the worker says where its metrics are", WAIT, async || {
        Ok(said_address(&cluster.worker_log("a")?, "address=").ok())
    })
    .await?;

    let api = cluster.api()?;
    let refused =
        api.jobs().get_job(GetJobRequest { id: "no id".to_owned(), ..GetJobRequest::default() }).await;
    ensure!(refused.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument), "{refused:?}");
    let submitted = api.submit(&tiny("counted", SHORT, SHORT)).await?;
    let id = submitted.search.context("no search")?.id;
    let search = api.until_ended(&id, SearchState::Succeeded).await?;
    ensure!(search.jobs.iter().all(|job| job.state() == JobState::Succeeded));
    let jobs = search.jobs.len() as f64;

    // Counts of the database lag a few seconds behind.
    let seen = until("the search's end is counted", WAIT, async || {
        let scrape = Scrape::read(&coordinator).await?;
        let is_settled = scrape.sum("cakes_searches", &[("state", "succeeded")]) == Some(1.0)
            && scrape.sum("cakes_devices", &[("kind", "cpu"), ("state", "idle")]) == Some(1.0);
        Ok(is_settled.then_some(scrape))
    })
    .await?;
    let silent = [
        "cakes_calls_refused_total",
        "cakes_connections_refused_total",
        "cakes_jobs_waiting",
        "cakes_page_requests_total",
        "cakes_reconciler_errors_total",
        "cakes_webhook_requests_total",
    ];
    all_documented(&seen, "metrics-coordinator.md", &silent)?;
    let of = |name: &str, labels: &[(&str, &str)]| seen.sum(name, labels);
    ensure!(
        of("cakes_calls_total", &[("method", "submit_search"), ("code", "OK")]) == Some(1.0),
        "{seen:#?}"
    );
    let refused = [("method", "get_job"), ("code", "INVALID_ARGUMENT")];
    ensure!(of("cakes_calls_total", &refused) == Some(1.0), "{seen:#?}");
    ensure!(of("cakes_call_seconds_count", &[("method", "submit_search")]) == Some(1.0), "{seen:#?}");
    ensure!(of("cakes_calls_total", &[("method", "report"), ("code", "OK")]) > Some(jobs), "{seen:#?}");
    ensure!(of("cakes_grants_total", &[]) == Some(jobs), "{jobs}: {seen:#?}");
    // Their data are generated.
    ensure!(of("cakes_grants_data_at_hand_total", &[]) == Some(0.0), "{seen:#?}");
    ensure!(of("cakes_attempts_ended_total", &[("outcome", "completed")]) == Some(jobs), "{seen:#?}");
    ensure!(of("cakes_jobs", &[]) == Some(jobs), "{seen:#?}");
    ensure!(of("cakes_jobs", &[("state", "succeeded")]) == Some(jobs), "{seen:#?}");
    ensure!(of("cakes_jobs_waiting", &[]).is_none(), "{seen:#?}");
    ensure!(of("cakes_jobs_waiting_oldest_seconds", &[]) == Some(0.0), "{seen:#?}");
    ensure!(of("cakes_workers", &[("state", "ready")]) == Some(1.0), "{seen:#?}");
    ensure!(of("cakes_database_up", &[]) == Some(1.0), "{seen:#?}");
    ensure!(of("cakes_database_connections", &[("pool", "control")]) > Some(0.0), "{seen:#?}");
    ensure!(of("cakes_database_connections_max", &[]) == Some(24.0), "{seen:#?}");
    for task in ["advance_searches", "expire_leases", "judge_workers", "retain", "deliver_webhooks"] {
        ensure!(of("cakes_reconciler_rounds_total", &[("task", task)]) > Some(0.0), "{task}: {seen:#?}");
    }
    ensure!(of("cakes_reconciler_errors_total", &[]).is_none(), "{seen:#?}");
    ensure!(of("cakes_connections", &[("port", "api")]) >= Some(1.0), "{seen:#?}");
    ensure!(of("cakes_report_entries_total", &[]) > Some(8.0 * jobs), "{seen:#?}");

    let seen = Scrape::read(&worker).await?;
    all_documented(&seen, "metrics-worker.md", &["cakes_worker_call_failures_total"])?;
    let of = |name: &str, labels: &[(&str, &str)]| seen.sum(name, labels);
    ensure!(of("cakes_worker_steps_total", &[]) == Some(8.0 * jobs), "{seen:#?}");
    ensure!(of("cakes_worker_trainers_started_total", &[("from", "beginning")]) == Some(jobs), "{seen:#?}");
    ensure!(of("cakes_worker_attempts_ended_total", &[]) == Some(jobs), "{seen:#?}");
    ensure!(of("cakes_worker_attempts_ended_total", &[("outcome", "completed")]) == Some(jobs), "{seen:#?}");
    ensure!(of("cakes_worker_checkpoint_save_seconds_count", &[]) >= Some(jobs), "{seen:#?}");
    ensure!(of("cakes_worker_checkpoint_upload_seconds_count", &[]) >= Some(jobs), "{seen:#?}");
    ensure!(of("cakes_worker_lease_renewals_total", &[]) > Some(jobs), "{seen:#?}");
    ensure!(of("cakes_worker_devices", &[]) == Some(1.0), "{seen:#?}");
    ensure!(of("cakes_worker_jobs_running", &[("device", "cpu")]) == Some(0.0), "{seen:#?}");
    ensure!(of("cakes_worker_disk_free_bytes", &[("folder", "work")]) > Some(0.0), "{seen:#?}");

    // A device of a worker that has gone is not there; a search that cannot run says why.
    cluster.kill_worker("a")?;
    let waits = api.submit(&tiny("waits", SHORT, SHORT)).await?.search.context("no search")?;
    let queued = api.search(&waits.id).await?.jobs.len() as f64;
    until("the lost worker and the waiting job are counted", WAIT, async || {
        let scrape = Scrape::read(&coordinator).await?;
        let is_lost = scrape.sum("cakes_workers", &[("state", "lost")]) == Some(1.0)
            && scrape.sum("cakes_devices", &[("state", "absent")]) == Some(1.0)
            && scrape.sum("cakes_jobs_waiting", &[]) == Some(queued)
            && scrape.sum("cakes_jobs_waiting_oldest_seconds", &[]) > Some(0.0);
        Ok(is_lost.then_some(()))
    })
    .await?;
    for (request, status) in [("GET /", 404), ("POST /metrics", 405), ("HEAD /metrics", 200)] {
        ensure!(get(&coordinator, request).await?.0 == status, "{request}");
    }
    Ok(())
}

#[test]
fn metrics_are_for_whoever_may_list_workers() {
    let coordinator = &["--metrics-listen", "127.0.0.1:0"];
    scenario(Options { workers: &[], tls: true, coordinator, ..Options::default() }, async |cluster| {
        let authority = ClientFiles { ca: cluster.user_files().ca, ..ClientFiles::default() };
        let wrong = "Authorization: Bearer no-token\r\n";
        ensure!(over_tls(cluster, &authority, "").await?.0 == 401, "nobody");
        ensure!(over_tls(cluster, &authority, wrong).await?.0 == 401, "a wrong token");
        ensure!(over_tls(cluster, &cluster.worker_files("a")?, "").await?.0 == 403, "a worker");
        let token = cluster.token("prometheus", "viewer").await?;
        let bearer = format!("Authorization: Bearer {token}\r\n");
        ensure!(over_tls(cluster, &authority, &bearer).await?.0 == 200, "a token");
        let (status, text) = over_tls(cluster, &cluster.user_files(), "").await?;
        ensure!(status == 200, "a person's certificate: {status} {text}");
        Scrape::parse(&text)?;
        let at = said_address(&cluster.coordinator_log()?, "has metrics on https://")?;
        ensure!(get(&at, "GET /metrics").await.is_err(), "plain text is answered");
        let (_, text) = over_tls(cluster, &cluster.user_files(), "").await?;
        let refused = [("port", "metrics"), ("reason", "handshake")];
        ensure!(
            Scrape::parse(&text)?.sum("cakes_connections_refused_total", &refused) == Some(1.0),
            "{text}"
        );
        Ok(())
    });
}

async fn over_tls(cluster: &Cluster, files: &ClientFiles, headers: &str) -> Result<(u16, String)> {
    let at = said_address(&cluster.coordinator_log()?, "has metrics on https://")?;
    get_over_tls(&at, files, headers).await
}

/// `silent`: what can have no value, since nothing of the kind has happened.
fn all_documented(seen: &Scrape, page: &str, silent: &[&str]) -> Result<()> {
    let served: BTreeSet<String> = seen.kinds.keys().cloned().collect();
    let mut expected = documented(page)?;
    expected.retain(|name| !silent.contains(&name.as_str()));
    ensure!(served == expected, "{:?}", served.symmetric_difference(&expected).collect::<Vec<_>>());
    Ok(())
}

/// Every metric that a rule asks for is one that a daemon has.
#[test]
fn rules_ask_for_metrics_that_there_are() {
    let mut known = documented("metrics-coordinator.md").unwrap();
    known.extend(documented("metrics-worker.md").unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/rules.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter: char| !is_part(letter));
    let asked: BTreeSet<&str> =
        words.filter(|word| word.starts_with("cakes_") || word.starts_with("process_")).collect();
    assert!(asked.len() > 10, "{asked:?}");
    let unknown: Vec<&&str> = asked
        .iter()
        .filter(|name| !known.contains(**name) && !known.contains(name.trim_end_matches("_bucket")))
        .collect();
    assert!(unknown.is_empty(), "no daemon has {unknown:?}");
}
