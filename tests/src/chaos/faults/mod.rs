//! The faults. Each is injected, and proven by an effect that somebody else saw:
//! a row, a line of a log, an answer, bytes that waited.

mod coordinators;
mod database;
mod gangs;
mod jobs;
mod network;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::PgPool;

use super::fleet::Fleet;
use super::history::{Grant, History};
use super::plant::Plant;
use super::schedule::{Class, Random};
use super::work::Clients;

/// What faults act on.
pub struct Chaos {
    pub plant: Arc<Plant>,
    pub fleet: Arc<Fleet>,
    pub clients: Arc<Clients>,
    pub history: Arc<History>,
}

/// The effect that was seen; `None` if there was nothing to break just then.
pub type Proof = Option<String>;

/// How long an effect is waited for. Other faults are under way, and two cores
/// are shared with trainings.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_millis(150);

/// Injects one fault, waits for its effect, and takes it back.
///
/// # Errors
/// The rig cannot do what it should, or something does not recover.
pub async fn inject(chaos: &Chaos, class: Class, seed: u64) -> Result<Proof> {
    let random = &mut Random::new(seed);
    match class {
        Class::F1 => Box::pin(workers::daemon_killed(chaos, random)).await,
        Class::F2 => Box::pin(workers::trainer_killed(chaos)).await,
        Class::F3 => Box::pin(workers::daemon_stopped(chaos)).await,
        Class::F4 => Box::pin(workers::trainer_hangs(chaos)).await,
        Class::F7 => Box::pin(jobs::runs_away(chaos)).await,
        Class::F9 => Box::pin(coordinators::killed(chaos, random)).await,
        Class::F10 => Box::pin(coordinators::restarted(chaos, random)).await,
        Class::F11 => Box::pin(coordinators::race(chaos, random)).await,
        Class::F12 => Box::pin(database::restarted(chaos)).await,
        Class::F13 => Box::pin(database::away(chaos)).await,
        Class::F15 => Box::pin(database::sockets_stay_open(chaos, random)).await,
        Class::F16 => Box::pin(database::cut_at_commit(chaos, random)).await,
        Class::F17 => Box::pin(network::cut_off(chaos, random)).await,
        Class::F18 => Box::pin(network::one_way(chaos, random)).await,
        Class::F19 => Box::pin(database::cut_off(chaos, random)).await,
        Class::F22 => Box::pin(network::repeated_calls(chaos, random)).await,
        Class::F23 => Box::pin(workers::disk_full(chaos)).await,
        Class::F25 => Box::pin(workers::store_away(chaos)).await,
        Class::F26 => Box::pin(workers::checkpoint_damaged(chaos, random)).await,
        Class::F36 => Box::pin(jobs::poison(chaos)).await,
        Class::F37 => Box::pin(coordinators::storm(chaos, random)).await,
        Class::F39 => Box::pin(coordinators::slow_statements(chaos)).await,
        Class::F40 => Box::pin(coordinators::clients_gone(chaos, random)).await,
        Class::F41 => Box::pin(network::several(chaos, random)).await,
        Class::F42 => Box::pin(gangs::worker_killed(chaos, random)).await,
        Class::F43 => Box::pin(gangs::fake_killed(chaos, random)).await,
        Class::F44 => Box::pin(gangs::follower_cut_off(chaos, random)).await,
    }
}

/// Asks until there is an answer or time is up. What cannot be asked just now,
/// since the database is away, is asked again.
pub(crate) async fn seen<T>(
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Ok(Some(value)) = probe().await {
            return Some(value);
        }
        if start.elapsed() > within {
            return None;
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// How an attempt ended, if it did.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct End {
    pub end_reason: String,
    pub message: String,
}

pub(crate) async fn end_of(pool: &PgPool, grant: Grant) -> Result<Option<End>> {
    let statement = "select end_reason, message from attempt
        where job_id = $1 and epoch = $2 and end_reason is not null";
    Ok(sqlx::query_as(statement).bind(grant.0).bind(grant.1).fetch_optional(pool).await?)
}

/// The database's clock; asked until it answers.
pub(crate) async fn now(pool: &PgPool) -> Result<chrono::DateTime<chrono::Utc>> {
    let asked = seen(PATIENCE, async || {
        Ok(Some(sqlx::query_scalar("select clock_timestamp()").fetch_one(pool).await?))
    });
    asked.await.ok_or_else(|| anyhow::anyhow!("the database does not answer the rig"))
}
