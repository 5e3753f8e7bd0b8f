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

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use cakes::derive::Stability;
use cakes::job::{Task, TrainerJob};
use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensorError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

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

/// Writes a checkpoint into a new folder below `parent`.
///
/// # Errors
/// A weight is not finite, or the disk fails or is full; nothing is left behind.
pub fn save(
    parent: &Path,
    progress: &Progress,
    job: &TrainerJob,
    net: &Net,
    optimizer: &Optimizer,
) -> Result<Saved, TrainerError> {
    check_finite(net)?;
    let failed = |error| write_error(parent, error);
    fs::create_dir_all(parent).map_err(failed)?;
    let temporary = tempfile::Builder::new().prefix(".saving-").tempdir_in(parent).map_err(failed)?;
    let weights: Vec<(&str, &Tensor)> = net.state().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write(parent, &temporary.path().join(WEIGHTS), weights)?;
    let state: Vec<(String, &Tensor)> = optimizer.state().collect();
    write(parent, &temporary.path().join(OPTIMIZER), state)?;
    let files = [WEIGHTS, OPTIMIZER]
        .map(|name| describe(temporary.path(), name))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let manifest = Manifest {
        format: 1,
        step: progress.step,
        early_stop: progress.early_stop.clone(),
        job_sha256: job_sha256(job),
        task: Some(job.task.clone()),
        libtorch: libtorch_version().to_owned(),
        device: crate::device::name(net.device()),
        methods: net.methods().table(),
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    fs::write(temporary.path().join(MANIFEST), &text).map_err(failed)?;
    for name in [WEIGHTS, OPTIMIZER, MANIFEST] {
        File::open(temporary.path().join(name)).and_then(|file| file.sync_all()).map_err(failed)?;
    }
    let directory = parent.join(format!("step-{:09}", progress.step));
    // A run that was killed behind the rename wrote the same step before.
    if directory.exists() {
        fs::remove_dir_all(&directory).map_err(failed)?;
    }
    fs::rename(temporary.keep(), &directory).map_err(failed)?;
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed)?;
    let bytes = manifest.files.iter().map(|file| file.bytes).sum::<u64>() + text.len() as u64;
    Ok(Saved { directory, manifest_sha256: hex::encode(Sha256::digest(&text)), bytes })
}

/// The version of libtorch that the bindings were made for.
pub fn libtorch_version() -> &'static str {
    "2.11.0"
}

fn check_finite(net: &Net) -> Result<(), TrainerError> {
    for (name, tensor) in net.state() {
        let finite = tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0;
        if !finite {
            return Err(TrainerError::Numeric(format!(
                "'{name}' holds values that are not finite; try a lower learning rate"
            )));
        }
    }
    Ok(())
}

/// Why a checkpoint could not be written, and what helps.
fn write_error(parent: &Path, error: std::io::Error) -> TrainerError {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let folder = parent.display();
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

/// A tensor in host memory, as safetensors wants it.
struct Values {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Values {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

impl Values {
    fn of(tensor: &Tensor) -> Result<Self, TrainerError> {
        let tensor =
            tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let mut bytes = vec![0; tensor.numel() * size_of::<f32>()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        Ok(Values { shape: tensor.size().into_iter().map(|size| size as usize).collect(), bytes })
    }
}

fn write<S: AsRef<str> + Ord + Display>(
    parent: &Path,
    path: &Path,
    tensors: Vec<(S, &Tensor)>,
) -> Result<(), TrainerError> {
    let tensors = tensors.into_iter().map(|(name, tensor)| Ok((name, Values::of(tensor)?)));
    let tensors = tensors.collect::<Result<Vec<_>, TrainerError>>()?;
    safetensors::serialize_to_file(tensors, None, path).map_err(|error| match error {
        SafeTensorError::IoError(error) => write_error(parent, error),
        other => TrainerError::Report(format!("cannot write {}: {other}", path.display())),
    })
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
    Ok(Contents { task: manifest.task, step: manifest.step, weights })
}

fn tensors(path: &Path) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    let stored = Tensor::read_safetensors(path)
        .map_err(|error| TrainerError::Checkpoint(format!("{}: {error}", path.display())))?;
    Ok(stored.into_iter().collect())
}

fn restore<'a>(path: &Path, targets: impl Iterator<Item = (String, &'a Tensor)>) -> Result<(), TrainerError> {
    let wrong = |problem: String| TrainerError::Checkpoint(format!("{}: {problem}", path.display()));
    let mut stored = tensors(path)?;
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
