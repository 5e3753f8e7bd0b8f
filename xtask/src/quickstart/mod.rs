//! `cargo xtask quickstart`: from a fresh checkout to a Pareto front.

mod interrupt;
mod search_file;
mod services;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::process::{self, show_duration};
use crate::root;
use interrupt::Interrupt;
use search_file::Report;
use services::Services;

#[derive(Args)]
pub struct QuickstartArguments {
    /// A data set's folder (Medical Segmentation Decathlon); generated volumes without it.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leaves database, checkpoints and logs behind and says where.
    #[arg(long)]
    keep: bool,
}

const PACKAGES: [&str; 4] = ["cakes-coordinator", "cakes-worker", "cakes-trainer", "cakes-cli"];

/// How long each part took.
#[derive(Default)]
struct Times(Vec<(&'static str, std::time::Duration)>);

impl Times {
    fn take<T>(&mut self, part: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let outcome = work();
        self.0.push((part, start.elapsed()));
        outcome
    }
}

/// `setup` installs what is missing; it comes behind the check of the arguments.
pub fn run(arguments: &QuickstartArguments, setup: impl FnOnce() -> Result<()>) -> Result<()> {
    let data = arguments.data.as_deref().map(data_folder).transpose()?;
    let mut times = Times::default();
    times.take("set-up", setup)?;
    let interrupt = Interrupt::listen()?;
    let programs = times.take("build", || build(&interrupt))?;
    let search_file = times.take("data", || match &data {
        Some(data) => search_for(&programs, data),
        None => Ok(fs::read_to_string(root().join("deploy/examples/phantoms.json"))?),
    })?;

    let mut folder = tempfile::Builder::new()
        .prefix("cakes-quickstart-")
        // As root, Postgres runs as somebody else, who must get in.
        .permissions(Permissions::from_mode(0o711))
        .tempdir()
        .context("cannot create a temporary folder")?;
    folder.disable_cleanup(arguments.keep);
    let results = root().join("cakes-quickstart");
    let search = search(&programs, folder.path(), &results, &search_file, &interrupt, &mut times);
    if search.is_err() && !interrupt.is_set() && !arguments.keep {
        folder.disable_cleanup(true);
        println!("\nlogs are kept in {}", folder.path().display());
    }
    search?;
    report(&results, &times);
    if arguments.keep {
        let kept = folder.path().display();
        println!("\nkept in {kept}; look at the search again with\n");
        println!(
            "    {0}/cakes-coordinator --data-dir {kept}/coordinator &\n    {0}/cakes search list",
            programs.display()
        );
    }
    Ok(())
}

/// The folder of a data set, looked at before minutes are spent on anything else.
fn data_folder(folder: &Path) -> Result<PathBuf> {
    let expected = "give --data a folder with dataset.json, imagesTr/ and labelsTr/ \
                    (Medical Segmentation Decathlon), or leave it out to try generated volumes";
    let shown = folder.display();
    let Ok(entries) = fs::read_dir(folder) else {
        bail!("--data {shown}: there is no such folder; {expected}")
    };
    if entries.count() == 0 {
        bail!("--data {shown}: the folder is empty; {expected}");
    }
    let description = folder.join("dataset.json");
    let text = fs::read_to_string(&description)
        .with_context(|| format!("--data {shown}: dataset.json cannot be read; {expected}"))?;
    let _: Value = serde_json::from_str(&text)
        .with_context(|| format!("--data {shown}: dataset.json is no JSON; {expected}"))?;
    folder.canonicalize().with_context(|| format!("--data {shown}"))
}

/// Builds the four programs into the folder of this one.
fn build(interrupt: &Interrupt) -> Result<PathBuf> {
    let programs = std::env::current_exe()?.parent().context("this program is in no folder")?.to_owned();
    if !programs.join("cakes-trainer").exists() {
        println!("quickstart: building; the first time takes 5 to 10 minutes on two cores");
    }
    let mut cargo = process::cargo();
    cargo.arg("build").args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    interrupt.run(&mut cargo, || Ok(()))?;
    Ok(programs)
}

/// One search with everything that it needs; whatever was started has ended
/// when this returns.
fn search(
    programs: &Path,
    folder: &Path,
    results: &Path,
    search: &str,
    interrupt: &Interrupt,
    times: &mut Times,
) -> Result<()> {
    fs::create_dir_all(results).with_context(|| format!("cannot create {}", results.display()))?;
    let search_file = results.join("search.json");
    fs::write(&search_file, search)?;

    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = [(cores / 2).max(1); 2];
    println!("quickstart: starting Postgres, a coordinator and two workers; logs in {}", folder.display());
    let mut services = times.take("start", || Services::start(programs, folder, &threads, interrupt))?;
    let outcome = follow(&mut services, &search_file, results, interrupt, times);
    let stopped = times.take("stop", || {
        println!("quickstart: stopping");
        services.stop()
    });
    outcome.and(stopped)
}

/// Submits, shows the progress on this terminal, and draws the results.
fn follow(
    services: &mut Services,
    search_file: &Path,
    results: &Path,
    interrupt: &Interrupt,
    times: &mut Times,
) -> Result<()> {
    let mut submit = services.command("cakes");
    let submitted = process::output(submit.args(["search", "submit", "-o", "json"]).arg(search_file))?;
    let submitted: Value = serde_json::from_str(&submitted).context("`cakes search submit` gave no JSON")?;
    let id = submitted.pointer("/search/id").and_then(Value::as_str).context("no id of the search")?;
    if let Some(page) = services.page() {
        println!("quickstart: look at it in a browser while it runs: {page}searches/{id}");
        println!("quickstart: to pause, cancel or derive there, sign in with what this prints:");
        println!("quickstart:   {}", services.token_command());
    }

    let mut watch = services.command("cakes");
    watch.args(["search", "watch", id]);
    times
        .take("search", || interrupt.run(&mut watch, || services.all_run()))
        .map_err(|error| if interrupt.is_set() { error } else { error.context(services.log_tails()) })?;
    times.take("plots", || {
        let front = process::output(services.command("cakes").args(["search", "front", id, "-o", "json"]))?;
        fs::write(results.join("front.json"), front)?;
        process::run_quiet(services.command("cakes").args(["search", "plot", id, "--out"]).arg(results))
    })
}

/// Has the real reader look at every file, and makes a search of what it says.
fn search_for(programs: &Path, data: &Path) -> Result<String> {
    println!("quickstart: checking {}", data.display());
    let mut check = std::process::Command::new(programs.join("cakes"));
    let checked = check.args(["dataset", "check", "-o", "json"]).arg(data).output();
    let checked = checked.context("cannot start `cakes dataset check`")?;
    let report: Report = serde_json::from_slice(&checked.stdout).with_context(|| {
        format!("`cakes dataset check` gave no report: {}", String::from_utf8_lossy(&checked.stderr))
    })?;
    report.refuse_errors()?;
    println!("quickstart: {} cases, median extent {:?}", report.case_count, report.extent_median);
    Ok(serde_json::to_string_pretty(&search_file::for_dataset(&report, data)?)?)
}

fn report(results: &Path, times: &Times) {
    println!("\ntook");
    for (part, duration) in &times.0 {
        println!("  {part:<8} {:>14}", show_duration(*duration));
    }
    println!("\nresults in {}", results.display());
    let mut names: Vec<String> = fs::read_dir(results)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    println!("  {}", names.join("  "));
    println!("\nnext");
    println!("  cargo xtask quickstart --data DIR   the same on your own volumes");
    println!("  README.md                           a coordinator and workers that stay");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_useless_data_folder_is_refused_with_the_remedy() {
        let empty = tempfile::tempdir().unwrap();
        let cases = [
            (PathBuf::from("/nonexistent"), "no such folder"),
            (empty.path().to_owned(), "is empty"),
            (Path::new(env!("CARGO_MANIFEST_DIR")).to_owned(), "dataset.json cannot be read"),
        ];
        for (folder, expected) in cases {
            let error = format!("{:#}", data_folder(&folder).unwrap_err());
            assert!(error.contains(expected) && error.contains("imagesTr"), "{error}");
        }
    }
}
