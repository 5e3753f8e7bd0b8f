//! Each limit, set low by its setting and gone beyond: whoever does is told what
//! docs/security.md says, others are served meanwhile, it is counted, and when the load is
//! gone so is the refusal.

mod limits {
    pub mod callers;
    pub mod calls;
    pub mod connections;
    pub mod handshakes;
    pub mod queue;
}

use std::time::Duration;

use cakes_tests::{Options, scenario};

#[test]
fn calls_and_what_waits_have_limits() {
    let options = Options {
        workers: &[],
        web: true,
        lease_ttl: Duration::from_secs(60),
        coordinator: limits::calls::LIMITS,
        ..Options::default()
    };
    scenario(options, async |cluster| Box::pin(limits::calls::run(cluster)).await);
}

#[test]
fn connections_have_limits() {
    let options = Options { workers: &[], coordinator: limits::connections::LIMITS, ..Options::default() };
    scenario(options, async |cluster| limits::connections::run(cluster).await);
}

#[test]
fn handshakes_and_certificates_have_limits() {
    let coordinator = limits::handshakes::LIMITS;
    let options = Options { workers: &[], tls: true, coordinator, ..Options::default() };
    scenario(options, async |cluster| limits::handshakes::run(cluster).await);
}
