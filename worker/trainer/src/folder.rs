//! The folder of a job that runs without a daemon: whose it is, and where a run
//! may go on.
//!
//! ```text
//! OUT/
//!   job.json             the job as it was given; says whose folder this is
//!   checkpoints/step-…   see [`crate::checkpoint`]
//!   scores.json          of a supernet, at the end
//!   summary.json         quality and costs, at the end
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use cakes::job::TrainerJob;

use crate::TrainerError;
use crate::checkpoint;

const JOB: &str = "job.json";

/// Which checkpoint a person wants to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Start anew.
    No,
    /// The newest one below the folder.
    Latest,
    From(PathBuf),
}

/// Makes `out` the folder of `job`; returns the checkpoint to go on from.
///
/// # Errors
/// The folder holds something else, or checkpoints that a new start would mix
/// with its own.
pub fn claim(out: &Path, job: &TrainerJob, resume: Resume) -> Result<Option<PathBuf>, TrainerError> {
    let failed = |error| TrainerError::io(format!("cannot prepare {}", out.display()), error);
    fs::create_dir_all(out).map_err(failed)?;
    let latest = latest_checkpoint(out).map_err(failed)?;
    match owner(out, job)? {
        Owner::Nobody => {
            let text =
                serde_json::to_vec_pretty(job).map_err(|error| TrainerError::Report(error.to_string()))?;
            fs::write(out.join(JOB), text).map_err(failed)?;
        }
        Owner::ThisJob => {}
        Owner::Other => {
            return Err(TrainerError::User(format!(
                "--out {}: holds something else than runs of this job; give another folder",
                out.display()
            )));
        }
    }
    match (resume, latest) {
        (Resume::From(directory), _) => Ok(Some(directory)),
        (Resume::Latest, Some(latest)) => Ok(Some(latest)),
        (Resume::Latest, None) => Err(TrainerError::User(format!(
            "--resume latest: {} holds no checkpoint; start without --resume",
            out.display()
        ))),
        (Resume::No, None) => Ok(None),
        (Resume::No, Some(latest)) => Err(TrainerError::User(format!(
            "--out {}: holds checkpoints of this job, the newest is {}; go on with --resume latest, or give another folder",
            out.display(),
            latest.display()
        ))),
    }
}

enum Owner {
    Nobody,
    ThisJob,
    Other,
}

fn owner(out: &Path, job: &TrainerJob) -> Result<Owner, TrainerError> {
    let failed = |error| TrainerError::io(format!("cannot read {}", out.display()), error);
    let path = out.join(JOB);
    if path.is_file() {
        let text = fs::read(&path).map_err(failed)?;
        let same = serde_json::from_slice::<TrainerJob>(&text)
            .is_ok_and(|other| checkpoint::job_sha256(&other) == checkpoint::job_sha256(job));
        return Ok(if same { Owner::ThisJob } else { Owner::Other });
    }
    let empty = fs::read_dir(out).map_err(failed)?.next().is_none();
    Ok(if empty { Owner::Nobody } else { Owner::Other })
}

/// Names of checkpoints sort by their steps.
fn latest_checkpoint(out: &Path) -> std::io::Result<Option<PathBuf>> {
    let folder = out.join("checkpoints");
    if !folder.is_dir() {
        return Ok(None);
    }
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-"));
        if named && newest.as_ref().is_none_or(|other| *other < path) {
            newest = Some(path);
        }
    }
    Ok(newest)
}
