//! Checkpoints of jobs, fetched from the artifact store.

use std::path::Path;

use cakes_artifacts::{ArtifactError, Artifacts, StoredCheckpoint};
use cakes_proto::v1;
use url::Url;

use crate::client::{Client, rpc};
use crate::error::CommandError;

/// Fetches files of a job's checkpoint (its result's, else the last one) into a new
/// folder, compared with the hashes that the coordinator knows. `artifacts` says where
/// the store is on this machine, if not where the coordinator says.
///
/// # Errors
/// The job has no checkpoint, the store is not there, or what it holds is damaged.
pub async fn fetch(
    client: &Client,
    job: &str,
    artifacts: Option<&str>,
    folder: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<v1::Checkpoint, CommandError> {
    let request = v1::GetCheckpointRequest { id: job.to_owned() };
    let found = rpc!(client, jobs.get_checkpoint, "JobService/GetCheckpoint", request)?;
    let url = match artifacts {
        Some(place) if place.contains("://") => place.to_owned(),
        Some(folder) => folder_url(Path::new(folder))?,
        None => found.artifact_url.clone(),
    };
    let stored = StoredCheckpoint {
        step: found.step,
        key: found.key.clone(),
        manifest_sha256: found.manifest_sha256.clone(),
    };
    let store = Artifacts::open(&url).map_err(|error| elsewhere(&error))?;
    store.download_files(&stored, folder, wanted).await.map_err(|error| elsewhere(&error))?;
    Ok(found)
}

fn folder_url(folder: &Path) -> Result<String, CommandError> {
    let folder = folder.canonicalize().map_err(|error| CommandError::file(folder, error))?;
    let url = Url::from_directory_path(&folder);
    let url = url.map_err(|()| CommandError::invalid(format!("{}: no URL names it", folder.display())))?;
    Ok(url.into())
}

/// What is wrong with the store, and what helps.
fn elsewhere(error: &ArtifactError) -> CommandError {
    match error {
        ArtifactError::Damaged { .. } | ArtifactError::Conflict { .. } => {
            CommandError::Failed(format!("{error}; take another job's weights"))
        }
        other => CommandError::Failed(format!(
            "{other}; if the store is elsewhere on this machine, say where with --artifacts"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_found_whatever_its_name_holds() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a b%20c#d?e");
        std::fs::create_dir(&folder).unwrap();
        let url = Url::parse(&folder_url(&folder).unwrap()).unwrap();
        assert_eq!(url.to_file_path().unwrap(), folder.canonicalize().unwrap());
    }
}
