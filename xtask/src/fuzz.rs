//! `cargo xtask fuzz`: looks for bytes that break a decoder, with libFuzzer.
//!
//! Programs are built by cargo-fuzz with a nightly compiler, in a workspace of their own
//! (`fuzz/`). Beside the committed seeds each has a corpus that grows from run to run, below
//! the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use tempfile::TempDir;

use crate::{process, root};

const HELP: &str = "\
Examples:
  cargo xtask fuzz                               every target for a minute each
  cargo xtask fuzz names spiffe --seconds 600
  cargo xtask fuzz --seconds 3600 --jobs 16

Targets are the files of fuzz/fuzz_targets. A nightly compiler is needed: `rustup toolchain
install nightly`. Inputs that are worth keeping lie in target/fuzz/corpus, those that broke
something in target/fuzz/findings. The last line is JSON; exit code 1 if there are findings.";

/// Of cargo-fuzz.
const VERSION: &str = "0.13.2";
/// Memory of a program, and of one of its allocations, in MiB. What a decoder may take follows
/// from its input, which is short.
const MEMORY_MIB: u32 = 2048;
const ALLOCATION_MIB: u32 = 600;
/// Seconds for one input.
const INPUT_TIMEOUT_S: u32 = 10;
/// Longest input, in bytes.
const INPUT_BYTES_MAX: u32 = 16 << 10;

#[derive(Args)]
#[command(after_help = HELP)]
pub struct FuzzArguments {
    /// Only these; all without any.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Time for each target.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Targets at a time; one for each core without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

/// What came of a target.
#[derive(Serialize)]
struct Row {
    target: String,
    executions: u64,
    seconds: f64,
    /// Inputs that broke it.
    findings: Vec<PathBuf>,
}

/// Where things lie.
struct Places {
    /// Built programs.
    programs: PathBuf,
    corpus: PathBuf,
    findings: PathBuf,
    logs: PathBuf,
    /// Files that decoders read.
    inputs: TempDir,
}

pub fn run(arguments: &FuzzArguments) -> Result<()> {
    let targets = chosen(&arguments.targets)?;
    let places = build(&targets, arguments.targets.is_empty())?;
    let jobs = match arguments.jobs {
        Some(jobs) => jobs.into(),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    println!("fuzz: {} targets, {} s each, {jobs} at a time", targets.len(), arguments.seconds);
    let rows = all(&targets, &places, arguments.seconds, jobs)?;
    println!(
        "\n{:<20} {:>12} {:>9} {:>10} {:>9}",
        "target", "executions", "seconds", "per second", "findings"
    );
    for row in &rows {
        let rate = row.executions as f64 / row.seconds;
        let (target, found) = (&row.target, row.findings.len());
        println!("{target:<20} {:>12} {:>9.1} {rate:>10.0} {found:>9}", row.executions, row.seconds);
    }
    for row in &rows {
        for file in &row.findings {
            println!("\n{}", how_to_see(&places, &row.target, file));
        }
    }
    println!("{}", serde_json::json!({ "fuzz": rows }));
    let broken: Vec<&str> =
        rows.iter().filter(|row| !row.findings.is_empty()).map(|row| row.target.as_str()).collect();
    if broken.is_empty() { Ok(()) } else { bail!("findings in {}", broken.join(", ")) }
}

fn how_to_see(places: &Places, target: &str, file: &Path) -> String {
    format!(
        "{target} is broken by {file}; its last words are in {log}. See it with\n    {program} {file}\n\
         then mend the code and keep the input as a test: copy it to fuzz/seeds/{target}/",
        file = file.display(),
        log = places.logs.join(target).display(),
        program = places.programs.join(target).display(),
    )
}

/// The targets that were asked for.
fn chosen(asked: &[String]) -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let files = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let name = |file: fs::DirEntry| Some(file.path().file_stem()?.to_str()?.to_owned());
    let mut known: Vec<String> = files.flatten().filter_map(name).collect();
    known.sort();
    if let Some(strange) = asked.iter().find(|target| !known.contains(target)) {
        bail!("there is no target '{strange}'; there are: {}", known.join(", "));
    }
    if !asked.is_empty() {
        known.retain(|target| asked.contains(target));
    }
    Ok(known)
}

/// Builds the programs, and what builds them if it is missing.
fn build(targets: &[String], all: bool) -> Result<Places> {
    let folder = process::programs().with_file_name("fuzz");
    let tool = installed(&folder)?;
    // Named, so that the folder of the programs is known.
    let machine = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let build = |target: Option<&str>| {
        let mut command = nightly(&tool);
        command.args(["fuzz", "build", "--fuzz-dir", "fuzz", "--target", &machine, "--target-dir"]);
        process::run(command.arg(&folder).args(target))
    };
    match all {
        true => build(None)?,
        false => targets.iter().try_for_each(|target| build(Some(target)))?,
    }
    // Decoders that read files do so a thousand times a second.
    let memory = Path::new("/dev/shm");
    let inputs = if memory.is_dir() { TempDir::new_in(memory)? } else { TempDir::new()? };
    Ok(Places {
        programs: folder.join(machine).join("release"),
        corpus: folder.join("corpus"),
        findings: folder.join("findings"),
        logs: folder.join("logs"),
        inputs,
    })
}

/// The program of cargo-fuzz.
fn installed(folder: &Path) -> Result<PathBuf> {
    let tools = folder.join("tools");
    let tool = tools.join("bin/cargo-fuzz");
    let shown = Command::new(&tool).args(["fuzz", "--version"]).output();
    if shown.is_ok_and(|shown| String::from_utf8_lossy(&shown.stdout).contains(VERSION)) {
        return Ok(tool);
    }
    println!("fuzz: installing cargo-fuzz {VERSION} into {}", tools.display());
    let mut command = nightly("cargo");
    command.args(["install", "cargo-fuzz", "--locked", "--version", VERSION, "--root"]).arg(&tools);
    process::run_quiet(command.arg("--target-dir").arg(tools.join("build")))
        .context("cargo-fuzz is not installed; `rustup toolchain install nightly` if that is missing")?;
    Ok(tool)
}

/// A program as a nightly toolchain runs it, in the checkout.
fn nightly(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly"]).arg(program).current_dir(root());
    // Cargo's own for this very process, and its compiler.
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown == "CARGO" || shown.starts_with("CARGO_PKG_") || shown.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs targets, some at a time, and tells of each as it ends.
fn all(targets: &[String], places: &Places, seconds: u64, jobs: usize) -> Result<Vec<Row>> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                let row = one(target, places, seconds)?;
                println!("{target}: {} executions, {} findings", row.executions, row.findings.len());
                rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(row);
            }
            Ok(())
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(worked) => worked,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut rows = rows.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    rows.sort_by(|left, right| left.target.cmp(&right.target));
    Ok(rows)
}

