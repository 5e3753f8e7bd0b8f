//! What daemons tell of themselves: metrics to Prometheus, traces to OpenTelemetry, errors to people.
//!
//! A [`Registry`] hands out counters, gauges and histograms and remembers what each of them
//! means: the reference page is made from that. [`serve`] answers scrapes. [`trace`] has
//! spans and sends them away. [`chain()`] says an error with its causes.

mod chain;
pub mod process;
mod registry;
pub mod serve;
pub mod trace;

pub use chain::chain;
pub use registry::{Counter, Counters, Description, Gauge, Gauges, Histogram, Histograms, Kind, Registry};
