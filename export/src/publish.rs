//! Files that are there whole or not at all: written beside their place under another
//! name, then renamed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::ExportError;

const TEMPORARY: &str = ".cakes-export-";

/// One file of a folder: its path inside, its content.
pub type Part = (String, Vec<u8>);

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub path: PathBuf,
    /// Every file with its size in bytes; paths are relative to the folder.
    pub files: Vec<(String, u64)>,
}

/// # Errors
/// `out` exists and may not be replaced.
pub fn refuse_existing(out: &Path, force: bool) -> Result<(), ExportError> {
    if out.symlink_metadata().is_ok() && !force {
        return Err(ExportError::Exists { path: out.to_owned() });
    }
    Ok(())
}

fn parent(out: &Path) -> &Path {
    match out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// # Errors
/// `out` is a folder, exists and may not be replaced, or the disk fails.
pub fn file(out: &Path, content: &[u8], force: bool) -> Result<Written, ExportError> {
    if out.is_dir() {
        return Err(ExportError::checkpoint(
            out,
            "is a folder; give the name of a file, for example net.onnx",
        ));
    }
    let temporary = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(parent(out));
    let mut temporary = temporary.map_err(ExportError::io(out))?;
    temporary.write_all(content).map_err(ExportError::io(out))?;
    temporary.as_file().sync_all().map_err(ExportError::io(out))?;
    readable_by_all(temporary.path(), 0o644);
    refuse_existing(out, force)?;
    temporary.persist(out).map_err(|error| ExportError::io(out)(error.error))?;
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Written { path: out.to_owned(), files: vec![(name, content.len() as u64)] })
}

/// # Errors
/// `out` is a file, exists and may not be replaced, or the disk fails.
pub fn folder(out: &Path, parts: &[Part], force: bool) -> Result<Written, ExportError> {
    if out.is_file() {
        return Err(ExportError::checkpoint(out, "is a file; give the name of a folder"));
    }
    let temporary = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(parent(out));
    let temporary = temporary.map_err(ExportError::io(out))?;
    let filled = temporary.path().join("new");
    for (name, content) in parts {
        let path = filled.join(name);
        fs::create_dir_all(parent(&path)).map_err(ExportError::io(&path))?;
        let mut file = fs::File::create_new(&path).map_err(ExportError::io(&path))?;
        file.write_all(content).map_err(ExportError::io(&path))?;
        file.sync_all().map_err(ExportError::io(&path))?;
    }
    refuse_existing(out, force)?;
    if out.exists() {
        fs::rename(out, temporary.path().join("old")).map_err(ExportError::io(out))?;
    }
    fs::rename(&filled, out).map_err(ExportError::io(out))?;
    let files = parts.iter().map(|(name, content)| (name.clone(), content.len() as u64)).collect();
    Ok(Written { path: out.to_owned(), files })
}

/// Temporary files are private; what was exported is for others, too.
fn readable_by_all(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    // Whoever cannot read it will say so.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
}
