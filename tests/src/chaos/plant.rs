//! The processes under test, and the proxies between them.
//!
//! ```text
//! clients, fakes, workers ─► a proxy for each group and coordinator ─► coordinators
//!                                        a proxy for each coordinator ─┘─► Postgres
//! ```
//!
//! The rig itself asks Postgres past all proxies.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cakes_postgres::DATABASE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::PgPool;
use tokio::sync::Mutex;

use super::gang::{LABEL, REAL};
use super::machine::{first_postgres, mount_small_disk, open_folder, start_postgres};
use super::proxy::{Proxy, Target};
use crate::binaries;
use crate::daemon::Daemon;
use crate::fake::Servers;
use crate::leftovers::{self, Process};

/// Time in which a daemon must start or stop.
const DAEMON_PATIENCE: Duration = Duration::from_secs(60);

/// Groups that fakes are divided into, each with proxies of its own.
pub const FAKE_GROUPS: usize = 3;

/// Sizes of a plant.
#[derive(Clone, Debug)]
pub struct Sizes {
    pub coordinators: usize,
    pub workers: usize,
    pub lease_ttl: Duration,
    pub report_interval: Duration,
    /// Longest section of a trainer.
    pub section_limit: Duration,
    /// How long a coordinator serves after it was asked to stop.
    pub drain_time: Duration,
}

/// Everything that runs.
pub struct Plant {
    pub sizes: Sizes,
    pub coordinators: Vec<Mutex<Coordinator>>,
    /// Of the coordinators, which keep them.
    pub addresses: Vec<SocketAddr>,
    pub workers: Vec<Mutex<Worker>>,
    /// Between a coordinator and Postgres.
    pub database_proxies: Vec<Proxy>,
    /// Of clients, by coordinator.
    pub client_proxies: Vec<Proxy>,
    /// Of each group of fakes, by coordinator.
    pub fake_proxies: Vec<Vec<Proxy>>,
    /// Of each real worker, by coordinator.
    pub worker_proxies: Vec<Vec<Proxy>>,
    pub pool: PgPool,
    postgres: Mutex<Option<cakes_postgres::Cluster>>,
    mark: String,
    folder: tempfile::TempDir,
    kept: AtomicBool,
    /// Mounted for one worker's files.
    small_disk: Option<PathBuf>,
}

/// A coordinator on a port that it keeps.
pub struct Coordinator {
    number: usize,
    pub daemon: Option<Daemon>,
    address: SocketAddr,
}

/// A real worker.
pub struct Worker {
    number: usize,
    pub daemon: Option<Daemon>,
    /// Whether it is started again when it has ended.
    wanted: bool,
}

/// "a", "b", …
pub fn worker_name(number: usize) -> String {
    char::from(b'a' + (number % 26) as u8).to_string()
}

