//! What the program can be asked for: to serve, to look after tokens and certificates, or to simulate.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, Settings};
use crate::core::access::{Role, TokenRole};
use crate::core::spiffe::Name;
use crate::pki::{Host, VALID_MAX};
use crate::simulate_command::SimulateArgs;

const EXAMPLES: &str = "\
Examples:
  cakes-coordinator
      serves on 127.0.0.1:7550 with a private Postgres below the data directory
  cakes-coordinator --database-url postgres://cakes@db.internal/cakes --artifacts /srv/cakes
      uses a Postgres that exists
  CAKES_LEASE_TTL=2m cakes-coordinator --config /etc/cakes/coordinator.toml
      reads a file of keys such as  report_interval = \"5s\"
  cakes-coordinator token issue anna --role operator --expires 90d
      lets anna act on the web page and over the API; while the coordinator runs, or is
      stopped after its first start
  cakes-coordinator pki init --dir pki --host cakes.example.org --host 10.0.0.5
  cakes-coordinator --pki-dir pki --listen 0.0.0.0:7550
      serves other machines, with TLS
  cakes-coordinator simulate deploy/examples/cluster-month.toml
      what rules of scheduling would make of a cluster, without one

Every flag is also an environment variable CAKES_… and a key of the TOML file
(--lease-ttl: CAKES_LEASE_TTL, lease_ttl). Flag wins over environment, environment
over file, file over default. Durations are written 500ms, 60s, 2m.";

const TOKEN_EXAMPLES: &str = "\
Examples:
  cakes-coordinator token issue anna --role operator --expires 90d
  cakes-coordinator token list
  cakes-coordinator token revoke anna

Tokens are for the gRPC API, for the web page and for the JSON behind it. They lie in the
coordinator's database: give the same --data-dir, --database-url or --config as to the coordinator.";

const ISSUE_EXAMPLES: &str = "\
Examples:
  cakes-coordinator token issue anna --role operator --expires 90d
  TOKEN=$(cakes-coordinator token issue nightly --role submitter)
      the token is all that stands on standard output
  cakes-coordinator token issue gpu-01 --role worker > /etc/cakes/token
      for cakes-worker --id gpu-01 --token-file /etc/cakes/token";

const LIST_EXAMPLES: &str = "\
Examples:
  cakes-coordinator token list";

const REVOKE_EXAMPLES: &str = "\
Examples:
  cakes-coordinator token revoke anna";

const PKI_EXAMPLES: &str = "\
Examples:
  cakes-coordinator pki init --dir pki --host cakes.example.org --host 10.0.0.5
  cakes-coordinator pki issue worker gpu-01 --dir pki
  cakes-coordinator pki issue user anna --role operator --dir pki
  cakes-coordinator pki renew --dir pki
  cakes-coordinator pki list --dir pki

An authority is a folder: DIR, else --pki-dir, else pki below the data directory. It needs
no coordinator that runs. docs/tls.md goes through it.";

const PKI_INIT_EXAMPLES: &str = "\
Examples:
  cakes-coordinator pki init --dir pki --host cakes.example.org --host 10.0.0.5
  cakes-coordinator --pki-dir pki --listen 0.0.0.0:7550";

const PKI_ISSUE_EXAMPLES: &str = "\
Examples:
  cakes-coordinator pki issue user anna --role operator --dir pki
  cakes-coordinator pki issue user ben --role viewer --valid 12h --dir pki
  cakes-coordinator pki issue worker gpu-01 --dir pki
  cakes-coordinator pki issue coordinator b --host b.example.org --dir pki";

const PKI_RENEW_EXAMPLES: &str = "\
Examples:
  cakes-coordinator pki renew --dir pki
      the coordinator's own, which it reads within seconds
  cakes-coordinator pki renew pki/workers/gpu-01 --dir pki";

const PKI_LIST_EXAMPLES: &str = "\
Examples:
  cakes-coordinator pki list --dir pki";

const PKI_SHOW_EXAMPLES: &str = "\
Examples:
  cakes-coordinator pki show pki/cert.pem";

const AUDIT_EXAMPLES: &str = "\
Examples:
  cakes-coordinator audit list --limit 20
  cakes-coordinator audit list --json";

/// Plans searches, leases their jobs to workers and keeps the truth in Postgres.
#[derive(Debug, Parser)]
#[command(name = "cakes-coordinator", version, after_help = EXAMPLES)]
struct CommandLine {
    /// TOML file with settings
    #[arg(long, env = "CAKES_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What is done instead of serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Tokens: who may do what
    #[command(subcommand, after_help = TOKEN_EXAMPLES)]
    Token(TokenCommand),
    /// What was done on the web page and over the API, and what was refused there
    #[command(subcommand, after_help = AUDIT_EXAMPLES)]
    Audit(AuditCommand),
    /// A private authority: certificates for coordinators, workers and users
    #[command(subcommand, after_help = PKI_EXAMPLES)]
    Pki(PkiCommand),
    /// Replays a described cluster and reports waits, shares and use; needs no database
    Simulate(SimulateArgs),
}

