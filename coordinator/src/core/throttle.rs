//! How fast one caller may call, and how much it may have under way.
//!
//! Time is an argument: whatever has passed since some moment, and never goes back.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::net::IpAddr;
use std::time::Duration;

/// Who is counted as one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Somebody known. A worker and a person of one name are two.
    Named { role: &'static str, name: String },
    /// Whoever is trusted without a name at this address: perhaps a whole fleet.
    Trusted(IpAddr),
    /// Whoever is neither known nor trusted.
    Stranger(IpAddr),
}

impl Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Named { role, name } => write!(f, "{role} '{name}'"),
            Who::Trusted(address) | Who::Stranger(address) => write!(f, "{address}"),
        }
    }
}

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// For as long as wanted.
    pub per_s: f64,
    /// At once, after a pause.
    pub burst: f64,
}

/// What callers may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Calls and streams under way, of all callers.
    pub calls: usize,
    /// The same of one identity.
    pub calls_of_identity: usize,
    pub rate_of_identity: Rate,
    /// Calls without an identity from one address, where none is needed.
    pub rate_of_address: Rate,
}

impl Default for Limits {
    /// A worker has about two calls per device under way and makes one a second. An address
    /// without names is one machine with all its workers, or 5,000 of them at their first
    /// call together.
    fn default() -> Self {
        Limits {
            calls: 8192,
            calls_of_identity: 128,
            rate_of_identity: Rate { per_s: 500.0, burst: 2000.0 },
            rate_of_address: Rate { per_s: 5000.0, burst: 20_000.0 },
        }
    }
}

impl Limits {
    fn rate(&self, who: &Who) -> Rate {
        match who {
            Who::Named { .. } | Who::Stranger(_) => self.rate_of_identity,
            Who::Trusted(_) => self.rate_of_address,
        }
    }

    /// Whoever shares an address leaves a quarter of all to others.
    fn calls(&self, who: &Who) -> usize {
        match who {
            Who::Named { .. } | Who::Stranger(_) => self.calls_of_identity,
            Who::Trusted(_) => (self.calls - self.calls / 4).max(1),
        }
    }
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The caller calls too often; then it may again.
    TooFast { retry_after: Duration },
    /// The caller has as many calls under way as it may.
    TooMany { limit: usize },
    /// All together have.
    Busy { limit: usize },
}

/// What is under way, and how fast each caller calls.
#[derive(Debug)]
pub struct Throttle {
    limits: Limits,
    accounts: HashMap<Who, Account>,
    under_way: usize,
    /// So many accounts are worth a look for those that say nothing.
    sweep_at: usize,
}

#[derive(Debug)]
struct Account {
    under_way: usize,
    /// Calls that may come at once, at `at`.
    tokens: f64,
    at: Duration,
}

/// Accounts that are not worth a look.
const SWEEP_AT_LEAST: usize = 1024;

impl Throttle {
    pub fn new(limits: Limits) -> Self {
        Throttle { limits, accounts: HashMap::new(), under_way: 0, sweep_at: SWEEP_AT_LEAST }
    }

    /// A call begins.
    ///
    /// # Errors
    /// It may not.
    pub fn enter(&mut self, who: &Who, now: Duration) -> Result<(), Refused> {
        let (rate, most) = (self.limits.rate(who), self.limits.calls(who));
        if self.accounts.len() >= self.sweep_at {
            self.sweep(now);
        }
        if !self.accounts.contains_key(who) {
            self.accounts.insert(who.clone(), Account { under_way: 0, tokens: rate.burst, at: now });
        }
        let Some(account) = self.accounts.get_mut(who) else { return Ok(()) };
        account.tokens = account.filled(rate, now);
        account.at = account.at.max(now);
        if account.tokens < 1.0 {
            let retry_after = Duration::from_secs_f64((1.0 - account.tokens) / rate.per_s);
            return Err(Refused::TooFast { retry_after });
        }
        if account.under_way >= most {
            return Err(Refused::TooMany { limit: most });
        }
        if self.under_way >= self.limits.calls {
            return Err(Refused::Busy { limit: self.limits.calls });
        }
        account.tokens -= 1.0;
        account.under_way += 1;
        self.under_way += 1;
        Ok(())
    }

    /// A call that had begun has ended.
    pub fn leave(&mut self, who: &Who) {
        if let Some(account) = self.accounts.get_mut(who)
            && account.under_way > 0
        {
            account.under_way -= 1;
            self.under_way -= 1;
        }
    }

