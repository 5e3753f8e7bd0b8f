//! What is refused because of a limit: counted each time, logged seldom.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::metrics;

/// Whoever refuses thousands a second writes one line.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// By kind, of which there are few: when it was logged last, and how many came since.
static LOGGED: LazyLock<Mutex<HashMap<&'static str, Logged>>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Logged {
    at: Option<Instant>,
    since: u64,
}

/// A connection is closed.
pub(crate) fn connection(port: &'static str, reason: &'static str, address: IpAddr) {
    metrics().connections_refused.add([port, reason], 1);
    if let Some(more) = is_due(reason) {
        tracing::warn!(port, reason, %address, more, "a connection is closed because of a limit");
    }
}

/// A call is not served; `what` says whose, or of what there are too many.
pub(crate) fn call(reason: &'static str, what: &dyn Display) {
    metrics().calls_refused.add([reason], 1);
    if let Some(more) = is_due(reason) {
        tracing::warn!(reason, %what, more, "a call is refused because of a limit");
    }
}

/// How many were not logged before this one, if it is to be.
fn is_due(kind: &'static str) -> Option<u64> {
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    let logged = logged.entry(kind).or_default();
    if logged.at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
        logged.since += 1;
        return None;
    }
    logged.at = Some(Instant::now());
    Some(std::mem::take(&mut logged.since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_at_once_one_is_logged_and_the_next_line_counts_them() {
        assert_eq!(is_due("test"), Some(0));
        assert!((0..99).all(|_| is_due("test").is_none()));
        assert_eq!(is_due("other test"), Some(0));
        LOGGED.lock().unwrap().get_mut("test").unwrap().at = None;
        assert_eq!(is_due("test"), Some(99));
    }
}
