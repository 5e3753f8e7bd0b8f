//! A database server and a disk that is soon full.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use cakes_postgres::{ClusterConfig, DATABASE, Durability};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// A folder for everything, which Postgres may enter when it runs as somebody else.
///
/// # Errors
/// It cannot be made.
pub fn open_folder(parent: &Path) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("cakes-chaos-").permissions(fs::Permissions::from_mode(0o711));
    builder.tempdir_in(parent).with_context(|| format!("no folder can be made in {}", parent.display()))
}

fn cluster_config(folder: &Path) -> ClusterConfig {
    ClusterConfig { data_dir: folder.join("pg"), durability: Durability::Durable }
}

/// Starts the server of a folder, or starts it again.
///
/// # Errors
/// It does not come up.
pub async fn start_postgres(folder: &Path) -> Result<cakes_postgres::Cluster> {
    let config = cluster_config(folder);
    Ok(tokio::task::spawn_blocking(move || cakes_postgres::Cluster::start(&config)).await??)
}

/// A durable server that notes when each transaction was committed.
///
/// # Errors
/// It does not come up.
pub async fn first_postgres(folder: &Path) -> Result<(cakes_postgres::Cluster, PgPool)> {
    let cluster = start_postgres(folder).await?;
    let options = PgPoolOptions::new().max_connections(12).acquire_timeout(Duration::from_secs(3));
    let pool = options.connect_lazy(&cluster.url(DATABASE))?;
    sqlx::query("alter system set track_commit_timestamp = on").execute(&pool).await?;
    tokio::task::spawn_blocking(move || drop(cluster)).await?;
    Ok((start_postgres(folder).await?, pool))
}

/// A disk in memory of a few MiB, where this process may mount one.
pub fn mount_small_disk(path: &Path) -> Option<PathBuf> {
    fs::create_dir_all(path).ok()?;
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=32m,mode=700", "cakes-chaos"]).arg(path);
    let output = mount.output().ok()?;
    output.status.success().then(|| path.to_owned())
}
