//! What the daemon is told: flags, then the environment, then a TOML file, then
//! defaults. Text becomes a [`Config`], whose values are in range, or an error
//! that names the setting and says what to write instead.

mod flags;
mod identity;
mod settings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cakes::labels::Labels;
use cakes::spec::Violation;
use cakes_proto::ids::WorkerId;
use cakes_telemetry::trace;
use cakes_tls::client::ClientFiles;
use tonic::transport::Endpoint;

use crate::attempt::{Patience, SectionLimits};
use crate::client::Credentials;
use crate::devices::DeviceChoice;
use crate::gangs::Advertised;
use crate::memory;
use crate::telemetry::LogFormat;
pub use flags::{Cli, Command, Flags};
pub(crate) use settings::Settings;

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// The checked settings of a daemon.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Endpoint,
    /// Taken in turn when the first does not answer.
    pub other_servers: Vec<Endpoint>,
    /// Holds a token, which goes to none of the servers in plain text.
    pub token_file: Option<PathBuf>,
    /// For those with https.
    pub files: ClientFiles,
    pub id: WorkerId,
    /// Absolute.
    pub data_root: PathBuf,
    pub work_dir: PathBuf,
    pub devices: DeviceChoice,
    pub labels: Labels,
    /// Where other machines reach its ranks.
    pub advertised: Advertised,
    /// Absolute, and there.
    pub trainer: PathBuf,
    pub threads: Option<u32>,
    pub loader_threads: Option<u16>,
    /// Absolute.
    pub cache_dir: PathBuf,
    pub cache_limit_gib: u64,
    pub disk_free_min_mib: u64,
    pub mean_time_between_failures: Duration,
    /// Of each trainer; none for its share of what there is, see [`Config::share_memory`].
    pub memory_limit_mib: Option<u64>,
    pub patience: Patience,
    pub shutdown_limit: Duration,
    /// None to serve no metrics.
    pub metrics: Option<SocketAddr>,
    /// None to export no traces.
    pub traces: Option<trace::Settings>,
    pub log_level: String,
    pub log_format: LogFormat,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--config: {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("settings: {0}")]
    Settings(#[from] Box<figment::Error>),
    #[error("{setting}: {problem}")]
    Value { setting: &'static str, problem: String },
}

fn wrong(setting: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { setting, problem: problem.into() }
}

/// Time that a trainer gets to exit behind its last word.
const EXIT_GRACE: Duration = Duration::from_secs(10);

impl Config {
    /// Merges and checks the settings.
    ///
    /// # Errors
    /// The file cannot be read or holds an unknown key, or a value is out of range.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        Config::check(Settings::merge(flags)?)
    }

    /// Limits the memory of each of `slots` trainers to its share of what there is, unless a
    /// limit was given.
    pub fn share_memory(&mut self, slots: usize) {
        if let (None, Some(usable_mib)) = (self.memory_limit_mib, memory::usable_mib()) {
            self.patience.memory_mib_max = memory::share_mib(usable_mib, slots);
        }
    }

    fn check(settings: Settings) -> Result<Self, ConfigError> {
        let fence_share = settings.self_fence;
        if !(0.1..=0.95).contains(&fence_share) {
            return Err(wrong("self_fence", format!("{fence_share} is not within 0.1 and 0.95")));
        }
        if settings.threads == Some(0) {
            return Err(wrong("threads", "must be 1 or more; leave it out for all cores"));
        }
        if settings.loader_threads == Some(0) {
            return Err(wrong("loader_threads", "must be 1 or more; leave it out for the trainer's choice"));
        }
        if settings.cache_limit_gib == 0 {
            return Err(wrong("cache_limit_gib", "must be 1 or more; a data set must fit"));
        }
        if settings.memory_limit_mib == Some(0) {
            return Err(wrong(
                "memory_limit_mib",
                "must be 1 or more; leave it out for a share of what there is",
            ));
        }
        let work_dir = settings.work_dir.map_or_else(default_work_dir, Ok)?;
        let cache_dir = settings.cache_dir.unwrap_or_else(|| work_dir.join("cache"));
        let devices =
            DeviceChoice::parse(&settings.devices).map_err(|error| wrong("devices", error.to_string()))?;
        let limits = SectionLimits {
            loading: positive("loading_limit", settings.loading_limit)?,
            building: positive("building_limit", settings.building_limit)?,
            step: positive("step_limit", settings.step_limit)?,
            validation: positive("validation_limit", settings.validation_limit)?,
            checkpoint: positive("checkpoint_limit", settings.checkpoint_limit)?,
            latency: positive("latency_limit", settings.latency_limit)?,
        };
        let files =
            ClientFiles { ca: settings.ca_file, certificate: settings.cert_file, key: settings.key_file };
        identity::check(&files, &settings.server)?;
        let credentials = Credentials::read(settings.token_file.clone(), files.clone());
        let credentials = credentials.map_err(|error| wrong("token_file", error.to_string()))?;
        for url in settings.server.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            credentials.check_way(url).map_err(|error| wrong("token_file", error.to_string()))?;
        }
        let (first, others) = settings.server.split_once(',').unwrap_or((&settings.server, ""));
        Ok(Config {
            server: server(first)?,
            other_servers: others
                .split(',')
                .filter(|url| !url.is_empty())
                .map(server)
                .collect::<Result<_, _>>()?,
            token_file: settings.token_file,
            id: identity::worker_id(settings.id.as_deref(), &files)?,
            files,
            data_root: absolute_folder("data_root", &settings.data_root)?,
            work_dir,
            devices,
            labels: settings
                .labels
                .parse()
                .map_err(|violation: Violation| wrong("labels", violation.problem))?,
            advertised: Advertised::parse(settings.advertise_address.as_deref())
                .map_err(|problem| wrong("advertise_address", problem))?,
            trainer: find_trainer(settings.trainer)?,
            threads: settings.threads,
            loader_threads: settings.loader_threads,
            // Trainers run in folders of their own.
            cache_dir: std::path::absolute(&cache_dir)
                .map_err(|error| wrong("cache_dir", format!("{}: {error}", cache_dir.display())))?,
            cache_limit_gib: settings.cache_limit_gib,
            disk_free_min_mib: settings.disk_free_min_mib,
            mean_time_between_failures: positive("mtbf", settings.mtbf)?,
            memory_limit_mib: settings.memory_limit_mib,
            patience: Patience {
                limits,
                memory_mib_max: settings.memory_limit_mib.unwrap_or(u64::MAX),
                stop_grace: settings.stop_grace,
                cancel_grace: settings.cancel_grace,
                exit_grace: EXIT_GRACE,
                fence_share,
                hold: positive("hold", settings.hold)?,
            },
            shutdown_limit: positive("shutdown_limit", settings.shutdown_limit)?,
            metrics: metrics(settings.metrics_listen.as_deref(), settings.insecure_listen)?,
            traces: trace::Settings::from_environment(settings.otlp_endpoint.as_deref())
                .map_err(|error| wrong(error.name, error.problem))?,
            log_level: settings.log_level,
            log_format: settings.log_format,
        })
    }
}

