//! Slurm's own programs: `sbatch`, `squeue`, `scancel`. Nothing is decided here.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use cakes::labels::Labels;
use tokio::process::Command;

/// Longest time that one of Slurm's programs may take; a busy controller is slow.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// What stands before the worker's name in an allocation's comment.
const WORKER: &str = "cakes-worker=";

/// The columns of [`Row`]: id (123, or 123_4 of an array), state, comment.
const FORMAT: &str = "%i|%T|%k";

/// The allocations of one pool: jobs of this user with this name.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Slurm's job name, `cakes-NAME`. What has another name is nobody's business here.
    pub job_name: String,
    pub script: PathBuf,
    /// Of its workers.
    pub labels: Labels,
    /// Handed to `sbatch` as they are.
    pub sbatch: Vec<String>,
}

/// An allocation as `squeue` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: String,
    pub state: String,
    /// As its script has put it into the comment; none before.
    pub worker: Option<String>,
}

/// A program of Slurm's that did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    #[error(
        "{program} cannot be started: {source}; install Slurm's client programs, or run this where they are"
    )]
    Absent { program: &'static str, source: std::io::Error },
    #[error("{program} does not answer within {} s", ANSWER_LIMIT.as_secs())]
    Silent { program: &'static str },
    #[error("{program}: {problem}")]
    Refused { program: &'static str, problem: String },
}

impl Pool {
    /// Allocations that Slurm has, the oldest first.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub async fn list(&self) -> Result<Vec<Row>, SlurmError> {
        let name = format!("--name={}", self.job_name);
        let format = format!("--format={FORMAT}");
        // Without states, those that have just ended are left out.
        let out =
            run("squeue", ["--me", "--array", "--noheader", "--sort=i", name.as_str(), &format]).await?;
        out.lines().filter(|line| !line.trim().is_empty()).map(row).collect()
    }

    /// Submits so many allocations at once; their ids.
    ///
    /// # Errors
    /// Slurm refuses, or does not answer. Then it may have taken them all the same:
    /// [`Self::list`] tells.
    pub async fn submit(&self, count: u32) -> Result<Vec<String>, SlurmError> {
        let out = finish("sbatch", self.submission(count)).await?;
        // JOB, or JOB;CLUSTER.
        let job = out.trim().split(';').next().unwrap_or_default();
        if job.is_empty() || !job.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(SlurmError::Refused {
                program: "sbatch",
                problem: format!("'{}' is no job", out.trim()),
            });
        }
        Ok(match count {
            1 => vec![job.to_owned()],
            _ => (0..count).map(|index| format!("{job}_{index}")).collect(),
        })
    }

    /// What submits so many: the options that were given, then the script, which finds the labels of its
    /// worker among its variables.
    fn submission(&self, count: u32) -> Command {
        let mut command = Command::new("sbatch");
        command.args(["--parsable".to_owned(), format!("--job-name={}", self.job_name)]).args(&self.sbatch);
        if count > 1 {
            command.arg(format!("--array=0-{}", count - 1));
        }
        command.arg(&self.script);
        match self.labels.is_empty() {
            // Jobs are counted for workers without labels, whatever stands in our own variables.
            true => command.env_remove("CAKES_LABELS"),
            false => command.env("CAKES_LABELS", self.labels.to_string()),
        };
        command
    }

    /// Takes waiting allocations away.
    ///
    /// # Errors
    /// Slurm refuses, or does not answer.
    pub async fn cancel_pending(&self, id: &str) -> Result<(), SlurmError> {
        // One that has begun meanwhile is left alone.
        run("scancel", ["--state=PENDING", id]).await.map(drop)
    }

    /// Tells the worker of a running allocation to end as its time limit would: it hands
    /// back what it may have begun meanwhile.
    ///
    /// # Errors
    /// Slurm refuses, or does not answer.
    pub async fn end(&self, id: &str) -> Result<(), SlurmError> {
        run("scancel", ["--signal=TERM", "--batch", id]).await.map(drop)
    }

    /// Ends an allocation at once.
    ///
    /// # Errors
    /// Slurm refuses, or does not answer.
    pub async fn kill(&self, id: &str) -> Result<(), SlurmError> {
        run("scancel", [id]).await.map(drop)
    }
}

/// A line of `squeue`.
///
/// # Errors
/// It lacks a column.
pub fn row(line: &str) -> Result<Row, SlurmError> {
    let mut columns = line.splitn(3, '|').map(str::trim);
    let (Some(id), Some(state), Some(comment)) = (columns.next(), columns.next(), columns.next()) else {
        return Err(SlurmError::Refused { program: "squeue", problem: format!("'{line}' is no row") });
    };
    let worker = comment.strip_prefix(WORKER).map(str::to_owned);
    Ok(Row { id: id.to_owned(), state: state.to_owned(), worker })
}

/// Runs a program to its end; what it wrote.
async fn run<T: AsRef<OsStr>>(
    program: &'static str,
    arguments: impl IntoIterator<Item = T>,
) -> Result<String, SlurmError> {
    let mut command = Command::new(program);
    // Whatever the user likes to see is not what is parsed here.
    command.args(arguments).env_remove("SQUEUE_FORMAT").env_remove("SQUEUE_SORT").env_remove("SQUEUE_STATES");
    finish(program, command).await
}

async fn finish(program: &'static str, mut command: Command) -> Result<String, SlurmError> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(ANSWER_LIMIT, command.output()).await {
        Err(_) => return Err(SlurmError::Silent { program }),
        Ok(Err(source)) => return Err(SlurmError::Absent { program, source }),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed and said nothing");
        let problem = said.trim_start_matches(program).trim_start_matches(": ").to_owned();
        return Err(SlurmError::Refused { program, problem });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a submission, and the labels among its variables: none where they are taken away.
    fn submitted(labels: &str, count: u32) -> (Vec<String>, Option<String>) {
        let pool = Pool {
            job_name: "cakes-gpus".to_owned(),
            script: PathBuf::from("/etc/cakes/worker.sbatch"),
            labels: labels.parse().unwrap(),
            sbatch: vec!["--partition=gpu".to_owned()],
        };
        let command = pool.submission(count);
        let command = command.as_std();
        let words = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let variable = command.get_envs().find(|(name, _)| *name == "CAKES_LABELS");
        let (_, value) = variable.expect("whatever stands in our own variables is not passed on");
        (words, value.map(|value| value.to_string_lossy().into_owned()))
    }

    #[test]
    fn what_is_submitted_is_the_script_behind_its_options_with_the_labels_of_its_workers() {
        let (words, labels) = submitted("site=basel,gpu=h200", 1);
        let one = ["--parsable", "--job-name=cakes-gpus", "--partition=gpu", "/etc/cakes/worker.sbatch"];
        assert_eq!(words, one);
        assert_eq!(labels.as_deref(), Some("gpu=h200,site=basel"));
        let (words, labels) = submitted("", 3);
        assert_eq!((words[3].as_str(), words.len(), labels), ("--array=0-2", 5, None));
    }

    #[test]
    fn rows_are_read_whatever_stands_in_a_comment() {
        let found = row("123_4|RUNNING|cakes-worker=gpu-01-g0").unwrap();
        assert_eq!((found.id.as_str(), found.worker.as_deref()), ("123_4", Some("gpu-01-g0")));
        assert_eq!(row("7|PENDING|(null)").unwrap().worker, None);
        assert_eq!(row("7|PENDING|a|b").unwrap().state, "PENDING");
        assert!(row("slurm_load_jobs error").is_err());
    }
}
