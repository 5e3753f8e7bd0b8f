//! Settings about which checkpoints are kept.

use std::time::Duration;

use super::{ConfigError, Settings, invalid};
use crate::core::retention::Watermarks;

const KEEP_CHECKPOINTS: u32 = 3;
const KEEP_CHECKPOINTS_MAX: u32 = 10_000;
const DISK_HIGH_PERCENT: u8 = 90;
const DISK_LOW_PERCENT: u8 = 80;
const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);
const ORPHAN_AGE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is kept of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Newest checkpoints of a job that has not succeeded.
    pub newest: usize,
    /// Of the artifact disk.
    pub marks: Watermarks,
    /// Least age of what is removed because nobody names it.
    pub orphan_age: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let marks = Watermarks { high_percent: DISK_HIGH_PERCENT, low_percent: DISK_LOW_PERCENT };
        Retention { newest: KEEP_CHECKPOINTS as usize, marks, orphan_age: ORPHAN_AGE }
    }
}

pub(super) fn check(settings: &Settings) -> Result<Retention, ConfigError> {
    let newest = settings.keep_checkpoints.unwrap_or(KEEP_CHECKPOINTS);
    if newest > KEEP_CHECKPOINTS_MAX {
        let problem = format!("must be 0 to {KEEP_CHECKPOINTS_MAX}, got {newest}");
        return Err(invalid("--keep-checkpoints", problem));
    }
    let high_percent = settings.disk_high_percent.unwrap_or(DISK_HIGH_PERCENT);
    // Who sets only one of them means the other to follow.
    let low_percent =
        settings.disk_low_percent.unwrap_or(DISK_LOW_PERCENT.min(high_percent.saturating_sub(1)));
    if low_percent >= high_percent || high_percent > 100 {
        let problem = format!(
            "must be below --disk-high-percent, which is at most 100; got {low_percent} and {high_percent}"
        );
        return Err(invalid("--disk-low-percent", problem));
    }
    let orphan_age = settings.orphan_age.unwrap_or(ORPHAN_AGE);
    if !(Duration::from_secs(1)..=ORPHAN_AGE_MAX).contains(&orphan_age) {
        let problem = format!("must be 1s to 365days, got {}", humantime::format_duration(orphan_age));
        return Err(invalid("--orphan-age", problem));
    }
    let marks = Watermarks { high_percent, low_percent };
    Ok(Retention { newest: newest as usize, marks, orphan_age })
}
