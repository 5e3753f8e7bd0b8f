//! Settings of the daemon, from four places into one checked value.
//!
//! A setting is named once, in [`Settings`], and is then a flag, an environment
//! variable `CAKES_…` and a key of the TOML file; limits are a table of it. The first of flag,
//! environment, file, default wins. [`Config`] is what the rest of the daemon
//! sees: complete and checked.

mod limits;
mod listen;
mod retention;
mod terms;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cakes_telemetry::trace;
use clap::{Args, ValueEnum};
use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
use url::Url;

pub use limits::{LimitSettings, Limits};
pub use retention::Retention;

use crate::core::spiffe::Name;
use crate::reconcile::Webhooks;
use crate::tls;

const LEASE_TTL: Duration = Duration::from_secs(60);
const OFFER_TTL: Duration = Duration::from_secs(15);
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
const DATABASE_CONNECTIONS: u32 = 24;

/// Longest accepted duration of any setting: more is a slip of the unit.
const DURATION_MAX: Duration = Duration::from_secs(3600);

/// What may be set; what is not takes its default.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address to serve on; port 0 lets the system choose one [default: 127.0.0.1:7550]
    #[arg(long, env = "CAKES_LISTEN", value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,

    /// Address of the web page, or off
    /// [default: 127.0.0.1:7551, or another port where that one is taken]
    #[arg(long, env = "CAKES_WEB_LISTEN", value_name = "ADDRESS|off")]
    #[serde(skip_serializing_if = "Option::is_none")]
    web_listen: Option<String>,

    /// Address at which Prometheus reads metrics, at /metrics [default: off]
    #[arg(long, env = "CAKES_METRICS_LISTEN", value_name = "ADDRESS|off")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics_listen: Option<String>,

    /// Where traces go, an OpenTelemetry collector that speaks OTLP over gRPC, or off
    /// [default: OTEL_EXPORTER_OTLP_ENDPOINT, else off]
    #[arg(long, env = "CAKES_OTLP_ENDPOINT", value_name = "URL|off")]
    #[serde(skip_serializing_if = "Option::is_none")]
    otlp_endpoint: Option<String>,

    /// A name under which the page is answered beside localhost and addresses, that of a
    /// proxy with TLS; may be given several times
    #[arg(long, env = "CAKES_WEB_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    web_allow_host: Vec<String>,

    /// Let nobody read the page without a token
    #[arg(
        long,
        env = "CAKES_WEB_REQUIRE_TOKEN",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    web_require_token: Option<bool>,

    /// Folder of certificates and authorities, as `cakes-coordinator pki init` makes it: serve with TLS
    #[arg(long, env = "CAKES_PKI_DIR", value_name = "DIR", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pki_dir: Option<PathBuf>,

    /// The coordinator's certificate, and those between it and its authority
    /// [default: cert.pem in --pki-dir]
    #[arg(long, env = "CAKES_TLS_CERT", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert: Option<PathBuf>,

    /// Its key [default: key.pem in --pki-dir]
    #[arg(long, env = "CAKES_TLS_KEY", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key: Option<PathBuf>,

    /// Who may sign users' certificates [default: users-ca.pem in --pki-dir, else nobody]
    #[arg(long, env = "CAKES_TLS_USERS_CA", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_users_ca: Option<PathBuf>,

    /// Who may sign workers' certificates [default: workers-ca.pem in --pki-dir, else nobody]
    #[arg(long, env = "CAKES_TLS_WORKERS_CA", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_workers_ca: Option<PathBuf>,

    /// Who may sign coordinators' certificates
    /// [default: coordinators-ca.pem in --pki-dir, else nobody]
    #[arg(long, env = "CAKES_TLS_COORDINATORS_CA", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_coordinators_ca: Option<PathBuf>,

    /// The DOMAIN of identities spiffe://DOMAIN/… in certificates [default: cakes]
    #[arg(long, env = "CAKES_TRUST_DOMAIN", value_name = "DOMAIN", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_domain: Option<String>,

    /// Serve in plain text on an address that other machines reach, because something else
    /// encrypts: a service mesh, or a container whose port the host maps to itself
    #[arg(
        long,
        env = "CAKES_INSECURE_LISTEN",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    insecure_listen: Option<bool>,

    /// Let nobody use the gRPC API without a token or a certificate, not even on this machine
    /// [default: false, but with certificates it is always so]
    #[arg(
        long,
        env = "CAKES_REQUIRE_IDENTITY",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    require_identity: Option<bool>,

    /// File to write the port to once the daemon serves
    #[arg(long, env = "CAKES_PORT_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    port_file: Option<PathBuf>,

    /// Directory of the private Postgres and of artifacts
    /// [default: /var/lib/cakes as root, else ~/.local/share/cakes]
    #[arg(long, env = "CAKES_DATA_DIR", value_name = "DIR", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,

    /// Postgres to use [default: a private one below the data directory]
    #[arg(long, env = "CAKES_DATABASE_URL", value_name = "URL", hide_env_values = true, global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    database_url: Option<String>,

    /// Most connections to Postgres [default: 24]
    #[arg(long, env = "CAKES_DATABASE_CONNECTIONS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    database_connections: Option<u32>,

    /// Directory of checkpoints, which workers must reach under the same path, or a bucket
    /// s3://BUCKET/PREFIX, for which each worker has AWS_… variables
    /// [default: artifacts below the data directory]
    #[arg(long, env = "CAKES_ARTIFACTS", value_name = "DIR|URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    artifacts: Option<PathBuf>,

    /// Newest checkpoints that are kept of a job that has not succeeded, beside those that
    /// are needed, pinned or best [default: 3]
    #[arg(long, env = "CAKES_KEEP_CHECKPOINTS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_checkpoints: Option<u32>,

    /// From this share of the artifact disk on, only checkpoints that are needed, pinned or
    /// best are kept [default: 90]
    #[arg(long, env = "CAKES_DISK_HIGH_PERCENT", value_name = "PERCENT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_high_percent: Option<u8>,

    /// Until less than this share of the artifact disk is in use [default: 80]
    #[arg(long, env = "CAKES_DISK_LOW_PERCENT", value_name = "PERCENT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_low_percent: Option<u8>,

    /// Age at which uploads that no ended attempt has committed are removed [default: 24h]
    #[arg(long, env = "CAKES_ORPHAN_AGE", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    orphan_age: Option<Duration>,

    /// How long a job stays with a worker that is silent [default: 60s]
    #[arg(long, env = "CAKES_LEASE_TTL", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    lease_ttl: Option<Duration>,

    /// How long a worker may take to start a job that it was given [default: 15s]
    #[arg(long, env = "CAKES_OFFER_TTL", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    offer_ttl: Option<Duration>,

    /// How often workers report [default: 2s]
    #[arg(long, env = "CAKES_REPORT_INTERVAL", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    report_interval: Option<Duration>,

    /// How long a job runs at least before it must make way for one of a higher priority
    /// [default: 30m]
    #[arg(long, env = "CAKES_MIN_RUN", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    min_run: Option<Duration>,

    /// How often a job makes way at most [default: 3]
    #[arg(long, env = "CAKES_PREEMPTION_COUNT_MAX", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    preemption_count_max: Option<u32>,

    /// How long the receiver of a webhook may take to answer [default: 10s]
    #[arg(long, env = "CAKES_WEBHOOK_TIMEOUT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    webhook_timeout: Option<Duration>,

    /// Allow webhooks without encryption to other machines
    #[arg(
        long,
        env = "CAKES_INSECURE_WEBHOOKS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    insecure_webhooks: Option<bool>,

    /// How long calls are still taken after a signal to stop, while the health service says
    /// already that this coordinator does not serve [default: 0s]
    #[arg(long, env = "CAKES_DRAIN_TIME", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    drain_time: Option<Duration>,

    /// Form of the log on standard error [default: text]
    #[arg(long, env = "CAKES_LOG_FORMAT", value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,

    /// error, warn, info, debug or trace, or per module: info,cakes_coordinator::grpc=debug
    /// [default: info]
    #[arg(long, env = "CAKES_LOG_LEVEL", value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_level: Option<String>,

    #[command(flatten)]
    #[serde(skip_serializing_if = "LimitSettings::is_empty")]
    limits: LimitSettings,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Which Postgres holds the truth.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A cluster of our own below this directory.
    Private(PathBuf),
    /// A server that exists.
    Url(String),
}

