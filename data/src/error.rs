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
    #[error("sample '{sample}': {problem}")]
    Sample { sample: String, problem: String },
    #[error("{0}")]
    Split(String),
    /// A program that is needed is missing or does not run.
    #[error("{0}")]
    Program(String),
}

impl DataError {
    pub(crate) fn file(path: &Path, problem: impl Into<String>) -> Self {
        DataError::File { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        DataError::Io { path: path.to_owned(), source }
    }

    pub(crate) fn sample(name: &str, problem: impl Into<String>) -> Self {
        DataError::Sample { sample: name.to_owned(), problem: problem.into() }
    }

    /// The problem without the file's name, for reports that show it apart.
    pub fn problem(&self) -> String {
        match self {
            DataError::File { problem, .. }
            | DataError::Case { problem, .. }
            | DataError::Sample { problem, .. }
            | DataError::Split(problem)
            | DataError::Program(problem) => problem.clone(),
            DataError::Io { source, .. } => format!("cannot be read: {source}"),
        }
    }
}
