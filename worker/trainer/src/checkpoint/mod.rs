//! Checkpoints: everything that a resumed run needs, written atomically.
//!
//! ```text
//! step-000000120/
//!   weights.safetensors     parameters and running statistics, by their names
//!   optimizer.safetensors   first.{name}, second.{name}, taken.{name}
//!   manifest.json           step, job, versions, bytes and SHA-256 of each file
//! ```
//!
//! A folder is filled under another name, forced to disk and then renamed, so a
//! folder named `step-…` is always complete. Samples, augmentation and drawn
//! kernels follow from the job's seed and the step, so no generator needs saving.
//!
//! | module | does |
//! |---|---|
//! | [`snapshot`] | copies everything, while the training waits |
//! | [`saver`] | writes the copy beside the training |
//! | [`write`] | files, hashes, publication |
//! | [`interval`] | how often, where the job does not say |

pub mod interval;
pub mod saver;
pub mod snapshot;
pub mod write;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use cakes::derive::Stability;
use cakes::input::NetworkInput;
use cakes::job::{Task, TrainerJob};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::Tensor;

use crate::TrainerError;
use crate::nets::{MethodTable, Net};
use crate::optim::Optimizer;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const MANIFEST: &str = "manifest.json";

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Of a search that may end early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStop>,
    /// SHA-256 of the job's JSON: a checkpoint of another job is refused.
    pub job_sha256: String,
    /// What was trained: networks that start from it must know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// What the network reads: for whoever has nothing but its checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<NetworkInput>,
    pub libtorch: String,
    pub device: String,
    /// How convolutions were computed, which decides about last bits.
    #[serde(default, skip_serializing_if = "MethodTable::is_empty")]
    pub methods: MethodTable,
    pub files: Vec<ManifestFile>,
}

/// How far a search that may end early has made up its mind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    pub stability: Stability,
    /// Step behind which an architecture was counted last.
    pub observed_step: u64,
}

impl EarlyStop {
    /// None for a task that runs to its last step.
    pub fn new(task: &Task) -> Option<Self> {
        match task {
            Task::Supernet { early_stop_validations: Some(count), .. } => {
                Some(EarlyStop { stability: Stability::new(*count), observed_step: 0 })
            }
            _ => None,
        }
    }
}

/// How far a job is, besides its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: u64,
    pub early_stop: Option<EarlyStop>,
}

/// A checkpoint that stands complete on disk.
#[derive(Clone, Debug)]
pub struct Saved {
    pub directory: PathBuf,
    pub manifest_sha256: String,
    /// Of all its files.
    pub bytes: u64,
}

/// Identity of a job for its checkpoints.
pub fn job_sha256(job: &TrainerJob) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(job).unwrap_or_default()))
}

/// The version of libtorch that the bindings were made for.
pub fn libtorch_version() -> &'static str {
    "2.11.0"
}

fn describe(folder: &Path, name: &str) -> Result<ManifestFile, TrainerError> {
    let (sha256, bytes) = hash_file(&folder.join(name))?;
    Ok(ManifestFile { name: name.to_owned(), bytes, sha256 })
}

