//! What can be wrong with data, in words that name the file and the remedy.

use std::path::{Path, PathBuf};

/// Why a data set or one of its files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{path}: {problem}", path = .path.display())]
    File { path: PathBuf, problem: String },
    #[error("{path}: cannot be read: {source}", path = .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("case '{case}': {problem}")]
    Case { case: String, problem: String },
    #[error("{0}")]
    Split(String),
}

impl DataError {
    pub(crate) fn file(path: &Path, problem: impl Into<String>) -> Self {
        DataError::File { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        DataError::Io { path: path.to_owned(), source }
    }

    /// The problem without the file's name, for reports that show it apart.
    pub fn problem(&self) -> String {
        match self {
            DataError::File { problem, .. } | DataError::Case { problem, .. } => problem.clone(),
            DataError::Io { source, .. } => format!("cannot be read: {source}"),
            DataError::Split(problem) => problem.clone(),
        }
    }
}
