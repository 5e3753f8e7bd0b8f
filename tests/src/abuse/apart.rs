//! The abuser as a process of its own.
//!
//! In life it is another machine. On this one it gives way to all others, so that a calm client
//! waits for what the abuse costs its server, and not for the processor that the abuser itself takes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::Plan;
use super::attacks::{Abuse, Tally};

/// Abuses the server from the program, which is told by its subcommand `abuser`.
///
/// # Errors
/// It cannot be started, or failed.
pub(super) async fn abuse(program: &Path, abuse: Abuse, server: SocketAddr, plan: &Plan) -> Result<Tally> {
    let seconds = |time: std::time::Duration| time.as_secs().to_string();
    let output = Command::new("nice")
        .args(["-n", "19"])
        .arg(program)
        .args(["abuser", "--abuse", abuse.name(), "--server", &server.to_string()])
        .args(["--connections", &plan.connections.to_string()])
        .args(["--seconds", &seconds(plan.duration), "--patience", &seconds(plan.patience)])
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot start the abuser")?;
    ensure!(output.status.success(), "the abuser ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("the abuser's tally")
}
