//! How much the coordinator serves, measured on real processes: coordinator,
//! durable Postgres, and fake workers over real connections.
//!
//! Everything shares one machine, the load generator too; ratios within one run
//! are what counts.

pub mod abuse;
pub mod fleet;
pub mod queue;
pub mod sql;

pub mod fill;
mod latency;
mod limit;
pub mod postgres;
mod rig;
mod usage;

use std::path::PathBuf;

pub(crate) use latency::Sorted;
pub use usage::allow_open_files;
pub(crate) use usage::{open_files, rss_mib};

/// Where a bench keeps its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Must not lie in memory: commits are to wait for a disk.
    pub parent: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        Place { parent: std::env::temp_dir() }
    }
}
