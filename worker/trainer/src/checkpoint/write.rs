//! Snapshots become checkpoints on disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use cakes::input::NetworkInput;
use cakes::job::{Task, TrainerJob};
use safetensors::SafeTensorError;
use sha2::{Digest, Sha256};

use super::snapshot::{Snapshot, Values};
use super::{
    MANIFEST, Manifest, ManifestFile, OPTIMIZER, Saved, WEIGHTS, describe, job_sha256, libtorch_version,
};
use crate::TrainerError;

/// Names of folders that are being filled begin so.
const TEMPORARY: &str = ".saving-";

/// Where the checkpoints of a job go, and what each says of the job.
#[derive(Clone, Debug)]
pub struct Place {
    folder: PathBuf,
    job_sha256: String,
    task: Task,
    input: Option<NetworkInput>,
}

impl Place {
    /// Checkpoints of `job` are written into folders of their own below `folder`.
    pub fn new(folder: PathBuf, job: &TrainerJob) -> Self {
        Place { folder, job_sha256: job_sha256(job), task: job.task.clone(), input: None }
    }

    /// Checkpoints say that their network reads `input`.
    #[must_use]
    pub fn reading(self, input: NetworkInput) -> Self {
        Place { input: Some(input), ..self }
    }

    /// Removes what a run that was killed while it saved has left.
    pub(super) fn clear(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                // It costs space, not correctness.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Removes a checkpoint, in one piece for whoever looks.
    pub(super) fn remove(&self, directory: &Path) {
        let temporary = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(&self.folder);
        // What stays costs space, not correctness.
        if let Ok(temporary) = temporary {
            let _ = fs::rename(directory, temporary.path().join("old"));
        }
    }

    /// Writes a checkpoint into a new folder.
    ///
    /// # Errors
    /// A weight is not finite, or the disk fails or is full; nothing is left behind.
    pub fn write(&self, snapshot: &Snapshot) -> Result<Saved, TrainerError> {
        snapshot.check_finite()?;
        let failed = |error| write_error(&self.folder, error);
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let temporary =
            tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(&self.folder).map_err(failed)?;
        let filled = temporary.path().join("new");
        fs::create_dir(&filled).map_err(failed)?;
        let (manifest_sha256, bytes) = self.fill(&filled, snapshot)?;
        let directory = self.folder.join(format!("step-{:09}", snapshot.step()));
        // A run that was killed behind the rename wrote the same step before. It goes
        // in one piece, too: a folder of this name is never half there.
        if directory.exists() {
            fs::rename(&directory, temporary.path().join("old")).map_err(failed)?;
        }
        fs::rename(&filled, &directory).map_err(failed)?;
        sync(&self.folder).map_err(failed)?;
        Ok(Saved { directory, manifest_sha256, bytes })
    }

    /// Writes all files and forces them to disk; the manifest's hash and all bytes.
    fn fill(&self, filled: &Path, snapshot: &Snapshot) -> Result<(String, u64), TrainerError> {
        let failed = |error| write_error(&self.folder, error);
        self.tensors(&filled.join(WEIGHTS), &snapshot.weights)?;
        self.tensors(&filled.join(OPTIMIZER), &snapshot.optimizer)?;
        let files: Vec<ManifestFile> =
            [WEIGHTS, OPTIMIZER].map(|name| describe(filled, name)).into_iter().collect::<Result<_, _>>()?;
        let manifest = Manifest {
            format: 1,
            step: snapshot.progress.step,
            early_stop: snapshot.progress.early_stop.clone(),
            job_sha256: self.job_sha256.clone(),
            task: Some(self.task.clone()),
            input: self.input.clone(),
            libtorch: libtorch_version().to_owned(),
            device: snapshot.device.clone(),
            methods: snapshot.methods.clone(),
            files,
        };
        let text =
            serde_json::to_vec_pretty(&manifest).map_err(|error| TrainerError::Report(error.to_string()))?;
        fs::write(filled.join(MANIFEST), &text).map_err(failed)?;
        for path in [WEIGHTS, OPTIMIZER, MANIFEST].map(|name| filled.join(name)) {
            sync(&path).map_err(failed)?;
        }
        sync(filled).map_err(failed)?;
        let bytes = manifest.files.iter().map(|file| file.bytes).sum::<u64>() + text.len() as u64;
        Ok((hex::encode(Sha256::digest(&text)), bytes))
    }

    fn tensors(&self, path: &Path, tensors: &[(String, Values)]) -> Result<(), TrainerError> {
        let tensors = tensors.iter().map(|(name, values)| (name.as_str(), values));
        safetensors::serialize_to_file(tensors, None, path).map_err(|error| match error {
            SafeTensorError::IoError(error) => write_error(&self.folder, error),
            other => TrainerError::Report(format!("cannot write {}: {other}", path.display())),
        })
    }
}

fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Why a checkpoint could not be written, and what helps.
fn write_error(folder: &Path, error: std::io::Error) -> TrainerError {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let folder = folder.display();
    TrainerError::io(
        match error.kind() {
            StorageFull | QuotaExceeded => format!(
                "cannot write a checkpoint: the disk that holds {folder} is full; free space on it, then go on from the last checkpoint"
            ),
            FileTooLarge => format!(
                "cannot write a checkpoint: files below {folder} may not be so large; raise the limit (ulimit -f), then go on from the last checkpoint"
            ),
            _ => format!("cannot write a checkpoint below {folder}"),
        },
        error,
    )
}
