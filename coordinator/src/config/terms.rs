//! Settings about leases, what is kept, and who makes way.

use std::time::Duration;

use cakes_planner::Policy;

use super::{
    ConfigError, DATABASE_CONNECTIONS, DISK_HIGH_PERCENT, DISK_LOW_PERCENT, KEEP_CHECKPOINTS,
    KEEP_CHECKPOINTS_MAX, LEASE_TTL, LeaseTimes, OFFER_TTL, ORPHAN_AGE, ORPHAN_AGE_MAX, REPORT_INTERVAL,
    Retention, Settings, check_duration, invalid,
};
use crate::core::retention::Watermarks;

const MIN_RUN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What an operator can set of the planner of jobs; the rest are its defaults.
pub(super) fn planning(settings: &Settings) -> Result<Policy, ConfigError> {
    let mut policy = Policy::default();
    if let Some(min_run) = settings.min_run {
        if min_run > MIN_RUN_MAX {
            let problem = format!("must be at most 30days, got {}", humantime::format_duration(min_run));
            return Err(invalid("--min-run", problem));
        }
        policy.min_run_s = min_run.as_secs();
    }
    policy.preemption_count_max = settings.preemption_count_max.unwrap_or(policy.preemption_count_max);
    Ok(policy)
}

pub(super) fn connections(connections: Option<u32>) -> Result<u32, ConfigError> {
    match connections.unwrap_or(DATABASE_CONNECTIONS) {
        // Below four, planning and serving would wait for each other.
        count @ 4..=500 => Ok(count),
        count => Err(invalid("--database-connections", format!("must be 4 to 500, got {count}"))),
    }
}

pub(super) fn leases(
    lease_ttl: Option<Duration>,
    offer_ttl: Option<Duration>,
    report_interval: Option<Duration>,
) -> Result<LeaseTimes, ConfigError> {
    let lease_ttl = check_duration("--lease-ttl", lease_ttl.unwrap_or(LEASE_TTL))?;
    let offer_ttl = check_duration("--offer-ttl", offer_ttl.unwrap_or(OFFER_TTL))?;
    let report_interval = check_duration("--report-interval", report_interval.unwrap_or(REPORT_INTERVAL))?;
    if lease_ttl <= report_interval * 3 {
        let problem = format!(
            "{} must be more than three times --report-interval ({}), or one lost report loses the job",
            humantime::format_duration(lease_ttl),
            humantime::format_duration(report_interval),
        );
        return Err(invalid("--lease-ttl", problem));
    }
    Ok(LeaseTimes { lease_ttl, offer_ttl, report_interval })
}

pub(super) fn retention(settings: &Settings) -> Result<Retention, ConfigError> {
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
