//! A private Postgres server: found, set up, run and stopped by one process.
//!
//! ```text
//! owner ──spawns──► postgres    own process group: a terminal's Ctrl-C does not reach it
//!   │                  ▲
//!   └──pipe──► guardian┘        `sh` that asks the server to stop when the pipe closes
//! ```
//!
//! The server listens on a Unix socket only, in a folder that nobody but its
//! account (and root) may enter, and trusts whoever reaches it. As root it runs
//! as `postgres` or `nobody`, because Postgres refuses root.
//!
//! The guardian is what ends the server when its owner is killed without a
//! chance to clean up. `PR_SET_PDEATHSIG` would need no process, but it fires
//! when the *thread* that spawned the server ends, and is cleared when the
//! server changes its user; a closed pipe means exactly "the owner is gone".
//!
//! Below the data folder:
//!
//! ```text
//! lock         held by the owner: one server per folder
//! cluster/     what initdb made; appears complete or not at all
//! server.log   what the server wrote
//! .s.PGSQL.*   the socket, unless the path is too long for one
//! ```

mod account;
mod binaries;
mod error;
mod folder;
mod leftovers;
mod server;

use std::path::{Path, PathBuf};

pub use binaries::find_binaries;
pub use error::Error;

/// Name of the database that every started cluster has.
pub const DATABASE: &str = "cakes";

/// How much a cluster's data are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// What was committed survives a power cut.
    Durable,
    /// For tests and tools: never waits for the disk, stops without a checkpoint.
    ThrowAway,
}

/// Which cluster to run.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Folder of the cluster; made if it is missing. It is this crate's alone.
    pub data_dir: PathBuf,
    pub durability: Durability,
}

/// A running server. It stops with this value.
#[derive(Debug)]
pub struct Cluster {
    // Stops before the lock is released: fields drop in this order.
    server: server::Server,
    _folder: folder::Folder,
}

impl Cluster {
    /// Starts the cluster of a folder, which is initialised if it is new, and
    /// returns once it accepts connections and the database [`DATABASE`] exists.
    ///
    /// # Errors
    /// No server programs, a folder that cannot be used, is in use, or was made
    /// by another major version, or a server that does not come up.
    pub fn start(config: &ClusterConfig) -> Result<Self, Error> {
        let folder = folder::Folder::open(&config.data_dir)?;
        let binaries = folder.binaries()?;
        leftovers::clear(&folder.cluster())?;
        folder.initialise(&binaries, config.durability)?;
        let server = server::Server::start(&folder, &binaries, config.durability)?;
        Ok(Cluster { server, _folder: folder })
    }

    /// Address of a database of this cluster, for `sqlx` and `libpq`.
    pub fn url(&self, database: &str) -> String {
        url(self.socket_dir(), database)
    }

    /// Folder of the socket: `psql --host` takes it.
    pub fn socket_dir(&self) -> &Path {
        self.server.socket_dir()
    }

    /// File with what the server wrote.
    pub fn log_file(&self) -> &Path {
        self.server.log_file()
    }

    /// Process id of the server.
    pub fn process_id(&self) -> u32 {
        self.server.process_id()
    }

    /// Ends all connections, saves (if durable) and stops the server. Dropping does the same.
    pub fn stop(self) {}
}

/// Whether a cluster was made in `data_dir`; it need not run.
///
/// # Errors
/// Its folder cannot be looked into.
pub fn is_made(data_dir: &Path) -> std::io::Result<bool> {
    data_dir.join("cluster").try_exists()
}

/// Address of a database of the cluster that another process runs in `data_dir`; None
/// if none is ready there.
pub fn url_of_running(data_dir: &Path, database: &str) -> Option<String> {
    let state = std::fs::read_to_string(data_dir.join("cluster/postmaster.pid")).ok()?;
    let lines: Vec<&str> = state.lines().map(str::trim).collect();
    // The socket's folder and the state, as `pg_ctl` reads them.
    let socket = lines.get(4).filter(|socket| !socket.is_empty())?;
    (lines.get(7) == Some(&"ready")).then(|| url(Path::new(socket), database))
}

fn url(socket_dir: &Path, database: &str) -> String {
    let host = socket_dir.to_string_lossy();
    format!("postgres://postgres@{}/{}", percent_encoded(&host), percent_encoded(database))
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_the_host_of_a_url() {
        assert_eq!(percent_encoded("/tmp/a b"), "%2Ftmp%2Fa%20b");
    }
}
