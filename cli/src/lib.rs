//! The command `cakes`: searches, jobs, architectures, workers and data sets
//! from a terminal.
//!
//! ```text
//! arguments ─► commands/* ─► client ─► coordinator
//!                 │             (gRPC; errors explained in error)
//!                 │             settings: which coordinator
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

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::Arguments;
use error::{CommandError, Outcome};

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
    match runtime.block_on(commands::run(arguments)) {
        Ok(outcome) => outcome.into(),
        Err(error) => report(&error),
    }
}

fn report(error: &CommandError) -> ExitCode {
    if !error.is_broken_pipe() {
        for line in error.lines() {
            eprintln!("{} {line}", console::style("error:").red().bold().for_stderr());
        }
    }
    Outcome::from(error).into()
}
