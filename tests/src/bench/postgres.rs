//! Statements and programs on the bench's database, ended with their caller.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::Cluster;

/// A database that statements are run against.
#[derive(Clone, Debug)]
pub struct Database {
    url: String,
}

impl Database {
    pub fn of(cluster: &Cluster) -> Result<Self> {
        Ok(Database { url: cluster.database_url()? })
    }

    pub fn at(url: String) -> Self {
        Database { url }
    }

    /// Runs statements over one connection; the rows of the last one, as text.
    ///
    /// # Errors
    /// One of them fails.
    pub async fn run(&self, statements: &str) -> Result<String> {
        let mut psql = self.program("psql")?;
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statements, "-d"]).arg(&self.url);
        finish(psql, statements).await
    }

    /// # Errors
    /// It fails, or gives no number.
    pub async fn number(&self, query: &str) -> Result<u64> {
        let text = self.run(query).await?;
        text.trim().parse().with_context(|| format!("`{query}` gave {text:?}"))
    }

    /// Runs pgbench's own load; what it wrote.
    ///
    /// # Errors
    /// It fails, or is not installed.
    pub async fn pgbench(&self, arguments: &[String]) -> Result<String> {
        let mut pgbench = self.program("pgbench")?;
        pgbench.args(arguments).arg(&self.url);
        finish(pgbench, "pgbench").await
    }

    fn program(&self, name: &str) -> Result<Command> {
        let folder = cakes_postgres::find_binaries().context("no Postgres is installed")?;
        let program = folder.join(name);
        ensure!(
            program.is_file(),
            "{} is missing; it comes with the package of the Postgres server",
            program.display()
        );
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }
}

async fn finish(mut command: Command, what: &str) -> Result<String> {
    let output = command.output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let shown: String = what.chars().take(300).collect();
    ensure!(output.status.success(), "`{shown}` failed with {}: {errors}", output.status);
    Ok(text)
}
