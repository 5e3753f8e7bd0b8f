//! The daemons of a quick start: started in order, stopped in reverse.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::interrupt::Interrupt;

const START_PATIENCE: Duration = Duration::from_secs(120);
/// A worker saves and hands back; the coordinator stops its Postgres.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Environment variable by which every process of a quick start is known again.
const MARK: &str = "XTASK_QUICKSTART";

/// Running daemons. All end with this value.
pub struct Services {
    programs: PathBuf,
    folder: PathBuf,
    mark: String,
    daemons: Vec<Daemon>,
    server: String,
}

struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Services {
    /// Starts a coordinator with a private Postgres, and as many workers as
    /// there are numbers of threads.
    pub fn start(programs: &Path, folder: &Path, threads: &[usize], interrupt: &Interrupt) -> Result<Self> {
        let mark = folder.display().to_string();
        let (programs, folder) = (programs.to_owned(), folder.to_owned());
        let mut services = Services { programs, folder, mark, daemons: Vec::new(), server: String::new() };
        services.start_coordinator(interrupt)?;
        for (index, threads) in threads.iter().enumerate() {
            let name = format!("worker-{}", index + 1);
            let mut command = services.command("cakes-worker");
            command.arg("--server").arg(&services.server).args(["--id", &name, "--devices", "auto"]);
            command.arg("--threads").arg(threads.to_string());
            command.arg("--data-root").arg(&services.folder);
            command.arg("--work-dir").arg(services.folder.join(&name));
            services.spawn(&name, command)?;
        }
        Ok(services)
    }

    fn start_coordinator(&mut self, interrupt: &Interrupt) -> Result<()> {
        let port_file = self.folder.join("port");
        let mut command = self.command("cakes-coordinator");
        command.args(["--listen", "127.0.0.1:0", "--port-file"]).arg(&port_file);
        command.arg("--data-dir").arg(self.folder.join("coordinator"));
        self.spawn("coordinator", command)?;
        let start = Instant::now();
        loop {
            if let Ok(port) = fs::read_to_string(&port_file) {
                self.server = format!("http://127.0.0.1:{}", port.trim());
                return Ok(());
            }
            self.all_run()?;
            if start.elapsed() > START_PATIENCE {
                bail!("the coordinator does not serve\n{}", self.log_tails());
            }
            interrupt.check()?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where the coordinator shows its page, as it says behind the port file.
    pub fn page(&self) -> Option<String> {
        let said = fs::read_to_string(self.folder.join("coordinator.log")).ok()?;
        let (_, address) = said.split_once("shows its page on ")?;
        address.lines().next().map(str::to_owned)
    }

    /// What makes a token for the page while the services run.
    pub fn token_command(&self) -> String {
        let program = self.programs.join("cakes-coordinator");
        let data = self.folder.join("coordinator");
        format!("{} token issue me --role operator --data-dir {}", program.display(), data.display())
    }

    /// One of the programs, in the environment of these services.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        // Settings of the user's own installation are not meant here.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAKES_"))
        {
            command.env_remove(name);
        }
        command.env(MARK, &self.mark);
        if !self.server.is_empty() {
            command.env("CAKES_SERVER", &self.server);
        }
        command
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> Result<()> {
        let log = self.folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A Ctrl-C in the terminal is this program's to handle: daemons stop in order.
        let child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
        self.daemons.push(Daemon { name: name.to_owned(), child, log });
        Ok(())
    }

    /// Fails if a daemon has ended.
    pub fn all_run(&mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            if let Some(status) = daemon.child.try_wait()? {
                let name = daemon.name.clone();
                bail!("{name} ended with {status}\n{}", self.log_tails());
            }
        }
        Ok(())
    }

    /// The last lines of every log, with its path.
    pub fn log_tails(&self) -> String {
        let tail = |daemon: &Daemon| {
            let text = fs::read(&daemon.log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n  ");
            format!("the end of {}:\n  {tail}", daemon.log.display())
        };
        self.daemons.iter().map(tail).collect::<Vec<_>>().join("\n")
    }

    /// Stops everything, workers first, and makes sure that nothing is left.
    pub fn stop(mut self) -> Result<()> {
        self.stop_all();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) && !self.leftovers().is_empty() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let left = self.leftovers();
        for pid in &left {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        if left.is_empty() { Ok(()) } else { bail!("processes were left and had to be killed: {left:?}") }
    }

    fn stop_all(&mut self) {
        while let Some(mut daemon) = self.daemons.pop() {
            let group = Pid::from_raw(daemon.child.id().cast_signed());
            let start = Instant::now();
            while daemon.child.try_wait().is_ok_and(|status| status.is_none()) {
                let _ = kill(group, Signal::SIGTERM);
                if start.elapsed() > STOP_PATIENCE {
                    let _ = killpg(group, Signal::SIGKILL);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Processes that inherited the mark, or whose command line names the folder.
    fn leftovers(&self) -> Vec<Pid> {
        let wanted = format!("{MARK}={}", self.mark);
        let own = std::process::id().cast_signed();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| *pid != own)
            .filter(|pid| {
                let words = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let marked = words("environ").split(|byte| *byte == 0).any(|pair| pair == wanted.as_bytes());
                marked || String::from_utf8_lossy(&words("cmdline")).contains(&self.mark)
            })
            .map(Pid::from_raw)
            .collect()
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop_all();
    }
}
