//! The composition root: everything is made here, in order, and stopped in the
//! reverse of it.
//!
//! ```text
//! listeners ─► database ─► tables ─► artifacts ─► reconcilers ─► gRPC, page ─► port file, start-up line
//!    (bound first: a taken port is known before Postgres is started)
//!
//! stop:  health says so ─► gRPC, page and reconcilers ─► writes under way ─► connections ─► private Postgres
//! ```

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cakes_telemetry::trace;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

use crate::accept::{self, Accepting};
use crate::config::{Artifacts, Config, WebListen};
use crate::core::lease::Policy;
use crate::core::schedule::Rules;
use crate::database::{DatabaseError, OpenDatabase};
use crate::grpc::{self, Api, Readers, ServeError};
use crate::metrics_port;
use crate::reconcile::{self, Bell};
use crate::runtimes::{GivingWay, Runtimes};
use crate::shutdown::Shutdown;
use crate::store::{self, PoolSizes, Pools};
use crate::tls::{Purpose, Tls, TlsError};
use crate::web;

/// Why the daemon did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(
        "{address} is in use, perhaps by another coordinator; stop that one or choose another address with --listen"
    )]
    AddressInUse { address: SocketAddr },
    #[error("listen on {address}; choose another address with --listen")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("serve the web page on {address}; choose another address with --web-listen, or --web-listen off")]
    WebListen { address: SocketAddr, source: io::Error },
    #[error("serve metrics on {address}; choose another address with --metrics-listen")]
    MetricsListen { address: SocketAddr, source: io::Error },
    #[error("export traces")]
    Traces(#[from] trace::ExporterError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the system has no threads left")]
    Threads(#[source] io::Error),
    #[error("no signal can be listened to")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the artifact directory {} cannot be used; choose another with --artifacts", path.display())]
    Artifacts { path: PathBuf, source: io::Error },
    #[error(transparent)]
    ArtifactStore(#[from] cakes_artifacts::ArtifactError),
    #[error("write the port to {}; choose another file with --port-file", path.display())]
    PortFile { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("a task of the daemon ended by a defect")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Runs the daemon until `shutdown` asks it to stop.
///
/// # Errors
/// It cannot start, or its server fails. Whatever was started is stopped.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), AppError> {
    let service = trace::Service {
        name: "cakes-coordinator",
        version: env!("CARGO_PKG_VERSION"),
        instance: uuid::Uuid::new_v4().to_string(),
    };
    let exporting = config.traces.clone().map(|settings| trace::start(settings, &service)).transpose()?;
    let ended = run_daemon(config, shutdown).await;
    // Behind everything that makes spans.
    if let Some(exporting) = exporting {
        exporting.finish().await;
    }
    ended
}

async fn run_daemon(config: Config, shutdown: Shutdown) -> Result<(), AppError> {
    let tls = config.tls.clone().map(Tls::load).transpose()?;
    if let Some(tls) = &tls {
        shutdown.tasks.spawn(tls.watch(shutdown.stop.clone()).map_err(AppError::Signals)?);
    }
    let listener = bind(config.listen).await?;
    let page = bind_page(config.web).await?;
    let metrics = bind_metrics(config.metrics).await?;
    let listeners = Listeners { api: listener, page, metrics, tls };
    // Behind everything that uses them.
    let giving_way = GivingWay::start().map_err(AppError::Threads)?;
    let database = config.database.clone();
    let database = tokio::task::spawn_blocking(move || OpenDatabase::open(&database)).await??;
    let runtimes = giving_way.runtimes();
    let result = with_database(&config, listeners, &database, runtimes, &shutdown).await;
    tokio::task::spawn_blocking(move || database.close()).await?;
    result
}

/// Sockets that were bound before anything else.
struct Listeners {
    api: TcpListener,
    /// None where no page is wanted.
    page: Option<TcpListener>,
    /// None where no metrics are wanted.
    metrics: Option<TcpListener>,
    /// None to serve in plain text.
    tls: Option<Tls>,
}

async fn with_database(
    config: &Config,
    listeners: Listeners,
    database: &OpenDatabase,
    runtimes: Runtimes,
    shutdown: &Shutdown,
) -> Result<(), AppError> {
    let renewals = config.database_connections / 3;
    let sizes = PoolSizes { control: config.database_connections - renewals, renewals };
    let pools = store::connect(&database.url, sizes).await?;
    let result = with_pools(config, listeners, database, &pools, runtimes, shutdown).await;
    // Also after a failure: the tasks use the connections.
    shutdown.stop.cancel();
    if !shutdown.wait().await {
        tracing::warn!("not everything ended in time; it is cut off now");
    }
    // Connections that are still in use would be waited for without limit.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), pools.close()).await;
    result
}

async fn with_pools(
    config: &Config,
    listeners: Listeners,
    database: &OpenDatabase,
    pools: &Pools,
    runtimes: Runtimes,
    shutdown: &Shutdown,
) -> Result<(), AppError> {
    let (artifact_url, disk) = open_artifacts(&config.artifacts)?;
    let artifacts = cakes_artifacts::Artifacts::open(artifact_url.as_str())?;
    let bell = Bell::new();
    let policy = Policy {
        offer_ttl: config.leases.offer_ttl,
        lease_ttl: config.leases.lease_ttl,
        ..Policy::default()
    };
    let rules = Rules { lease_ttl: policy.lease_ttl, policy: config.planning.clone() };
    reconcile::spawn(pools, policy, rules, config.webhooks, &bell, &shutdown.stop, &shutdown.tasks);
    reconcile::spawn_keepers(pools, &artifacts, disk, config.retention, &shutdown.stop, &shutdown.tasks);

    let Listeners { api: listener, page, metrics, tls } = listeners;
    let address = local_address(&listener, config.listen)?;
    let settings = grpc::Settings {
        policy,
        planning: config.planning.clone(),
        report_interval: config.leases.report_interval,
        artifact_url: artifact_url.to_string(),
        keep_checkpoints: config.retention.newest,
        allows_plain_webhooks: config.webhooks.allows_plain,
        requires_identity: config.requires_identity,
        limits: config.limits.calls,
    };
    let api = Api::new(pools.clone(), settings, bell, shutdown);
    let page = match page {
        Some(listener) => {
            let at = local_address(&listener, address)?;
            let reader = pools.control.clone();
            let mut allowed_hosts = config.web_allowed_hosts.clone();
            allowed_hosts.extend(tls.iter().flat_map(Tls::hosts));
            let settings = web::Settings {
                allowed_hosts,
                requires_token: config.web_requires_token,
                is_encrypted: tls.is_some(),
                callers: config.limits.calls.callers,
            };
            let few = accept::Limits { connections: web::CONNECTIONS_MAX, ..config.limits.connections };
            let accepting = Accepting::new(listener, "page", few, for_purpose(&tls, Purpose::Page));
            let (api, runtimes) = (api.clone(), runtimes.clone());
            let serving = web::serve(accepting, api, reader, settings, runtimes, shutdown.clone());
            shutdown.tasks.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the web page is no longer served");
                }
            });
            Some(at)
        }
        None => None,
    };
    let metrics = match metrics {
        Some(listener) => {
            let at = local_address(&listener, address)?;
            let port = metrics_port::Port {
                pools: pools.clone(),
                lease_ttl: config.leases.lease_ttl,
                readers: Readers::new(pools, config.requires_identity, shutdown.tasks.clone()),
            };
            let tls = for_purpose(&tls, Purpose::Metrics);
            let few = accept::Limits { connections: metrics_port::SCRAPES_MAX, ..config.limits.connections };
            let accepting = Accepting::new(listener, "metrics", few, tls);
            shutdown.tasks.spawn(metrics_port::serve(accepting, port, shutdown.clone()));
            Some(at)
        }
        None => None,
    };
    let accepting =
        Accepting::new(listener, "api", config.limits.connections, for_purpose(&tls, Purpose::Calls));
    let server = shutdown.tasks.spawn(grpc::serve(accepting, api, runtimes, shutdown.clone()));
    // From here on clients are served: the system queues them on the listener.
    if let Some(path) = &config.port_file {
        write_port_file(path, address.port())
            .map_err(|source| AppError::PortFile { path: path.clone(), source })?;
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    announce(scheme, address, [page, metrics], &database.description, &artifact_url);
    until_stopped(server, shutdown).await
}

fn for_purpose(tls: &Option<Tls>, purpose: Purpose) -> Option<(Tls, Purpose)> {
    tls.clone().map(|tls| (tls, purpose))
}

/// Waits for the request to stop, or for the server to fail before it.
async fn until_stopped(
    server: JoinHandle<Result<(), ServeError>>,
    shutdown: &Shutdown,
) -> Result<(), AppError> {
    tokio::select! {
        biased;
        () = shutdown.stop.cancelled() => {
            tracing::info!("stopping");
            Ok(())
        }
        ended = server => Ok(ended??),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => AppError::AddressInUse { address },
        _ => AppError::Listen { address, source },
    })
}

