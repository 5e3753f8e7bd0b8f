//! The log: to standard error, because standard output carries the start-up line.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Installs the log for the whole process. A second call changes nothing.
pub fn init(format: LogFormat, level: &str) {
    // Postgres tells that a table is there which was to be made unless it is there; h2 says
    // of each connection that it closes because of its peer, of which there may be thousands.
    let level = format!("sqlx::postgres::notice=warn,h2=error,{level}");
    // The level was checked with the settings; the fallback is never reached.
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    // Only a test that starts several daemons in one process gets here twice.
    drop(installed);
}
