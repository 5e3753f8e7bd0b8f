//! `cargo xtask test`: every check, in the order in which it fails soonest.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::{database, process, root};

#[derive(Args)]
pub struct TestArguments {
    /// Leaves out the whole-system scenarios.
    #[arg(long)]
    quick: bool,
    /// Runs only tests whose name contains this.
    #[arg(long)]
    filter: Option<String>,
}

struct Stage {
    name: &'static str,
    command: Command,
}

pub fn run(arguments: &TestArguments) -> Result<()> {
    let database = database::ThrowAway::start()?;
    let mut failed = Vec::new();
    let mut summary = Vec::new();
    for Stage { name, mut command } in stages(arguments, &database.url()) {
        println!("\n== {name}: {}", process::show(&command));
        let start = Instant::now();
        let outcome = process::run(&mut command);
        let duration = process::show_duration(start.elapsed());
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("== {name}: {verdict} after {duration}");
        summary.push(format!("{name:<10} {verdict:<7} {duration:>12}"));
        if let Err(error) = outcome {
            failed.push(format!("{name}: {error:#}"));
        }
    }
    println!("\n{}", summary.join("\n"));
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

fn stages(arguments: &TestArguments, database_url: &str) -> Vec<Stage> {
    let cargo = |words: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(root()).args(words).env("DATABASE_URL", database_url).env("OMP_NUM_THREADS", "2");
        // Set for this process by cargo; inherited, it would be taken for the
        // user's own choice.
        command.env_remove("CARGO_MANIFEST_DIR");
        command
    };
    let mut stages = Vec::new();
    if has_component("fmt") {
        stages.push(Stage { name: "format", command: cargo(&["fmt", "--all", "--check"]) });
    }
    if has_component("clippy") {
        let words = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
        stages.push(Stage { name: "clippy", command: cargo(&words) });
    }
    stages.push(Stage { name: "build", command: cargo(&["build", "--workspace", "--quiet"]) });
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    if arguments.quick {
        tests.args(["--exclude", "cakes-tests"]);
    }
    if let Some(filter) = &arguments.filter {
        tests.arg(filter);
    }
    stages.push(Stage { name: "test", command: tests });
    stages
}

fn has_component(name: &str) -> bool {
    let mut command = Command::new("cargo");
    let found = process::run_quiet(command.current_dir(Path::new("/")).args([name, "--version"])).is_ok();
    if !found {
        println!(
            "warning: cargo {name} is missing, its check is left out; `rustup component add {}`",
            if name == "fmt" { "rustfmt" } else { name }
        );
    }
    found
}