/// Where checkpoints are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artifacts {
    /// A directory that workers reach under the same path.
    Folder(PathBuf),
    /// `s3://BUCKET/PREFIX`; the keys to it are in `AWS_…` variables.
    Bucket(Url),
}

/// Where the web page is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebListen {
    Off,
    /// There, or not at all.
    At(SocketAddr),
    /// There, or on another port: nobody chose this one.
    Near(SocketAddr),
}

/// All settings, complete and checked.
#[derive(Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub web: WebListen,
    /// None to serve no metrics.
    pub metrics: Option<SocketAddr>,
    /// None to export no traces.
    pub traces: Option<trace::Settings>,
    pub web_allowed_hosts: Vec<String>,
    pub web_requires_token: bool,
    /// Callers of the gRPC API must say who they are.
    pub requires_identity: bool,
    /// None to serve in plain text.
    pub tls: Option<tls::Files>,
    /// Where `pki` commands look.
    pub pki_dir: PathBuf,
    pub trust_domain: Name,
    pub port_file: Option<PathBuf>,
    pub database: Database,
    pub database_connections: u32,
    pub artifacts: Artifacts,
    pub leases: LeaseTimes,
    pub retention: Retention,
    /// Of the planner of jobs.
    pub planning: cakes_planner::Policy,
    pub webhooks: Webhooks,
    pub limits: Limits,
    /// From a signal to stop until nothing new is taken.
    pub drain_time: Duration,
    pub log_format: LogFormat,
    pub log_level: String,
}

