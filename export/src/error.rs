use std::path::{Path, PathBuf};

/// Why a network was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{path}: {problem}", path = .path.display())]
    Checkpoint { path: PathBuf, problem: String },
    #[error("the weights are not those of the architecture: {0}")]
    Weights(String),
    #[error("{path}: exists; choose another place or add --force", path = .path.display())]
    Exists { path: PathBuf },
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("--format {format}: {problem}")]
    Format { format: &'static str, problem: String },
}

impl ExportError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| ExportError::Io { path: path.to_owned(), source }
    }

    pub(crate) fn checkpoint(path: &Path, problem: impl Into<String>) -> Self {
        ExportError::Checkpoint { path: path.to_owned(), problem: problem.into() }
    }
}
