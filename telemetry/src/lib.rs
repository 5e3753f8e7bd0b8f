//! What daemons tell of themselves to Prometheus.
//!
//! A [`Registry`] hands out counters, gauges and histograms and remembers what each of them
//! means: the reference page is made from that. [`serve`] answers scrapes.

pub mod process;
mod registry;
pub mod serve;

pub use registry::{Counter, Counters, Description, Gauge, Gauges, Histogram, Histograms, Kind, Registry};