/// Durations of the lease protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// Silence after which a running job goes to another worker.
    pub lease_ttl: Duration,
    /// Time from the grant of a job to its start.
    pub offer_ttl: Duration,
    /// Time between two reports of a worker.
    pub report_interval: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        LeaseTimes { lease_ttl: LEASE_TTL, offer_ttl: OFFER_TTL, report_interval: REPORT_INTERVAL }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    #[error("the settings file '{path}' cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the settings file '{path}': {source}")]
    File { path: PathBuf, source: Box<figment::Error> },
    #[error("{setting}: {problem}")]
    Value { setting: &'static str, problem: String },
}

fn invalid(setting: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { setting, problem: problem.into() }
}

impl Config {
    /// Fills what `settings` leave open from a file, if there is one, and checks.
    ///
    /// # Errors
    /// The file cannot be read or holds what is no setting; those of [`Config::check`].
    pub fn load(file: Option<&Path>, settings: Settings) -> Result<Self, ConfigError> {
        match file {
            Some(path) => Self::check(merge_file(path, settings)?),
            None => Self::check(settings),
        }
    }

    /// Fills in defaults and checks everything.
    ///
    /// # Errors
    /// The first value that makes no sense, with its name and a remedy.
    pub fn check(settings: Settings) -> Result<Self, ConfigError> {
        let data_dir = || settings.data_dir.clone().map_or_else(default_data_dir, Ok);
        let database = match settings.database_url.clone() {
            Some(url) => Database::Url(check_url(url)?),
            None => Database::Private(data_dir()?),
        };
        let artifacts = match settings.artifacts.clone() {
            Some(place) => check_artifacts(place)?,
            None => Artifacts::Folder(data_dir()?.join("artifacts")),
        };
        let retention = retention::check(&settings)?;
        let planning = terms::planning(&settings)?;
        Ok(Config {
            listen: listen::calls(&settings)?,
            web: listen::page(&settings)?,
            metrics: listen::metrics(&settings)?,
            traces: trace::Settings::from_environment(settings.otlp_endpoint.as_deref())
                .map_err(|error| invalid(error.name, error.problem))?,
            web_allowed_hosts: settings.web_allow_host.iter().map(listen::host).collect::<Result<_, _>>()?,
            web_requires_token: settings.web_require_token == Some(true),
            requires_identity: listen::requires_identity(&settings),
            tls: listen::tls(&settings)?,
            // Whoever has no home and needs none has the folder where they are.
            pki_dir: settings.pki_dir.clone().unwrap_or_else(|| {
                data_dir().map_or_else(|_| PathBuf::from("pki"), |folder| folder.join("pki"))
            }),
            trust_domain: listen::trust_domain(&settings)?,
            port_file: settings.port_file,
            database,
            database_connections: terms::connections(settings.database_connections)?,
            artifacts,
            leases: terms::leases(settings.lease_ttl, settings.offer_ttl, settings.report_interval)?,
            retention,
            planning,
            webhooks: Webhooks {
                timeout: check_duration(
                    "--webhook-timeout",
                    settings.webhook_timeout.unwrap_or(Webhooks::default().timeout),
                )?,
                allows_plain: settings.insecure_webhooks.unwrap_or(false),
            },
            limits: settings.limits.check()?,
            drain_time: terms::drain_time(settings.drain_time)?,
            log_format: settings.log_format.unwrap_or(LogFormat::Text),
            log_level: check_level(settings.log_level)?,
        })
    }
}

