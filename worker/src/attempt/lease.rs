//! How sure the daemon may be that an attempt is still its own.
//!
//! Time counts from the *sending* of the last call that was acknowledged: an
//! answer that took long must not make the lease longer than the coordinator
//! believes it to be.

use std::time::Duration;

/// The lease of one attempt, as this side knows it.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    stage: Stage,
    sent_at: Duration,
    ttl: Duration,
    /// Share of `ttl` after which this side stops training.
    fence_share: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Offered,
    Starting,
    Held,
}

impl Lease {
    pub fn offered(sent_at: Duration, offer_ttl: Duration, fence_share: f64) -> Self {
        Lease { stage: Stage::Offered, sent_at, ttl: offer_ttl, fence_share }
    }

    pub fn is_held(&self) -> bool {
        self.stage == Stage::Held
    }

    /// Whether Start must be sent now: the trainer runs, or half of the offer's
    /// time is over because a checkpoint takes long to fetch. Says so once.
    pub fn start_is_due(&mut self, trainer_settled: bool, now: Duration) -> bool {
        let half = self.sent_at + self.ttl / 2;
        let due = self.stage == Stage::Offered && (trainer_settled || now >= half);
        if due {
            self.stage = Stage::Starting;
        }
        due
    }

    /// Start or a report, sent at `sent_at`, was acknowledged.
    pub fn renewed(&mut self, sent_at: Duration, ttl: Duration) {
        let sent_at = self.sent_at.max(sent_at);
        *self = Lease { stage: Stage::Held, sent_at, ttl, ..*self };
    }

    /// How long it lasts behind a renewal.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// From here on another worker may soon hold the job. Under an offer nothing
    /// can be recorded yet, so all of its time may be used.
    pub fn fence_at(&self) -> Duration {
        let share = if self.is_held() { self.fence_share } else { 1.0 };
        self.sent_at + self.ttl.mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_late_answer_does_not_extend_the_lease() {
        let mut lease = Lease::offered(s(0), s(15), 0.75);
        assert_eq!(lease.fence_at(), s(15));
        assert!(!lease.start_is_due(false, s(7)));
        assert!(lease.start_is_due(false, s(8)));
        assert!(!lease.start_is_due(true, s(9)), "Start is sent once");
        lease.renewed(s(8), s(60));
        assert_eq!(lease.fence_at(), s(8 + 45));
        // Sent at 20; that its answer came at 50 plays no part.
        lease.renewed(s(20), s(60));
        assert_eq!(lease.fence_at(), s(20 + 45));
        lease.renewed(s(10), s(60));
        assert_eq!(lease.fence_at(), s(20 + 45), "answers out of order");
    }
}
