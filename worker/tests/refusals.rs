//! What the daemon does when the coordinator refuses its token or a call, and when the store
//! does not answer.

mod support;

use std::process::Command;

use cakes_proto::v1::{CheckpointReference, FailureClass};
use serde_json::json;
use support::Bench;

/// The file of a token, which the peer takes or refuses as it is told to.
fn token_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("cakes_{}", "ab".repeat(32))).unwrap();
    file
}

#[tokio::test]
async fn a_training_goes_on_while_the_token_of_its_worker_is_replaced() {
    let (bench, token) = (Bench::new().await, token_file());
    let _daemon = bench.daemon(&["--token-file", token.path().to_str().unwrap()]);
    let job = bench.grant(&json!([["ready"], ["train", 150, 0.02], ["save"], ["complete"]]), None);
    bench.coordinator.until("steps", |seen| (seen.metric(&job, "train/loss").len() > 3).then_some(())).await;
    bench.coordinator.seen().unauthenticated.insert("Report", 3);
    bench.coordinator.until("completion", |seen| seen.completions.first().cloned()).await;
    bench.until_clear().await;
    let seen = bench.coordinator.seen();
    assert_eq!(seen.unauthenticated["Report"], 0, "reports were refused");
    assert_eq!(seen.metric(&job, "train/loss").len(), 150);
    assert_eq!((seen.starts.len(), seen.failures.len()), (1, 0));
}

#[tokio::test]
async fn a_completion_outlasts_the_replacement_of_a_token() {
    let (bench, token) = (Bench::new().await, token_file());
    let _daemon = bench.daemon(&["--token-file", token.path().to_str().unwrap()]);
    bench.coordinator.seen().unauthenticated.insert("Complete", 3);
    bench.grant(&json!([["ready"], ["train", 3], ["save"], ["complete"]]), None);
    bench.coordinator.until("completion", |seen| seen.completions.first().cloned()).await;
    bench.until_clear().await;
    assert!(bench.coordinator.seen().failures.is_empty());
}

#[tokio::test]
async fn a_wrong_token_at_the_start_ends_the_daemon_with_a_clear_word() {
    let (bench, token) = (Bench::new().await, token_file());
    bench.coordinator.seen().unauthenticated.insert("Register", u32::MAX);
    let mut command = bench.command(&["--token-file", token.path().to_str().unwrap()]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("the token is unknown or was revoked"), "{text}");
}

#[tokio::test]
async fn a_completion_that_is_too_long_becomes_a_failure_that_says_so() {
    let bench = Bench::new().await;
    bench.coordinator.seen().completion_is_too_long = true;
    let job = bench.grant(&json!([["ready"], ["train", 3], ["save"], ["complete"]]), None);
    let _daemon = bench.daemon(&[]);
    let failure = bench.coordinator.until_failed(&job).await;
    assert_eq!(failure.failure_class(), FailureClass::Infrastructure);
    assert!(failure.message.contains("too large"), "{}", failure.message);
    bench.until_clear().await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_ends_the_attempt_and_leaves_the_slot_free() {
    let bench = Bench::new().await;
    let key = "earlier/1-abababab/step-000000003";
    let folder = bench.artifacts().join(key);
    std::fs::create_dir_all(&folder).unwrap();
    // Whoever opens it waits for somebody who writes, as on a mount whose server is gone.
    let made = Command::new("mkfifo").arg(folder.join("manifest.json")).status().unwrap();
    assert!(made.success());
    let checkpoint = CheckpointReference { key: key.into(), step: 3, manifest_sha256: "aa".repeat(32) };
    let jobs = [0, 1].map(|_| bench.grant(&json!([["ready"]]), Some(checkpoint.clone())));
    let _daemon = bench.daemon(&["--loading-limit", "1s"]);
    for job in jobs {
        let failure = bench.coordinator.until_failed(&job).await;
        assert_eq!(failure.failure_class(), FailureClass::Infrastructure);
        for part in ["artifact store file://", "--loading-limit"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }
    bench.until_clear().await;
}