impl Plant {
    /// Starts everything below `parent`.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn start(parent: &Path, sizes: Sizes) -> Result<Self> {
        tokio::task::spawn_blocking(|| binaries::folder().map(drop)).await??;
        let folder = open_folder(parent)?;
        for name in ["artifacts", "data"] {
            fs::create_dir_all(folder.path().join(name))?;
        }
        let (postgres, pool) = first_postgres(folder.path()).await?;
        let socket = postgres.socket_dir().join(".s.PGSQL.5432");
        let mut database_proxies = Vec::new();
        for _ in 0..sizes.coordinators {
            database_proxies.push(Proxy::start(Target::Unix(socket.clone())).await?);
        }
        let last_worker = sizes.workers.checked_sub(1).map(worker_name);
        let small_disk =
            last_worker.and_then(|name| mount_small_disk(&folder.path().join(format!("worker-{name}"))));
        let mut plant = Plant {
            coordinators: Vec::new(),
            addresses: Vec::new(),
            workers: Vec::new(),
            database_proxies,
            client_proxies: Vec::new(),
            fake_proxies: Vec::new(),
            worker_proxies: Vec::new(),
            pool,
            postgres: Mutex::new(Some(postgres)),
            mark: uuid::Uuid::new_v4().to_string(),
            folder,
            kept: AtomicBool::new(false),
            small_disk,
            sizes,
        };
        plant.start_coordinators().await?;
        plant.client_proxies = plant.proxies().await?;
        for _ in 0..FAKE_GROUPS {
            let proxies = plant.proxies().await?;
            plant.fake_proxies.push(proxies);
        }
        for _ in 0..plant.sizes.workers {
            let proxies = plant.proxies().await?;
            plant.worker_proxies.push(proxies);
        }
        plant.write_shim()?;
        let worker = |number| Mutex::new(Worker { number, daemon: None, wanted: false });
        plant.workers = (0..plant.sizes.workers).map(worker).collect();
        Ok(plant)
    }

    async fn start_coordinators(&mut self) -> Result<()> {
        for number in 0..self.sizes.coordinators {
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            self.coordinators.push(Mutex::new(Coordinator { number, daemon: None, address }));
            self.start_coordinator(number).await?;
            self.addresses.push(self.coordinators[number].lock().await.address);
        }
        Ok(())
    }

    /// One proxy in front of each coordinator.
    async fn proxies(&self) -> Result<Vec<Proxy>> {
        let mut proxies = Vec::new();
        for address in &self.addresses {
            proxies.push(Proxy::start(Target::Tcp(*address)).await?);
        }
        Ok(proxies)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn artifacts(&self) -> PathBuf {
        self.folder().join("artifacts")
    }

    /// Keeps the files for somebody to look into.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    pub fn has_small_disk(&self) -> bool {
        self.small_disk.is_some()
    }

    pub fn work_dir(&self, number: usize) -> PathBuf {
        self.folder().join(format!("worker-{}", worker_name(number)))
    }

    /// A file whose presence limits the size of the files that new trainers write.
    pub fn size_limit_file(&self) -> PathBuf {
        self.folder().join("limit-trainers")
    }

    /// The coordinators as a client or worker behind `proxies` sees them.
    ///
    /// # Errors
    /// Never for addresses of proxies.
    pub fn servers(proxies: &[Proxy], first: usize) -> Result<Servers> {
        let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
        Ok(Servers::new(&urls, first)?)
    }

    pub fn all_proxies(&self) -> impl Iterator<Item = &Proxy> {
        let fronts = self.fake_proxies.iter().chain(&self.worker_proxies).flatten();
        self.database_proxies.iter().chain(&self.client_proxies).chain(fronts)
    }

    /// Starts a coordinator, on the port that it had before.
    ///
    /// # Errors
    /// It does not serve in time.
    pub async fn start_coordinator(&self, number: usize) -> Result<()> {
        self.coordinators[number].lock().await.start(self).await
    }

    /// Starts a real worker, again with the files of an earlier one.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start_worker(&self, number: usize) -> Result<()> {
        let mut worker = self.workers[number].lock().await;
        let mut command = binaries::command("cakes-worker", &self.mark)?;
        let servers: Vec<String> = self.worker_proxies[worker.number].iter().map(Proxy::url).collect();
        command.arg("--server").arg(servers.join(","));
        let name = worker_name(number);
        command.args(["--id", &name, "--devices", "cpu", "--threads", "1", "--loader-threads", "1"]);
        // They meet on this machine, whose own address is that of the loopback.
        command.args(["--advertise-address", "127.0.0.1", "--labels", &format!("{LABEL}={REAL}")]);
        command.arg("--data-root").arg(self.folder().join("data"));
        command.arg("--work-dir").arg(self.work_dir(number));
        command.arg("--trainer").arg(self.folder().join("trainer"));
        let limit = format!("{}ms", self.sizes.section_limit.as_millis());
        for section in ["building", "step", "validation", "checkpoint", "latency"] {
            command.arg(format!("--{section}-limit")).arg(&limit);
        }
        // Of a gang it is also the time until all ranks are there.
        command.arg("--loading-limit").arg(format!("{}ms", 4 * self.sizes.section_limit.as_millis()));
        command.args(["--stop-grace", "10s", "--cancel-grace", "5s", "--hold", "60s"]);
        command.args(["--shutdown-limit", "8s"]);
        let log = self.folder().join(format!("worker-{name}.log"));
        worker.daemon = Some(Daemon::start(&format!("worker {name}"), &mut command, &log)?);
        worker.wanted = true;
        Ok(())
    }

    /// `kill -9` of a worker's daemon, which stays away until it is started; false
    /// if it had ended by itself.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill_worker(&self, number: usize) -> Result<bool> {
        let mut worker = self.workers[number].lock().await;
        worker.wanted = false;
        let Some(mut daemon) = worker.daemon.take() else { return Ok(false) };
        if daemon.ended()?.is_some() {
            return Ok(false);
        }
        daemon.kill_9()?;
        Ok(true)
    }

    /// Process id of a worker's daemon.
    pub async fn worker_pid(&self, number: usize) -> Option<i32> {
        self.workers[number].lock().await.daemon.as_ref().map(Daemon::pid)
    }

    /// Starts workers again that have ended by themselves, as a service manager
    /// does; how many.
    ///
    /// # Errors
    /// One cannot be started.
    pub async fn revive_workers(&self) -> Result<usize> {
        let mut revived = 0;
        for number in 0..self.workers.len() {
            let ended = {
                let mut worker = self.workers[number].lock().await;
                match &mut worker.daemon {
                    Some(daemon) => daemon.ended()?.is_some() && worker.wanted,
                    None => false,
                }
            };
            if ended {
                self.start_worker(number).await?;
                revived += 1;
            }
        }
        Ok(revived)
    }

    /// The trainer's program as workers know it. It can be told to break.
    fn write_shim(&self) -> Result<()> {
        let trainer = binaries::folder()?.join("cakes-trainer");
        let text = format!(
            "#!/bin/sh\n\
             [ \"$1\" = attempt ] || exec '{trainer}' \"$@\"\n\
             if grep -Eq '\"seed\": *{poison}[^0-9]' \"$2\"; then kill -SEGV $$; sleep 60; fi\n\
             if [ -e '{limit}' ]; then ulimit -f 8; fi\n\
             exec '{trainer}' \"$@\"\n",
            trainer = trainer.display(),
            limit = self.size_limit_file().display(),
            poison = super::work::POISON_SEED,
        );
        let path = self.folder().join("trainer");
        fs::write(&path, text)?;
        Ok(fs::set_permissions(&path, Permissions::from_mode(0o755))?)
    }

    /// Trainers that run now below a worker's folder.
    pub fn trainers(&self, number: usize) -> Vec<Trainer> {
        let attempts = self.work_dir(number).join("attempts");
        let prefix = format!("{}/", attempts.display());
        let trainer = |process: Process| {
            let (_, rest) = process.command.split_once(&prefix)?;
            // A job's id has 36 characters; its epoch follows, and the number of a member that does not lead.
            let (job, epoch) = (rest.get(..36)?.parse().ok()?, rest.get(37..)?.split(['/', '-']).next()?);
            let is_trainer =
                process.command.contains("cakes-trainer ") || process.command.contains("/trainer ");
            Some(Trainer { pid: process.pid, job, epoch: epoch.parse().ok()? }).filter(|_| is_trainer)
        };
        leftovers::processes(&self.mark, self.folder()).into_iter().filter_map(trainer).collect()
    }

    /// Ends the database server by a signal and waits until it is gone.
    ///
    /// # Errors
    /// It did not run.
    pub async fn stop_postgres(&self, signal: Signal) -> Result<()> {
        let cluster = self.postgres.lock().await.take().context("Postgres does not run")?;
        kill(Pid::from_raw(cluster.process_id().cast_signed()), signal)?;
        Ok(tokio::task::spawn_blocking(move || drop(cluster)).await?)
    }

    /// Starts the database server on its old files.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_postgres(&self) -> Result<()> {
        let mut postgres = self.postgres.lock().await;
        if postgres.is_none() {
            *postgres = Some(start_postgres(self.folder()).await?);
        }
        Ok(())
    }

    pub async fn postgres_pid(&self) -> Option<u32> {
        self.postgres.lock().await.as_ref().map(cakes_postgres::Cluster::process_id)
    }

    /// Lets all workers take jobs again, as an operator would, and gangs come back to those that they
    /// keep away from, since there may be no third. The rig breaks machines on purpose, and a short
    /// run would be over before their rests are.
    ///
    /// # Errors
    /// The database fails.
    pub async fn trust_workers(&self) -> Result<()> {
        let trust = "update worker set suspect_until = null, suspect_reason = null, suspect_count = 0,
                         judged_time = clock_timestamp()
                     where suspect_until is not null";
        sqlx::query(trust).execute(&self.pool).await?;
        let come_back = "update job set avoid_worker_id = null, avoid_until = null
                         where id in (
                             select id from job where waits and spreads and avoid_until is not null
                             for no key update skip locked
                         )";
        sqlx::query(come_back).execute(&self.pool).await?;
        Ok(())
    }

    /// All faults end: everything runs and all connections work.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn heal(&self) -> Result<()> {
        for proxy in self.all_proxies() {
            proxy.heal();
        }
        let _ = fs::remove_file(self.size_limit_file());
        self.start_postgres().await?;
        for process in leftovers::processes(&self.mark, self.folder()) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGCONT);
        }
        for number in 0..self.coordinators.len() {
            if self.coordinators[number].lock().await.has_ended()? {
                self.start_coordinator(number).await?;
            }
        }
        for number in 0..self.workers.len() {
            let ended = match &mut self.workers[number].lock().await.daemon {
                Some(daemon) => daemon.ended()?.is_some(),
                None => true,
            };
            if ended {
                self.start_worker(number).await?;
            }
        }
        Ok(())
    }

    /// Stops workers, coordinators and the database in order.
    ///
    /// # Errors
    /// One does not end well.
    pub async fn stop(&self) -> Result<()> {
        for worker in &self.workers {
            let daemon = worker.lock().await.daemon.take();
            end(daemon, Signal::SIGTERM).await?;
        }
        for coordinator in &self.coordinators {
            let daemon = coordinator.lock().await.daemon.take();
            end(daemon, Signal::SIGTERM).await?;
        }
        self.pool.close().await;
        let cluster = self.postgres.lock().await.take();
        tokio::task::spawn_blocking(move || drop(cluster)).await?;
        let left = leftovers::processes(&self.mark, self.folder());
        if !left.is_empty() {
            bail!("processes are left: {left:#?}");
        }
        Ok(())
    }
}