/// Fills what `settings` leave open from a file.
fn merge_file(path: &Path, settings: Settings) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let file = |source| ConfigError::File { path: path.to_owned(), source: Box::new(source) };
    // On its own first, so that an error is surely the file's.
    Figment::from(Toml::string(&text)).extract::<Settings>().map_err(file)?;
    Figment::from(Toml::string(&text)).merge(Serialized::defaults(settings)).extract().map_err(file)
}

fn default_data_dir() -> Result<PathBuf, ConfigError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/cakes"));
    }
    match std::env::home_dir() {
        Some(home) if home.is_absolute() => Ok(home.join(".local/share/cakes")),
        _ => Err(invalid("--data-dir", "there is no home directory to put it in; name a directory")),
    }
}

fn check_url(url: String) -> Result<String, ConfigError> {
    // The value is not shown: it may hold a password.
    match Url::parse(&url) {
        Ok(parsed) if matches!(parsed.scheme(), "postgres" | "postgresql") => Ok(url),
        Ok(_) => {
            Err(invalid("--database-url", "must begin with postgres://, as in postgres://user@host/database"))
        }
        Err(error) => {
            Err(invalid("--database-url", format!("is no URL: {error}; write postgres://user@host/database")))
        }
    }
}

/// A directory, or what looks like a URL.
fn check_artifacts(place: PathBuf) -> Result<Artifacts, ConfigError> {
    let Some(text) = place.to_str().filter(|text| text.contains("://")) else {
        return Ok(Artifacts::Folder(place));
    };
    match Url::parse(text) {
        Ok(url) if url.scheme() == "s3" && url.has_host() && url.username().is_empty() => {
            Ok(Artifacts::Bucket(url))
        }
        _ => Err(invalid(
            "--artifacts",
            "is neither a directory nor a bucket; write s3://BUCKET/PREFIX, keys are the workers' own",
        )),
    }
}

fn check_duration(setting: &'static str, value: Duration) -> Result<Duration, ConfigError> {
    if (Duration::from_millis(10)..=DURATION_MAX).contains(&value) {
        return Ok(value);
    }
    Err(invalid(setting, format!("must be 10ms to 1h, got {}", humantime::format_duration(value))))
}

fn check_level(level: Option<String>) -> Result<String, ConfigError> {
    let level = level.unwrap_or_else(|| "info".to_owned());
    match tracing_subscriber::EnvFilter::try_new(&level) {
        Ok(_) => Ok(level),
        Err(error) => Err(invalid("--log-level", format!("'{level}' is no level: {error}"))),
    }
}

#[cfg(test)]
mod tests;
