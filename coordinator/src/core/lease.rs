//! How long a worker may keep a job without a word, and what it is told.

use std::time::Duration;

use super::job::JobState;
use super::retry::Budgets;
use super::text::named;
use super::worker::Schedule;

/// What an operator can set about leases and retries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Time between the grant and the start of the trainer.
    pub offer_ttl: Duration,
    /// Time that a running attempt may stay silent.
    pub lease_ttl: Duration,
    pub budgets: Budgets,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            offer_ttl: Duration::from_secs(15),
            lease_ttl: Duration::from_secs(60),
            budgets: Budgets::default(),
        }
    }
}

/// What the coordinator wants of a running attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    Run,
    /// Stop: the job is cancelled.
    Cancel,
    /// Save a checkpoint and hand the job back.
    Yield,
}

named!(Desired, "desired state", { Run => "run", Cancel => "cancel", Yield => "yield" });

/// What a live attempt is to do, given its job, its worker, and whether it was told to make
/// way for another job.
pub fn desired(job: JobState, worker: Schedule, makes_way: bool) -> Desired {
    match (job, worker) {
        (JobState::Cancelling, _) => Desired::Cancel,
        (JobState::Pausing, _) | (_, Schedule::Draining) => Desired::Yield,
        _ if makes_way => Desired::Yield,
        _ => Desired::Run,
    }
}

/// What becomes of an attempt that a restarted daemon still knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    Kill,
}

/// When a sweep over all leases took place: by the database's clock and by this
/// process's steady one, each as time since any fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    pub database: Duration,
    pub steady: Duration,
}

/// What a sweep does with leases that have run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepAction {
    /// Takes them from their workers.
    Reap,
    /// Extends all live ones once: their workers may have been unable to renew.
    Amnesty,
}

/// The database's clock may run off by this much between two sweeps.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(2);

/// Decides what a sweep does.
///
/// Workers renew through the coordinator and the database. If either was away,
/// or the database's clock jumped, leases ran out that no worker could have
/// renewed; taking them would restart the whole healthy fleet. So a sweep that
/// does not follow closely upon another one grants a fresh term instead.
pub fn sweep_action(previous: Option<Sweep>, now: Sweep, lease_ttl: Duration) -> SweepAction {
    let Some(previous) = previous else { return SweepAction::Amnesty };
    let steady = now.steady.saturating_sub(previous.steady);
    let backwards = now.database < previous.database;
    let database = now.database.saturating_sub(previous.database);
    let off = database.abs_diff(steady) > CLOCK_STEP_MAX;
    let late = steady > longest_gap(lease_ttl);
    if backwards || off || late { SweepAction::Amnesty } else { SweepAction::Reap }
}

/// Workers renew several times per term, so a gap of a third of it costs nobody
/// a lease; a busy machine gets five seconds at least.
fn longest_gap(lease_ttl: Duration) -> Duration {
    (lease_ttl / 3).max(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(database_s: u64, steady_s: u64) -> Sweep {
        Sweep { database: Duration::from_secs(database_s), steady: Duration::from_secs(steady_s) }
    }

    #[test]
    fn only_a_sweep_close_upon_another_takes_leases() {
        let ttl = Duration::from_secs(60);
        let previous = Some(at(1000, 50));
        assert_eq!(sweep_action(None, at(1000, 50), ttl), SweepAction::Amnesty);
        assert_eq!(sweep_action(previous, at(1001, 51), ttl), SweepAction::Reap);
        assert_eq!(sweep_action(previous, at(1121, 171), ttl), SweepAction::Amnesty, "two minutes away");
        assert_eq!(sweep_action(previous, at(4600, 51), ttl), SweepAction::Amnesty, "clock jumped ahead");
        assert_eq!(sweep_action(previous, at(900, 51), ttl), SweepAction::Amnesty, "clock jumped back");
    }

    #[test]
    fn a_cancel_goes_before_a_drain() {
        assert_eq!(desired(JobState::Cancelling, Schedule::Draining, true), Desired::Cancel);
        assert_eq!(desired(JobState::Running, Schedule::Draining, false), Desired::Yield);
        assert_eq!(desired(JobState::Running, Schedule::Cordoned, false), Desired::Run);
        assert_eq!(desired(JobState::Running, Schedule::Ready, true), Desired::Yield);
        assert_eq!(desired(JobState::Pausing, Schedule::Ready, false), Desired::Yield);
    }
}
