//! A trained network: its architecture, its weights, and what it reads.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cakes::architecture::Architecture;
use cakes::input::NetworkInput;
use cakes::job::Task;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::ExportError;

const MANIFEST: &str = "manifest.json";
const WEIGHTS: &str = "weights.safetensors";

/// A tensor of float32 in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    /// Row after row.
    pub values: Vec<f32>,
}

/// Parameters and running statistics, by the names that trainers give them.
pub type Weights = BTreeMap<String, Tensor>;

/// A trained network.
#[derive(Clone, Debug)]
pub struct Trained {
    pub architecture: Architecture,
    pub weights: Weights,
    /// Of the file that the weights came from.
    pub weights_sha256: String,
    /// Optimizer steps done, where the source says it.
    pub step: Option<u64>,
    /// What it reads, where the source says it.
    pub input: Option<NetworkInput>,
}

/// The part of a checkpoint's manifest that an export depends on.
#[derive(Deserialize)]
struct Manifest {
    format: u32,
    step: u64,
    #[serde(default)]
    task: Option<Task>,
    #[serde(default)]
    input: Option<NetworkInput>,
    files: Vec<ManifestFile>,
}

#[derive(Deserialize)]
struct ManifestFile {
    name: String,
    sha256: String,
}

impl Trained {
    /// Reads a checkpoint's folder. The optimizer's file may be missing; an
    /// architecture, if one is given, must be that of the checkpoint.
    ///
    /// # Errors
    /// A file is missing, damaged, or of another network.
    pub fn from_checkpoint(folder: &Path, architecture: Option<&Architecture>) -> Result<Self, ExportError> {
        let path = folder.join(MANIFEST);
        let text = fs::read(&path).map_err(ExportError::io(&path))?;
        let wrong = |problem: String| ExportError::checkpoint(&path, problem);
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("is no manifest of a checkpoint: {error}")))?;
        if manifest.format != 1 {
            return Err(wrong(format!("has format {}, this program reads 1", manifest.format)));
        }
        let trained = match manifest.task {
            Some(Task::Retrain { architecture }) => Some(architecture),
            Some(Task::Supernet { .. }) => {
                return Err(wrong(
                    "is of a supernet, which holds every kernel; export a network that was retrained from it"
                        .into(),
                ));
            }
            None => None,
        };
        let architecture = match (trained, architecture) {
            (Some(trained), Some(wanted)) if trained != *wanted => {
                let (trained, wanted) = (trained.digest(), wanted.digest());
                return Err(wrong(format!("is of the architecture {trained}, not of {wanted}")));
            }
            (Some(trained), _) => trained,
            (None, Some(wanted)) => wanted.clone(),
            (None, None) => {
                return Err(wrong("does not say which architecture it is of; give its file".into()));
            }
        };
        let listed = manifest.files.iter().find(|file| file.name == WEIGHTS);
        let listed = listed.ok_or_else(|| wrong(format!("lists no {WEIGHTS}")))?;
        let (weights, weights_sha256) = read_weights(&folder.join(WEIGHTS), Some(&listed.sha256))?;
        let (step, input) = (Some(manifest.step), manifest.input);
        Ok(Trained { architecture, weights, weights_sha256, step, input })
    }

    /// Reads a file of weights alone.
    ///
    /// # Errors
    /// The file is missing or no safetensors file of float32.
    pub fn from_file(path: &Path, architecture: Architecture) -> Result<Self, ExportError> {
        let (weights, weights_sha256) = read_weights(path, None)?;
        Ok(Trained { architecture, weights, weights_sha256, step: None, input: None })
    }

    /// Names of the classes; their numbers where nothing names them.
    pub fn classes(&self) -> Vec<String> {
        let count = self.architecture.backbone().classes();
        match &self.input {
            Some(input) if input.classes.len() == count as usize => input.classes.clone(),
            _ => (0..count).map(|class| class.to_string()).collect(),
        }
    }
}

fn read_weights(path: &Path, sha256: Option<&str>) -> Result<(Weights, String), ExportError> {
    let bytes = fs::read(path).map_err(ExportError::io(path))?;
    let found = hex::encode(Sha256::digest(&bytes));
    if sha256.is_some_and(|expected| expected != found) {
        return Err(ExportError::checkpoint(
            path,
            "is not what manifest.json says; the file is damaged, fetch the checkpoint again",
        ));
    }
    let wrong = |problem: String| ExportError::checkpoint(path, problem);
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|error| wrong(format!("is no safetensors file: {error}")))?;
    let mut weights = Weights::new();
    for (name, view) in tensors.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(wrong(format!("'{name}' is {:?}; weights are F32", view.dtype())));
        }
        let (values, _) = view.data().as_chunks::<4>();
        let values = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
        weights.insert(name.to_owned(), Tensor { shape: view.shape().to_vec(), values });
    }
    Ok((weights, found))
}
