//! A throw-away Postgres for the tests.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::process;

/// The folder with `initdb` and `postgres`: the newest under Debian's path, or
/// that of `initdb` on the PATH.
pub fn find_binaries() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = debian
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("initdb"));
    let on_path = on_path.filter_map(|file| file.canonicalize().ok()?.parent().map(Path::to_owned));
    let complete = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    versions.into_iter().rev().map(|(_, folder)| folder).chain(on_path).find(complete)
}

/// A server on a Unix socket in a temporary folder; both end with this value.
pub struct ThrowAway {
    server: Child,
    folder: tempfile::TempDir,
}

impl ThrowAway {
    /// Creates a cluster and starts its server, which trusts everybody who can
    /// reach its socket and does not wait for the disk.
    pub fn start() -> Result<Self> {
        let binaries = find_binaries().context("no Postgres server found")?;
        let folder = tempfile::Builder::new().prefix("cakes-pg-").tempdir()?;
        let account = unprivileged_account()?;
        if let Some(user) = &account {
            nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid))?;
        }
        let data = folder.path().join("data");
        let mut initdb = as_account(Command::new(binaries.join("initdb")), account.as_ref());
        initdb.current_dir("/").args([
            "--auth=trust",
            "--username=postgres",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "--pgdata",
        ]);
        process::run_quiet(initdb.arg(&data))?;

        let mut postgres = as_account(Command::new(binaries.join("postgres")), account.as_ref());
        postgres.current_dir("/").arg("-D").arg(&data).arg("-k").arg(folder.path());
        for setting in [
            "listen_addresses=",
            "fsync=off",
            "full_page_writes=off",
            "synchronous_commit=off",
            "max_connections=300",
        ] {
            postgres.args(["-c", setting]);
        }
        let log = std::fs::File::create(folder.path().join("log"))?;
        postgres.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let server = postgres.spawn().context("cannot start postgres")?;
        let mut running = ThrowAway { server, folder };
        running.wait_until_ready()?;
        Ok(running)
    }

    /// For `DATABASE_URL`.
    pub fn url(&self) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}/postgres")
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while !self.folder.path().join(".s.PGSQL.5432").exists() {
            if let Some(status) = self.server.try_wait()? {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!("postgres ended with {status}:\n{log}");
            }
            if start.elapsed() > Duration::from_secs(60) {
                bail!("postgres did not open its socket within a minute");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for ThrowAway {
    fn drop(&mut self) {
        // SIGQUIT is Postgres' immediate shutdown; nothing here is kept.
        let _ = kill(Pid::from_raw(self.server.id() as i32), Signal::SIGQUIT);
        let _ = self.server.wait();
    }
}

/// Postgres refuses to run as root: whom to run it as instead.
fn unprivileged_account() -> Result<Option<User>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!("Postgres does not run as root, and there is neither a user 'postgres' nor 'nobody'")
}

fn as_account(mut command: Command, account: Option<&User>) -> Command {
    if let Some(user) = account {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}
