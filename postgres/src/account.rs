//! As whom the server runs, and what that account may reach.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};

use crate::Error;

/// As whom to run the server's programs.
#[derive(Clone, Debug)]
pub(crate) enum Account {
    /// As whoever runs this process.
    Own,
    /// As this user, because Postgres refuses root.
    Other { name: String, uid: Uid, gid: Gid },
}

impl Account {
    /// Chooses for a cluster that may exist already: its owner then goes on.
    pub(crate) fn choose(cluster: &Path) -> Result<Self, Error> {
        let owner = cluster.metadata().ok().map(|metadata| (metadata.uid(), metadata.gid()));
        let me = nix::unistd::geteuid();
        match owner {
            Some((uid, _)) if !me.is_root() && uid != me.as_raw() => {
                Err(Error::OtherOwner { folder: cluster.to_owned(), owner: uid })
            }
            _ if !me.is_root() => Ok(Account::Own),
            Some((uid, gid)) if uid != 0 => {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                let known = User::from_uid(uid).ok().flatten().map(|user| user.name);
                Ok(Account::Other { name: known.unwrap_or_else(|| uid.to_string()), uid, gid })
            }
            _ => ["postgres", "nobody"]
                .into_iter()
                .find_map(|name| User::from_name(name).ok().flatten())
                .map(|user| Account::Other { name: user.name, uid: user.uid, gid: user.gid })
                .ok_or(Error::NoAccount),
        }
    }

    /// A command that runs as this account, knows nothing of the caller's
    /// environment (`PGPORT`, `PGOPTIONS`, a locale that is not installed) and
    /// stands in a folder that everybody may enter.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs([("PATH", "/usr/bin:/bin"), ("LC_ALL", "C")]).current_dir("/");
        if let Account::Other { uid, gid, .. } = self {
            // Setting the user as root also drops root's supplementary groups.
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Gives a new or empty folder to this account, for it alone.
    pub(crate) fn own(&self, folder: &Path) -> Result<(), Error> {
        let Account::Other { name, uid, gid } = self else { return Ok(()) };
        let failed = |error| Error::io("look into", folder, error);
        if folder.metadata().map_err(failed)?.uid() == uid.as_raw() {
            return Ok(());
        }
        if folder.read_dir().map_err(failed)?.next().is_some() {
            return Err(Error::NotOurs { folder: folder.to_owned(), account: name.clone() });
        }
        nix::unistd::chown(folder, Some(*uid), Some(*gid))
            .map_err(|errno| Error::io("change the owner of", folder, errno.into()))
    }

    /// Makes sure that this account can enter a folder.
    pub(crate) fn reach(&self, folder: &Path) -> Result<(), Error> {
        let Account::Other { name, .. } = self else { return Ok(()) };
        // The account itself is asked: it knows about groups and access lists.
        let mut command = self.command(Path::new("/bin/sh"));
        command.args(["-c", "for d; do [ -x \"$d\" ] || { printf %s \"$d\"; exit 1; }; done", "sh"]);
        let mut ancestors: Vec<&Path> = folder.ancestors().collect();
        ancestors.reverse();
        let output = run(command.args(ancestors))?;
        if output.status.success() {
            return Ok(());
        }
        let blocked = PathBuf::from(String::from_utf8_lossy(&output.stdout).into_owned());
        Err(Error::Unreachable { folder: blocked, account: name.clone() })
    }
}

/// Runs a command to its end without a terminal.
pub(crate) fn run(command: &mut Command) -> Result<std::process::Output, Error> {
    let program = PathBuf::from(command.get_program());
    command.stdin(Stdio::null()).output().map_err(|error| Error::io("start", &program, error))
}

/// Runs a command that must succeed.
pub(crate) fn run_ok(command: &mut Command) -> Result<String, Error> {
    let output = run(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Error::ProgramFailed {
        program: command.get_program().to_string_lossy().into_owned(),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&text).trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_root_programs_run_as_somebody_else_without_roots_groups() {
        let folder = tempfile::tempdir().unwrap();
        let account = Account::choose(&folder.path().join("cluster")).unwrap();
        let Account::Other { uid, gid, .. } = &account else { return };
        let ids = run_ok(account.command(Path::new("/bin/sh")).args(["-c", "id -u; id -G"])).unwrap();
        assert_eq!(ids, format!("{uid}\n{gid}\n"));
    }
}
