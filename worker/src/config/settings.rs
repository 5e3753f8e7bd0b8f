//! All settings from whatever source, not yet checked, and their defaults.

use std::path::PathBuf;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use super::{ConfigError, Flags, minutes};
use crate::telemetry::LogFormat;

/// All settings as text and numbers, from whatever source.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) server: String,
    #[serde(default)]
    pub(crate) token_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) ca_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) cert_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) key_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) id: Option<String>,
    pub(crate) data_root: PathBuf,
    #[serde(default)]
    pub(crate) work_dir: Option<PathBuf>,
    pub(crate) devices: String,
    pub(crate) labels: String,
    #[serde(default)]
    pub(crate) advertise_address: Option<String>,
    #[serde(default)]
    pub(crate) trainer: Option<PathBuf>,
    #[serde(default)]
    pub(crate) threads: Option<u32>,
    #[serde(default)]
    pub(crate) loader_threads: Option<u16>,
    #[serde(default)]
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) cache_limit_gib: u64,
    pub(crate) disk_free_min_mib: u64,
    #[serde(default)]
    pub(crate) memory_limit_mib: Option<u64>,
    #[serde(with = "humantime_serde")]
    pub(crate) mtbf: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) loading_limit: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) building_limit: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) step_limit: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) validation_limit: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) checkpoint_limit: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) latency_limit: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) stop_grace: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) cancel_grace: Duration,
    pub(crate) self_fence: f64,
    #[serde(with = "humantime_serde")]
    pub(crate) hold: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) shutdown_limit: Duration,
    #[serde(default)]
    pub(crate) metrics_listen: Option<String>,
    #[serde(default)]
    pub(crate) otlp_endpoint: Option<String>,
    #[serde(default)]
    pub(crate) insecure_listen: bool,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            server: "http://127.0.0.1:7550".to_owned(),
            token_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            id: None,
            data_root: PathBuf::from("."),
            work_dir: None,
            devices: "auto".to_owned(),
            labels: String::new(),
            advertise_address: None,
            trainer: None,
            threads: None,
            loader_threads: None,
            cache_dir: None,
            cache_limit_gib: 50,
            disk_free_min_mib: 0,
            memory_limit_mib: None,
            mtbf: minutes(24 * 60),
            loading_limit: minutes(30),
            building_limit: minutes(10),
            step_limit: minutes(10),
            validation_limit: minutes(120),
            checkpoint_limit: minutes(10),
            latency_limit: minutes(10),
            stop_grace: minutes(2),
            cancel_grace: Duration::from_secs(10),
            self_fence: 0.75,
            hold: minutes(10),
            shutdown_limit: Duration::from_secs(30),
            metrics_listen: None,
            otlp_endpoint: None,
            insecure_listen: false,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

impl Settings {
    /// Flags and variables over a file over defaults.
    ///
    /// # Errors
    /// The file cannot be read or holds an unknown key.
    pub(crate) fn merge(flags: &Flags) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Settings::default()));
        if let Some(path) = &flags.config {
            // Checked here because a missing file would count as an empty one.
            std::fs::metadata(path).map_err(|source| ConfigError::File { path: path.clone(), source })?;
            figment = figment.merge(Toml::file_exact(path));
        }
        Ok(figment.merge(Serialized::globals(flags)).extract().map_err(Box::new)?)
    }
}
