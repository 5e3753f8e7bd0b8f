//! What each step does: calls run, daemons hear and act, objects come and go.

use cakes_coordinator::core::retry::FailureClass;

use super::{State, System};
use crate::daemon::{Conclusion, Daemon, Limits, Stage, Work};
use crate::database::{Answer, Call, Checkpoint, Rows, Token, World, execute, unneeded};
use crate::mutant::Mutant;
use crate::property::{Object, Safety, Witness, watch_call};

impl System {
    /// Runs a call as a transaction and watches it.
    pub(super) fn run(&self, state: &mut State, call: &Call) -> Answer {
        let before = state.rows.clone();
        let world = World {
            budgets: &self.budgets,
            rules: self.rules,
            fresh_nonce: state.grants + 1,
            newest_object: state
                .objects
                .iter()
                .map(|(token, step)| Checkpoint { epoch: token.epoch, step: *step })
                .max_by_key(|object| object.step),
        };
        let answer = execute(&mut state.rows, call, &world);
        watch_call(&mut state.breaches, &before, &state.rows, call, answer);
        let grants = |rows: &Rows| rows.jobs.iter().map(|job| job.attempts.len()).sum::<usize>();
        state.grants += u8::from(grants(&before) < grants(&state.rows));
        if before != state.rows {
            state.retries += u8::from(matches!(call, Call::Retry { .. }));
            if state.standby.is_some() {
                state.standby = Some(Box::new(before));
            }
        }
        answer
    }

    pub(super) fn deliver(&self, state: &mut State, call: &Call, arrives: bool) {
        let before = self.witness.then(|| state.clone());
        let answer = self.run(state, call);
        let once = matches!(call, Call::Pause { .. } | Call::Resume { .. } | Call::Retry { .. });
        if once {
            state.network.retain(|sent| sent != call);
        }
        if arrives {
            self.hear(state, call, answer);
        }
        if let Some(before) = before {
            let heard = before.daemons != state.daemons;
            for (index, witness) in Witness::ALL.iter().enumerate() {
                let shown = witness.is_shown(&before.rows, &state.rows, call, answer, heard);
                state.shown |= u8::from(shown) << index;
            }
        }
    }

    /// The daemon that waits for an answer to the call.
    pub(super) fn caller(state: &State, call: &Call) -> Option<usize> {
        match *call {
            Call::Register { worker, .. } | Call::Acquire { worker, .. } | Call::Reconcile { worker, .. } => {
                Some(usize::from(worker))
            }
            _ => {
                let token = call.token()?;
                state
                    .daemons
                    .iter()
                    .position(|daemon| daemon.journal.is_some_and(|journal| journal.token == token))
            }
        }
    }

    pub(super) fn hear(&self, state: &mut State, call: &Call, answer: Answer) {
        if let Some(worker) = System::caller(state, call) {
            self.change(state, worker, |daemon, limits| daemon.hear(call, answer, limits));
        }
    }

    /// Changes a daemon, sends what it then calls, and watches its journal.
    pub(super) fn change(&self, state: &mut State, worker: usize, change: impl FnOnce(&mut Daemon, &Limits)) {
        let before = state.daemons[worker].journal;
        change(&mut state.daemons[worker], &self.limits());
        let after = state.daemons[worker].journal;
        if let Some(journal) = before {
            let decided = journal.conclusion.is_some_and(Conclusion::is_complete);
            let forgotten = after.is_none_or(|after| after.token != journal.token);
            let wanted = state.rows.is_current(journal.token);
            state.breaches.note(Safety::S5, decided && forgotten && wanted);
        }
        if let Some(call) = state.daemons[worker].call(u8::try_from(worker).unwrap_or(u8::MAX)) {
            send(state, call);
        }
    }

    /// Delivers the first calls of everybody: daemons ask for a job, and jobs wait.
    pub(super) fn prepare(&self, state: &mut State) {
        let submissions = self.intents.iter().copied().filter(|call| matches!(call, Call::Submit { .. }));
        for call in submissions {
            self.deliver(state, &call, false);
        }
        for worker in 0..self.workers {
            for _ in 0..2 {
                let call = state.daemons[worker].call(u8::try_from(worker).unwrap_or(u8::MAX));
                if let Some(call) = call {
                    self.deliver(state, &call, true);
                }
            }
        }
        self.forget(state);
    }

    pub(super) fn train(&self, state: &mut State, worker: usize) {
        self.change(state, worker, |daemon, limits| {
            if let Some(work) = daemon.work() {
                work.step += 1;
            }
            daemon.complete_if_delivered(limits);
        });
    }

    pub(super) fn report(state: &mut State, worker: usize) {
        let Some((token, work)) = work_of(&mut state.daemons[worker]) else { return };
        let first_seq = work.acked + 1;
        let count = work.last_seq() - work.acked;
        let first_step = work.resume.step + first_seq;
        let call = Call::Report { token, first_seq, count, first_step, step: work.step };
        work.sent = work.last_seq();
        send(state, call);
    }

    /// `worker/src/calls.rs`, `upload`: created if absent; then committed, or kept for the
    /// completion.
    pub(super) fn save(&self, state: &mut State, worker: usize, keeps: bool) {
        let Some((token, work)) = work_of(&mut state.daemons[worker]) else { return };
        let step = work.step;
        work.saved = step;
        work.keeps = keeps;
        let object = (token, step);
        let by_step = |(other, saved): &Object| other.job == token.job && *saved == step && *other != token;
        let taken = self.breaks(Mutant::KeyByStep) && state.objects.iter().any(by_step);
        state.breaches.note(Safety::S11, taken);
        if let Err(place) = state.objects.binary_search(&object) {
            state.objects.insert(place, object);
        }
        if keeps {
            self.change(state, worker, |daemon, limits| daemon.complete_if_delivered(limits));
        } else {
            send(state, Call::Commit { token, step });
        }
    }

    /// The collector's rule: the row that names the object is condemned, or no row names
    /// it, and its attempt is known and has ended, so that none ever will.
    pub(super) fn may_collect(&self, state: &State, (token, step): Object) -> bool {
        let job = &state.rows.jobs[usize::from(token.job)];
        let key = (token.epoch, token.nonce, step);
        let Some(place) = job.checkpoints.iter().position(|row| row.key() == key) else {
            let ended = state.rows.attempt(token).is_some_and(|attempt| !attempt.lives());
            return ended || self.breaks(Mutant::CollectByAge);
        };
        let doomed = self.breaks(Mutant::DeleteFirst) && unneeded(job, false).contains(&place);
        job.checkpoints[place].condemned || doomed
    }
}

pub(super) fn send(state: &mut State, call: Call) {
    if let Err(place) = state.network.binary_search(&call) {
        state.network.insert(place, call);
    }
}

pub(super) fn work_of(daemon: &mut Daemon) -> Option<(Token, &mut Work)> {
    let token = daemon.journal?.token;
    daemon.work().map(|work| (token, work))
}

pub(super) fn give_back(daemon: &mut Daemon, class: FailureClass) {
    if let Stage::Working(work) = daemon.stage {
        daemon.conclude(work.incarnation, Conclusion::Fail(class));
    }
}
