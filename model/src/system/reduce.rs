//! Which states are the same: what can change nothing is forgotten, and equal
//! machines stand in one order.

use super::{State, System};
use crate::daemon::Stage;
use crate::database::{AttemptRow, Call, Checkpoint, Life};
use crate::mutant::Mutant;

impl System {
    /// Forgets what can change nothing any more and what nobody listens to:
    ///
    /// - calls of attempts that have ended, once their daemon has turned to
    ///   something else. That such calls change nothing, whatever they hold, is
    ///   what S3 looks at in every state.
    /// - calls of the live attempt that are done and that the daemon knows to be
    ///   done. Of reports that are stored the last one stays: it renews the lease,
    ///   and so would the others, with the same answer.
    /// - questions of an incarnation that is not the current one;
    /// - expired leases, read by a sweep, of attempts that have ended.
    pub(super) fn forget(&self, state: &mut State) {
        let State { network, rows, daemons, sweeps, .. } = state;
        let journal = |token| {
            daemons.iter().find(|daemon| daemon.journal.is_some_and(|journal| journal.token == token))
        };
        let waits = |call: &Call| {
            (0..).zip(daemons.iter()).any(|(worker, daemon)| daemon.call(worker) == Some(*call))
        };
        let last_stored = |token, last_seq: u8| {
            let of_token = network.iter().filter_map(|call| match *call {
                Call::Report { token: of, first_seq, count, .. } if of == token => {
                    Some(first_seq + count - 1)
                }
                _ => None,
            });
            of_token.filter(|last| *last <= last_seq).max()
        };
        let matters = |call: &Call| {
            if waits(call) {
                return true;
            }
            match *call {
                Call::Acquire { worker, incarnation, .. } | Call::Reconcile { worker, incarnation, .. } => {
                    rows.workers[usize::from(worker)].is_none_or(|row| row.incarnation <= incarnation)
                }
                Call::Start { token }
                | Call::Report { token, .. }
                | Call::Commit { token, .. }
                | Call::Complete { token, .. }
                | Call::Fail { token, .. } => {
                    let Some(attempt) = rows.attempt(token) else { return true };
                    let work = journal(token).map(|daemon| daemon.stage);
                    if !attempt.lives() {
                        return matches!(work, Some(Stage::Working(_)));
                    }
                    match *call {
                        Call::Start { .. } => attempt.life == Life::Offered,
                        Call::Report { first_seq, count, .. } => {
                            let last = first_seq + count - 1;
                            last > attempt.last_seq || Some(last) == last_stored(token, attempt.last_seq)
                        }
                        Call::Commit { step, .. } => {
                            let done = Checkpoint { epoch: token.epoch, step };
                            let known = match work {
                                Some(Stage::Working(work)) => work.stored.step >= step,
                                _ => true,
                            };
                            let committed = rows.jobs[usize::from(token.job)].is_committed(done);
                            let repeats =
                                self.breaks(Mutant::RaiseAlways) || self.breaks(Mutant::ForgetCondemned);
                            !(committed && known) || repeats
                        }
                        _ => true,
                    }
                }
                _ => true,
            }
        };
        let kept: Vec<Call> = network.iter().copied().filter(matters).collect();
        for seen in sweeps.iter_mut() {
            *seen = seen.filter(|token| rows.attempt(*token).is_some_and(AttemptRow::lives));
        }
        *network = kept;
    }

    /// The same state with workers and sweeps in one order: which of two equal
    /// machines is called the first makes no difference.
    pub(super) fn canonical(state: &mut State) {
        state.sweeps.sort_unstable();
        state.sweeps.reverse();
        if state.daemons.len() != 2 {
            return;
        }
        let key = |index: usize| (&state.daemons[index], &state.rows.workers[index]);
        if key(0) <= key(1) {
            return;
        }
        state.daemons.swap(0, 1);
        state.rows.workers.swap(0, 1);
        let swap = |attempt: &mut AttemptRow| attempt.worker = 1 - attempt.worker;
        let rows = std::iter::once(&mut state.rows).chain(state.standby.as_deref_mut());
        for (index, rows) in rows.enumerate() {
            if index == 1 {
                rows.workers.swap(0, 1);
            }
            rows.jobs.iter_mut().flat_map(|job| &mut job.attempts).for_each(swap);
        }
        for call in &mut state.network {
            match call {
                Call::Register { worker, .. }
                | Call::Acquire { worker, .. }
                | Call::Reconcile { worker, .. } => *worker = 1 - *worker,
                _ => {}
            }
        }
        state.network.sort_unstable();
    }
}