fn one(target: &str, places: &Places, seconds: u64) -> Result<Row> {
    let (corpus, findings) = (places.corpus.join(target), places.findings.join(target));
    for folder in [&corpus, &findings, &places.logs] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let path = places.logs.join(target);
    let log = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(places.programs.join(target));
    command.arg(&corpus).arg(root().join("fuzz/seeds").join(target));
    command.arg(format!("-artifact_prefix={}/", findings.display()));
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!("-timeout={INPUT_TIMEOUT_S}"));
    command.args([format!("-rss_limit_mb={MEMORY_MIB}"), format!("-malloc_limit_mb={ALLOCATION_MIB}")]);
    // A heap that is looked through after each input takes a second; what grows is seen by its limit.
    command.args(["-detect_leaks=0", "-print_final_stats=1"]).current_dir(places.inputs.path());
    command.env("TMPDIR", places.inputs.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let began = Instant::now();
    let status = command.status().with_context(|| format!("cannot start `{}`", process::show(&command)))?;
    let took: Duration = began.elapsed();
    let said = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let findings = written(&said);
    let executions = executions(&said);
    if findings.is_empty() && !(status.success() && executions.is_some()) {
        bail!("{target} ended with {status} and left no input; its last words are in {}", path.display());
    }
    Ok(Row {
        target: target.to_owned(),
        executions: executions.unwrap_or(0),
        seconds: took.as_secs_f64(),
        findings,
    })
}

/// What libFuzzer says at its end.
fn executions(log: &str) -> Option<u64> {
    log.lines()
        .rev()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok())
}

/// Inputs that it has written, also where the same one lay there from an earlier run.
fn written(log: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = log
        .lines()
        .filter_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| PathBuf::from(path.trim()))
        .collect();
    found.sort();
    found
}
