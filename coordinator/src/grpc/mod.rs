//! The API: one file per service, each method in three steps: check the request,
//! call the store, convert the answer.
//!
//! Writes are detached from their caller: tonic drops a handler when its client
//! goes away or its time is up, and a transaction must not end there. What workers
//! call often shares transactions ([`lanes`]). Before all of them stands the [`gate`].

mod architecture_service;
mod backlog;
mod fleet_service;
mod front;
mod gate;
mod health;
mod job_service;
mod labels;
mod lanes;
mod listener;
pub(crate) mod lookup;
mod measure;
mod notes;
mod owned;
mod paging;
mod plan;
mod resume;
mod search_service;
mod server;
mod status;
mod stream;
mod traces;
mod transfer;
mod values;
mod webhook_service;
mod wire;
mod worker_service;
mod worker_wire;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tonic::Status;
use tracing::Instrument;

pub(crate) use gate::Readers;
pub use listener::PeerInfo;
pub use server::{ServeError, routes, serve};
pub use status::ERROR_DOMAIN;
pub(crate) use status::audited;

use crate::core::lease::Policy;
use crate::core::schedule::Rules;
use crate::core::throttle;
use crate::lane::Lane;
use crate::reconcile::Bell;
use crate::shutdown::Shutdown;
use crate::store::{self, Kept, PgPool, Pools};
use backlog::Queue;
use gate::Leases;
use lanes::{Moves, Reports};
use stream::Streams;
use transfer::Transfers;

/// What the services need. Cheap to clone: each service has one.
#[derive(Clone)]
pub struct Api {
    pools: Pools,
    policy: Policy,
    rules: Arc<Rules>,
    report_interval: Duration,
    artifact_url: String,
    keep_checkpoints: usize,
    allows_plain_webhooks: bool,
    requires_identity: bool,
    leases: Leases,
    bell: Bell,
    writes: TaskTracker,
    streams: Streams,
    queue: Queue,
    limits: Limits,
    transfers: Transfers,
    reports: Lane<Reports>,
    moves: Lane<Moves>,
}

/// What an operator can set about the API.
#[derive(Clone, Debug)]
pub struct Settings {
    pub policy: Policy,
    /// Of the planner of jobs.
    pub planning: cakes_planner::Policy,
    /// How often workers report while a job runs.
    pub report_interval: Duration,
    /// Where workers put checkpoints.
    pub artifact_url: String,
    /// Newest checkpoints that are kept of a job.
    pub keep_checkpoints: usize,
    /// Webhooks may be http to other machines.
    pub allows_plain_webhooks: bool,
    /// Whoever shows neither a token nor a certificate may do nothing, instead of everything.
    pub requires_identity: bool,
    pub limits: Limits,
}

/// How much callers may ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Calls and streams that one connection may have open.
    pub streams_per_connection: u32,
    pub callers: throttle::Limits,
    /// Time for a unary call, and for a streaming one until its stream begins.
    pub call_timeout: Duration,
    /// Streams that follow something, in all.
    pub watches: usize,
    pub waiting_jobs: i64,
    /// Searches that have not ended.
    pub open_searches: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // A worker has about two under way per device, a program of a person a few more;
            // what waits for another stream is the client's.
            streams_per_connection: 64,
            callers: throttle::Limits::default(),
            // Longer than any wait for a database connection, so that a caller learns the
            // reason and not only that time is up.
            call_timeout: Duration::from_secs(15),
            watches: 500,
            waiting_jobs: 1_000_000,
            open_searches: 10_000,
        }
    }
}

impl Api {
    /// The API over a database. Writes ring `bell` when there may be something
    /// to plan, and are among the tasks that `shutdown` waits for.
    pub fn new(pools: Pools, settings: Settings, bell: Bell, shutdown: &Shutdown) -> Self {
        let Settings {
            policy,
            planning,
            report_interval,
            artifact_url,
            keep_checkpoints,
            allows_plain_webhooks,
            requires_identity,
            limits,
        } = settings;
        let (renewals, turnover) = (pools.renewals.clone(), pools.turnover.clone());
        let reports = Reports { kept: Kept::new(renewals.clone()), pool: renewals, policy };
        let moves = Moves { kept: Kept::new(turnover.clone()), pool: turnover, policy };
        Api {
            reports: Lane::new(&reports, &shutdown.tasks),
            moves: Lane::new(&moves, &shutdown.tasks),
            leases: Leases::new(pools.renewals.clone()),
            pools,
            policy,
            rules: Arc::new(Rules { lease_ttl: policy.lease_ttl, policy: planning }),
            report_interval,
            artifact_url,
            keep_checkpoints,
            allows_plain_webhooks,
            requires_identity,
            bell,
            writes: shutdown.tasks.clone(),
            streams: Streams::new(shutdown.stop.clone(), limits.watches),
            queue: Queue::new(&limits),
            limits,
            transfers: Transfers::default(),
        }
    }

    /// What rounds go by.
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Connections for everything that only reads.
    fn reader(&self) -> &PgPool {
        &self.pools.control
    }

    /// Runs a write to its end, even if the caller goes away.
    async fn write<T, W, F>(&self, write: W) -> Result<T, Status>
    where
        W: FnOnce(PgPool) -> F,
        F: Future<Output = Result<T, store::Error>> + Send + 'static,
        T: Send + 'static,
    {
        self.detach(write(self.pools.control.clone())).await
    }

    /// As [`Api::write`], for a write after which there may be something to plan.
    async fn write_then_plan<T, W, F>(&self, write: W) -> Result<T, Status>
    where
        W: FnOnce(PgPool) -> F,
        F: Future<Output = Result<T, store::Error>> + Send + 'static,
        T: Send + 'static,
    {
        let (write, bell) = (write(self.pools.control.clone()), self.bell.clone());
        self.detach(async move {
            let written = write.await;
            bell.ring();
            written
        })
        .await
    }

    async fn detach<T, F>(&self, write: F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, store::Error>> + Send + 'static,
        T: Send + 'static,
    {
        match self.writes.spawn(store::limited(write).in_current_span()).await {
            Ok(written) => Ok(written?),
            Err(panicked) => Err(status::internal(&panicked)),
        }
    }
}
