//! Checkpoints to and from the artifact store: a folder, or a bucket of S3 or of
//! whatever speaks like it.
//!
//! A checkpoint is a folder whose `manifest.json` lists its files with sizes and
//! hashes. What leaves the disk is compared with the manifest, and so is what
//! comes from the store: a damaged checkpoint is neither stored nor resumed from.
//! Objects are created, never replaced. One that exists already was put there by an
//! earlier try of the same upload, which is verified instead of trusted. The
//! coordinator alone deletes; but [`trial`] takes away what it has written itself.

mod interrupted;
mod stores;
pub mod trial;

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

const MANIFEST: &str = "manifest.json";
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
const FILES_MAX: usize = 64;
/// A checkpoint's key: job, attempt, folder.
const KEY_PARTS: usize = 3;

/// Why a checkpoint did not get where it should.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("artifact store {url}: {problem}")]
    Url { url: String, problem: String },
    #[error("artifact store: {0}")]
    Store(#[from] object_store::Error),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{place}: damaged: {problem}")]
    Damaged { place: String, problem: String },
    #[error("{key}: exists with other content; nothing is overwritten")]
    Conflict { key: Path },
}

impl ArtifactError {
    /// Whether trying again cannot help.
    pub fn is_permanent(&self) -> bool {
        matches!(self, ArtifactError::Damaged { .. } | ArtifactError::Conflict { .. })
    }
}

/// A checkpoint that a trainer has completed on local disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCheckpoint {
    pub step: u64,
    pub directory: PathBuf,
    pub manifest_sha256: String,
    pub bytes: u64,
}

/// A checkpoint that the coordinator knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    pub step: u64,
    pub key: String,
    pub manifest_sha256: String,
}

/// A folder of the store, as it is found there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFolder {
    /// Job, attempt and name; of an object that lies in no such folder, its own key.
    pub key: String,
    /// Size of all its objects.
    pub bytes: u64,
    /// When the last of them was written, by the store's clock.
    pub write_time: SystemTime,
}

/// Where checkpoints are kept for good.
#[derive(Clone, Debug)]
pub struct Artifacts {
    store: Arc<dyn ObjectStore>,
    /// Of a store that is one.
    root: Option<PathBuf>,
}

/// The part of a manifest that storing it depends on.
#[derive(Debug, Deserialize)]
struct Manifest {
    files: Vec<ManifestFile>,
}

#[derive(Debug, Deserialize)]
struct ManifestFile {
    name: String,
    bytes: u64,
    sha256: String,
}

impl Artifacts {
    /// Opens the store that the coordinator named. A bucket's credentials, region and
    /// endpoint are this process': `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_REGION`, `AWS_ENDPOINT` and their like in its environment.
    ///
    /// # Errors
    /// The URL is of a kind that this program cannot use, or its folder is not there.
    pub fn open(url: &str) -> Result<Self, ArtifactError> {
        Self::open_with(url, stores::environment())
    }

