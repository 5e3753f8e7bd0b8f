//! What a writer that was killed leaves in a store that is a folder. `object_store` writes
//! `NAME#1` and links it to `NAME` when it is whole; names of that form it neither lists nor
//! deletes, so they are looked for and deleted here.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::ArtifactError;

/// A file that was never given its name.
#[derive(Debug)]
pub(crate) struct Fragment {
    pub path: PathBuf,
    pub bytes: u64,
    pub write_time: SystemTime,
}

/// All fragments below `folder`, which need not be there.
///
/// # Errors
/// A folder cannot be read.
pub(crate) async fn find(folder: PathBuf) -> Result<Vec<Fragment>, ArtifactError> {
    on_disk(folder, |folder| {
        let mut found = Vec::new();
        find_below(folder, &mut found)?;
        Ok(found)
    })
    .await
}

/// Deletes all fragments below `folder`, and with it the folders above that are empty then,
/// but not `root`; how many there were.
///
/// # Errors
/// The disk fails.
pub(crate) async fn delete(folder: PathBuf, root: PathBuf) -> Result<usize, ArtifactError> {
    on_disk(folder, move |folder| {
        let mut found = Vec::new();
        find_below(folder, &mut found)?;
        for fragment in &found {
            unless_gone(fs::remove_file(&fragment.path))?;
        }
        if !found.is_empty() {
            // One that is not empty stays, with all above it.
            let above = folder.ancestors().take_while(|above| *above != root);
            let _ = above.map(fs::remove_dir).take_while(Result::is_ok).count();
        }
        Ok(found.len())
    })
    .await
}

async fn on_disk<T: Send + 'static>(
    folder: PathBuf,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, ArtifactError> {
    let path = folder.clone();
    let done = tokio::task::spawn_blocking(move || work(&folder)).await;
    done.map_err(io::Error::other).flatten().map_err(|source| ArtifactError::Io { path, source })
}

fn find_below(folder: &Path, found: &mut Vec<Fragment>) -> io::Result<()> {
    let Some(entries) = unless_gone(fs::read_dir(folder))? else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find_below(&entry.path(), found)?;
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(is_fragment) {
            let Some(metadata) = unless_gone(entry.metadata())? else { continue };
            let (bytes, write_time) = (metadata.len(), metadata.modified()?);
            found.push(Fragment { path: entry.path(), bytes, write_time });
        }
    }
    Ok(())
}

/// Names that `object_store` passes over.
fn is_fragment(name: &str) -> bool {
    let number = name.split_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// None where somebody else was faster.
fn unless_gone<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Artifacts;

    fn write(folder: &Path, name: &str, content: &[u8]) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(name), content).unwrap();
    }

    #[tokio::test]
    async fn what_a_killed_writer_left_is_seen_and_deleted_with_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let url = url::Url::from_directory_path(root.path()).unwrap();
        let artifacts = Artifacts::open(url.as_str()).unwrap();
        let (cut_short, whole) = ("job/1-abcd/step-000000020", "job/1-abcd/step-000000040");
        write(&root.path().join(cut_short), "weights.safetensors#1", b"wei");
        write(&root.path().join(whole), "weights.safetensors#1", b"wei");
        write(&root.path().join(whole), "weights.safetensors", b"weights");

        let folders = artifacts.folders("job").await.unwrap();
        let seen: Vec<_> = folders.iter().map(|folder| (folder.key.as_str(), folder.bytes)).collect();
        assert_eq!(seen, [(cut_short, 3), (whole, 10)]);
        assert!(folders[0].write_time.elapsed().unwrap().as_secs() < 3600);

        assert_eq!(artifacts.delete(cut_short).await.unwrap(), 1);
        assert!(!root.path().join(cut_short).exists(), "its folder is left");
        assert!(root.path().join(whole).join("weights.safetensors").exists());
        assert_eq!(artifacts.delete(cut_short).await.unwrap(), 0, "a second time there is nothing");

        assert_eq!(artifacts.delete(whole).await.unwrap(), 2);
        assert!(root.path().is_dir(), "the store itself stays");
        assert!(artifacts.jobs().await.unwrap().is_empty(), "empty folders are left");
    }

    #[test]
    fn only_names_that_the_store_passes_over_are_fragments() {
        for (name, is) in [("a#1", true), ("a#12", true), ("a", false), ("a#", false), ("a#b#1", false)] {
            assert_eq!(is_fragment(name), is, "{name}");
        }
    }
}