    /// Forgets whoever has nothing under way and could do all at once again.
    fn sweep(&mut self, now: Duration) {
        let limits = self.limits;
        self.accounts.retain(|who, account| {
            let rate = limits.rate(who);
            account.under_way > 0 || account.filled(rate, now) < rate.burst
        });
        self.sweep_at = (2 * self.accounts.len()).max(SWEEP_AT_LEAST);
    }
}

impl Account {
    fn filled(&self, rate: Rate, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        (self.tokens + passed * rate.per_s).min(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        calls: 8,
        calls_of_identity: 3,
        rate_of_identity: Rate { per_s: 2.0, burst: 5.0 },
        rate_of_address: Rate { per_s: 20.0, burst: 50.0 },
    };

    fn named(name: &str) -> Who {
        Who::Named { role: "viewer", name: name.to_owned() }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let mut throttle = Throttle::new(LIMITS);
        let (anna, start) = (named("anna"), Duration::from_secs(7));
        let mut call = |now| {
            let entered = throttle.enter(&anna, now);
            if entered.is_ok() {
                throttle.leave(&anna);
            }
            entered
        };
        for _ in 0..5 {
            assert_eq!(call(start), Ok(()));
        }
        let Err(Refused::TooFast { retry_after }) = call(start) else { panic!("a burst without an end") };
        assert_eq!(retry_after, Duration::from_millis(500));
        // Whoever waits as long as it is told is served.
        assert_eq!(call(start + retry_after), Ok(()));
        assert!(call(start + retry_after).is_err());
        // A clock that goes back gives nothing.
        assert!(call(Duration::ZERO).is_err());
        assert_eq!(call(start + Duration::from_secs(2)), Ok(()));
    }

    #[test]
    fn one_caller_takes_no_places_of_others() {
        let mut throttle = Throttle::new(LIMITS);
        let now = Duration::ZERO;
        for _ in 0..3 {
            assert_eq!(throttle.enter(&named("anna"), now), Ok(()));
        }
        assert_eq!(throttle.enter(&named("anna"), now), Err(Refused::TooMany { limit: 3 }));
        // A worker of the same name is another.
        let worker = Who::Named { role: "worker", name: "anna".to_owned() };
        assert_eq!(throttle.enter(&worker, now), Ok(()));
        throttle.leave(&named("anna"));
        assert_eq!(throttle.enter(&named("anna"), now), Ok(()));
        for _ in 0..4 {
            assert_eq!(throttle.enter(&Who::Trusted(address(1)), now), Ok(()));
        }
        assert_eq!(throttle.enter(&Who::Trusted(address(2)), now), Err(Refused::Busy { limit: 8 }));
    }

    #[test]
    fn an_address_without_names_leaves_a_quarter_to_others() {
        let mut throttle = Throttle::new(LIMITS);
        let now = Duration::ZERO;
        let entered = (0..50).filter(|_| throttle.enter(&Who::Trusted(address(1)), now).is_ok()).count();
        assert_eq!(entered, 6);
        assert_eq!(throttle.enter(&Who::Stranger(address(1)), now), Ok(()));
    }

    #[test]
    fn many_addresses_fill_no_memory() {
        let mut throttle = Throttle::new(LIMITS);
        for number in 0..200_000_u32 {
            let who = Who::Stranger(IpAddr::from(number.to_be_bytes()));
            let now = Duration::from_millis(u64::from(number));
            throttle.enter(&who, now).unwrap();
            throttle.leave(&who);
        }
        assert!(throttle.accounts.len() <= 2 * SWEEP_AT_LEAST, "{}", throttle.accounts.len());
        assert_eq!(throttle.under_way, 0);
    }

    proptest! {
        #[test]
        fn no_more_pass_than_burst_and_rate_allow(steps in prop::collection::vec((0_u64..400, 0_u8..3), 1..300)) {
            let mut throttle = Throttle::new(LIMITS);
            let mut now = Duration::ZERO;
            let mut passed = [0_u32; 3];
            for (pause_ms, caller) in steps {
                now += Duration::from_millis(pause_ms);
                let who = named(&caller.to_string());
                if throttle.enter(&who, now).is_ok() {
                    throttle.leave(&who);
                    passed[usize::from(caller)] += 1;
                }
                let most = 5.0 + 2.0 * now.as_secs_f64() + 1e-6;
                prop_assert!(passed.iter().all(|count| f64::from(*count) <= most), "{:?} {:?}", passed, now);
                prop_assert_eq!(throttle.under_way, 0);
            }
        }
    }
}
