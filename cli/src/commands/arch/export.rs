//! `cakes arch export`: a trained network for other tools.

use std::path::{Path, PathBuf};

use cakes::architecture::Architecture;
use cakes_export::{ExportError, Format, Options, Trained, Written};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::args::GlobalArguments;
use crate::client::Client;
use crate::commands::stored;
use crate::error::CommandError;
use crate::{format, output};

const WEIGHTS: &str = "weights.safetensors";

#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Digest, or file of the architecture.
    #[arg(value_name = "DIGEST_OR_FILE")]
    what: String,
    /// What to write.
    #[arg(long, value_enum)]
    format: FormatName,
    /// The job that trained it, by id, whose result or last checkpoint is taken; or the
    /// folder of a checkpoint; or a file of weights (.safetensors).
    #[arg(long, value_name = "JOB|FOLDER|FILE")]
    weights: String,
    /// File (onnx) or folder to write.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Multiply batch norms into the convolutions before them.
    #[arg(long)]
    fold_norms: bool,
    /// Replace what is there.
    #[arg(long)]
    force: bool,
    /// Where the artifact store is on this machine, if not where the coordinator says:
    /// a folder, file:///folder or s3://bucket/prefix.
    #[arg(long, value_name = "DIR|URL", env = "CAKES_ARTIFACTS")]
    artifacts: Option<String>,
}

/// Names of the formats.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FormatName {
    /// One file for ONNX Runtime and whatever else reads ONNX.
    Onnx,
    /// A folder with a readable module and its weights.
    Pytorch,
    /// A folder that monai.bundle runs, for segmentation.
    MonaiBundle,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Onnx => Format::Onnx,
            FormatName::Pytorch => Format::Pytorch,
            FormatName::MonaiBundle => Format::MonaiBundle,
        }
    }
}

/// What was exported, for machines.
#[derive(Serialize)]
struct Report {
    path: String,
    architecture_digest: String,
    weights_sha256: String,
    step: Option<u64>,
    files: Vec<ReportFile>,
}

#[derive(Serialize)]
struct ReportFile {
    name: String,
    bytes: u64,
}

/// # Errors
/// The architecture or the weights are not there or do not fit, or the output is in the way.
pub async fn run(global: &GlobalArguments, arguments: &ExportArguments) -> Result<(), CommandError> {
    // Before anything is fetched.
    cakes_export::publish::refuse_existing(&arguments.out, arguments.force).map_err(from_export)?;
    let architecture = super::find(global, &arguments.what).await?.architecture;
    let trained = trained(global, arguments, architecture).await?;
    let options = Options { fold_norms: arguments.fold_norms, force: arguments.force };
    let written = cakes_export::export(&trained, arguments.format.into(), options, &arguments.out);
    print(global, &trained, &written.map_err(from_export)?)
}

async fn trained(
    global: &GlobalArguments,
    arguments: &ExportArguments,
    architecture: Architecture,
) -> Result<Trained, CommandError> {
    let place = Path::new(&arguments.weights);
    if place.is_dir() {
        return Trained::from_checkpoint(place, Some(&architecture)).map_err(from_export);
    }
    if place.is_file() {
        return Trained::from_file(place, architecture).map_err(from_export);
    }
    let is_id = arguments.weights.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if !is_id {
        return Err(CommandError::invalid(format!(
            "--weights: {} is no file, no folder and no id of a job",
            arguments.weights
        )));
    }
    let folder = tempfile::tempdir()?;
    let checkpoint = folder.path().join("checkpoint");
    fetch(global, arguments, &checkpoint).await?;
    Trained::from_checkpoint(&checkpoint, Some(&architecture)).map_err(|error| match error {
        // Where it was kept for a moment helps nobody.
        ExportError::Checkpoint { problem, .. } => {
            CommandError::invalid(format!("--weights: job {}: {problem}", arguments.weights))
        }
        other => from_export(other),
    })
}

/// Fetches the weights of a job into a new folder.
async fn fetch(
    global: &GlobalArguments,
    arguments: &ExportArguments,
    folder: &Path,
) -> Result<(), CommandError> {
    let client = Client::connect(global).await?;
    let artifacts = arguments.artifacts.as_deref();
    let found = stored::fetch(&client, &arguments.weights, artifacts, folder, |name| name == WEIGHTS).await?;
    let what = if found.is_result { "result" } else { "last checkpoint; it has no result yet" };
    output::note(&format!("job {} at step {} ({what})", found.job_id, found.step));
    Ok(())
}

fn from_export(error: ExportError) -> CommandError {
    match error {
        ExportError::Io { path, source } => CommandError::file(&path, source),
        other => CommandError::invalid(other.to_string()),
    }
}

fn print(global: &GlobalArguments, trained: &Trained, written: &Written) -> Result<(), CommandError> {
    let report = Report {
        path: written.path.display().to_string(),
        architecture_digest: trained.architecture.digest().to_string(),
        weights_sha256: trained.weights_sha256.clone(),
        step: trained.step,
        files: written
            .files
            .iter()
            .map(|(name, bytes)| ReportFile { name: name.clone(), bytes: *bytes })
            .collect(),
    };
    output::print(global.output, &report, |report| {
        let step = report.step.map(|step| format!(", {step} steps")).unwrap_or_default();
        let mut lines = vec![format!(
            "wrote {}: architecture {}{step}",
            report.path,
            format::short_digest(&report.architecture_digest)
        )];
        let width = report.files.iter().map(|file| file.name.len()).max().unwrap_or(0);
        for file in &report.files {
            lines.push(format!("  {:<width$}  {:>10} bytes", file.name, file.bytes));
        }
        lines.join("\n")
    })
}
