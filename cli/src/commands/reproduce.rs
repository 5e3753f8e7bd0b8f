//! `cakes job reproduce`: a job again, without the service, and whether it came out the same.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cakes::frame::{DataContent, Summary};
use cakes_proto::convert::quality_to_wire;
use cakes_proto::v1;
use clap::Args;
use serde::Serialize;

use super::stored;
use crate::args::GlobalArguments;
use crate::client::{Client, rpc};
use crate::error::{CommandError, Outcome};
use crate::output::Align::{Left, Right};
use crate::output::{self, Rows};
use crate::quality;

#[derive(Debug, Args)]
pub struct ReproduceArguments {
    /// Id of the job, or a prefix that only one has.
    id: String,
    /// Folder for the job's file and whatever else its trainer needs; made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "reproduced")]
    out: PathBuf,
    /// Compare what the trainer has left in the folder with what was recorded.
    #[arg(long)]
    check: bool,
    /// Where the artifact store is on this machine, if not where the coordinator says:
    /// a folder, file:///folder or s3://bucket/prefix.
    #[arg(long, value_name = "DIR|URL", env = "CAKES_ARTIFACTS")]
    artifacts: Option<String>,
}

const JOB: &str = "job.json";
const METHODS: &str = "methods";
const SUPERNET: &str = "supernet";
const RUN: &str = "run";
const MANIFEST: &str = "manifest.json";
const SUMMARY: &str = "summary.json";
const DATA: &str = "data.json";

/// # Errors
/// The coordinator or the store is away, a file cannot be written, or the trainer's
/// results are not there.
pub async fn run(
    global: &GlobalArguments,
    client: &Client,
    arguments: &ReproduceArguments,
) -> Result<Outcome, CommandError> {
    if arguments.check {
        check(global, client, arguments).await
    } else {
        prepare(global, client, arguments).await
    }
}

/// What was written, for programs.
#[derive(Serialize)]
struct Prepared {
    job: v1::TrainerJob,
    command: String,
    notes: Vec<String>,
}

async fn prepare(
    global: &GlobalArguments,
    client: &Client,
    arguments: &ReproduceArguments,
) -> Result<Outcome, CommandError> {
    let request = v1::GetTrainerJobRequest { id: arguments.id.clone() };
    let job = rpc!(client, jobs.get_trainer_job, "JobService/GetTrainerJob", request)?;
    let out = &arguments.out;
    if out.join(RUN).exists() {
        return Err(CommandError::invalid(format!(
            "{}: holds a run already; compare it with --check, or name another folder with --out",
            out.display()
        )));
    }
    std::fs::create_dir_all(out).map_err(|error| CommandError::file(out, error))?;
    let file = out.join(JOB);
    std::fs::write(&file, format!("{}\n", job.job_json)).map_err(|error| CommandError::file(&file, error))?;

    let shown = |path: PathBuf| quoted(&path.display().to_string());
    let mut command = format!("cakes-trainer run {} --out {}", shown(file), shown(out.join(RUN)));
    let mut notes = Vec::new();
    let artifacts = arguments.artifacts.as_deref();
    if !job.supernet_job_id.is_empty() {
        let folder = out.join(SUPERNET);
        clear(&folder)?;
        stored::fetch(client, &job.supernet_job_id, artifacts, &folder, |_| true).await?;
        let _ = write!(command, " --supernet {}", shown(folder));
    }
    let folder = out.join(METHODS);
    clear(&folder)?;
    match stored::fetch(client, &job.job_id, artifacts, &folder, |_| false).await {
        Ok(_) => {
            let _ = write!(command, " --methods {}", shown(folder.join(MANIFEST)));
        }
        // The result is then the same but for rounding.
        Err(error) => {
            notes.push(format!("how its layers were computed is not known ({error}); last digits may differ"))
        }
    }
    notes.push("a relative data set folder is looked up below --data-root".to_owned());
    if !job.device.is_empty() {
        notes.push(format!("recorded on {} by worker {} {}", job.device, job.worker_id, job.worker_version));
    }
    output::print(global.output, &Prepared { job, command, notes }, |prepared| {
        let notes: String = prepared.notes.iter().map(|note| format!("# {note}\n")).collect();
        let id = &prepared.job.job_id;
        let check = format!("cakes job reproduce {id} --out {} --check", shown(out.clone()));
        format!("{notes}{}\n{check}", prepared.command)
    })?;
    Ok(Outcome::Done)
}

/// What an earlier call has fetched is fetched anew: it may have been another job's.
fn clear(folder: &Path) -> Result<(), CommandError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CommandError::file(folder, error)),
        _ => Ok(()),
    }
}

fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// One figure of both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub name: String,
    pub recorded: f64,
    pub again: f64,
}

impl Figure {
    pub fn is_same(&self) -> bool {
        self.recorded == self.again || (self.recorded.is_nan() && self.again.is_nan())
    }
}