/// A trainer's process and the attempt that it works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trainer {
    pub pid: i32,
    pub job: uuid::Uuid,
    pub epoch: i64,
}

impl Coordinator {
    async fn start(&mut self, plant: &Plant) -> Result<()> {
        let port_file = plant.folder().join(format!("port-{}", self.number));
        let _ = fs::remove_file(&port_file);
        let mut command = binaries::command("cakes-coordinator", &plant.mark)?;
        let database = plant.database_proxies[self.number].address();
        command.arg("--database-url").arg(format!("postgres://postgres@{database}/{DATABASE}"));
        command.arg("--data-dir").arg(plant.folder().join(format!("coordinator-{}", self.number)));
        command.arg("--artifacts").arg(plant.artifacts());
        command.arg("--listen").arg(self.address.to_string()).arg("--port-file").arg(&port_file);
        let ttl = format!("{}ms", plant.sizes.lease_ttl.as_millis());
        command.args(["--lease-ttl", &ttl, "--offer-ttl", &ttl]);
        command.arg("--drain-time").arg(format!("{}ms", plant.sizes.drain_time.as_millis()));
        command.arg("--report-interval").arg(format!("{}ms", plant.sizes.report_interval.as_millis()));
        let log = plant.folder().join(format!("coordinator-{}.log", self.number));
        let name = format!("coordinator {}", self.number);
        let start = Instant::now();
        let mut daemon = Daemon::start(&name, &mut command, &log)?;
        while !port_file.exists() {
            if daemon.ended()?.is_some() {
                // Its database may be away just now; a service manager tries again.
                if start.elapsed() > DAEMON_PATIENCE {
                    bail!("{name} does not start\n{}", daemon.log_tail());
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
                daemon = Daemon::start(&name, &mut command, &log)?;
            }
            if start.elapsed() > DAEMON_PATIENCE {
                bail!("{name} does not serve in time\n{}", daemon.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let port = fs::read_to_string(&port_file)?.trim().parse().context("the port file holds no port")?;
        self.address.set_port(port);
        self.daemon = Some(daemon);
        Ok(())
    }

    fn has_ended(&mut self) -> Result<bool> {
        match &mut self.daemon {
            Some(daemon) => Ok(daemon.ended()?.is_some()),
            None => Ok(true),
        }
    }
}

/// Asks a daemon to stop and waits for its good end.
///
/// # Errors
/// It does not end in time, or not with code 0.
pub async fn end(daemon: Option<Daemon>, signal: Signal) -> Result<()> {
    let Some(mut daemon) = daemon else { return Ok(()) };
    tokio::task::spawn_blocking(move || daemon.stop(signal, DAEMON_PATIENCE)).await?
}

impl Drop for Plant {
    fn drop(&mut self) {
        for process in leftovers::processes(&self.mark, self.folder()) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        self.workers.clear();
        self.coordinators.clear();
        *self.postgres.get_mut() = None;
        self.folder.disable_cleanup(self.kept.load(Ordering::Relaxed));
        if let Some(path) = self.small_disk.take() {
            let _ = Command::new("umount").arg("--lazy").arg(path).status();
        }
    }
}
