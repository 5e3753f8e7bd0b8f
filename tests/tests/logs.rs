//! Logs for collectors: one object per line, with the ids that lines belong to, and no secrets.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::{CancelJobRequest, GetJobRequest, SearchState};
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::{Cluster, Options, scenario, until};
use serde_json::Value;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

const OPTIONS: [&str; 4] = ["--log-format", "json", "--log-level", "debug"];

#[test]
fn lines_name_what_they_belong_to_and_hold_no_secrets() {
    scenario(Options { workers: &[], coordinator: &OPTIONS, ..Options::default() }, async |cluster| {
        cluster.start_worker_with("a", &OPTIONS)?;
        let api = cluster.api()?;
        let submitted = api.submit(&tiny("logged", SHORT, SHORT)).await?;
        let search = submitted.search.context("no search")?;
        complain(cluster).await?;
        let token = token(cluster).await?;
        let search = api.until_ended(&search.id, SearchState::Succeeded).await?;

        let of_worker =
            until("the worker says that its attempts ended", Duration::from_secs(60), async || {
                let lines = objects(&cluster.worker_log("a")?);
                let ended = lines.iter().filter(|line| line["message"] == "attempt ended").count();
                Ok((ended == search.jobs.len()).then_some(lines))
            })
            .await?;
        let job = &search.jobs[0].id;
        let begun = of_worker.iter().any(|line| line["message"] == "attempt begins" && line["job"] == **job);
        ensure!(begun, "{of_worker:#?}");
        let is_of_call = |line: &Value| {
            line["spans"].as_array().into_iter().flatten().any(|span| {
                span["name"] == "call"
                    && span["method"] == "cancel_job"
                    && span["request_id"] == "complaint-1"
            })
        };
        let of_coordinator = objects(&cluster.coordinator_log()?);
        ensure!(of_coordinator.iter().any(is_of_call), "no line has the call's id");
        for log in [cluster.coordinator_log()?, cluster.worker_log("a")?] {
            ensure!(!log.contains(&token) && !log.contains(&token[6..]), "a token is in the log");
            ensure!(!log.contains("nonce\":\""), "a lease's secret is in the log");
        }
        Ok(())
    });
}

/// Calls under ids of the caller's own, which come back if they can stand in a log.
async fn complain(cluster: &Cluster) -> Result<()> {
    let id = uuid::Uuid::new_v4().to_string();
    let mut request = Request::new(CancelJobRequest {
        id: id.clone(),
        reason: String::new(),
        ..CancelJobRequest::default()
    });
    request.metadata_mut().insert("x-request-id", MetadataValue::from_static("complaint-1"));
    let refused = cluster.api()?.jobs().cancel_job(request).await.err().context("there is such a job")?;
    ensure!(refused.code() == Code::NotFound, "{refused:?}");
    let told = refused.metadata().get("x-request-id").context("no id with the answer")?;
    ensure!(told == "complaint-1", "{told:?}");
    let mut given = Request::new(GetJobRequest { id, ..GetJobRequest::default() });
    given.metadata_mut().insert("x-request-id", MetadataValue::from_static("two words"));
    let refused = cluster.api()?.jobs().get_job(given).await.err().context("there is such a job")?;
    let told = refused.metadata().get("x-request-id").context("no id with the answer")?;
    ensure!(told.len() == 36, "{told:?}");
    Ok(())
}

/// A token that calls have been made with.
async fn token(cluster: &Cluster) -> Result<String> {
    let token = cluster.token("anna", "operator").await?;
    for bearer in [format!("Bearer {token}"), format!("Basic {token}"), token.clone()] {
        let mut request = Request::new(GetJobRequest { id: "x".to_owned(), ..GetJobRequest::default() });
        request.metadata_mut().insert("authorization", bearer.parse()?);
        let answer = cluster.api()?.jobs().get_job(request).await;
        ensure!(answer.is_err(), "{answer:?}");
    }
    Ok(token)
}

/// Lines that are objects; the start-up line is for people.
fn objects(log: &str) -> Vec<Value> {
    // The last line may still be written.
    let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
    let lines = whole.lines().filter(|line| !line.starts_with("cakes-coordinator "));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}