    /// The same with these variables instead of those of the environment.
    ///
    /// # Errors
    /// As of [`Artifacts::open`].
    pub fn open_with(
        url: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ArtifactError> {
        let store = stores::open(url, variables, RetryConfig::default())?;
        Ok(Artifacts { store, root: stores::root(url) })
    }

    /// Stores a checkpoint below `prefix`, its manifest last.
    ///
    /// # Errors
    /// The store or the disk fails, or the folder is not what its manifest says.
    pub async fn upload(
        &self,
        checkpoint: &LocalCheckpoint,
        prefix: &Path,
    ) -> Result<StoredCheckpoint, ArtifactError> {
        let folder = &checkpoint.directory;
        let key = prefix.clone().join(format!("step-{:09}", checkpoint.step));
        let manifest_path = folder.join(MANIFEST);
        let text = read(&manifest_path).await?;
        let manifest = parse_manifest(&text, &checkpoint.manifest_sha256, &manifest_path.display())?;
        for file in manifest.files {
            let path = folder.join(&file.name);
            let content = read(&path).await?;
            check(&content, file.bytes, &file.sha256, &path.display())?;
            self.create(key.clone().join(file.name.as_str()), content, &file.sha256).await?;
        }
        self.create(key.clone().join(MANIFEST), text, &checkpoint.manifest_sha256).await?;
        Ok(StoredCheckpoint {
            step: checkpoint.step,
            key: key.to_string(),
            manifest_sha256: checkpoint.manifest_sha256.clone(),
        })
    }

    async fn create(&self, key: Path, content: Vec<u8>, sha256: &str) -> Result<(), ArtifactError> {
        let payload = PutPayload::from(content);
        match self.store.put_opts(&key, payload, PutMode::Create.into()).await {
            Err(object_store::Error::AlreadyExists { .. }) => {
                if self.hash(&key).await? == sha256 {
                    Ok(())
                } else {
                    Err(ArtifactError::Conflict { key })
                }
            }
            other => other.map(|_| ()).map_err(ArtifactError::from),
        }
    }

    async fn hash(&self, key: &Path) -> Result<String, ArtifactError> {
        let mut chunks = self.store.get(key).await?.into_stream();
        let mut hasher = Sha256::new();
        while let Some(chunk) = chunks.next().await {
            hasher.update(&chunk?);
        }
        Ok(hex::encode(hasher.finalize()))
    }

    /// Fetches a checkpoint into the new folder `target`.
    ///
    /// # Errors
    /// The store or the disk fails, or what is stored is not what was committed.
    pub async fn download(&self, stored: &StoredCheckpoint, target: &FilePath) -> Result<(), ArtifactError> {
        self.download_files(stored, target, |_| true).await
    }

    /// As [`Artifacts::download`], of the files that `wanted` names alone: whoever looks
    /// at a network needs no optimizer.
    ///
    /// # Errors
    /// The store or the disk fails, or what is stored is not what was committed.
    pub async fn download_files(
        &self,
        stored: &StoredCheckpoint,
        target: &FilePath,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), ArtifactError> {
        let io = |source| ArtifactError::Io { path: target.to_owned(), source };
        let key = Path::parse(&stored.key).map_err(object_store::Error::from)?;
        tokio::fs::create_dir_all(target).await.map_err(io)?;
        let manifest_key = key.clone().join(MANIFEST);
        let size = self.store.head(&manifest_key).await?.size;
        if size > MANIFEST_BYTES_MAX {
            return Err(damaged(&manifest_key, format!("{size} bytes are too many for a manifest")));
        }
        let text = self.store.get(&manifest_key).await?.bytes().await?;
        let manifest = parse_manifest(&text, &stored.manifest_sha256, &manifest_key)?;
        for file in manifest.files.iter().filter(|file| wanted(&file.name)) {
            self.fetch(&key.clone().join(file.name.as_str()), file, &target.join(&file.name)).await?;
        }
        tokio::fs::write(target.join(MANIFEST), &text).await.map_err(io)
    }

    /// Deletes all objects of a checkpoint, its manifest first, so that what is left by a
    /// deletion that was cut short is no checkpoint, and what uploads that were cut short
    /// left; how many there were. What is not there is deleted already.
    ///
    /// # Errors
    /// The store fails, or the key is that of no checkpoint.
    pub async fn delete(&self, key: &str) -> Result<usize, ArtifactError> {
        let folder = Path::parse(key).map_err(object_store::Error::from)?;
        if folder.parts().count() != KEY_PARTS {
            return Err(damaged(&key, "is no key of a checkpoint, so nothing is deleted".to_owned()));
        }
        let manifest = folder.clone().join(MANIFEST);
        let mut locations = Vec::new();
        let mut objects = self.store.list(Some(&folder));
        while let Some(object) = objects.next().await {
            locations.push(object?.location);
        }
        locations.sort_by_key(|location| *location != manifest);
        for location in &locations {
            match self.store.delete(location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let fragments = match &self.root {
            Some(root) => interrupted::delete(root.join(folder.to_string()), root.clone()).await?,
            None => 0,
        };
        Ok(locations.len() + fragments)
    }

    /// First parts of all keys, which are the ids of jobs.
    ///
    /// # Errors
    /// The store fails.
    pub async fn jobs(&self) -> Result<Vec<String>, ArtifactError> {
        let found = self.store.list_with_delimiter(None).await?;
        Ok(found.common_prefixes.iter().map(ToString::to_string).collect())
    }

    /// Folders whose keys begin with a job's id, by key, also those that hold nothing but
    /// what an upload that was cut short left.
    ///
    /// # Errors
    /// The store fails.
    pub async fn folders(&self, job: &str) -> Result<Vec<StoredFolder>, ArtifactError> {
        let mut found: BTreeMap<String, StoredFolder> = BTreeMap::new();
        let prefix = Path::parse(job).map_err(object_store::Error::from)?;
        let mut add = |location: &Path, bytes: u64, write_time: SystemTime| {
            let parts: Vec<_> = location.parts().collect();
            let key = match parts.len() > KEY_PARTS {
                true => Path::from_iter(parts.into_iter().take(KEY_PARTS)).to_string(),
                false => location.to_string(),
            };
            let folder = found.entry(key.clone()).or_insert(StoredFolder { key, bytes: 0, write_time });
            folder.bytes += bytes;
            folder.write_time = folder.write_time.max(write_time);
        };
        let mut objects = self.store.list(Some(&prefix));
        while let Some(object) = objects.next().await {
            let object = object?;
            add(&object.location, object.size, object.last_modified.into());
        }
        if let Some(root) = &self.root {
            for fragment in interrupted::find(root.join(prefix.to_string())).await? {
                let below = fragment.path.strip_prefix(root).ok().and_then(FilePath::to_str);
                let location = below.map(Path::from).filter(|path| path.parts().count() > KEY_PARTS);
                // What lies in no folder of a checkpoint is nobody's to delete.
                let Some(location) = location else { continue };
                add(&location, fragment.bytes, fragment.write_time);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Writes one object to disk while hashing it.
    async fn fetch(&self, key: &Path, expected: &ManifestFile, path: &FilePath) -> Result<(), ArtifactError> {
        let io = |source| ArtifactError::Io { path: path.to_owned(), source };
        let object = self.store.get(key).await?;
        // Known before the disk is filled with something else.
        if object.meta.size != expected.bytes {
            let problem = format!("holds {} bytes, the manifest says {}", object.meta.size, expected.bytes);
            return Err(damaged(key, problem));
        }
        let mut file = tokio::fs::File::create_new(path).await.map_err(io)?;
        let (mut chunks, mut hasher) = (object.into_stream(), Sha256::new());
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(io)?;
        }
        file.flush().await.map_err(io)?;
        let found = hex::encode(hasher.finalize());
        if found == expected.sha256 {
            return Ok(());
        }
        Err(damaged(key, format!("has the hash {found}, the manifest says {}", expected.sha256)))
    }
}

fn damaged(place: &impl ToString, problem: String) -> ArtifactError {
    ArtifactError::Damaged { place: place.to_string(), problem }
}

fn parse_manifest(text: &[u8], sha256: &str, place: &impl ToString) -> Result<Manifest, ArtifactError> {
    check(text, text.len() as u64, sha256, place)?;
    let manifest: Manifest =
        serde_json::from_slice(text).map_err(|error| damaged(place, error.to_string()))?;
    let wrong = manifest.files.iter().find(|file| !is_plain_name(&file.name));
    if let Some(file) = wrong {
        return Err(damaged(place, format!("'{}' is no name of a checkpoint's file", file.name)));
    }
    if manifest.files.len() > FILES_MAX {
        return Err(damaged(place, format!("lists {} files", manifest.files.len())));
    }
    Ok(manifest)
}

/// Names become paths, so they may not lead out of the folder.
fn is_plain_name(name: &str) -> bool {
    cakes::spec::is_valid_name(name) && name != MANIFEST
}

fn check(content: &[u8], bytes: u64, sha256: &str, place: &impl ToString) -> Result<(), ArtifactError> {
    if content.len() as u64 != bytes {
        return Err(damaged(place, format!("holds {} bytes, the manifest says {bytes}", content.len())));
    }
    let found = hex::encode(Sha256::digest(content));
    if found != sha256 {
        return Err(damaged(place, format!("has the hash {found}, expected is {sha256}")));
    }
    Ok(())
}

async fn read(path: &FilePath) -> Result<Vec<u8>, ArtifactError> {
    tokio::fs::read(path).await.map_err(|source| ArtifactError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(folder: &FilePath, weights: &[u8]) -> LocalCheckpoint {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("weights.safetensors"), weights).unwrap();
        let manifest = serde_json::json!({
            "step": 20,
            "files": [{
                "name": "weights.safetensors",
                "bytes": weights.len(),
                "sha256": hex::encode(Sha256::digest(weights)),
            }],
        });
        let text = manifest.to_string();
        std::fs::write(folder.join(MANIFEST), &text).unwrap();
        LocalCheckpoint {
            step: 20,
            directory: folder.to_owned(),
            manifest_sha256: hex::encode(Sha256::digest(text)),
            bytes: weights.len() as u64,
        }
    }

    struct Place {
        folder: tempfile::TempDir,
        artifacts: Artifacts,
        prefix: Path,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_directory_path(folder.path()).unwrap();
        let artifacts = Artifacts::open(url.as_str()).unwrap();
        Place { folder, artifacts, prefix: Path::from("job/1-abcd") }
    }

    #[tokio::test]
    async fn a_checkpoint_comes_back_as_it_was_stored() {
        let Place { folder, artifacts, prefix } = place();
        let local = checkpoint(&folder.path().join("out/step-000000020"), b"weights");
        let stored = artifacts.upload(&local, &prefix).await.unwrap();
        assert_eq!(stored.key, "job/1-abcd/step-000000020");
        // A repeat finds everything in place.
        assert_eq!(artifacts.upload(&local, &prefix).await.unwrap(), stored);
        let target = folder.path().join("resume");
        artifacts.download(&stored, &target).await.unwrap();
        assert_eq!(std::fs::read(target.join("weights.safetensors")).unwrap(), b"weights");
        assert_eq!(
            std::fs::read(target.join(MANIFEST)).unwrap(),
            std::fs::read(local.directory.join(MANIFEST)).unwrap()
        );
    }

    #[tokio::test]
    async fn damage_is_found_before_it_is_stored_and_before_it_is_used() {
        let Place { folder, artifacts, prefix } = place();
        let local = checkpoint(&folder.path().join("out"), b"weights");
        std::fs::write(local.directory.join("weights.safetensors"), b"wejghts").unwrap();
        let error = artifacts.upload(&local, &prefix).await.unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("weights.safetensors"), "{error}");

        let local = checkpoint(&folder.path().join("out"), b"weights");
        let stored = artifacts.upload(&local, &prefix).await.unwrap();
        let object = folder.path().join(&stored.key).join("weights.safetensors");
        for (index, damage) in [&b"wei"[..], b"wejghts"].into_iter().enumerate() {
            std::fs::write(&object, damage).unwrap();
            let target = folder.path().join(format!("resume-{index}"));
            let error = artifacts.download(&stored, &target).await.unwrap_err();
            assert!(matches!(error, ArtifactError::Damaged { .. }), "{error}");
            assert!(!target.join(MANIFEST).exists(), "a damaged checkpoint must not look complete");
        }
        let of_another = StoredCheckpoint { manifest_sha256: "0".repeat(64), ..stored };
        assert!(artifacts.download(&of_another, &folder.path().join("resume-2")).await.is_err());
    }

    #[tokio::test]
    async fn nothing_is_overwritten() {
        let Place { folder, artifacts, prefix } = place();
        let local = checkpoint(&folder.path().join("a"), b"weights");
        artifacts.upload(&local, &prefix).await.unwrap();
        let other = checkpoint(&folder.path().join("b"), b"changed");
        let error = artifacts.upload(&other, &prefix).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Conflict { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_checkpoint_is_deleted_with_its_folder_and_its_neighbours_stay() {
        let Place { folder, artifacts, prefix } = place();
        let local = checkpoint(&folder.path().join("out/a"), b"weights");
        let first = artifacts.upload(&local, &prefix).await.unwrap();
        let later = LocalCheckpoint { step: 200, ..local.clone() };
        let second = artifacts.upload(&later, &prefix).await.unwrap();
        assert!(second.key.starts_with("job/1-abcd/step-"));
        std::fs::remove_dir_all(folder.path().join("out")).unwrap();

        assert_eq!(artifacts.delete(&first.key).await.unwrap(), 2);
        assert!(!folder.path().join(&first.key).exists(), "its folder is left");
        assert_eq!(artifacts.delete(&first.key).await.unwrap(), 0, "a second time there is nothing");
        artifacts.download(&second, &folder.path().join("still")).await.unwrap();
        std::fs::remove_dir_all(folder.path().join("still")).unwrap();

        for wrong in ["", "job", "job/1-abcd", "job/1-abcd/step-000000200/weights.safetensors", "job/../x"] {
            artifacts.delete(wrong).await.unwrap_err();
        }
        assert_eq!(artifacts.jobs().await.unwrap(), ["job"]);
        let folders = artifacts.folders("job").await.unwrap();
        assert_eq!(folders.len(), 1);
        assert_eq!(folders[0].key, second.key);
        assert!(folders[0].bytes > 7 && folders[0].write_time.elapsed().unwrap().as_secs() < 3600);

        artifacts.delete(&second.key).await.unwrap();
        assert!(folder.path().is_dir(), "the store itself stays");
        assert!(artifacts.jobs().await.unwrap().is_empty(), "empty folders are left");
    }

    #[test]
    fn names_in_a_manifest_cannot_lead_out_of_the_folder() {
        for name in ["../x", "/etc/passwd", "a/b", "", "manifest.json"] {
            let text = serde_json::json!({"files": [{"name": name, "bytes": 0, "sha256": ""}]}).to_string();
            let sha256 = hex::encode(Sha256::digest(&text));
            assert!(parse_manifest(text.as_bytes(), &sha256, &"m").is_err(), "{name}");
        }
    }

    #[test]
    fn a_store_that_is_not_there_is_named() {
        let error = Artifacts::open("file:///no/such/folder").unwrap_err().to_string();
        assert!(error.contains("/no/such/folder") && error.contains("mount"), "{error}");
        let error = Artifacts::open("gopher://bucket").unwrap_err().to_string();
        assert!(error.contains("file:// and s3://"), "{error}");
    }
}
