//! Tasks that bring what is recorded and what is decided together.
//!
//! Each takes no input: woken by a timer or by the [`Bell`], it reads the
//! database, plans, and applies. A ring says only "look again", so a lost ring
//! costs a second and a needless one costs a query; the path that a hint would
//! open is the one that always runs. Several coordinators may run them at once.

mod advance_searches;
mod deliver_webhooks;
mod expire_leases;
mod judge_workers;
mod plan_jobs;
mod remove_orphans;
mod retain;
mod ticks;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cakes_artifacts::Artifacts;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info_span};

pub use deliver_webhooks::Webhooks;

use crate::config::Retention;
use crate::core::lease::Policy;
use crate::core::schedule::Rules;
use crate::store::Pools;

/// Time between two looks when nobody rings.
const PERIOD: Duration = Duration::from_secs(1);

/// Wakes the tasks after a write that they may have work from.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<Notify>);

impl Bell {
    pub fn new() -> Self {
        Self::default()
    }

    /// Several rings before the next look are one.
    pub fn ring(&self) {
        self.0.notify_one();
    }

    async fn heard(&self) {
        self.0.notified().await;
    }
}

/// Starts the tasks; they end when `stop` is cancelled, after what they are at.
pub fn spawn(
    pools: &Pools,
    policy: Policy,
    rules: Rules,
    webhooks: Webhooks,
    bell: &Bell,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) {
    let advance = advance_searches::run(pools.control.clone(), bell.clone(), stop.clone());
    let expire = expire_leases::run(pools.control.clone(), policy, bell.clone(), stop.clone());
    let judge = judge_workers::run(pools.upkeep.clone(), stop.clone());
    let plan = plan_jobs::run(pools.control.clone(), rules, stop.clone());
    spawn_named(tracker, "advance-searches", advance);
    spawn_named(tracker, "plan-jobs", plan);
    spawn_named(tracker, "judge-workers", judge);
    spawn_named(tracker, "expire-leases", expire);
    let deliver = deliver_webhooks::run(pools.control.clone(), webhooks, stop.clone());
    spawn_named(tracker, "deliver-webhooks", deliver);
}

/// Starts the tasks that keep the artifact store in order. `disk`: its folder, where it
/// is one.
pub fn spawn_keepers(
    pools: &Pools,
    artifacts: &Artifacts,
    disk: Option<PathBuf>,
    retention: Retention,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) {
    let Retention { newest, marks, orphan_age } = retention;
    let pool = || pools.upkeep.clone();
    let keeper = retain::Keeper { pool: pool(), artifacts: artifacts.clone(), disk, newest, marks };
    let sweeper =
        remove_orphans::Sweeper { pool: pool(), artifacts: artifacts.clone(), least_age: orphan_age };
    spawn_named(tracker, "retain", retain::run(keeper, stop.clone()));
    spawn_named(tracker, "remove-orphans", remove_orphans::run(sweeper, stop.clone()));
}

fn spawn_named(tracker: &TaskTracker, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tracker.spawn(task.instrument(info_span!("reconcile", task = name)));
}
