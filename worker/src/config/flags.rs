//! Flags and variables, as they are given.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::doctor::DoctorArgs;
use crate::telemetry::LogFormat;

const EXAMPLES: &str = "\
Examples:
  cakes-worker
  cakes-worker --server https://coordinator:7550 --data-root /data --devices cuda:0,cuda:1
  cakes-worker --server https://coordinator:7550 --data-root /data --devices cuda:0+cuda:1,cuda:2+cuda:3
  cakes-worker --server https://coordinator:7550 --data-root /data --labels gpu=h200,site=basel
  CAKES_SERVER=https://coordinator:7550 cakes-worker --config /etc/cakes/worker.toml
  cakes-worker doctor --config /etc/cakes/worker.toml
  cakes-worker --id gpu-01 --token-file /etc/cakes/token
  cakes-worker --server https://coordinator:7550 --ca-file /etc/cakes/ca.pem --cert-file /etc/cakes/cert.pem --key-file /etc/cakes/key.pem

Every flag is also an environment variable (shown above) and a key of the file
named by --config: --data-root is data_root = \"/data\". A flag wins over the
environment, the environment over the file. Durations read 30s, 10m, 1h 30m.";

/// Leases jobs from a coordinator and trains them on this machine.
#[derive(Debug, Parser)]
#[command(name = "cakes-worker", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    pub flags: Flags,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What is done instead of working.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Checks whether this machine can do what its worker is told to do
    Doctor(Box<DoctorArgs>),
}

/// All settings; what is not given has its default, or is in the file.
#[derive(Debug, Args, Serialize)]
pub struct Flags {
    /// TOML file with settings.
    #[arg(long, env = "CAKES_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub(super) config: Option<PathBuf>,

    /// Coordinators, separated by commas; the next is taken when one does not answer [default: http://127.0.0.1:7550].
    #[arg(long, env = "CAKES_SERVER", value_name = "URLS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,

    /// File with the token that says which worker this is, see `cakes-coordinator token issue`; it is read
    /// again when the token is refused.
    #[arg(long, env = "CAKES_TOKEN_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,

    /// Authorities that sign coordinators' certificates, for https [default: those that this machine trusts].
    #[arg(long, env = "CAKES_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,

    /// This worker's certificate, for https; a new one is taken as soon as it lies there.
    #[arg(long, env = "CAKES_CERT_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_file: Option<PathBuf>,

    /// The key of the certificate.
    #[arg(long, env = "CAKES_KEY_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<PathBuf>,

    /// Name of this worker, kept over restarts [default: that in its certificate, else the host's].
    #[arg(long, env = "CAKES_ID", value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,

    /// Folder below which relative data set folders of jobs are looked up [default: the current folder].
    #[arg(long, env = "CAKES_DATA_ROOT", value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_root: Option<PathBuf>,

    /// Folder for running attempts, this daemon's alone [default: /var/lib/cakes-worker as root, else ~/.local/share/cakes-worker].
    #[arg(long, env = "CAKES_WORK_DIR", value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    work_dir: Option<PathBuf>,

    /// auto, or cpu and cuda:N separated by commas; one job at a time on each, or on several
    /// together, as cuda:0+cuda:1 [default: auto].
    #[arg(long, env = "CAKES_DEVICES", value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<String>,

    /// What this machine is labelled with, as gpu=h200,site=basel; searches may ask for workers with
    /// such labels [default: nothing].
    #[arg(long, env = "CAKES_LABELS", value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,

    /// Address or name at which other machines reach this one, for jobs that train on slots of several
    /// (training.spread); their ranks connect to each other on any port, without a password. off: its
    /// slots train with no others [default: the address by which it reaches the coordinator; off where that
    /// is 127.0.0.1].
    #[arg(long, env = "CAKES_ADVERTISE_ADDRESS", value_name = "ADDRESS|off")]
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise_address: Option<String>,

    /// The trainer's program [default: cakes-trainer beside this program, else in PATH].
    #[arg(long, env = "CAKES_TRAINER", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    trainer: Option<PathBuf>,

    /// CPU threads of each job [default: all cores].
    #[arg(long, env = "CAKES_THREADS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u32>,

