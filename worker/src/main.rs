//! `cakes-worker`: leases jobs and trains them on this machine.

use std::process::ExitCode;

use cakes_telemetry::chain;
use cakes_worker::config::{Cli, Command, Config, ConfigError};
use cakes_worker::devices::DeviceError;
use cakes_worker::journal::JournalError;
use cakes_worker::session::SessionError;
use cakes_worker::{app, doctor, telemetry};
use clap::Parser;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            let of_user =
                error.is::<ConfigError>() || error.is::<DeviceError>() || error.is::<JournalError>();
            let of_two = matches!(error.downcast_ref::<SessionError>(), Some(SessionError::Namesake { .. }));
            ExitCode::from(match (of_two, of_user) {
                // Started again it would end the jobs of its namesake: the unit of systemd knows it.
                (true, _) => 3,
                (_, true) => 2,
                _ => 1,
            })
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let Cli { flags, command } = Cli::parse();
    if let Some(Command::Doctor(arguments)) = command {
        return doctor::run(&arguments);
    }
    let config = Config::load(&flags)?;
    telemetry::start(&config.log_level, config.log_format)
        .map_err(|problem| ConfigError::Value { setting: "log_level", problem })?;
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(app::run(config));
    // Blocking file work that nobody waits for must not hold up the end.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}
