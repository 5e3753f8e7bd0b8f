//! A Postgres server for as long as one command runs.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use cakes_postgres::{Cluster, ClusterConfig, Durability};

use crate::{process, sql};

/// Names of the folders begin so.
const PREFIX: &str = "cakes-db-";

/// A folder of a command that was killed is taken for one after so long.
const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(3600);

/// A cluster in a temporary folder; both end with this value.
pub struct ThrowAway {
    cluster: Cluster,
    _folder: tempfile::TempDir,
}

impl ThrowAway {
    pub fn start() -> Result<Self> {
        clear_leftovers(&std::env::temp_dir());
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
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

/// Removes the folders of commands that were killed: the guardian ends their servers, and nobody
/// takes the files away.
fn clear_leftovers(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let folder = entry.path();
        let is_named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_named && is_left_behind(&folder) && fs::remove_dir_all(&folder).is_ok() {
            println!("{}: removed; the command that it was for was killed", folder.display());
        }
    }
}

/// Whether a folder is this user's, of a while ago, and nobody's now.
fn is_left_behind(folder: &Path) -> bool {
    let Ok(about) = fs::symlink_metadata(folder) else { return false };
    let age = about.modified().ok().and_then(|changed| changed.elapsed().ok());
    about.is_dir()
        && about.uid() == nix::unistd::getuid().as_raw()
        && age.is_some_and(|age| age > LEFT_BEHIND_AFTER)
        && !has_owner(folder)
        && !has_server(folder)
}

/// Whoever runs the cluster holds its lock for as long.
fn has_owner(folder: &Path) -> bool {
    match File::open(folder.join("pg/lock")) {
        Ok(lock) => lock.try_lock().is_err(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// Also where that is not known.
fn has_server(folder: &Path) -> bool {
    match fs::read_to_string(folder.join("pg/cluster/postmaster.pid")) {
        Ok(text) => match text.lines().next().and_then(|process| process.trim().parse::<u32>().ok()) {
            Some(process) => Path::new("/proc").join(process.to_string()).exists(),
            None => true,
        },
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_folders_that_are_nobodys_now_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = root.path().join(name);
            fs::create_dir_all(folder.join("pg/cluster")).unwrap();
            fs::write(folder.join("pg/lock"), "").unwrap();
            folder
        };
        let [dead, young, owned, served, other] =
            ["cakes-db-a", "cakes-db-b", "cakes-db-c", "cakes-db-d", "cakes-dbs"].map(make);
        let lock = File::open(owned.join("pg/lock")).unwrap();
        lock.try_lock().unwrap();
        let process = |folder: &Path, id: u32| {
            fs::write(folder.join("pg/cluster/postmaster.pid"), format!("{id}\n/data\n")).unwrap();
        };
        process(&served, std::process::id());
        // No system has so many.
        process(&dead, u32::MAX);
        for folder in [&dead, &owned, &served, &other] {
            let long_ago = SystemTime::now() - 2 * LEFT_BEHIND_AFTER;
            File::open(folder).unwrap().set_modified(long_ago).unwrap();
        }
        clear_leftovers(root.path());
        assert!(!dead.exists());
        assert!([young, owned, served, other].iter().all(|folder| folder.exists()));
    }
}
