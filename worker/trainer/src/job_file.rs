//! The file that says what to train.

use std::path::Path;

use cakes::job::TrainerJob;
use serde_json::Value;

use crate::TrainerError;

/// Reads a job's file.
///
/// # Errors
/// It cannot be read, or is no job, by the path of the field; a search is said to be one.
pub fn read(path: &Path) -> Result<TrainerJob, TrainerError> {
    let wrong = |problem: String| TrainerError::User(format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut reader = serde_json::Deserializer::from_str(&text);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        if is_search(&text) {
            return wrong(
                "is a search file, which `cakes search submit` takes; `cakes job reproduce ID` writes the \
                 file of a job"
                    .into(),
            );
        }
        wrong(format!("{}: {}", error.path(), error.inner()))
    })
}

/// Whether a text is a search as it is submitted, or the search alone.
fn is_search(text: &str) -> bool {
    serde_json::from_str::<Value>(text)
        .is_ok_and(|value| ["search", "backbone"].iter().any(|key| value.get(key).is_some()))
}
