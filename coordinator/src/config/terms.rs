//! Settings about connections to the database, leases, and who makes way.

use std::time::Duration;

use cakes_planner::Policy;

use super::{
    ConfigError, DATABASE_CONNECTIONS, LEASE_TTL, LeaseTimes, OFFER_TTL, REPORT_INTERVAL, Settings,
    check_duration, invalid,
};

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

/// None without a word: who stops it by hand waits for nothing.
pub(super) fn drain_time(drain_time: Option<Duration>) -> Result<Duration, ConfigError> {
    match drain_time.unwrap_or_default() {
        Duration::ZERO => Ok(Duration::ZERO),
        time => check_duration("--drain-time", time),
    }
}

pub(super) fn connections(connections: Option<u32>) -> Result<u32, ConfigError> {
    match connections.unwrap_or(DATABASE_CONNECTIONS) {
        // Below five, planning and serving would wait for each other.
        count @ 5..=500 => Ok(count),
        count => Err(invalid("--database-connections", format!("must be 5 to 500, got {count}"))),
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
