//! The commands: fetch, print, write. What is shown is decided elsewhere.

pub mod arch;
mod autoscale;
mod compare;
pub mod context;
mod curves;
pub mod dataset;
mod derive;
mod exchange;
mod follow;
pub mod job;
mod man;
pub mod project;
mod remark;
mod repeat;
mod reproduce;
pub mod search;
mod stored;
pub mod top;
mod watch;
pub mod webhook;
pub mod worker;

use clap::CommandFactory;

use crate::args::{Arguments, Noun};
use crate::error::{CommandError, Outcome};

/// Runs one command.
///
/// # Errors
/// Whatever kept it from doing what was asked.
pub async fn run(arguments: Arguments) -> Result<Outcome, CommandError> {
    let global = &arguments.global;
    match arguments.noun {
        Noun::Search(command) => Box::pin(search::run(global, command)).await,
        Noun::Job(command) => Box::pin(job::run(global, command)).await,
        Noun::Arch(command) => Box::pin(arch::run(global, command)).await,
        Noun::Worker(command) => worker::run(global, command).await,
        Noun::Project(command) => project::run(global, command).await,
        Noun::Webhook(command) => webhook::run(global, command).await,
        Noun::Dataset(command) => dataset::run(global, &command),
        Noun::Context(command) => context::run(global, command),
        Noun::Top(arguments) => Box::pin(top::run(global, &arguments)).await,
        Noun::Man { out } => man::write(&out),
        Noun::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "cakes", &mut script);
            crate::output::line(String::from_utf8_lossy(&script).trim_end())?;
            Ok(Outcome::Done)
        }
    }
}

/// Of things to list: 0 would be answered with as many as the coordinator likes.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be 1 or more".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("not a whole number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_listed() {
        assert_eq!(at_least_one("3000"), Ok(3000));
        assert!(at_least_one("0").is_err() && at_least_one("-1").is_err());
    }
}
