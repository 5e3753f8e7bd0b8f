//! Ctrl-C: noticed between two steps, so that everything that was started is
//! stopped before this program ends.

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::process::show;

/// Whether somebody asked this program to stop.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on signals are noticed instead of ending this program.
    pub fn listen() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, flag.clone()).context("cannot listen for signals")?;
        }
        Ok(Interrupt(flag))
    }

    /// Fails once a signal came.
    pub fn check(&self) -> Result<()> {
        if self.is_set() {
            bail!("interrupted");
        }
        Ok(())
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Runs a command to its end with this terminal; `meanwhile` may fail to end it.
    pub fn run(&self, command: &mut Command, mut meanwhile: impl FnMut() -> Result<()>) -> Result<()> {
        let shown = show(command);
        let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
        loop {
            if let Some(status) = child.try_wait()? {
                self.check()?;
                if !status.success() {
                    bail!("`{shown}` ended with {status}");
                }
                return Ok(());
            }
            if let Err(error) = self.check().and_then(|()| meanwhile()) {
                end(&mut child);
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A Ctrl-C in the terminal has reached the child as well; a signal that was
/// sent to this program alone has not.
fn end(child: &mut Child) {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT);
    for _ in 0..100 {
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
}