#[derive(Clone, Debug, Subcommand)]
pub enum PkiCommand {
    /// Makes the authorities of users, workers and coordinators, and the coordinator's certificate
    #[command(after_help = PKI_INIT_EXAMPLES)]
    Init {
        /// Folder of the authority
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Under what the coordinator is reached, beside localhost; may be given several times
        #[arg(long, required = true, value_name = "NAME|ADDRESS", value_delimiter = ',')]
        host: Vec<Host>,
        /// What the coordinator is called
        #[arg(long, value_name = "NAME", default_value = "coordinator")]
        name: Name,
        /// How long the coordinator's certificate holds; the authorities hold for ten years
        #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = validity)]
        valid: Duration,
    },
    /// Issues a certificate with its key, in a folder to hand over
    #[command(after_help = PKI_ISSUE_EXAMPLES)]
    Issue {
        /// Folder of the authority
        #[arg(long, value_name = "DIR", global = true)]
        dir: Option<PathBuf>,
        #[command(subcommand)]
        command: IssueCommand,
    },
    /// Gives holders a new key and certificate, with the same names and for as long as before
    #[command(after_help = PKI_RENEW_EXAMPLES)]
    Renew {
        /// Folder of the authority
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Folders of holders [default: the coordinator's own]
        #[arg(value_name = "FOLDER")]
        folders: Vec<PathBuf>,
    },
    /// Lists certificates: whose, by whom, until when
    #[command(after_help = PKI_LIST_EXAMPLES)]
    List {
        /// Folder of the authority
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Shows what stands in a certificate
    #[command(after_help = PKI_SHOW_EXAMPLES)]
    Show {
        /// A file in PEM
        file: PathBuf,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum IssueCommand {
    /// For a person, or a program that acts for one
    #[command(after_help = PKI_ISSUE_EXAMPLES)]
    User {
        /// 1 to 64 characters of a-z, 0-9, '.', '_', '-'
        name: Name,
        /// What they may do
        #[arg(long, value_name = "viewer|submitter|operator")]
        role: Role,
        /// How long it holds
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = validity)]
        valid: Duration,
    },
    /// For the daemon of a machine that trains
    #[command(after_help = PKI_ISSUE_EXAMPLES)]
    Worker {
        /// The worker's name, as its --id
        name: Name,
        /// How long it holds
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = validity)]
        valid: Duration,
    },
    /// For another coordinator of the same service
    #[command(after_help = PKI_ISSUE_EXAMPLES)]
    Coordinator {
        /// What it is called
        name: Name,
        /// Under what it is reached, beside localhost; may be given several times
        #[arg(long, required = true, value_name = "NAME|ADDRESS", value_delimiter = ',')]
        host: Vec<Host>,
        /// How long it holds
        #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = validity)]
        valid: Duration,
    },
}

/// How long a certificate may hold.
fn validity(text: &str) -> Result<Duration, String> {
    let valid = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=VALID_MAX).contains(&valid) {
        return Ok(valid);
    }
    Err("must be 1s to 398days; a certificate that holds for long is one that is stolen for long".to_owned())
}

#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Makes a token and prints it, once
    #[command(after_help = ISSUE_EXAMPLES)]
    Issue {
        /// Whose it is: letters, digits and . _ @ -
        name: String,
        /// viewer looks, submitter also submits, derives and remarks, and stops, pauses, retries,
        /// labels and pins what is their own, operator does so with what is of others and looks
        /// after workers, projects and webhooks; worker: the worker of this name
        #[arg(long, value_name = "viewer|submitter|operator|worker")]
        role: TokenRole,
        /// How long it holds, as in 12h, 90d [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
    },
    /// Lists tokens, also those that hold no more
    #[command(after_help = LIST_EXAMPLES)]
    List,
    /// Ends a token, and with it every browser that is signed in with it
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke {
        /// Whose it is
        name: String,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum AuditCommand {
    /// Lists who did what, newest first
    #[command(after_help = AUDIT_EXAMPLES)]
    List {
        /// Most rows
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
}

/// A command line that was understood.
pub struct Invocation {
    pub config: Config,
    /// None to serve.
    pub command: Option<Command>,
}

impl Invocation {
    /// Reads the command line, the environment and the file.
    ///
    /// # Errors
    /// An unknown or malformed setting, or values that do not fit each other.
    /// `--help` and `--version` come as [`ConfigError::CommandLine`] too.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, ConfigError> {
        let CommandLine { config, settings, command } = CommandLine::try_parse_from(arguments)?;
        Ok(Invocation { config: Config::load(config.as_deref(), settings)?, command })
    }
}
