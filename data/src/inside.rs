//! Paths that a data set's own files name.

use std::path::{Component, Path, PathBuf};

/// A path below the data set's folder, which must not lead out of it.
///
/// # Errors
/// It does, or is empty.
pub(crate) fn inside(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let harmless = path.components().all(|part| matches!(part, Component::CurDir | Component::Normal(_)));
    let relative: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    if !harmless || relative.as_os_str().is_empty() {
        return Err(format!("names '{text}', which is not inside the data set's folder"));
    }
    Ok(relative)
}
