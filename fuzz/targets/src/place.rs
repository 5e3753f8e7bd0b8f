//! A folder of files, for decoders that read them.

use std::cell::OnceCell;
use std::path::{Component, Path, PathBuf};

use tempfile::TempDir;

thread_local! {
    static PLACE: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Lets `act` use an empty folder. Whoever runs millions of inputs puts `TMPDIR` in memory.
pub(crate) fn with_folder<T>(act: impl FnOnce(&Path) -> T) -> T {
    PLACE.with(|place| {
        let place = place.get_or_init(|| tempfile::tempdir().expect("a folder for files can be made"));
        let folder = place.path().join("input");
        std::fs::create_dir(&folder).expect("the folder was removed after the last input");
        let done = act(&folder);
        std::fs::remove_dir_all(&folder).expect("a folder of our own can be removed");
        done
    })
}

/// Lets `act` read a file of this name.
pub(crate) fn with_file<T>(name: &str, bytes: &[u8], act: impl FnOnce(&Path) -> T) -> T {
    with_folder(|folder| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("a file can be written");
        act(&path)
    })
}

/// A text that becomes a name of a file or folder stays where it is put.
pub(crate) fn is_one_step(name: &str) {
    let steps: Vec<Component<'_>> = Path::new(name).components().collect();
    assert!(
        matches!(steps[..], [Component::Normal(step)] if step == name) && !name.contains('\0'),
        "'{name}' leads elsewhere"
    );
}

/// A path lies below a folder, whatever is there.
pub(crate) fn lies_below(folder: &Path, path: &Path) {
    let inner = path.strip_prefix(folder);
    let inner = inner.unwrap_or_else(|_| panic!("{} is not below {}", path.display(), folder.display()));
    let is_plain = inner.components().all(|step| matches!(step, Component::Normal(_)));
    assert!(is_plain, "{} leads out of {}", path.display(), folder.display());
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of our own can be listed").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => found.push(path),
            }
        }
    }
    found
}