async fn check(
    global: &GlobalArguments,
    client: &Client,
    arguments: &ReproduceArguments,
) -> Result<Outcome, CommandError> {
    let request = v1::GetJobRequest { id: arguments.id.clone(), ..v1::GetJobRequest::default() };
    let job = rpc!(client, jobs.get_job, "JobService/GetJob", request)?;
    let result = job
        .result
        .ok_or_else(|| CommandError::Failed(format!("job {} has no result to compare with yet", job.id)))?;
    let path = arguments.out.join(RUN).join(SUMMARY);
    let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => CommandError::invalid(format!(
            "{}: is not there; run the command that `cakes job reproduce {}` prints to its end first",
            path.display(),
            arguments.id
        )),
        _ => CommandError::file(&path, error),
    })?;
    let summary: Summary = serde_json::from_str(&text)
        .map_err(|error| CommandError::invalid(format!("{}: {error}", path.display())))?;
    let figures = figures(&result, &summary);
    output::print(global.output, &figures, |figures| table(figures))?;
    let data = compare_data(&job.environment.unwrap_or_default(), &arguments.out.join(RUN).join(DATA))?;
    match &data {
        Data::Same => {}
        Data::Differ(note) | Data::Unknown(note) => output::note(note),
    }
    let same = !matches!(data, Data::Differ(_)) && figures.iter().all(Figure::is_same);
    Ok(if same { Outcome::Done } else { Outcome::Failed })
}

/// Whether both runs trained on the same data.
#[derive(Debug, PartialEq)]
enum Data {
    Same,
    /// How they differ.
    Differ(String),
    /// Whose digest is missing.
    Unknown(String),
}

fn compare_data(recorded: &v1::Environment, file: &Path) -> Result<Data, CommandError> {
    let unknown = |who: &str| {
        Ok(Data::Unknown(format!(
            "{who} told no digest of its data, as trainers of older versions do: whether both trained on the same \
             data is not known"
        )))
    };
    if recorded.data_sha256.is_empty() {
        return unknown("the job");
    }
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return unknown("this run"),
        Err(error) => return Err(CommandError::file(file, error)),
    };
    let again: DataContent = serde_json::from_str(&text)
        .map_err(|error| CommandError::invalid(format!("{}: {error}", file.display())))?;
    if recorded.data_sha256 == again.sha256 {
        return Ok(Data::Same);
    }
    Ok(Data::Differ(format!(
        "the data differ: the job trained on {}, this run on {}",
        named(&recorded.data_sha256, recorded.data_file_count, recorded.data_bytes),
        named(&again.sha256, again.file_count, again.bytes)
    )))
}

/// Data by their digest; those without files were generated.
fn named(sha256: &str, file_count: u64, bytes: u64) -> String {
    match file_count {
        0 => format!("{sha256} (generated)"),
        count => format!("{sha256} ({count} files, {bytes} bytes)"),
    }
}

/// What should be the same: never times and memory.
fn figures(result: &v1::JobResult, summary: &Summary) -> Vec<Figure> {
    let again = quality_to_wire(&summary.quality);
    let figure = |name: &str, recorded: f64, again: f64| Figure { name: name.to_owned(), recorded, again };
    let mut figures = vec![
        figure("parameters", result.param_count as f64, summary.param_count as f64),
        figure("MACs", result.mac_count as f64, summary.mac_count as f64),
        figure(quality::short_name(&result.quality_metric), result.quality, summary.quality.value()),
    ];
    for (index, recorded) in result.dice_per_class.iter().enumerate() {
        let again = again.dice_per_class.get(index).copied().unwrap_or(f64::NAN);
        figures.push(figure(&format!("Dice of class {}", index + 1), *recorded, again));
    }
    if let (Some(recorded), Some(again)) = (&result.classification, &again.classification) {
        figures.push(figure("cross-entropy", recorded.loss, again.loss));
        figures.push(figure("balanced accuracy", recorded.balanced_accuracy, again.balanced_accuracy));
    }
    figures
}

fn table(figures: &[Figure]) -> String {
    let mut rows =
        Rows::new([("FIGURE", Left), ("RECORDED", Right), ("AGAIN", Right), ("DIFFERENCE", Right)]);
    for figure in figures {
        let difference = if figure.is_same() {
            "none".to_owned()
        } else {
            format!("{:.2e}", figure.again - figure.recorded)
        };
        rows.push(vec![
            figure.name.clone(),
            figure.recorded.to_string(),
            figure.again.to_string(),
            difference,
        ]);
    }
    let verdict = if figures.iter().all(Figure::is_same) {
        "the same to the last bit"
    } else {
        "not the same; another device, version or table of methods differs in last digits, other data in more"
    };
    format!("{}\n\n{verdict}", rows.render(output::terminal_width()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_data_and_a_missing_digest_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(DATA);
        let job = |sha256: &str| v1::Environment { data_sha256: sha256.to_owned(), ..Default::default() };
        let unknown = |job: &v1::Environment| match compare_data(job, &file).unwrap() {
            Data::Unknown(note) => note,
            other => panic!("{other:?}"),
        };
        assert!(unknown(&job("aa")).starts_with("this run told no digest"));
        assert!(unknown(&job("")).starts_with("the job told no digest"));
        std::fs::write(&file, r#"{"sha256":"bb","file_count":2,"bytes":3}"#).unwrap();
        assert_eq!(compare_data(&job("bb"), &file).unwrap(), Data::Same);
        assert!(unknown(&job("")).starts_with("the job told no digest"));
        let Data::Differ(told) = compare_data(&job("aa"), &file).unwrap() else { panic!("they differ") };
        assert!(told.contains("aa (generated)") && told.contains("bb (2 files, 3 bytes)"), "{told}");
    }
}
