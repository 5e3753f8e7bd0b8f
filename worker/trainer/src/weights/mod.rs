//! What a network's weights are before its first step.
//!
//! | module | does |
//! |---|---|
//! | [`file`] | reads a safetensors file |
//! | [`imagenet`] | inflates the weights of a 2D ResNet |

pub mod file;
pub mod imagenet;

use std::path::Path;

use cakes::job::TrainerJob;
use cakes::spec::InitialWeights;

use crate::TrainerError;
use crate::nets::Net;

/// Gives `net` the weights that `initial` names. Relative paths are looked up
/// under `data_root`. Returns what a person should know of it.
///
/// # Errors
/// The file is no safetensors file, or its tensors are not those of the network.
pub fn start_from(
    initial: &InitialWeights,
    data_root: &Path,
    job: &TrainerJob,
    net: &Net,
) -> Result<Vec<String>, TrainerError> {
    match initial {
        // The network was made with them.
        InitialWeights::Random => Ok(Vec::new()),
        InitialWeights::Imagenet { path } => {
            // Joining an absolute path replaces the root.
            let path = data_root.join(path);
            let stored = file::read(&path)?;
            imagenet::inflate_into(net, &job.task.network(), stored)
                .map_err(|error| TrainerError::User(format!("initial_weights: {}: {error}", path.display())))
        }
    }
}
