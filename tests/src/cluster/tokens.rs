//! Who the coordinator of a cluster knows by a token.

use anyhow::{Result, ensure};

use super::{Cluster, Finished};

impl Cluster {
    /// Runs a command of `cakes-coordinator` beside the one that serves, to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn administer(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.coordinator_command()?;
        command.args(arguments);
        Ok(tokio::process::Command::from(command).output().await?.into())
    }

    /// A new token of this name.
    ///
    /// # Errors
    /// None is issued.
    pub async fn token(&self, name: &str, role: &str) -> Result<String> {
        let issued = self.administer(&["token", "issue", name, "--role", role, "--expires", "1d"]).await?;
        ensure!(issued.code == Some(0) && issued.stdout.starts_with("cakes_"), "{issued:?}");
        Ok(issued.stdout.trim().to_owned())
    }
}
