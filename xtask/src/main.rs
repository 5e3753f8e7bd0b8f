//! What a person types in a fresh checkout: set-up, quick start, tests, benches.
//!
//! Of the workspace `xtask` depends on `cakes-postgres` alone: it must run before
//! anything else can be built.

mod bench;
mod chaos;
mod database;
mod failures;
mod fuzz;
mod libtorch;
mod packages;
mod process;
mod python;
mod quickstart;
mod release;
mod sql;
mod test;
mod wheels;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// Sets up, tries out and tests cakes.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
#[command(
    after_help = "Examples:\n  cargo xtask quickstart\n  cargo xtask quickstart --data ~/data/Task04_Hippocampus\n  cargo xtask test"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what is missing: libtorch, Postgres, FFmpeg, a C++ compiler. A second run changes nothing.
    Setup(SetupCommand),
    /// Builds everything and runs one search to its Pareto front.
    Quickstart(quickstart::QuickstartArguments),
    /// Sets up, then runs every check and test.
    Test(test::TestArguments),
    /// Measures how fast things are.
    Bench(bench::BenchArguments),
    /// Breaks everything that can break, and looks whether something was lost.
    #[command(disable_help_flag = true)]
    Chaos(chaos::ChaosArguments),
    /// Looks for bytes that break a decoder.
    Fuzz(fuzz::FuzzArguments),
    /// Builds programs that anybody can build again to the last bit, and lists their crates.
    Release(release::ReleaseArguments),
    /// Saves in `.sqlx` what Postgres says about the statements in the code.
    Sql(sql::SqlArguments),
}

#[derive(Args)]
struct SetupCommand {
    #[command(flatten)]
    libtorch: libtorch::SetupArguments,
    /// Also what only tests need: Chromium, Slurm and munge; ONNX Runtime and cargo-deny in the checkout.
    #[arg(long)]
    tests: bool,
}

fn main() -> ExitCode {
    release::wrapper::run_if_asked();
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup(arguments) => {
            setup(&arguments.libtorch)?;
            if arguments.tests { setup_of_tests() } else { Ok(()) }
        }
        Command::Quickstart(arguments) => {
            quickstart::run(&arguments, || setup(&libtorch::SetupArguments::default()))
        }
        Command::Test(arguments) => {
            setup(&libtorch::SetupArguments::default())?;
            setup_of_tests()?;
            test::run(&arguments)
        }
        Command::Bench(arguments) => {
            setup(&libtorch::SetupArguments::default())?;
            bench::run(&arguments)
        }
        Command::Chaos(arguments) => {
            setup(&libtorch::SetupArguments::default())?;
            chaos::run(&arguments)
        }
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Release(arguments) => release::run(&arguments),
        Command::Sql(arguments) => {
            setup(&libtorch::SetupArguments::default())?;
            sql::run(&arguments)
        }
    }
}

fn setup(arguments: &libtorch::SetupArguments) -> Result<()> {
    packages::ensure()?;
    libtorch::ensure(&root(), arguments)
}

/// What only tests need.
fn setup_of_tests() -> Result<()> {
    packages::ensure_browser()?;
    packages::ensure_slurm()?;
    python::ensure(&root())
}

/// The checkout's root folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}
