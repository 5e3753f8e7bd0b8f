//! What a network's weights are before its first step.
//!
//! | module | does |
//! |---|---|
//! | [`file`] | reads a safetensors file |
//! | [`imagenet`] | inflates the weights of a 2D ResNet |
//! | [`supernet`] | takes a supernet's weights, channel by channel |

pub mod file;
pub mod imagenet;
pub mod supernet;

use std::path::Path;

use cakes::job::{Task, TrainerJob};
use cakes::spec::InitialWeights;

use crate::TrainerError;
use crate::nets::Net;

/// Where initial weights are found.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Relative paths are looked up below it.
    pub data_root: &'a Path,
    /// A checkpoint of the supernet that the job starts from.
    pub supernet: Option<&'a Path>,
}

/// Gives `net` the weights that `initial` names. Returns what a person should know
/// of it.
///
/// # Errors
/// They are not where they should be, or are not those of the network.
pub fn start_from(
    initial: &InitialWeights,
    sources: Sources<'_>,
    job: &TrainerJob,
    net: &Net,
) -> Result<Vec<String>, TrainerError> {
    match initial {
        // The network was made with them.
        InitialWeights::Random => Ok(Vec::new()),
        InitialWeights::Imagenet { path } => {
            // Joining an absolute path replaces the root.
            let path = sources.data_root.join(path);
            let stored = file::read(&path)?;
            imagenet::inflate_into(net, &job.task.network(), stored)
                .map_err(|error| TrainerError::User(format!("initial_weights: {}: {error}", path.display())))
        }
        InitialWeights::Supernet => match (&job.task, sources.supernet) {
            (Task::Retrain { architecture }, Some(directory)) => {
                supernet::inherit(net, architecture, directory)
            }
            (Task::Retrain { .. }, None) => Err(TrainerError::User(
                "initial_weights: supernet: there is no checkpoint of it; name its folder with --supernet"
                    .into(),
            )),
            (Task::Supernet { .. }, _) => {
                Err(TrainerError::User("initial_weights: a supernet does not start from a supernet".into()))
            }
        },
    }
}

/// The statistics and parameters of a norm, by the ends of their names.
const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// Names that an error lists of each kind.
const LISTED: usize = 8;

/// Why weights do not fit a network, if they do not: names that it looks for in vain,
/// names that it does not know, and shapes that are others.
fn problems(missing: &[String], extra: &[String], unfit: &[String]) -> Option<Vec<String>> {
    let mut problems = Vec::new();
    for (names, what) in [(missing, "it lacks"), (extra, "the network has no")] {
        if !names.is_empty() {
            problems.push(format!("{what} {}", listed(names)));
        }
    }
    problems.extend(unfit.iter().take(LISTED).cloned());
    if unfit.len() > LISTED {
        problems.push(format!("and {} more shapes", unfit.len() - LISTED));
    }
    (!problems.is_empty()).then_some(problems)
}

fn listed(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().take(LISTED).map(|name| format!("'{name}'")).collect();
    match names.len() {
        count if count > LISTED => format!("{} and {} more", quoted.join(", "), count - LISTED),
        _ => quoted.join(", "),
    }
}