/// The listener of the web page, if there is to be one.
async fn bind_page(wanted: WebListen) -> Result<Option<TcpListener>, AppError> {
    let (address, may_move) = match wanted {
        WebListen::Off => return Ok(None),
        WebListen::At(address) => (address, false),
        WebListen::Near(address) => (address, true),
    };
    let bound = match TcpListener::bind(address).await {
        Err(error) if may_move && error.kind() == io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(address.ip(), 0)).await
        }
        bound => bound,
    };
    bound.map(Some).map_err(|source| AppError::WebListen { address, source })
}

/// The listener of metrics, if there is to be one.
async fn bind_metrics(wanted: Option<SocketAddr>) -> Result<Option<TcpListener>, AppError> {
    let Some(address) = wanted else { return Ok(None) };
    let bound = TcpListener::bind(address).await.map(Some);
    bound.map_err(|source| AppError::MetricsListen { address, source })
}

/// The address with the port that the system chose.
fn local_address(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, AppError> {
    listener.local_addr().map_err(|source| AppError::Listen { address, source })
}

/// Makes the directory of checkpoints; the URL of the store for workers, and the directory.
fn open_artifacts(artifacts: &Artifacts) -> Result<(Url, Option<PathBuf>), AppError> {
    let path = match artifacts {
        Artifacts::Folder(path) => path,
        Artifacts::Bucket(url) => return Ok((url.clone(), None)),
    };
    let unusable = |source| AppError::Artifacts { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(unusable)?;
    let path = path.canonicalize().map_err(unusable)?;
    tempfile::tempfile_in(&path).map_err(unusable)?;
    let url = Url::from_directory_path(&path)
        .map_err(|()| unusable(io::Error::from(io::ErrorKind::InvalidFilename)))?;
    Ok((url, Some(path)))
}

/// Writes the whole file or none: whoever waits for it never reads half a port.
fn write_port_file(path: &Path, port: u16) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{port}")?;
    file.persist(path)?;
    Ok(())
}

/// What stands on standard output: where it serves, and where the page is.
fn announce(
    scheme: &str,
    address: SocketAddr,
    [page, metrics]: [Option<SocketAddr>; 2],
    database: &str,
    artifacts: &Url,
) {
    // Nobody may read standard output; that is no reason to stop.
    let _ = writeln!(
        io::stdout(),
        "cakes-coordinator serves on {scheme}://{address} (database: {database}, artifacts: {artifacts})"
    );
    if let Some(page) = page {
        let _ = writeln!(io::stdout(), "cakes-coordinator shows its page on {scheme}://{page}/");
    }
    if let Some(metrics) = metrics {
        let _ = writeln!(io::stdout(), "cakes-coordinator has metrics on {scheme}://{metrics}/metrics");
    }
}
