//! Faults of coordinators, and of those who call them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cakes_proto::v1::ListSearchesRequest;
use cakes_proto::v1::job_service_client::JobServiceClient;
use cakes_proto::v1::search_service_client::SearchServiceClient;
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use super::{Chaos, PATIENCE, Proof, end_of, seen};
use crate::chaos::fleet;
use crate::chaos::history::Answers;
use crate::chaos::plant::end;
use crate::chaos::schedule::Random;
use crate::fake::connect;

fn any_of(chaos: &Chaos, random: &mut Random) -> usize {
    random.below(chaos.plant.coordinators.len() as u64) as usize
}

/// Reports that a coordinator has taken.
fn reports(answers: &Answers, number: usize) -> u64 {
    answers.reports.get(&number).copied().unwrap_or(0)
}

/// Waits until a coordinator takes reports.
async fn takes_reports(chaos: &Chaos, number: usize) -> bool {
    let before = reports(&chaos.history.answers(), number);
    let taken =
        seen(PATIENCE, async || Ok((reports(&chaos.history.answers(), number) > before).then_some(())));
    taken.await.is_some()
}

/// F9.
pub(super) async fn killed(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let number = any_of(chaos, random);
    let before = chaos.history.answers();
    let daemon = chaos.plant.coordinators[number].lock().await.daemon.take();
    let Some(daemon) = daemon else { return Ok(None) };
    daemon.kill_9()?;
    tokio::time::sleep(Duration::from_millis(200 + random.below(4_000))).await;
    let unknown = chaos.history.answers().unknown - before.unknown;
    let began = Instant::now();
    chaos.plant.start_coordinator(number).await?;
    let took = began.elapsed();
    Ok((unknown > 0).then(|| {
        format!("coordinator {number}: {unknown} calls without an answer; serves again after {took:.1?}")
    }))
}

/// F10.
pub(super) async fn restarted(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let number = any_of(chaos, random);
    let daemon = chaos.plant.coordinators[number].lock().await.daemon.take();
    if daemon.is_none() {
        return Ok(None);
    }
    let began = Instant::now();
    end(daemon, Signal::SIGTERM).await?;
    let ended = began.elapsed();
    ensure!(ended < Duration::from_secs(30), "coordinator {number} took {ended:?} to end");
    chaos.plant.start_coordinator(number).await?;
    Ok(Some(format!("coordinator {number} ended with code 0 in {ended:.1?} and was started again")))
}

/// F11. Leases of several fakes run out while both coordinators sweep.
pub(super) async fn race(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let before = chaos.history.answers();
    let mut fakes = chaos.fleet.at_work();
    random.shuffle(&mut fakes);
    fakes.truncate(5);
    let killed: Vec<_> = fakes.iter().filter_map(|(number, _)| chaos.fleet.kill(*number)).collect();
    let mut expired = 0;
    for grant in &killed {
        if let Some(end) = seen(PATIENCE, async || end_of(&chaos.plant.pool, *grant).await).await {
            expired += usize::from(end.end_reason.ends_with("expired"));
        }
    }
    for (number, _) in &fakes {
        chaos.fleet.start(*number)?;
    }
    let after = chaos.history.answers();
    let count = chaos.plant.coordinators.len();
    let granting = (0..count).filter(|number| after.grants.get(number) > before.grants.get(number)).count();
    let proven = expired > 0 && granting == count;
    Ok(proven.then(|| format!("{expired} leases expired once each while {granting} coordinators granted")))
}

/// Workers that register at once in a storm.
const STORM: usize = 300;

/// F37.
pub(super) async fn storm(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let before = chaos.history.answers().registrations;
    let began = Instant::now();
    for (number, _) in chaos.fleet.at_work() {
        chaos.fleet.kill(number);
        chaos.fleet.start(number)?;
    }
    let answered = fleet::storm(&chaos.plant, &chaos.history, STORM, random.next()).await;
    let took = began.elapsed();
    ensure!(answered == STORM, "of {STORM} workers that registered at once {answered} were answered");
    ensure!(took < Duration::from_secs(60), "{STORM} registrations at once took {took:?}");
    let registered = chaos.history.answers().registrations - before;
    Ok(Some(format!("{registered} registrations at once, answered within {took:.1?}")))
}

/// More than a coordinator has connections.
const SLOW_CALLS: usize = 40;
const LOCKED_FOR: Duration = Duration::from_secs(6);

/// F39. A lock on searches holds every connection that reads them.
pub(super) async fn slow_statements(chaos: &Chaos) -> Result<Proof> {
    let mut transaction = chaos.plant.pool.begin().await?;
    sqlx::query("lock table search in access exclusive mode").execute(&mut *transaction).await?;
    let mut calls = JoinSet::new();
    for address in &chaos.plant.addresses {
        let channel = connect(&format!("http://{address}"))?;
        for _ in 0..SLOW_CALLS {
            let mut client = SearchServiceClient::new(channel.clone());
            calls.spawn(async move { client.list_searches(ListSearchesRequest::default()).await });
        }
    }
    tokio::time::sleep(LOCKED_FOR / 3).await;
    let before = chaos.history.answers();
    tokio::time::sleep(LOCKED_FOR * 2 / 3).await;
    let after = chaos.history.answers();
    transaction.rollback().await?;
    let refused = calls.join_all().await.into_iter().filter(Result::is_err).count();
    let count = chaos.plant.coordinators.len();
    let renewed: u64 = (0..count).map(|number| reports(&after, number) - reports(&before, number)).sum();
    Ok((renewed > 0 && refused > 0).then(|| {
        format!("{refused} of {} calls refused, {renewed} reports taken meanwhile", count * SLOW_CALLS)
    }))
}

/// Calls whose clients go away.
const GONE: usize = 60;

/// F40.
pub(super) async fn clients_gone(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let number = any_of(chaos, random);
    let address = chaos.plant.addresses[number];
    let (mut requests, mut dropped) = (Vec::new(), 0);
    for _ in 0..GONE {
        // A connection of its own, which is closed with the call.
        let mut client = JobServiceClient::new(connect(&format!("http://{address}"))?);
        let request = chaos.clients.small_request()?;
        let patience = Duration::from_micros(random.below(12_000));
        let call = tokio::time::timeout(patience, client.submit_retrain(request.clone()));
        dropped += usize::from(call.await.is_err());
        requests.push(request);
    }
    // Whatever came of them: the same request is the same job.
    for request in requests {
        chaos.clients.submit_request(&request).await?;
    }
    let idle = "select count(*) from pg_stat_activity where state like 'idle in transaction%'
        and state_change < clock_timestamp() - interval '5 seconds'";
    let left_open = seen(PATIENCE, async || {
        let count: i64 = sqlx::query_scalar(idle).fetch_one(&chaos.plant.pool).await?;
        Ok((count == 0).then_some(()))
    });
    ensure!(left_open.await.is_some(), "a transaction stays open whose client has gone");
    Ok((dropped > 0).then(|| format!("{dropped} of {GONE} calls left, no transaction stayed open")))
}

/// Waits until every coordinator takes reports again.
pub(super) async fn all_serve(chaos: &Chaos) -> bool {
    for number in 0..chaos.plant.coordinators.len() {
        if !takes_reports(chaos, number).await {
            return false;
        }
    }
    true
}
