//! A Slurm of Debian's packages on this machine: munge, one controller, one slurmd for
//! each node, all as whoever runs the test and on the loopback address alone.
//!
//! The nodes share the machine. Debian's slurmd serves the node that `-N` names, on a
//! port of its own, as if it had been built for several on one machine.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::cluster::Finished;
use crate::daemon::Daemon;
use crate::leftovers::{self, MARK};

/// For a daemon to begin or end, and for Slurm to notice something.
const PATIENCE: Duration = Duration::from_secs(60);

/// Running daemons of Slurm; they end with this value.
#[derive(Debug)]
pub struct Slurm {
    // Dropped in this order.
    nodes: Vec<Daemon>,
    controller: Daemon,
    munge: Daemon,
    mark: String,
    folder: PathBuf,
}

impl Slurm {
    /// Starts one with these nodes of two processors each, below `folder`.
    ///
    /// # Errors
    /// A program is missing or does not come up.
    pub fn start(folder: &Path, nodes: &[&str]) -> Result<Self> {
        let folder = folder.join("slurm");
        fs::create_dir_all(folder.join("state"))?;
        let munge_folder = folder.join("munge");
        fs::create_dir_all(&munge_folder)?;
        // Whoever may pass through here can ask munge.
        fs::set_permissions(&munge_folder, Permissions::from_mode(0o711))?;
        let mark = uuid::Uuid::new_v4().to_string();
        let munge = start_munge(&munge_folder, &mark)?;
        write_config(&folder, nodes)?;
        let start = |program: &str, name: &str, arguments: &[&str]| {
            let mut command = tool(program, &folder, &mark);
            command.arg("-D").args(arguments);
            Daemon::start(name, &mut command, &folder.join(format!("{name}.log")))
        };
        let controller = start("slurmctld", "slurmctld", &[])?;
        let nodes = nodes.iter().map(|node| start("slurmd", &format!("slurmd-{node}"), &["-N", node]));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        let slurm = Slurm { nodes, controller, munge, mark, folder };
        slurm.wait_for_nodes()?;
        Ok(slurm)
    }

    fn wait_for_nodes(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            // Down, unknown or not answering are none of these.
            let listed = self.run("sinfo", &["--Node", "--noheader", "--format=%T"])?;
            let idle = listed.stdout.lines().filter(|state| state.trim() == "idle").count();
            if listed.code == Some(0) && idle == self.nodes.len() {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                let logs: Vec<String> =
                    self.nodes.iter().chain([&self.controller]).map(Daemon::log_tail).collect();
                bail!("Slurm's nodes do not come: {listed:?}\n{}", logs.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What tells Slurm's programs where this one is.
    pub fn config(&self) -> PathBuf {
        self.folder.join("slurm.conf")
    }

    /// Runs one of Slurm's programs to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(program);
        command.args(arguments).env("SLURM_CONF", self.config()).stdin(Stdio::null());
        Ok(command.output().with_context(|| format!("cannot start {program}"))?.into())
    }

    /// The same, and its output; it must succeed.
    ///
    /// # Errors
    /// It fails.
    pub fn tell(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let finished = self.run(program, arguments)?;
        if finished.code != Some(0) {
            bail!("{program} {arguments:?}: {finished:?}");
        }
        Ok(finished.stdout)
    }

    /// Ends everything that Slurm runs, then Slurm.
    ///
    /// # Errors
    /// A job or a daemon does not end, or a process is left.
    pub fn stop(mut self) -> Result<()> {
        let begin = Instant::now();
        while !self.tell("squeue", &["--noheader", "--states=all", "--format=%T"])?.lines().all(is_over) {
            if begin.elapsed() > PATIENCE {
                bail!("Slurm still runs something:\n{}", self.tell("squeue", &["--array"])?);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        for node in &mut self.nodes {
            node.stop(Signal::SIGTERM, PATIENCE)?;
        }
        self.controller.stop(Signal::SIGTERM, PATIENCE)?;
        self.munge.stop(Signal::SIGTERM, PATIENCE)?;
        match self.processes() {
            left if left.is_empty() => Ok(()),
            left => bail!("Slurm leaves processes: {left:#?}"),
        }
    }

    fn processes(&self) -> Vec<leftovers::Process> {
        leftovers::processes(&self.mark, &self.folder)
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        // Jobs of a test that failed.
        leftovers::kill_all(&self.processes());
    }
}

fn is_over(state: &str) -> bool {
    ["COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"].contains(&state.trim())
}

fn tool(program: &str, folder: &Path, mark: &str) -> Command {
    // Debian keeps daemons where only root looks.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command.env("PATH", path).env("SLURM_CONF", folder.join("slurm.conf")).env(MARK, mark);
    command
}

fn start_munge(folder: &Path, mark: &str) -> Result<Daemon> {
    let key = folder.join("key");
    let random: Vec<u8> = (0..8).flat_map(|_| *uuid::Uuid::new_v4().as_bytes()).collect();
    fs::write(&key, random)?;
    fs::set_permissions(&key, Permissions::from_mode(0o600))?;
    let socket = folder.join("socket");
    let mut command = tool("munged", folder, mark);
    // The temporary folder belongs to everybody, which it would not have.
    command.args(["--foreground", "--force"]);
    for (option, file) in [
        ("socket", &socket),
        ("key-file", &key),
        ("pid-file", &folder.join("pid")),
        ("seed-file", &folder.join("seed")),
    ] {
        command.arg(format!("--{option}={}", file.display()));
    }
    let mut daemon = Daemon::start("munged", &mut command, &folder.join("munged.log"))?;
    let begin = Instant::now();
    while !socket.exists() {
        if daemon.ended()?.is_some() || begin.elapsed() > PATIENCE {
            bail!("munge does not come\n{}", daemon.log_tail());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(daemon)
}

/// Ports that are free now.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn write_config(folder: &Path, nodes: &[&str]) -> Result<()> {
    let ports = free_ports(nodes.len() + 2)?;
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("this user has no name")?.name;
    let at = folder.display();
    let mut text = format!(
        "ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={}
SlurmdPort={}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={at}/munge/socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={at}/state
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd-%n.pid
SlurmdSpoolDir={at}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=30
",
        ports[0], ports[1]
    );
    for (node, port) in nodes.iter().zip(&ports[2..]) {
        writeln!(text, "NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=2")?;
    }
    writeln!(text, "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP")?;
    Ok(fs::write(folder.join("slurm.conf"), text)?)
}
