//! The daemon `cakes-coordinator`.

use std::process::ExitCode;

use cakes_coordinator::command::{Command, Invocation};
use cakes_coordinator::config::{Config, ConfigError};
use cakes_coordinator::shutdown::Shutdown;
use cakes_coordinator::simulate_command::SimulateArgs;
use cakes_coordinator::{access_command, app, pki_command, simulate_command, telemetry};
use cakes_telemetry::chain;

/// Exit codes: what sysexits and shells lead people to expect.
const USAGE: u8 = 2;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let Invocation { config, command } = match Invocation::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        // Prints help and version to standard output, errors to standard error.
        Err(ConfigError::CommandLine(error)) => error.exit(),
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return ExitCode::from(USAGE);
        }
    };
    telemetry::init(config.log_format, &config.log_level, config.traces.is_some());
    let ended = match command {
        None => run(config),
        Some(Command::Pki(command)) => {
            pki_command::run(&config, command).map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from)
        }
        Some(Command::Simulate(arguments)) => return simulate(arguments),
        Some(command) => administer(config, command),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn simulate(arguments: SimulateArgs) -> ExitCode {
    match simulate_command::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(USAGE)
        }
    }
}

#[tokio::main]
async fn administer(config: Config, command: Command) -> anyhow::Result<ExitCode> {
    access_command::run(config, command).await?;
    Ok(ExitCode::SUCCESS)
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::default();
    shutdown.listen_to_signals(config.drain_time)?;
    let abort = shutdown.abort.clone();
    let daemon = Box::pin(app::run(config, shutdown));
    tokio::select! {
        result = daemon => result.map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from),
        // The private Postgres has a guardian that stops it when we are gone.
        () = abort.cancelled() => std::process::exit(INTERRUPTED.into()),
    }
}
