//! A coordinator, its database and workers, in a temporary folder.

pub mod certificates;
mod tokens;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cakes_postgres::{ClusterConfig, Durability};
use nix::sys::signal::Signal;

use crate::daemon::Daemon;
use crate::leftovers::{self, Process};
use crate::{Api, binaries};

/// Time in which a daemon must start or stop.
const DAEMON_PATIENCE: Duration = Duration::from_secs(30);

/// What a scenario wants of its cluster.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Names of the workers that run from the start.
    pub workers: &'static [&'static str],
    /// The coordinator runs its own Postgres, which outlives a `kill -9` of it.
    pub private_database: bool,
    /// The database waits for the disk, as a real one does.
    pub durable: bool,
    pub lease_ttl: Duration,
    /// A tenth of the lease without it.
    pub report_interval: Option<Duration>,
    /// The coordinator serves its web page.
    pub web: bool,
    /// The coordinator serves with TLS, and all have certificates of its authority.
    pub tls: bool,
    /// What else the coordinator is told.
    pub coordinator: &'static [&'static str],
}

impl Options {
    /// Two workers, a throw-away database and nothing else.
    pub const DEFAULT: Self = Options {
        workers: &["a", "b"],
        private_database: false,
        durable: false,
        lease_ttl: Duration::from_secs(3),
        report_interval: None,
        web: false,
        tls: false,
        coordinator: &[],
    };
}

impl Default for Options {
    fn default() -> Self {
        Options::DEFAULT
    }
}