fn positive(setting: &'static str, duration: Duration) -> Result<Duration, ConfigError> {
    if duration.is_zero() {
        return Err(wrong(setting, "must be longer than 0s"));
    }
    Ok(duration)
}

fn server(url: &str) -> Result<Endpoint, ConfigError> {
    let url = url.trim();
    let problem = || format!("'{url}' is no URL like http://127.0.0.1:7550 or https://coordinator:7550");
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong("server", problem()))?;
    match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
        (Some("http" | "https"), Some(_)) => Ok(endpoint),
        _ => Err(wrong("server", problem())),
    }
}

/// Metrics are read by whoever reaches their port: without a word only this machine does.
fn metrics(address: Option<&str>, is_open: bool) -> Result<Option<SocketAddr>, ConfigError> {
    let text = match address {
        None | Some("off") => return Ok(None),
        Some(text) => text,
    };
    let address: SocketAddr = text.parse().map_err(|_| {
        wrong("metrics_listen", format!("'{text}' is no address; write 127.0.0.1:7553, or off"))
    })?;
    if address.ip().is_loopback() || is_open {
        return Ok(Some(address));
    }
    let problem = format!(
        "{address} can be reached from other machines, and whoever does reads metrics in plain text; listen on \
         127.0.0.1, or give --insecure-listen where something else keeps strangers out"
    );
    Err(wrong("metrics_listen", problem))
}

fn absolute_folder(setting: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    let problem = |error: std::io::Error| {
        wrong(setting, format!("{}: {error}; name a folder that exists", path.display()))
    };
    let absolute = std::fs::canonicalize(path).map_err(problem)?;
    if !absolute.is_dir() {
        return Err(wrong(setting, format!("{} is no folder", path.display())));
    }
    Ok(absolute)
}

pub(crate) fn default_work_dir() -> Result<PathBuf, ConfigError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/cakes-worker"));
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.ok_or_else(|| wrong("work_dir", "HOME is not set; name a folder with --work-dir"))?;
    Ok(Path::new(&home).join(".local/share/cakes-worker"))
}

pub(crate) fn find_trainer(given: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    if let Some(path) = given {
        let absolute = std::fs::canonicalize(&path)
            .map_err(|error| wrong("trainer", format!("{}: {error}", path.display())))?;
        return if absolute.is_file() {
            Ok(absolute)
        } else {
            Err(wrong("trainer", format!("{} is no program", path.display())))
        };
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("cakes-trainer"))
        .find(|candidate| candidate.is_file());
    found.ok_or_else(|| {
        wrong("trainer", "cakes-trainer is neither beside this program nor in PATH; name it with --trainer")
    })
}

#[cfg(test)]
mod tests;
