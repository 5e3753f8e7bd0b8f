//! The server process and its guardian.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::account::{Account, run_ok};
use crate::folder::Folder;
use crate::{DATABASE, Durability, Error};

/// Bytes of the longest Unix socket path that Linux takes.
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_NAME: &str = ".s.PGSQL.5432";

/// Until the server says that it starts. Replaying the log after a power cut, which comes
/// behind that, takes as long as it takes: a server that is ended in it begins anew.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// Between two words about a start that lasts.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Waits for its standard input to close, which is when the owner is gone; then
/// stops the server `$1` of cluster `$2`, if that number is still that server,
/// with signal `$3`, and removes the temporary socket folder `$4`.
const GUARDIAN: &str = r#"
trap '' HUP INT TERM
read -r _
read -r server 2>/dev/null <"$2/postmaster.pid" && [ "$server" = "$1" ] && kill -"$3" "$1"
while kill -0 "$1" 2>/dev/null; do sleep 0.2; done
[ -z "$4" ] || rmdir "$4"
"#;

#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    guardian: Option<Child>,
    socket: SocketDir,
    log: PathBuf,
    durability: Durability,
}

#[derive(Debug)]
enum SocketDir {
    InData(PathBuf),
    Temporary(tempfile::TempDir),
}

impl SocketDir {
    fn path(&self) -> &Path {
        match self {
            SocketDir::InData(path) => path,
            SocketDir::Temporary(folder) => folder.path(),
        }
    }

    /// The data folder where its path is short enough, else a temporary one.
    fn choose(folder: &Folder) -> Result<Self, Error> {
        let fits = |path: &Path| path.join(SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_MAX;
        if fits(&folder.path) {
            return Ok(SocketDir::InData(folder.path.clone()));
        }
        let mut parent = std::env::temp_dir();
        if !fits(&parent.join("cakes-pg-123456")) {
            parent = PathBuf::from("/tmp");
        }
        let temporary = tempfile::Builder::new().prefix("cakes-pg-").tempdir_in(&parent);
        let temporary = temporary.map_err(|error| Error::io("create a folder in", &parent, error))?;
        folder.account.own(temporary.path())?;
        folder.account.reach(temporary.path())?;
        Ok(SocketDir::Temporary(temporary))
    }
}

impl Server {
    pub(crate) fn start(folder: &Folder, binaries: &Path, durability: Durability) -> Result<Self, Error> {
        let socket = SocketDir::choose(folder)?;
        let log = folder.log_file();
        let mut command = folder.account.command(&binaries.join("postgres"));
        command.arg("-D").arg(folder.cluster());
        for setting in settings(socket.path(), durability) {
            command.arg("-c").arg(setting);
        }
        let process = spawn(command.stdin(Stdio::null()), &log)?;
        let mut server = Server { process, guardian: None, socket, log, durability };
        server.guardian = Some(server.guard(&folder.account, &folder.cluster())?);
        server.wait_until_ready(&folder.cluster(), START_PATIENCE)?;
        server.make_database(&folder.account, binaries)?;
        Ok(server)
    }

    pub(crate) fn socket_dir(&self) -> &Path {
        self.socket.path()
    }

