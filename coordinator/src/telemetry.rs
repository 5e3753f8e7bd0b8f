//! The log: to standard error, because standard output carries the start-up line.

use std::io::IsTerminal;

use cakes_telemetry::trace::DatabaseSpans;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::LogFormat;

/// Installs the log for the whole process. A second call changes nothing.
/// With `traces` statements of the database become spans where somebody records them.
pub fn init(format: LogFormat, level: &str, traces: bool) {
    // Postgres tells that a table is there which was to be made unless it is there; h2 says
    // of each connection that it closes because of its peer, of which there may be thousands.
    let level = format!("sqlx::postgres::notice=warn,h2=error,{level}");
    // The level was checked with the settings; the fallback is never reached.
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let log = match format {
        LogFormat::Text => log.boxed(),
        LogFormat::Json => log.json().flatten_event(true).boxed(),
    };
    // One filter for all is cheaper than one for each.
    let installed = match traces {
        false => tracing_subscriber::registry().with(log).with(filter).try_init(),
        true => {
            let log = log.with_filter(filter);
            tracing_subscriber::registry().with(log).with(DatabaseSpans::layer()).try_init()
        }
    };
    // Only a test that starts several daemons in one process gets here twice.
    drop(installed);
}