/// What a command wrote and how it ended.
#[derive(Clone, Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Running daemons; all of them end with this value.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: workers first, the folder last.
    workers: BTreeMap<String, Daemon>,
    coordinator: Option<Daemon>,
    database: Option<cakes_postgres::Cluster>,
    port: u16,
    web_port: u16,
    mark: String,
    options: Options,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts a database, a coordinator and the workers.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(options: Options) -> Result<Self> {
        Self::start_in(&std::env::temp_dir(), options)
    }

    /// The same with all files in a folder of their own below `parent`.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start_in(parent: &Path, options: Options) -> Result<Self> {
        binaries::folder()?;
        let folder = tempfile::Builder::new()
            .prefix("cakes-test-")
            // As root, Postgres runs as somebody else, who must get in.
            .permissions(Permissions::from_mode(0o711))
            .tempdir_in(parent)
            .with_context(|| format!("no folder can be made in {}", parent.display()))?;
        let durability = if options.durable { Durability::Durable } else { Durability::ThrowAway };
        let database = match options.private_database {
            true => None,
            false => Some(cakes_postgres::Cluster::start(&ClusterConfig {
                data_dir: folder.path().join("pg"),
                durability,
            })?),
        };
        let mut cluster = Cluster {
            workers: BTreeMap::new(),
            coordinator: None,
            database,
            port: 0,
            web_port: 0,
            mark: uuid::Uuid::new_v4().to_string(),
            options,
            folder,
        };
        if options.tls {
            cluster.make_authority()?;
        }
        cluster.start_coordinator()?;
        for name in options.workers {
            cluster.start_worker(name)?;
        }
        Ok(cluster)
    }

    /// The folder of everything that this cluster writes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where workers look data sets up.
    pub fn data_root(&self) -> PathBuf {
        self.folder().join("data")
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.port)
    }

    fn scheme(&self) -> &'static str {
        if self.options.tls { "https" } else { "http" }
    }

    /// Address of the web page.
    ///
    /// # Errors
    /// The coordinator serves none.
    pub fn page_url(&self) -> Result<String> {
        if self.web_port == 0 {
            bail!("the coordinator serves no page");
        }
        Ok(format!("{}://127.0.0.1:{}", self.scheme(), self.web_port))
    }

    /// Address of the throw-away database.
    ///
    /// # Errors
    /// The coordinator runs its own.
    pub fn database_url(&self) -> Result<String> {
        Ok(self.database()?.url(cakes_postgres::DATABASE))
    }

    fn database(&self) -> Result<&cakes_postgres::Cluster> {
        self.database.as_ref().context("the database is private to the coordinator")
    }

    /// Process id of the database server.
    ///
    /// # Errors
    /// The coordinator runs its own.
    pub fn database_pid(&self) -> Result<i32> {
        Ok(self.database()?.process_id().cast_signed())
    }

    /// Process id of the coordinator.
    ///
    /// # Errors
    /// It does not run.
    pub fn coordinator_pid(&self) -> Result<i32> {
        self.coordinator.as_ref().map(Daemon::pid).context("there is no coordinator")
    }

    /// Runs a statement against the throw-away database.
    ///
    /// # Errors
    /// It fails.
    pub fn sql(&self, statement: &str) -> Result<String> {
        let psql = cakes_postgres::find_binaries().context("no Postgres")?.join("psql");
        let mut command = Command::new(psql);
        command.arg(self.database_url()?).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement]);
        let output = Finished::from(command.stdin(Stdio::null()).output()?);
        if output.code != Some(0) {
            bail!("`{statement}` failed: {}", output.stderr);
        }
        Ok(output.stdout.trim().to_owned())
    }

    /// # Errors
    /// The address is no URL.
    pub fn api(&self) -> Result<Api> {
        self.api_with(&self.user_files())
    }

    /// Starts the coordinator, on the port that it had before.
    ///
    /// # Errors
    /// It does not serve in time.
    pub fn start_coordinator(&mut self) -> Result<()> {
        let port_file = self.folder().join("port");
        let _ = fs::remove_file(&port_file);
        let mut command = self.coordinator_command()?;
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.port));
        command.arg("--port-file").arg(&port_file);
        match self.options.web {
            true => command.arg("--web-listen").arg(format!("127.0.0.1:{}", self.web_port)),
            false => command.args(["--web-listen", "off"]),
        };
        let log = self.folder().join("coordinator.log");
        let mut daemon = Daemon::start("coordinator", &mut command, &log)?;
        let start = Instant::now();
        while !port_file.exists() {
            if let Some(status) = daemon.ended()? {
                bail!("the coordinator ended with {status}\n{}", daemon.log_tail());
            }
            if start.elapsed() > DAEMON_PATIENCE {
                bail!("the coordinator wrote no port file in time\n{}", daemon.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.port = fs::read_to_string(&port_file)?.trim().parse().context("the port file holds no port")?;
        self.coordinator = Some(daemon);
        if self.options.web {
            self.web_port = self.said_web_port(&log, start)?;
        }
        Ok(())
    }

    /// The port of the page, as the coordinator's first lines say it.
    fn said_web_port(&self, log: &Path, start: Instant) -> Result<u16> {
        loop {
            let said = fs::read_to_string(log)?;
            let last = said
                .rsplit(&format!("shows its page on {}://127.0.0.1:", self.scheme()))
                .next()
                .filter(|_| said.contains("shows its page"));
            if let Some((port, _)) = last.and_then(|rest| rest.split_once('/')) {
                return port.parse().context("the address of the page holds no port");
            }
            if start.elapsed() > DAEMON_PATIENCE {
                bail!("the coordinator did not say where its page is");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A coordinator on this cluster's database, without an address to serve on.
    ///
    /// # Errors
    /// The programs do not build.
    pub fn coordinator_command(&self) -> Result<Command> {
        let mut command = binaries::command("cakes-coordinator", &self.mark)?;
        command.arg("--data-dir").arg(self.folder().join("coordinator"));
        command.arg("--artifacts").arg(self.folder().join("artifacts"));
        if self.database.is_some() {
            command.arg("--database-url").arg(self.database_url()?);
        }
        let ttl = self.options.lease_ttl;
        command.arg("--lease-ttl").arg(format!("{}ms", ttl.as_millis()));
        command.arg("--offer-ttl").arg(format!("{}ms", ttl.as_millis()));
        let interval = self.options.report_interval.unwrap_or(ttl / 10);
        command.arg("--report-interval").arg(format!("{}ms", interval.as_millis()));
        if self.options.tls {
            command.arg("--pki-dir").arg(self.pki());
        }
        command.args(self.options.coordinator);
        Ok(command)
    }

    /// Starts a worker of this name, again with the files of an earlier one.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_worker(&mut self, name: &str) -> Result<()> {
        self.start_worker_with(name, &[])
    }

    /// The same with further arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_worker_with(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.worker_command(name, arguments)?;
        let log = self.folder().join(format!("worker-{name}.log"));
        let daemon = Daemon::start(&format!("worker {name}"), &mut command, &log)?;
        self.workers.insert(name.to_owned(), daemon);
        Ok(())
    }

    /// A worker of this name that is not started.
    ///
    /// # Errors
    /// The programs do not build.
    pub fn worker_command(&self, name: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = binaries::command("cakes-worker", &self.mark)?;
        command.arg("--server").arg(self.url()).args(["--id", name, "--threads", "1"]);
        if !arguments.contains(&"--devices") {
            command.args(["--devices", "cpu"]);
        }
        if self.options.tls {
            let words = ["ca-file", "cert-file", "key-file"];
            for (flag, path) in certificates::named(&self.worker_files(name)?, "--", words) {
                command.arg(flag).arg(path);
            }
        }
        fs::create_dir_all(self.data_root())?;
        command.arg("--data-root").arg(self.data_root());
        command.arg("--work-dir").arg(self.folder().join(format!("worker-{name}")));
        // A coordinator that has gone as well takes no jobs back.
        command.args(["--shutdown-limit", "5s"]).args(arguments);
        Ok(command)
    }

    /// `kill -9` of a worker's daemon; its trainer is left to itself.
    ///
    /// # Errors
    /// It did not run.
    pub fn kill_worker(&mut self, name: &str) -> Result<()> {
        self.workers.remove(name).with_context(|| format!("there is no worker {name}"))?.kill_9()
    }

    /// What a worker has written.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn worker_log(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.folder().join(format!("worker-{name}.log")))?)
    }

    /// What the coordinator has written.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn coordinator_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder().join("coordinator.log"))?)
    }

    /// Asks a worker to stop and waits for its end.
    ///
    /// # Errors
    /// It did not run, or does not end well.
    pub fn stop_worker(&mut self, name: &str, signal: Signal) -> Result<()> {
        let mut daemon = self.workers.remove(name).with_context(|| format!("there is no worker {name}"))?;
        daemon.stop(signal, DAEMON_PATIENCE)
    }

    /// `kill -9` of the coordinator.
    ///
    /// # Errors
    /// It did not run.
    pub fn kill_coordinator(&mut self) -> Result<()> {
        self.coordinator.take().context("there is no coordinator")?.kill_9()
    }

    /// The command `cakes` on this cluster.
    ///
    /// # Errors
    /// The programs do not build.
    pub fn cakes_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command("cakes", arguments)?;
        command.env("CAKES_SERVER", self.url());
        let words = ["CA_FILE", "CERT_FILE", "KEY_FILE"];
        command.envs(certificates::named(&self.user_files(), "CAKES_", words));
        // That of whoever runs the tests is none of theirs.
        command.env("CAKES_SETTINGS", self.folder().join("cakes.toml"));
        Ok(command)
    }

    /// A program in the folder of this cluster.
    ///
    /// # Errors
    /// The programs do not build.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = binaries::command(program, &self.mark)?;
        command.args(arguments).current_dir(self.folder());
        Ok(command)
    }

    /// Runs the command `cakes` to its end, without blocking this thread.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn cakes(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = tokio::process::Command::from(self.cakes_command(arguments)?);
        Ok(command.stdin(Stdio::null()).kill_on_drop(true).output().await?.into())
    }

    /// Processes of this cluster that run now, those of its daemons' children too.
    pub fn processes(&self) -> Vec<Process> {
        leftovers::processes(&self.mark, self.folder())
    }

    /// Trainers that run now.
    pub fn trainers(&self) -> Vec<Process> {
        let is_trainer = |process: &Process| {
            process.command.split(' ').next().is_some_and(|program| program.ends_with("cakes-trainer"))
        };
        self.processes().into_iter().filter(is_trainer).collect()
    }

    /// Stops workers, then the coordinator, then the database, as a service manager would.
    ///
    /// # Errors
    /// One does not end well, or a process is left.
    pub fn stop(&mut self) -> Result<()> {
        for (_, mut worker) in std::mem::take(&mut self.workers) {
            worker.stop(Signal::SIGTERM, DAEMON_PATIENCE)?;
        }
        if let Some(mut coordinator) = self.coordinator.take() {
            coordinator.stop(Signal::SIGTERM, DAEMON_PATIENCE)?;
        }
        self.expect_no_process()
    }

    /// Interrupts all daemons at once, as Ctrl-C in their terminal would.
    ///
    /// # Errors
    /// One does not end well, or a process is left.
    pub fn interrupt(&mut self) -> Result<()> {
        for daemon in self.workers.values().chain(&self.coordinator) {
            daemon.signal(Signal::SIGINT)?;
        }
        for daemon in self.workers.values_mut().chain(&mut self.coordinator) {
            daemon.wait_well(DAEMON_PATIENCE)?;
        }
        self.workers.clear();
        self.coordinator = None;
        self.expect_no_process()
    }

    fn expect_no_process(&mut self) -> Result<()> {
        self.database = None;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if self.processes().is_empty() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("processes are left: {:#?}", self.processes())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let daemons = self.workers.values().chain(&self.coordinator);
            let logs: Vec<String> = daemons.map(Daemon::log_tail).collect();
            self.folder.disable_cleanup(true);
            eprintln!("{}\nlogs and data are kept in {}", logs.join("\n"), self.folder().display());
        }
        self.workers.clear();
        self.coordinator = None;
        self.database = None;
        // A private Postgres is being stopped by its guardian.
        let start = Instant::now();
        while !self.processes().is_empty() && start.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(50));
        }
        leftovers::kill_all(&self.processes());
    }
}
