//! The two clocks of the daemon.
//!
//! Leases are timed with the clock that goes on while the machine is suspended
//! (`CLOCK_BOOTTIME`): a laptop that slept for an hour has lost its lease, and
//! the ordinary monotonic clock would not notice. The wall clock only stamps
//! metrics and log lines for people.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the machine started, time in suspension included.
    pub since_boot: Duration,
    pub wall: SystemTime,
}

impl Now {
    pub fn read() -> Self {
        Now { since_boot: since_boot(), wall: SystemTime::now() }
    }
}

/// Time since the machine started, suspension included.
pub fn since_boot() -> Duration {
    // Linux always has the clock; elsewhere the monotonic one is next best.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC));
    time.map(Duration::from).unwrap_or_default()
}
