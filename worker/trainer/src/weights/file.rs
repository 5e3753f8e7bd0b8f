//! Tensors of a safetensors file. The format holds numbers only: nothing in it is
//! run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::TrainerError;

/// A ResNet-152 takes 240 MB.
const FILE_BYTES_MAX: u64 = 2 << 30;

/// A tensor in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub shape: Vec<i64>,
    pub values: Vec<f32>,
}

/// The tensors by name. Counters of batches, which training in PyTorch leaves
/// behind, are left out.
///
/// # Errors
/// The file cannot be read, is too large or none, or holds something else than
/// finite 32-bit floats.
pub fn read(path: &Path) -> Result<BTreeMap<String, Stored>, TrainerError> {
    let wrong =
        |problem: String| TrainerError::User(format!("initial_weights: {}: {problem}", path.display()));
    let mut file = File::open(path).map_err(|error| wrong(format!("cannot be opened: {error}")))?;
    let bytes = file.metadata().map_err(|error| wrong(error.to_string()))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(wrong(format!("has {bytes} bytes, more than {FILE_BYTES_MAX}")));
    }
    let mut content = Vec::with_capacity(bytes as usize);
    file.read_to_end(&mut content).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let tensors = SafeTensors::deserialize(&content).map_err(|error| {
        wrong(format!("is no safetensors file ({error}); save the weights with safetensors' save_file"))
    })?;
    let mut found = BTreeMap::new();
    for (name, view) in tensors.iter().filter(|(name, _)| !name.ends_with(".num_batches_tracked")) {
        if view.dtype() != Dtype::F32 {
            return Err(wrong(format!(
                "'{name}' holds {:?}; save the weights as 32-bit floats",
                view.dtype()
            )));
        }
        let values: Vec<f32> =
            view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if !values.iter().all(|value| value.is_finite()) {
            return Err(wrong(format!("'{name}' holds values that are not finite")));
        }
        let shape = view.shape().iter().map(|size| *size as i64).collect();
        found.insert(name.to_owned(), Stored { shape, values });
    }
    Ok(found)
}
