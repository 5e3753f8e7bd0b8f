//! Faults of Postgres and of the connections to it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cakes_proto::v1::ListWorkersRequest;
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use nix::sys::signal::Signal;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use super::{Chaos, PATIENCE, Proof, seen};
use crate::chaos::proxy::Gate;
use crate::chaos::schedule::Random;
use crate::fake::connect;

/// Grants whose attempts train just now.
async fn running(chaos: &Chaos) -> Result<Vec<(Uuid, i64)>> {
    let statement = "select job_id, epoch from attempt where state = 'running'";
    Ok(sqlx::query_as(statement).fetch_all(&chaos.plant.pool).await?)
}

/// How many of these attempts were taken from their workers.
async fn expired(chaos: &Chaos, grants: &[(Uuid, i64)]) -> usize {
    let mut count = 0;
    for grant in grants {
        let end = super::end_of(&chaos.plant.pool, *grant).await.ok().flatten();
        count += usize::from(end.is_some_and(|end| end.end_reason == "lease expired"));
    }
    count
}

async fn serves_after(chaos: &Chaos, began: Instant) -> Result<Duration> {
    let before: u64 = chaos.history.answers().reports.values().sum();
    let taken = seen(PATIENCE, async || {
        let reports: u64 = chaos.history.answers().reports.values().sum();
        Ok((reports > before).then_some(()))
    });
    ensure!(taken.await.is_some(), "no report is taken {PATIENCE:?} after Postgres came back");
    Ok(began.elapsed())
}

/// F12.
pub(super) async fn restarted(chaos: &Chaos) -> Result<Proof> {
    let (live, pid) = (running(chaos).await.unwrap_or_default(), chaos.plant.postgres_pid().await);
    chaos.plant.stop_postgres(Signal::SIGQUIT).await?;
    chaos.plant.start_postgres().await?;
    let back = serves_after(chaos, Instant::now()).await?;
    tokio::time::sleep(chaos.plant.sizes.lease_ttl).await;
    let (count, lost) = (live.len(), expired(chaos, &live).await);
    let new = chaos.plant.postgres_pid().await;
    Ok((new.is_some() && new != pid).then(|| {
        format!("new server; a report was taken {back:.1?} after it; {lost} of {count} leases expired")
    }))
}

/// F13.
pub(super) async fn away(chaos: &Chaos) -> Result<Proof> {
    let (live, before) = (running(chaos).await.unwrap_or_default(), chaos.history.answers());
    let began = Instant::now();
    chaos.plant.stop_postgres(Signal::SIGQUIT).await?;
    tokio::time::sleep(chaos.plant.sizes.lease_ttl + Duration::from_secs(4)).await;
    chaos.plant.start_postgres().await?;
    let away = began.elapsed();
    let unknown = chaos.history.answers().unknown - before.unknown;
    serves_after(chaos, Instant::now()).await?;
    tokio::time::sleep(chaos.plant.sizes.lease_ttl).await;
    let (count, lost) = (live.len(), expired(chaos, &live).await);
    Ok((unknown > 0).then(|| {
        format!("away for {away:.1?}, {unknown} calls without an answer; {lost} of {count} leases expired")
    }))
}

/// Time in which a coordinator has to serve again.
const RECOVERY: Duration = Duration::from_secs(60);

/// F15.
pub(super) async fn sockets_stay_open(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let number = random.below(chaos.plant.coordinators.len() as u64) as usize;
    let proxy = &chaos.plant.database_proxies[number];
    let before = proxy.counts().frozen.load(Ordering::Relaxed);
    proxy.freeze();
    let began = Instant::now();
    // Long enough for every connection of the pools to be used and found silent.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let served = seen(RECOVERY, async || serves(chaos, number).await).await;
    let (took, frozen) = (began.elapsed(), proxy.counts().frozen.load(Ordering::Relaxed) - before);
    // Their other ends have been given up, or this coordinator would be of no more use.
    proxy.cut();
    ensure!(
        served.is_some(),
        "coordinator {number} does not serve {RECOVERY:?} after its sockets to Postgres fell silent"
    );
    Ok((frozen > 0)
        .then(|| format!("coordinator {number}: {frozen} sockets silent, serves after {took:.1?}")))
}

/// Whether a coordinator answers what it must ask the database for, several times.
async fn serves(chaos: &Chaos, number: usize) -> Result<Option<()>> {
    let address = chaos.plant.addresses[number];
    let channel = connect(&format!("http://{address}"))?;
    for _ in 0..4 {
        let mut client = FleetServiceClient::new(channel.clone());
        let call = client.list_workers(ListWorkersRequest {});
        tokio::time::timeout(Duration::from_secs(2), call).await??;
    }
    Ok(Some(()))
}

/// F16.
pub(super) async fn cut_at_commit(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let number = random.below(chaos.plant.coordinators.len() as u64) as usize;
    let proxy = &chaos.plant.database_proxies[number];
    let before = proxy.counts().cut_at_commit.load(Ordering::Relaxed);
    let wanted = 3 + random.below(4);
    proxy.cut_at_commits(wanted);
    let cut = || proxy.counts().cut_at_commit.load(Ordering::Relaxed) - before;
    seen(PATIENCE / 2, async || Ok((cut() >= wanted).then_some(()))).await;
    proxy.cut_at_commits(0);
    Ok((cut() > 0).then(|| format!("coordinator {number}: {} commits whose answer was lost", cut())))
}

/// F19.
pub(super) async fn cut_off(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let number = random.below(chaos.plant.coordinators.len() as u64) as usize;
    let proxy = &chaos.plant.database_proxies[number];
    let began = Instant::now();
    proxy.gate(Gate::Hold, Gate::Hold);
    let told = seen(PATIENCE / 2, async || {
        Ok((health(chaos, number).await? != ServingStatus::Serving).then_some(()))
    })
    .await;
    let told = told.map(|()| began.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.heal();
    let healed = Instant::now();
    let serves =
        seen(RECOVERY, async || Ok((health(chaos, number).await? == ServingStatus::Serving).then_some(())));
    ensure!(serves.await.is_some(), "coordinator {number} does not say that it serves after a partition");
    let back = healed.elapsed();
    Ok(told.map(|told| {
        format!(
            "coordinator {number} said NOT_SERVING after {told:.1?}, SERVING {back:.1?} after the healing"
        )
    }))
}

async fn health(chaos: &Chaos, number: usize) -> Result<ServingStatus> {
    let address = chaos.plant.addresses[number];
    let mut client = HealthClient::new(connect(&format!("http://{address}"))?);
    let answer = client.check(HealthCheckRequest { service: String::new() }).await?;
    Ok(answer.into_inner().status())
}
