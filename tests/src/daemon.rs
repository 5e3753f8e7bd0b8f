//! One daemon with its log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running daemon; killed with this value unless it was stopped before.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon; what it writes goes to the end of `log`.
    ///
    /// # Errors
    /// The program or the log cannot be opened.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Daemon { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill_9(mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} should run, but ended with {status}\n{}", self.name, self.log_tail());
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid()), signal)?)
    }

    /// Asks it to stop and waits for its good end.
    ///
    /// # Errors
    /// It does not end in time, or not with code 0.
    pub fn stop(&mut self, signal: Signal, within: Duration) -> Result<()> {
        if self.ended()?.is_none() {
            self.signal(signal)?;
        }
        self.wait_well(within)
    }

    /// Waits for its good end.
    ///
    /// # Errors
    /// It does not end in time, or not with code 0.
    pub fn wait_well(&mut self, within: Duration) -> Result<()> {
        let status = self.wait(within)?;
        if !status.success() {
            bail!("{} ended with {status}\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > within {
                bail!("{} did not end within {} s\n{}", self.name, within.as_secs(), self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("--- {} ({})\n{tail}", self.name, self.log.display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
