//! What can be wrong with a private cluster, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no Postgres server found; install it (Debian: `apt-get install postgresql`) or give the URL of one"
    )]
    NoBinaries,
    #[error("Postgres refuses to run as root, and this system has neither a user 'postgres' nor 'nobody'")]
    NoAccount,
    #[error("cannot {action} {}", path.display())]
    Io {
        /// "create", "lock".
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{} may not be entered by user '{account}', as whom Postgres runs; \
         allow it with `chmod o+x {}` or choose another folder with --data-dir",
        folder.display(), folder.display()
    )]
    Unreachable { folder: PathBuf, account: String },
    #[error(
        "{} holds files of others and does not belong to user '{account}', as whom Postgres runs; \
         choose an empty folder with --data-dir",
        folder.display()
    )]
    NotOurs { folder: PathBuf, account: String },
    #[error(
        "{} belongs to user {owner}; run this as that user or as root, or choose another folder with --data-dir",
        folder.display()
    )]
    OtherOwner { folder: PathBuf, owner: u32 },
    #[error(
        "{} is in use by another running process; stop it first, or choose another folder with --data-dir",
        folder.display()
    )]
    InUse { folder: PathBuf },
    #[error(
        "a Postgres server (process {process}) runs on {}, and did not stop by itself; \
         stop it with `kill -INT {process}`",
        cluster.display()
    )]
    ServerRuns { cluster: PathBuf, process: i32 },
    #[error(
        "{} was made by Postgres {found}, installed is {installed}; install postgresql-{found}, \
         move the data with pg_upgrade, or choose another folder with --data-dir",
        cluster.display()
    )]
    OtherVersion { cluster: PathBuf, found: String, installed: String },
    #[error("`{program}` ended with {status}:\n{output}")]
    ProgramFailed { program: String, status: String, output: String },
    #[error("Postgres {what}; the end of {}:\n{tail}", log.display())]
    DidNotStart { what: String, log: PathBuf, tail: String },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io { action, path: path.to_owned(), source }
    }
}