fn hash_file(path: &Path) -> Result<(String, u64), TrainerError> {
    let failed = |error| TrainerError::io(format!("cannot read {}", path.display()), error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hasher, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok((hex::encode(hasher.finalize()), bytes));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// Restores network and optimizer from `directory`; returns how far they are.
///
/// # Errors
/// A file is missing or changed, the checkpoint is of another job, or its
/// tensors are not those of the network.
pub fn load(
    directory: &Path,
    job: &TrainerJob,
    net: &Net,
    optimizer: &Optimizer,
) -> Result<Progress, TrainerError> {
    let manifest = open(directory)?;
    if manifest.job_sha256 != job_sha256(job) {
        return Err(TrainerError::User(format!(
            "checkpoint: {}: belongs to another job; start without --resume, or use the specification it was made with",
            directory.display()
        )));
    }
    check_files(directory, &manifest, &[WEIGHTS, OPTIMIZER])?;
    restore(&directory.join(WEIGHTS), net.state().map(|(name, tensor)| (name.clone(), tensor)))?;
    restore(&directory.join(OPTIMIZER), optimizer.state())?;
    net.methods().adopt(manifest.methods);
    Ok(Progress { step: manifest.step, early_stop: manifest.early_stop })
}

/// What a checkpoint says of itself.
fn open(directory: &Path) -> Result<Manifest, TrainerError> {
    let wrong = |problem: String| TrainerError::Checkpoint(format!("{}: {problem}", directory.display()));
    let text =
        fs::read(directory.join(MANIFEST)).map_err(|error| wrong(format!("no {MANIFEST}: {error}")))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| wrong(format!("{MANIFEST}: {error}")))?;
    match manifest.format {
        1 => Ok(manifest),
        other => Err(wrong(format!("has format {other}, this trainer reads 1"))),
    }
}

fn check_files(directory: &Path, manifest: &Manifest, names: &[&str]) -> Result<(), TrainerError> {
    let wrong = |problem: String| TrainerError::Checkpoint(format!("{}: {problem}", directory.display()));
    for name in names {
        let expected = manifest.files.iter().find(|file| file.name == *name);
        let expected = expected.ok_or_else(|| wrong(format!("{MANIFEST} does not list {name}")))?;
        if describe(directory, name)? != *expected {
            return Err(wrong(format!("{name} is not what {MANIFEST} says; the file is damaged")));
        }
    }
    Ok(())
}

/// The weights of a checkpoint, for a network of another job.
#[derive(Debug)]
pub struct Contents {
    /// What was trained; none in a checkpoint that does not say it.
    pub task: Option<Task>,
    /// What the network reads; none in a checkpoint that does not say it.
    pub input: Option<NetworkInput>,
    /// Optimizer steps done.
    pub step: u64,
    /// Parameters and running statistics, by name, in host memory.
    pub weights: BTreeMap<String, Tensor>,
}

/// Reads the weights of a checkpoint.
///
/// # Errors
/// A file is missing or changed.
pub fn contents(directory: &Path) -> Result<Contents, TrainerError> {
    let manifest = open(directory)?;
    check_files(directory, &manifest, &[WEIGHTS])?;
    let weights = tensors(&directory.join(WEIGHTS))?;
    Ok(Contents { task: manifest.task, input: manifest.input, step: manifest.step, weights })
}

fn tensors(path: &Path) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    let stored = Tensor::read_safetensors(path)
        .map_err(|error| TrainerError::Checkpoint(format!("{}: {error}", path.display())))?;
    Ok(stored.into_iter().collect())
}

fn restore<'a>(path: &Path, targets: impl Iterator<Item = (String, &'a Tensor)>) -> Result<(), TrainerError> {
    fill(tensors(path)?, path, targets)
}

/// Copies the tensors that `path` holds to `targets`, which must be the same.
pub(crate) fn fill<'a>(
    mut stored: BTreeMap<String, Tensor>,
    path: &Path,
    targets: impl Iterator<Item = (String, &'a Tensor)>,
) -> Result<(), TrainerError> {
    let wrong = |problem: String| TrainerError::Checkpoint(format!("{}: {problem}", path.display()));
    for (name, target) in targets {
        let source = stored.remove(&name).ok_or_else(|| wrong(format!("lacks '{name}'")))?;
        if source.size() != target.size() {
            return Err(wrong(format!(
                "'{name}' has the shape {:?}, the network's has {:?}",
                source.size(),
                target.size()
            )));
        }
        tch::no_grad(|| target.shallow_clone().f_copy_(&source))?;
    }
    match stored.into_keys().next() {
        Some(name) => Err(wrong(format!("holds '{name}', which the network has not"))),
        None => Ok(()),
    }
}
