//! The folder of a cluster: locked, owned by the right account, initialised.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::account::{Account, run_ok};
use crate::{Durability, Error, binaries};

/// A data folder that this process alone uses, as long as this value lives.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) account: Account,
    _lock: Flock<File>,
}

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let mut builder = fs::DirBuilder::new();
        if let Some(parent) = path.parent() {
            builder.recursive(true).create(parent).map_err(|error| Error::io("create", parent, error))?;
        }
        builder.mode(0o700).create(path).map_err(|error| Error::io("create", path, error))?;
        let path = path.canonicalize().map_err(|error| Error::io("look into", path, error))?;
        let account = Account::choose(&path.join("cluster"))?;
        account.own(&path)?;
        account.reach(&path)?;
        let file = path.join("lock");
        let lock = File::create(&file).map_err(|error| Error::io("create", &file, error))?;
        // Released by the kernel when this process ends, however it ends.
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Error::InUse { folder: path.clone() },
            errno => Error::io("lock", &file, errno.into()),
        })?;
        // Whoever reaches the socket is trusted.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .map_err(|error| Error::io("close to others", &path, error))?;
        Ok(Folder { path, account, _lock: lock })
    }

    pub(crate) fn cluster(&self) -> PathBuf {
        self.path.join("cluster")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// Programs of the version that made the cluster, or the newest.
    pub(crate) fn binaries(&self) -> Result<PathBuf, Error> {
        let newest = binaries::find_binaries();
        let Ok(found) = fs::read_to_string(self.cluster().join("PG_VERSION")) else {
            return newest.ok_or(Error::NoBinaries);
        };
        let found = found.trim().to_owned();
        if let Some(same) = binaries::of_version(&found) {
            return Ok(same);
        }
        let newest = newest.ok_or(Error::NoBinaries)?;
        let installed = self.major_version(&newest)?;
        if installed == found {
            return Ok(newest);
        }
        Err(Error::OtherVersion { cluster: self.cluster(), found, installed })
    }

    /// `postgres (PostgreSQL) 17.5 (Debian 17.5-1)` → `17`.
    fn major_version(&self, binaries: &Path) -> Result<String, Error> {
        let text = run_ok(self.account.command(&binaries.join("postgres")).arg("--version"))?;
        let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let digits = version.unwrap_or_default().split(|c: char| !c.is_ascii_digit()).next();
        Ok(digits.unwrap_or_default().to_owned())
    }

    /// Makes the cluster under another name and renames it when it is complete.
    pub(crate) fn initialise(&self, binaries: &Path, durability: Durability) -> Result<(), Error> {
        if self.cluster().exists() {
            return Ok(());
        }
        let unfinished = self.path.join("cluster.new");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(|error| Error::io("remove", &unfinished, error))?;
        }
        let mut initdb = self.account.command(&binaries.join("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]);
        match durability {
            Durability::Durable => initdb.arg("--data-checksums"),
            Durability::ThrowAway => initdb.arg("--no-sync"),
        };
        run_ok(initdb.arg("--pgdata").arg(&unfinished))?;
        fs::rename(&unfinished, self.cluster()).map_err(|error| Error::io("rename", &unfinished, error))?;
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(|error| Error::io("save", &self.path, error))
    }
}
