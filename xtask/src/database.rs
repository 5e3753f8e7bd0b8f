//! A Postgres server for as long as one command runs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use cakes_postgres::{Cluster, ClusterConfig, Durability};

use crate::{process, sql};

/// A cluster in a temporary folder; both end with this value.
pub struct ThrowAway {
    cluster: Cluster,
    _folder: tempfile::TempDir,
}

impl ThrowAway {
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("cakes-db-")
            // As root the server runs as somebody else, who must get in.
            .permissions(Permissions::from_mode(0o711))
            .tempdir()
            .context("cannot create a temporary folder")?;
        let config = ClusterConfig { data_dir: folder.path().join("pg"), durability: Durability::ThrowAway };
        Ok(ThrowAway { cluster: Cluster::start(&config)?, _folder: folder })
    }

    /// Applies all migrations, without the bookkeeping of a real coordinator.
    pub fn migrate(&self, folder: &Path) -> Result<()> {
        let binaries = cakes_postgres::find_binaries().context("no Postgres server found")?;
        for file in sql::files(folder, "sql")? {
            let mut psql = Command::new(binaries.join("psql"));
            psql.arg(self.url()).args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file);
            process::run_quiet(&mut psql)?;
        }
        Ok(())
    }

    /// For `DATABASE_URL`.
    pub fn url(&self) -> String {
        self.cluster.url(cakes_postgres::DATABASE)
    }
}