    pub(crate) fn log_file(&self) -> &Path {
        &self.log
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    fn guard(&self, account: &Account, cluster: &Path) -> Result<Child, Error> {
        let mut command = account.command(Path::new("/bin/sh"));
        command.args(["-c", GUARDIAN, "cakes-postgres-guardian"]).arg(self.process.id().to_string());
        command.arg(cluster).arg(self.stop_signal().as_str().trim_start_matches("SIG"));
        match &self.socket {
            SocketDir::InData(_) => command.arg(""),
            SocketDir::Temporary(folder) => command.arg(folder.path()),
        };
        spawn(command.stdin(Stdio::piped()), &self.log)
    }

    /// Fast shutdown ends all sessions and writes a checkpoint; the immediate
    /// one leaves that to the next start.
    fn stop_signal(&self) -> Signal {
        match self.durability {
            Durability::Durable => Signal::SIGINT,
            Durability::ThrowAway => Signal::SIGQUIT,
        }
    }

    /// Waits for the state that the server writes into `postmaster.pid`, as `pg_ctl` does;
    /// while it says that it starts, without a limit.
    fn wait_until_ready(&mut self, cluster: &Path, patience: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let (mut heard, mut told) = (start, start);
        loop {
            let text = fs::read_to_string(cluster.join("postmaster.pid")).unwrap_or_default();
            let state = state_of(&text, self.process.id());
            if state == Some("ready") {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                return Err(self.did_not_start(format!("ended with {status}")));
            }
            if state == Some("starting") {
                heard = Instant::now();
                if told.elapsed() > TELL_INTERVAL {
                    told = Instant::now();
                    tracing::info!(
                        waited_s = start.elapsed().as_secs(),
                        log = %self.log.display(),
                        "Postgres recovers from a crash; it is waited for"
                    );
                }
            } else if heard.elapsed() > patience {
                let waited = patience.as_secs();
                return Err(self.did_not_start(format!("was not ready within {waited} s")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn make_database(&self, account: &Account, binaries: &Path) -> Result<(), Error> {
        let mut psql = account.command(&binaries.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
        psql.arg("--host").arg(self.socket_dir()).args(["--username=postgres", "--dbname=postgres"]);
        let known = format!("select count(*) from pg_database where datname = '{DATABASE}'");
        let ask = |psql: &Command, statement: &str| {
            let mut command = account.command(Path::new(psql.get_program()));
            run_ok(command.args(psql.get_args()).arg("--command").arg(statement))
        };
        if ask(&psql, &known)?.trim() == "0" {
            ask(&psql, &format!("create database {DATABASE}"))?;
        }
        Ok(())
    }

    fn did_not_start(&self, what: String) -> Error {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        Error::DidNotStart { what, log: self.log.clone(), tail }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    fn ends_within(&mut self, patience: Duration) -> bool {
        let start = Instant::now();
        while self.ended().is_none() {
            if start.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let steps = [(self.stop_signal(), STOP_PATIENCE), (Signal::SIGQUIT, Duration::from_secs(5))];
        let stopped = steps.into_iter().any(|(signal, patience)| {
            if self.ended().is_none() {
                let _ = kill(Pid::from_raw(self.process.id().cast_signed()), signal);
            }
            self.ends_within(patience)
        });
        if !stopped {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        // Last, so that the server is guarded until it has ended.
        if let Some(guardian) = &mut self.guardian {
            let _ = guardian.kill();
            let _ = guardian.wait();
        }
    }
}

/// What `postmaster.pid` says of the server with this process id: starting, ready, stopping.
fn state_of(text: &str, process: u32) -> Option<&str> {
    let mut lines = text.lines().map(str::trim);
    let is_its = lines.next() == Some(process.to_string().as_str());
    lines.nth(6).filter(|_| is_its)
}

/// Starts a program in a process group of its own, its output in the log.
fn spawn(command: &mut Command, log: &Path) -> Result<Child, Error> {
    if log.metadata().is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        let old = log.with_extension("log.old");
        fs::rename(log, &old).map_err(|error| Error::io("rename", log, error))?;
    }
    let failed = |error| Error::io("open", log, error);
    let file: File = OpenOptions::new().create(true).append(true).open(log).map_err(failed)?;
    let program = PathBuf::from(command.get_program());
    command.stdout(file.try_clone().map_err(failed)?).stderr(file).process_group(0);
    command.spawn().map_err(|error| Error::io("start", &program, error))
}

fn settings(socket: &Path, durability: Durability) -> Vec<String> {
    let quoted = socket.to_string_lossy().replace('"', "\"\"");
    let mut settings = vec![
        "listen_addresses=".to_owned(),
        "port=5432".to_owned(),
        format!("unix_socket_directories=\"{quoted}\""),
        "unix_socket_permissions=0700".to_owned(),
        "max_connections=200".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
    ];
    if durability == Durability::ThrowAway {
        let fast = ["fsync=off", "full_page_writes=off", "synchronous_commit=off"];
        settings.extend(fast.map(str::to_owned));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that stands for a server.
    fn stand_in(folder: &Path) -> Server {
        let log = folder.join("server.log");
        let process = spawn(Command::new("sleep").arg("600").stdin(Stdio::null()), &log).unwrap();
        let socket = SocketDir::InData(folder.to_owned());
        Server { process, guardian: None, socket, log, durability: Durability::ThrowAway }
    }

    fn say(folder: &Path, process: u32, state: &str) {
        let text = format!("{process}\n{}\n1\n5432\n/tmp\n\n1 2\n{state}\n", folder.display());
        fs::write(folder.join("new"), text).unwrap();
        fs::rename(folder.join("new"), folder.join("postmaster.pid")).unwrap();
    }

    #[test]
    fn a_server_that_recovers_is_waited_for_and_one_that_says_nothing_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = stand_in(folder.path());
        let process = server.process_id();
        // Of a server before this one.
        say(folder.path(), process + 1, "starting");
        let error = server.wait_until_ready(folder.path(), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("was not ready"), "{error}");

        say(folder.path(), process, "starting");
        let place = folder.path().to_owned();
        let recovery = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            say(&place, process, "ready   ");
        });
        server.wait_until_ready(folder.path(), Duration::ZERO).unwrap();
        recovery.join().unwrap();

        say(folder.path(), process, "starting");
        kill(Pid::from_raw(process.cast_signed()), Signal::SIGKILL).unwrap();
        let error = server.wait_until_ready(folder.path(), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("ended with"), "{error}");
    }
}
