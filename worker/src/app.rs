//! Start and end of the daemon.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use cakes_proto::v1;
use cakes_telemetry::{serve, trace};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::at_hand::DataAtHand;
use crate::client::{Coordinator, Credentials};
use crate::clock::since_boot;
use crate::config::Config;
use crate::journal::WorkDir;
use crate::metrics::{self, metrics};
use crate::process::kill_marked;
use crate::session::{Session, SessionError};
use crate::{devices, recovery, slot};

/// What the slots share.
#[derive(Debug)]
pub struct Context {
    pub config: Config,
    pub session: Arc<Session>,
    pub work: WorkDir,
    pub data: DataAtHand,
    /// Where other machines reach this one; none where its slots train with no others.
    pub own_address: Option<String>,
}

/// The request that the daemon ends, and until when.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    asked: CancellationToken,
    deadline: Arc<OnceLock<Duration>>,
}

impl Shutdown {
    pub fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Resolves once the daemon is to end.
    pub fn asked(&self) -> impl Future<Output = ()> + use<'_> {
        self.asked.cancelled()
    }

    /// When whatever is left is killed, since boot.
    pub fn deadline(&self) -> Duration {
        self.deadline.get().copied().unwrap_or(Duration::MAX)
    }

    fn ask(&self, limit: Duration) {
        let _ = self.deadline.set(since_boot() + limit);
        self.asked.cancel();
    }
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// It cannot begin, or the coordinator does not take it.
pub async fn run(mut config: Config) -> anyhow::Result<()> {
    let service = trace::Service {
        name: "cakes-worker",
        version: env!("CARGO_PKG_VERSION"),
        instance: config.id.to_string(),
    };
    let exporting = config.traces.take().map(|settings| trace::start(settings, &service)).transpose()?;
    let ended = run_daemon(config).await;
    if let Some(exporting) = exporting {
        exporting.finish().await;
    }
    ended
}

async fn run_daemon(mut config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let metrics_port = bind_metrics(config.metrics).await?;
    let devices = tokio::select! {
        devices = devices::find(&config.devices) => devices?,
        () = signals.next() => return Ok(()),
    };
    config.share_memory(devices.len());
    metrics().devices.set(devices.len() as f64);
    let work = WorkDir::open(&config.work_dir).context("work_dir")?;
    let attempts = work.attempts();
    let left_behind = recovery::clear_processes(&work)?;
    let scraped = CancellationToken::new();
    let _stops_scrapes = scraped.clone().drop_guard();
    if let Some(listener) = metrics_port {
        let folders = metrics::folders(&config);
        tokio::spawn(serve::plain(listener, scraped, move || {
            let (work, cache) = folders.clone();
            async move { tokio::task::spawn_blocking(|| metrics::scrape(work, cache)).await.unwrap_or_default() }
        }));
    }

    let credentials = Credentials::read(config.token_file.clone(), config.files.clone())?;
    let own_address = config.advertised.resolve(&config.server);
    if let Some(address) = &own_address {
        info!(address, "slots of other machines may train with those of this one");
    }
    let joins = own_address.is_some();
    let coordinator = Coordinator::new(config.server.clone(), config.other_servers.clone(), credentials);
    let session = tokio::select! {
        session = Session::register(coordinator, config.id.clone(), devices, config.labels.clone(), joins) => Arc::new(session?),
        () = signals.next() => return Ok(()),
    };
    tokio::select! {
        settled = recovery::settle(&session, left_behind) => settled?,
        () = signals.next() => return Ok(()),
    }
    let limit = config.shutdown_limit;
    let context = Context { config, session, work, data: DataAtHand::default(), own_address };
    let ended = work_until_told(Arc::new(context), &mut signals, limit).await;
    // Nothing should be left; what is, goes now.
    let (found, left) = kill_marked(&attempts);
    if found > 0 {
        warn!(found, left, "trainers were killed at the end of the daemon");
    }
    ended
}

async fn work_until_told(
    context: Arc<Context>,
    signals: &mut Signals,
    limit: Duration,
) -> anyhow::Result<()> {
    let shutdown = Shutdown::default();
    let mut slots = JoinSet::new();
    for device in context.session.devices().to_vec() {
        log_device(&device);
        slots.spawn(slot::run(Arc::clone(&context), device, shutdown.clone()));
    }
    let outcome = tokio::select! {
        outcome = slots_end(&mut slots) => outcome,
        () = signals.next() => Ok(()),
    };
    if let Err(problem) = &outcome {
        error!("{problem}");
    }
    info!(limit = %humantime::format_duration(limit), "ending: jobs are saved and handed back");
    shutdown.ask(limit);
    let rest = tokio::select! {
        rest = slots_end(&mut slots) => rest,
        () = tokio::time::sleep(limit) => {
            warn!("jobs were not handed back in time; their leases run out");
            Ok(())
        }
        () = signals.next() => {
            warn!("told to end twice: ending at once");
            Ok(())
        }
    };
    slots.shutdown().await;
    outcome.and(rest).map_err(anyhow::Error::from)
}

/// The port of metrics, if there is to be one; known before anything is begun.
async fn bind_metrics(wanted: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = wanted else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| {
        format!("serve metrics on {address}; choose another address with --metrics-listen")
    })?;
    info!(address = %listener.local_addr()?, "metrics are at /metrics");
    Ok(Some(listener))
}

/// Waits for all slots; the first that fails ends the wait.
async fn slots_end(slots: &mut JoinSet<Result<(), SessionError>>) -> Result<(), SessionError> {
    while let Some(ended) = slots.join_next().await {
        match ended {
            Ok(outcome) => outcome?,
            Err(error) => error!("a slot ended: {error}"),
        }
    }
    Ok(())
}

fn log_device(device: &v1::Device) {
    info!(device = device.name, model = device.model, memory_mib = device.memory_mib, "ready for jobs");
}

/// SIGTERM and SIGINT, as one.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
