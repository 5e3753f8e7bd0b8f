//! The daemon with attempts that several slots share: as the one that leads, and as one that
//! follows.

mod support;

use std::net::TcpListener;
use std::time::Duration;

use cakes_proto::v1::FailureClass;
use nix::sys::signal::Signal;
use serde_json::json;
use support::Bench;

const SOON: Duration = Duration::from_secs(60);
/// Nobody but this machine reaches it there, so it is to be told.
const JOINS: [&str; 2] = ["--advertise-address", "127.0.0.1"];

/// Somebody who listens as rank 0 does, and where.
fn meeting() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn the_leader_tells_where_its_ranks_wait_and_reports_for_all() {
    let bench = Bench::new().await;
    let job = bench.grant_seat(
        0,
        &json!([
            ["is_among", "2", "0", "127.0.0.1", null],
            ["meets", 7007],
            ["ready"],
            ["train", 5],
            ["save"],
            ["complete"]
        ]),
    );
    let _daemon = bench.daemon(&JOINS);
    let coordinator = &bench.coordinator;
    coordinator.until("completion", |seen| seen.completions.first().cloned()).await;
    bench.until_clear().await;

    let seen = bench.coordinator.seen();
    assert!(seen.registrations[0].joins_gangs);
    let told: Vec<_> = seen.reports.iter().filter(|report| !report.rendezvous_address.is_empty()).collect();
    assert_eq!(told.len(), 1, "it is said once");
    assert_eq!(told[0].rendezvous_address, "127.0.0.1:7007");
    assert!(told[0].entries.is_empty());
    assert_eq!(seen.metric(&job, "train/loss").len(), 5);
}

#[tokio::test]
async fn a_follower_joins_at_once_trains_where_it_is_told_and_leaves_the_end_to_the_leader() {
    let bench = Bench::new().await;
    let (_rank, address) = meeting();
    bench.grant_seat(1, &json!([["is_among", "2", "1", "127.0.0.1", address], ["train", 3, 0.2]]));
    let _daemon = bench.daemon(&JOINS);
    let coordinator = &bench.coordinator;
    coordinator.until("its lease is renewed", |seen| (seen.reports.len() > 1).then_some(())).await;
    assert_eq!(bench.trainers(), 0, "there is nowhere to go to");
    coordinator.seen().rendezvous = address;
    bench.until("its ranks train", SOON, |bench| bench.trainers() > 0).await;
    bench.until("its ranks have done their part", SOON, |bench| bench.trainers() == 0).await;
    // The leader still saves and tells the end.
    let heard = coordinator.seen().reports.len();
    coordinator.until("it renews on", |seen| (seen.reports.len() > heard + 2).then_some(())).await;
    coordinator.seen().lease_is_lost = true;
    bench.until_clear().await;

    let seen = coordinator.seen();
    assert_eq!(seen.starts.len(), 1);
    let tokens = seen.reports.iter().map(|report| report.token.as_ref().unwrap());
    assert!(tokens.chain(seen.starts[0].token.as_ref()).all(|token| token.member == 1));
    let is_silent = seen.reports.iter().all(|report| report.entries.is_empty() && report.progress.is_none());
    assert!(is_silent, "what the attempt does is the leader's to tell");
    assert!(seen.failures.is_empty() && seen.completions.is_empty() && seen.commits.is_empty());
}

#[tokio::test]
async fn a_follower_tells_of_its_own_failures() {
    let bench = Bench::new().await;
    let (_rank, address) = meeting();
    bench.coordinator.seen().rendezvous = address;
    let job = bench.grant_seat(1, &json!([["fail", "numeric", "the loss is no number"]]));
    let _daemon = bench.daemon(&JOINS);
    let failure = bench.coordinator.until_failed(&job).await;
    bench.until_clear().await;
    assert_eq!(failure.failure_class(), FailureClass::Numeric, "{}", failure.message);
    assert_eq!(failure.token.unwrap().member, 1);
}

#[tokio::test]
async fn a_follower_that_has_no_way_to_the_leader_says_so() {
    let bench = Bench::new().await;
    bench.coordinator.seen().rendezvous = "127.0.0.1:1".into();
    let job = bench.grant_seat(1, &json!([["hang"]]));
    let _daemon = bench.daemon(&JOINS);
    let failure = bench.coordinator.until_failed(&job).await;
    bench.until_clear().await;
    assert_eq!(failure.failure_class(), FailureClass::Infrastructure);
    assert!(failure.message.contains("--advertise-address"), "{}", failure.message);
}

#[tokio::test]
async fn a_follower_whose_attempt_ends_kills_its_ranks_and_blames_nobody() {
    let bench = Bench::new().await;
    let (_rank, address) = meeting();
    bench.coordinator.seen().rendezvous = address;
    bench.grant_seat(1, &json!([["child"], ["deaf"], ["hang"]]));
    let _daemon = bench.daemon(&JOINS);
    bench.until("its ranks train", SOON, |bench| bench.trainers() > 0).await;
    bench.coordinator.seen().lease_is_lost = true;
    bench.until_clear().await;
    assert!(bench.coordinator.seen().failures.is_empty());
}

#[tokio::test]
async fn a_follower_whose_machine_is_drained_waits_for_the_end_of_the_attempt() {
    let bench = Bench::new().await;
    let (_rank, address) = meeting();
    bench.coordinator.seen().rendezvous = address;
    let job = bench.grant_seat(1, &json!([["until_told"], ["exit", 0]]));
    let mut daemon = bench.daemon(&["--advertise-address", "127.0.0.1", "--shutdown-limit", "10s"]);
    bench.until("its ranks train", SOON, |bench| bench.trainers() > 0).await;
    daemon.signal(Signal::SIGTERM);
    // Nobody ends the attempt here: it says so shortly before it goes.
    let failure = bench.coordinator.until_failed(&job).await;
    assert_eq!(failure.failure_class(), FailureClass::Lost, "{}", failure.message);
    assert!(daemon.ended(SOON).await.success());
    bench.until_clear().await;
}

#[tokio::test]
async fn a_machine_that_trains_with_no_others_says_so() {
    // The other one calls its coordinator at 127.0.0.1.
    for arguments in [&["--advertise-address", "off"][..], &[]] {
        let bench = Bench::new().await;
        let _daemon = bench.daemon(arguments);
        let registration =
            bench.coordinator.until("registration", |seen| seen.registrations.first().cloned()).await;
        assert!(!registration.joins_gangs, "{arguments:?}");
    }
}
