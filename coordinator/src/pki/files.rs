//! Files that nobody else may read.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::PkiError;

/// What may happen to a file that is there.
#[derive(Clone, Copy)]
pub(super) enum Rights {
    /// Nothing: it is an error.
    New,
    /// Another takes its place, as a whole, with its owner and its mode.
    Replace,
}

/// Writes texts, each to its file, with the folders above it.
pub(super) fn write_all(files: &[(PathBuf, String)], rights: Rights) -> Result<(), PkiError> {
    for (path, text) in files {
        write(path, text, rights).map_err(|source| PkiError::Write { path: path.clone(), source })?;
    }
    Ok(())
}

fn write(path: &Path, text: &str, rights: Rights) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match rights {
        Rights::New => {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())
        }
        Rights::Replace => {
            // It has mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            keep_rights(path, file.as_file())?;
            file.persist(path)?;
            Ok(())
        }
    }
}

/// A file that root renews for a daemon stays the daemon's, and readable for whom it was.
fn keep_rights(old: &Path, new: &File) -> io::Result<()> {
    let Ok(old) = std::fs::metadata(old) else { return Ok(()) };
    let made = new.metadata()?;
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    // Behind the owner: the mode was meant for that one and its group.
    new.set_permissions(Permissions::from_mode(old.mode() & 0o777))
}

/// The folders of a folder, by name; none if it is not there.
pub(super) fn folders(folder: &Path) -> Result<Vec<PathBuf>, PkiError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    read().map_err(|source| PkiError::Write { path: folder.to_owned(), source })
}
