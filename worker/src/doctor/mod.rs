//! `cakes-worker doctor`: whether this machine can do what its worker is told to do.
//!
//! It goes by the worker's own settings and changes nothing: it registers nowhere, and what it
//! writes to see whether it can write is gone behind it. Where artifacts are a coordinator tells
//! only workers that register, so that is said with `--artifacts`.

mod artifacts;
mod coordinator;
mod machine;
mod others;
mod trainer;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::config::{Flags, Settings};

const EXAMPLES: &str = "\
Examples:
  cakes-worker doctor
  cakes-worker doctor --config /etc/cakes/worker.toml
  cakes-worker doctor --server https://coordinator:7550 --cert-file cert.pem --key-file key.pem --ca-file ca.pem
  cakes-worker doctor --artifacts /srv/cakes/artifacts -o json
  cakes-worker doctor --artifacts s3://cakes/lab

Every setting of the worker may be given; they are those that the worker would take.
Exit codes: 0 nothing failed, 1 something failed, 2 the command is wrong.";

/// What the command is told.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Form of the report.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,

    /// Where the coordinator says that artifacts are, a folder or s3://BUCKET/PREFIX, to see whether they
    /// can be written and read from here; for a bucket with this process' AWS_… variables.
    #[arg(long, value_name = "DIR|URL")]
    artifacts: Option<PathBuf>,

    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// It works, but not as well as it could, or not for long.
    Warning,
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Check { name: name.to_owned(), verdict: Verdict::Ok, found: found.into(), remedy: String::new() }
    }

    fn warning(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check { verdict: Verdict::Warning, remedy: remedy.into(), ..Check::ok(name, found) }
    }

    fn failed(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check { verdict: Verdict::Failed, remedy: remedy.into(), ..Check::ok(name, found) }
    }
}

/// All checks, in the order in which they were made.
#[derive(Debug, Serialize)]
struct Report {
    failed: usize,
    warnings: usize,
    checks: Vec<Check>,
}

/// Looks at everything and reports; code 1 where something failed.
///
/// # Errors
/// The report cannot be written.
pub fn run(arguments: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let checks = match Settings::merge(&arguments.flags) {
        Ok(settings) => runtime.block_on(look(&settings, arguments)),
        Err(error) => vec![Check::failed("settings", error.to_string(), "mend the flag, variable or key")],
    };
    // A file system that does not answer must not hold up the report's end.
    runtime.shutdown_background();
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let report = Report { failed: count(Verdict::Failed), warnings: count(Verdict::Warning), checks };
    let text = match arguments.output {
        Output::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
        Output::Text => text(&report),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::from(u8::from(report.failed > 0)))
}

async fn look(settings: &Settings, arguments: &DoctorArgs) -> Vec<Check> {
    let mut checks = trainer::look(settings).await;
    checks.extend(machine::look(settings));
    if let Some(place) = &arguments.artifacts {
        checks.push(artifacts::look(place).await);
    }
    checks.extend(coordinator::look(settings).await);
    checks.extend(others::look(settings));
    checks
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for Check { name, verdict, found, remedy } in &report.checks {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED",
        };
        text += &format!("{verdict:<8} {name:<18} {found}\n");
        if !remedy.is_empty() {
            text += &format!("{:<8} {:<18} -> {remedy}\n", "", "");
        }
    }
    text + &format!(
        "{} checks, {} failed, {} warnings\n",
        report.checks.len(),
        report.failed,
        report.warnings
    )
}