    /// Threads of each job that read samples and make batches [default: half as many as its CPU threads, at most 8].
    #[arg(long, env = "CAKES_LOADER_THREADS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    loader_threads: Option<u16>,

    /// Folder for decoded samples, which all jobs share [default: cache below the work folder].
    #[arg(long, env = "CAKES_CACHE_DIR", value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_dir: Option<PathBuf>,

    /// Most that decoded samples may take on disk, in GiB [default: 50].
    #[arg(long, env = "CAKES_CACHE_LIMIT_GIB", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_limit_gib: Option<u64>,

    /// Free space on the disk of the work folder, in MiB, below which no job is begun [default: 0].
    #[arg(long, env = "CAKES_DISK_FREE_MIN_MIB", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_free_min_mib: Option<u64>,

    /// Most memory that a trainer may take with all its processes, in MiB; one that takes more is
    /// killed [default: its slot's share of nine tenths of this machine's, or of the control group's].
    #[arg(long, env = "CAKES_MEMORY_LIMIT_MIB", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_limit_mib: Option<u64>,

    /// Mean time between failures of this machine: a job that does not say how often it saves does so
    /// every sqrt(2 * this * the time of a save) [default: 1day].
    #[arg(long, env = "CAKES_MTBF", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    mtbf: Option<Duration>,

    /// Longest time for fetching the checkpoint to go on from, and for reading the data [default: 30m].
    #[arg(long, env = "CAKES_LOADING_LIMIT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    loading_limit: Option<Duration>,

    /// Longest time for building the network and reading its checkpoint [default: 10m].
    #[arg(long, env = "CAKES_BUILDING_LIMIT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    building_limit: Option<Duration>,

    /// Longest time between two training steps [default: 10m].
    #[arg(long, env = "CAKES_STEP_LIMIT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    step_limit: Option<Duration>,

    /// Longest time of one validation [default: 2h].
    #[arg(long, env = "CAKES_VALIDATION_LIMIT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    validation_limit: Option<Duration>,

    /// Longest time for writing one checkpoint [default: 10m].
    #[arg(long, env = "CAKES_CHECKPOINT_LIMIT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    checkpoint_limit: Option<Duration>,

    /// Longest time for measuring the latency of a network [default: 10m].
    #[arg(long, env = "CAKES_LATENCY_LIMIT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    latency_limit: Option<Duration>,

    /// How long a trainer may take to save and exit when it is asked to [default: 2m].
    #[arg(long, env = "CAKES_STOP_GRACE", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    stop_grace: Option<Duration>,

    /// The same for a job that was cancelled [default: 10s].
    #[arg(long, env = "CAKES_CANCEL_GRACE", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    cancel_grace: Option<Duration>,

    /// Share of a lease's time without contact after which training stops, 0.1 to 0.95 [default: 0.75].
    #[arg(long, env = "CAKES_SELF_FENCE", value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    self_fence: Option<f64>,

    /// How long a stopped job's state is kept for the coordinator's or the store's return [default: 10m].
    #[arg(long, env = "CAKES_HOLD", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    hold: Option<Duration>,

    /// How long the daemon may take to save and hand back its jobs when it is told to end [default: 30s].
    #[arg(long, env = "CAKES_SHUTDOWN_LIMIT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    shutdown_limit: Option<Duration>,

    /// Address at which Prometheus reads metrics, at /metrics; on this machine alone, unless
    /// --insecure-listen says otherwise [default: off].
    #[arg(long, env = "CAKES_METRICS_LISTEN", value_name = "ADDRESS|off")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics_listen: Option<String>,

    /// Where traces go, an OpenTelemetry collector that speaks OTLP over gRPC, or off
    /// [default: OTEL_EXPORTER_OTLP_ENDPOINT, else off].
    #[arg(long, env = "CAKES_OTLP_ENDPOINT", value_name = "URL|off")]
    #[serde(skip_serializing_if = "Option::is_none")]
    otlp_endpoint: Option<String>,

    /// Let other machines read metrics in plain text, because something else keeps strangers out.
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

    /// error, warn, info, debug or trace, also per module [default: info].
    #[arg(long, env = "CAKES_LOG_LEVEL", value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_level: Option<String>,

    /// text or json [default: text].
    #[arg(long, env = "CAKES_LOG_FORMAT", value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
}
