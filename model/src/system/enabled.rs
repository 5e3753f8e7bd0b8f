//! What may happen next by itself: steps of daemons and sweeps.

use super::{Action, State, System};
use crate::daemon::{Daemon, Stage};
use crate::database::{Lease, Token};
use crate::mutant::Mutant;

impl System {
    pub(super) fn daemon_actions(
        &self,
        worker: u8,
        daemon: &Daemon,
        crashes_left: bool,
        actions: &mut Vec<Action>,
    ) {
        if let Stage::Working(work) = daemon.stage {
            if work.started {
                if work.step < self.steps {
                    actions.push(Action::Train { worker });
                }
                if work.sent == work.acked && work.last_seq() > work.sent {
                    actions.push(Action::Report { worker });
                }
                let due = work.step > work.saved && self.saves.contains(&work.step);
                if due && work.saved == work.stored.step {
                    actions.push(Action::Save { worker });
                    // Otherwise the commit is asked for before the trainer's last word.
                    if work.step == self.steps {
                        actions.push(Action::SaveLast { worker });
                    }
                }
                actions.extend(self.failures.iter().map(|class| Action::Fail { worker, class: *class }));
            }
            if self.fences {
                actions.push(Action::Fence { worker });
            }
            if self.drops {
                actions.push(Action::Drop { worker });
            }
        }
        if let Stage::Telling { conclusion, .. } = daemon.stage
            && conclusion.is_complete()
            && self.breaks(Mutant::GiveUpOnComplete)
        {
            actions.push(Action::Drop { worker });
        }
        if crashes_left && !matches!(daemon.stage, Stage::Registering | Stage::Resting) {
            actions.push(Action::CrashDaemon { worker });
        }
    }

    pub(super) fn sweep_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (job, row) in (0..).zip(&state.rows.jobs) {
            for attempt in &row.attempts {
                let token = Token { job, epoch: attempt.epoch, nonce: attempt.nonce };
                match attempt.lease {
                    Some(Lease::Lasts) => actions.push(Action::RunOut { token }),
                    Some(Lease::RanOut) => {
                        // Two sweeps that read the same lease do the same.
                        let free = state.sweeps.iter().position(Option::is_none);
                        let free = free.filter(|_| !state.sweeps.contains(&Some(token)));
                        actions.extend(free.map(|sweep| Action::Look { sweep, token }));
                    }
                    None => {}
                }
            }
        }
        for (sweep, seen) in state.sweeps.iter().enumerate() {
            if seen.is_some() {
                actions.push(Action::Take { sweep });
                if state.crashes < self.crashes {
                    actions.push(Action::CrashCoordinator { sweep });
                }
            }
        }
        if self.amnesty {
            actions.push(Action::Amnesty);
        }
    }
}
