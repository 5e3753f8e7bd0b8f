//! Where the server's programs are.

use std::path::{Path, PathBuf};

const DEBIAN: &str = "/usr/lib/postgresql";

/// The folder with `initdb`, `postgres` and `psql`: the newest under Debian's
/// path, or that of `initdb` on the PATH.
pub fn find_binaries() -> Option<PathBuf> {
    let debian = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = debian
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("initdb"));
    let on_path = on_path.filter_map(|file| file.canonicalize().ok()?.parent().map(Path::to_owned));
    versions.into_iter().rev().map(|(_, folder)| folder).chain(on_path).find(|folder| is_complete(folder))
}

/// The programs of one major version, where Debian puts them.
pub(crate) fn of_version(major: &str) -> Option<PathBuf> {
    let folder = Path::new(DEBIAN).join(major).join("bin");
    is_complete(&folder).then_some(folder)
}

fn is_complete(folder: &Path) -> bool {
    ["initdb", "postgres", "psql"].iter().all(|program| folder.join(program).is_file())
}
