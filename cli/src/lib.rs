//! The command `cakes`: searches, jobs, architectures, workers and data sets
//! from a terminal.
//!
//! ```text
//! arguments ─► commands/* ─► client ─► coordinator
//!                 │             (gRPC; errors explained in error)
//!                 │             settings: which coordinator; traced: within which trace
//!                 ├─► autoscale Slurm's allocations in step with the queue
//!                 ├─► input     files of searches and architectures; dataset_note: their data here
//!                 ├─► tables    rows for people        ┐
//!                 ├─► progress  what changed, bars     ├ pure, from messages to text or picture
//!                 └─► plot      front, channels, curves ┘   names of metrics: quality
//! ```
//!
//! What is shown is decided in pure functions of the messages that came; the
//! commands only fetch, print and write.

pub mod args;
pub mod autoscale;
pub mod client;
pub mod commands;
pub mod dataset_note;
pub mod error;
pub mod format;
pub mod input;
pub mod output;
pub mod plot;
pub mod progress;
pub mod quality;
pub mod settings;
pub mod tables;
pub mod traced;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::Arguments;
use error::{CommandError, Outcome};
use traced::Traced;

/// Runs the command of this process and returns its exit code.
pub fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    if arguments.global.no_color {
        console::set_colors_enabled(false);
        console::set_colors_enabled_stderr(false);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&CommandError::Failed(format!("cannot start: {error}"))),
    };
    let names = names(&matches);
    let outcome = runtime.block_on(async {
        let traced = Traced::begin(&names);
        let outcome = commands::run(arguments).await;
        traced.end(&outcome).await;
        outcome
    });
    match outcome {
        Ok(outcome) => outcome.into(),
        Err(error) => report(&error),
    }
}

/// Of the command and its verbs, without their arguments.
fn names(matches: &clap::ArgMatches) -> String {
    let mut names = "cakes".to_owned();
    let mut next = matches.subcommand();
    while let Some((name, matches)) = next {
        names = format!("{names} {name}");
        next = matches.subcommand();
    }
    names
}

fn report(error: &CommandError) -> ExitCode {
    if !error.is_broken_pipe() {
        for line in error.lines() {
            eprintln!("{} {line}", console::style("error:").red().bold().for_stderr());
        }
    }
    Outcome::from(error).into()
}
