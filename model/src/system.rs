//! Two coordinators, daemons, database, store and people, and a network that
//! delivers what it carries at any time, any number of times, or never.
//!
//! What is left out because it changes nothing:
//! - A coordinator keeps nothing between calls, so any of them may have run a
//!   call; only a sweep has two steps, and each of two coordinators has its own.
//! - An answer arrives at once or never. One that comes later is heard by a
//!   daemon that acts later, and a daemon may act later anyway. Never is also
//!   what a coordinator's crash behind its commit looks like; a crash before the
//!   commit looks like a call that was not delivered.
//! - A message that is lost is one that is never delivered; since properties are
//!   about what has happened, dropping it would show nothing new.
//!
//! Timers fire at any moment: the end of a lease, the fence, the end of the hold.

use cakes_coordinator::core::retry::{Budgets, FailureClass};
use stateright::{Model, Property};

use crate::daemon::{Conclusion, Daemon, Limits, Stage, Work};
use crate::database::{Answer, AttemptRow, Call, Checkpoint, Lease, Life, Rows, Token, World, execute};
use crate::mutant::{Mutant, Rules};
use crate::property::{Breaches, Object, Safety, Witness, holds, reader_sees_one_value, watch_call};

/// How far the model goes.
#[derive(Clone, Debug)]
pub struct System {
    pub workers: usize,
    /// Grants of a job at the most.
    pub epochs: u8,
    /// Steps of a training, which are also its entries and checkpoints.
    pub steps: u8,
    /// Steps behind which a checkpoint is saved.
    pub saves: Vec<u8>,
    /// Of daemons and of coordinators together.
    pub crashes: u8,
    /// Calls of people; each may come at any time.
    pub intents: Vec<Call>,
    /// Whether a call of a person that is not idempotent may come twice.
    pub repeat_intents: bool,
    /// Whether nobody has registered and submitted yet at the start.
    pub fresh: bool,
    /// Whether a question for a job that was answered "nothing" is never asked
    /// again, so that its late repetition is granted a job that nobody expects.
    pub ghosts: bool,
    /// Whether daemons may lose contact and stop training.
    pub fences: bool,
    /// Whether daemons may lose contact for so long that they forget the attempt.
    pub drops: bool,
    /// How attempts fail by themselves.
    pub failures: Vec<FailureClass>,
    pub budgets: Budgets,
    /// Whether sweeps may extend all leases.
    pub amnesty: bool,
    /// Whether the collector runs.
    pub collect: bool,
    /// Whether the database may once fail over and lose its last commit.
    pub failover: bool,
    /// Whether states tell what they have shown; multiplies them.
    pub witness: bool,
    pub rules: Rules,
}

/// A state of everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub daemons: Vec<Daemon>,
    pub rows: Rows,
    /// In order.
    pub objects: Vec<Object>,
    /// Calls that were sent, in order; none is ever used up.
    pub network: Vec<Call>,
    /// The expired lease that each coordinator's sweep has read.
    pub sweeps: [Option<Token>; 2],
    pub crashes: u8,
    pub grants: u8,
    /// Retries by people that were carried out.
    pub retries: u8,
    pub breaches: Breaches,
    /// Bits of [`Witness`].
    pub shown: u8,
    /// Before the last commit, as long as it may be lost.
    pub standby: Option<Box<Rows>>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A coordinator runs a call; the answer arrives or not.
    Deliver {
        call: Call,
        arrives: bool,
    },
    /// A coordinator that answers first crashes before it commits.
    AnswerAndCrash {
        call: Call,
    },
    /// A step of training is done.
    Train {
        worker: u8,
    },
    /// What was not sent yet is reported.
    Report {
        worker: u8,
    },
    /// A checkpoint is uploaded and its commit asked for.
    Save {
        worker: u8,
    },
    /// The trainer fails.
    Fail {
        worker: u8,
        class: FailureClass,
    },
    /// No contact for too long: the daemon stops training and hands back.
    Fence {
        worker: u8,
    },
    /// No contact for much longer: the daemon forgets the attempt.
    Drop {
        worker: u8,
    },
    CrashDaemon {
        worker: u8,
    },
    CrashCoordinator {
        sweep: usize,
    },
    /// Time passes.
    RunOut {
        token: Token,
    },
    /// The first step of a sweep.
    Look {
        sweep: usize,
        token: Token,
    },
    /// The second step of a sweep.
    Take {
        sweep: usize,
    },
    Amnesty,
    Collect {
        object: Object,
    },
    FailOver,
}

impl System {
    /// One job, two workers: the bounds that the others are changes of.
    pub fn small() -> Self {
        System {
            workers: 2,
            epochs: 2,
            steps: 2,
            saves: vec![1, 2],
            crashes: 1,
            intents: vec![Call::Submit { key: 1, body: 1 }],
            repeat_intents: false,
            fresh: false,
            ghosts: false,
            fences: true,
            drops: false,
            failures: Vec::new(),
            budgets: Budgets { lost: 1, infrastructure: 1, resource: 0, numeric: 0, no_progress: 3 },
            amnesty: false,
            collect: false,
            failover: false,
            witness: false,
            rules: Rules::default(),
        }
    }

    pub fn with(self, mutant: Mutant) -> Self {
        System { rules: Rules { broken: Some(mutant) }, ..self }
    }

    fn breaks(&self, mutant: Mutant) -> bool {
        self.rules.breaks(mutant)
    }

    fn limits(&self) -> Limits {
        Limits { steps: self.steps, questions: self.epochs, ghosts: self.ghosts, rules: self.rules }
    }

    /// Runs a call as a transaction and watches it.
    fn run(&self, state: &mut State, call: &Call) -> Answer {
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

    fn deliver(&self, state: &mut State, call: &Call, arrives: bool) {
        let before = self.witness.then(|| state.clone());
        let answer = self.run(state, call);
        let once = matches!(call, Call::Pause { .. } | Call::Resume { .. } | Call::Retry { .. });
        if once && !self.repeat_intents {
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
    fn caller(state: &State, call: &Call) -> Option<usize> {
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

    fn hear(&self, state: &mut State, call: &Call, answer: Answer) {
        if let Some(worker) = System::caller(state, call) {
            self.change(state, worker, |daemon, limits| daemon.hear(call, answer, limits));
        }
    }

    /// Changes a daemon, sends what it then calls, and watches its journal.
    fn change(&self, state: &mut State, worker: usize, change: impl FnOnce(&mut Daemon, &Limits)) {
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
    fn prepare(&self, state: &mut State) {
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

    fn train(&self, state: &mut State, worker: usize) {
        self.change(state, worker, |daemon, limits| {
            if let Some(work) = daemon.work() {
                work.step += 1;
            }
            daemon.complete_if_delivered(limits);
        });
    }

    fn report(state: &mut State, worker: usize) {
        let Some((token, work)) = work_of(&mut state.daemons[worker]) else { return };
        let first_seq = work.acked + 1;
        let count = work.last_seq() - work.acked;
        let first_step = work.resume.step + first_seq;
        let call = Call::Report { token, first_seq, count, first_step, step: work.step };
        work.sent = work.last_seq();
        send(state, call);
    }

    /// `worker/src/calls.rs`, `store`: created if absent, then committed.
    fn save(&self, state: &mut State, worker: usize) {
        let Some((token, work)) = work_of(&mut state.daemons[worker]) else { return };
        let step = work.step;
        work.saved = step;
        let object = (token, step);
        let by_step = |(other, saved): &Object| other.job == token.job && *saved == step && *other != token;
        let taken = self.breaks(Mutant::KeyByStep) && state.objects.iter().any(by_step);
        state.breaches.note(Safety::S11, taken);
        if let Err(place) = state.objects.binary_search(&object) {
            state.objects.insert(place, object);
        }
        send(state, Call::Commit { token, step });
    }

    /// The collector's rule: no row names the object, and its attempt is known
    /// and has ended, so that none ever will.
    fn may_collect(&self, state: &State, (token, step): Object) -> bool {
        let job = &state.rows.jobs[usize::from(token.job)];
        let named = job
            .checkpoints
            .iter()
            .any(|row| (row.epoch, row.nonce, row.step) == (token.epoch, token.nonce, step));
        let ended = state.rows.attempt(token).is_some_and(|attempt| !attempt.lives());
        !named && (ended || self.breaks(Mutant::CollectByAge))
    }

    /// Whether no call with a token that is not the current one changes anything,
    /// whatever it holds: tokens of attempts that have ended, and one that was
    /// never granted.
    fn refuses_strangers(&self, state: &State) -> bool {
        let world = World {
            budgets: &self.budgets,
            rules: self.rules,
            fresh_nonce: state.grants + 1,
            newest_object: None,
        };
        (0..).zip(&state.rows.jobs).all(|(job, row)| {
            let ended = row.attempts.iter().filter(|attempt| !attempt.lives());
            let ended = ended.map(|attempt| (attempt.epoch, attempt.nonce, attempt.last_seq));
            let forged = (row.epoch, u8::MAX, 0);
            ended.chain([forged]).all(|(epoch, nonce, last_seq)| {
                let token = Token { job, epoch, nonce };
                let step = self.steps;
                let checkpoint = row.checkpoint.unwrap_or(Checkpoint { epoch, step });
                let calls = [
                    Call::Start { token },
                    Call::Report { token, first_seq: last_seq + 1, count: 1, first_step: step, step },
                    Call::Commit { token, step },
                    Call::Complete { token, last_seq, checkpoint },
                    Call::Fail { token, class: FailureClass::Lost },
                ];
                calls.iter().all(|call| {
                    let mut rows = state.rows.clone();
                    execute(&mut rows, call, &world);
                    rows == state.rows
                })
            })
        })
    }

    fn daemon_actions(&self, worker: u8, daemon: &Daemon, crashes_left: bool, actions: &mut Vec<Action>) {
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

    fn sweep_actions(&self, state: &State, actions: &mut Vec<Action>) {
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
    fn forget(&self, state: &mut State) {
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
                            !(committed && known) || self.breaks(Mutant::RaiseAlways)
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
    fn canonical(state: &mut State) {
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

fn send(state: &mut State, call: Call) {
    if let Err(place) = state.network.binary_search(&call) {
        state.network.insert(place, call);
    }
}

fn work_of(daemon: &mut Daemon) -> Option<(Token, &mut Work)> {
    let token = daemon.journal?.token;
    daemon.work().map(|work| (token, work))
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            daemons: vec![Daemon::new(); self.workers],
            rows: Rows::new(self.workers),
            objects: Vec::new(),
            network: Vec::new(),
            sweeps: [None; 2],
            crashes: 0,
            grants: 0,
            retries: 0,
            breaches: Breaches::default(),
            shown: 0,
            standby: self.failover.then(|| Box::new(Rows::new(self.workers))),
        };
        for call in &self.intents {
            send(&mut state, *call);
        }
        for worker in 0..self.workers {
            self.change(&mut state, worker, |_, _| {});
        }
        if !self.fresh {
            self.prepare(&mut state);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for call in &state.network {
            actions.push(Action::Deliver { call: *call, arrives: false });
            if System::caller(state, call).is_some() {
                actions.push(Action::Deliver { call: *call, arrives: true });
            }
            if self.breaks(Mutant::AckBeforeCommit) && state.crashes < self.crashes {
                actions.push(Action::AnswerAndCrash { call: *call });
            }
        }
        let crashes_left = state.crashes < self.crashes;
        for (worker, daemon) in (0..).zip(&state.daemons) {
            self.daemon_actions(worker, daemon, crashes_left, actions);
        }
        self.sweep_actions(state, actions);
        if self.collect {
            let objects = state.objects.iter().filter(|object| self.may_collect(state, **object));
            actions.extend(objects.map(|object| Action::Collect { object: *object }));
        }
        if state.standby.is_some() {
            actions.push(Action::FailOver);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Deliver { call, arrives } => self.deliver(&mut state, &call, arrives),
            Action::AnswerAndCrash { call } => {
                let mut committed = state.rows.clone();
                let world = World {
                    budgets: &self.budgets,
                    rules: self.rules,
                    fresh_nonce: state.grants + 1,
                    newest_object: None,
                };
                let answer = execute(&mut committed, &call, &world);
                let rows = &state.rows;
                watch_call(&mut state.breaches, rows, rows, &call, answer);
                state.crashes += 1;
                self.hear(&mut state, &call, answer);
            }
            Action::Train { worker } => self.train(&mut state, usize::from(worker)),
            Action::Report { worker } => System::report(&mut state, usize::from(worker)),
            Action::Save { worker } => self.save(&mut state, usize::from(worker)),
            Action::Fail { worker, class } => self.change(&mut state, usize::from(worker), |daemon, _| {
                give_back(daemon, class);
            }),
            Action::Fence { worker } => self.change(&mut state, usize::from(worker), |daemon, _| {
                give_back(daemon, FailureClass::Lost);
            }),
            Action::Drop { worker } => self.change(&mut state, usize::from(worker), |daemon, limits| {
                let incarnation = match daemon.stage {
                    Stage::Working(Work { incarnation, .. }) | Stage::Telling { incarnation, .. } => {
                        incarnation
                    }
                    _ => return,
                };
                daemon.next(incarnation, limits);
            }),
            Action::CrashDaemon { worker } => {
                state.crashes += 1;
                self.change(&mut state, usize::from(worker), |daemon, _| daemon.crash());
            }
            Action::CrashCoordinator { sweep } => {
                state.crashes += 1;
                state.sweeps[sweep] = None;
            }
            Action::RunOut { token } => {
                let job = &mut state.rows.jobs[usize::from(token.job)];
                let attempts = job.attempts.iter_mut();
                for attempt in attempts.filter(|row| row.epoch == token.epoch && row.nonce == token.nonce) {
                    attempt.lease = Some(Lease::RanOut);
                }
            }
            Action::Look { sweep, token } => state.sweeps[sweep] = Some(token),
            Action::Take { sweep } => {
                let token = state.sweeps[sweep].take()?;
                self.deliver(&mut state, &Call::Expire { token }, false);
            }
            Action::Amnesty => self.deliver(&mut state, &Call::Extend, false),
            Action::Collect { object } => state.objects.retain(|other| *other != object),
            Action::FailOver => {
                state.rows = *state.standby.take()?;
                // Connections break, and what a sweep had read is of the old primary.
                state.sweeps = [None; 2];
            }
        }
        self.forget(&mut state);
        System::canonical(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = |safety: Safety, condition| Property::always(safety.name(), condition);
        let mut properties = vec![
            always(Safety::S1, |model, state| keeps(model, state, Safety::S1)),
            always(Safety::S2, |model, state| keeps(model, state, Safety::S2)),
            always(Safety::S3, |model, state| keeps(model, state, Safety::S3)),
            always(Safety::S4, |model, state| keeps(model, state, Safety::S4)),
            always(Safety::S5, |model, state| keeps(model, state, Safety::S5)),
            always(Safety::S6, |model, state| keeps(model, state, Safety::S6)),
            always(Safety::S7, |model, state| keeps(model, state, Safety::S7)),
            always(Safety::S8, |model, state| keeps(model, state, Safety::S8)),
            always(Safety::S9, |model, state| keeps(model, state, Safety::S9)),
            always(Safety::S10, |model, state| keeps(model, state, Safety::S10)),
            always(Safety::S11, |model, state| keeps(model, state, Safety::S11)),
            always(Safety::S12, |model, state| keeps(model, state, Safety::S12)),
            always(Safety::S13, |model, state| keeps(model, state, Safety::S13)),
            always(Safety::S14, |model, state| keeps(model, state, Safety::S14)),
            always(Safety::S15, |model, state| keeps(model, state, Safety::S15)),
        ];
        if self.witness {
            properties.extend([
                shows(Witness::ZombieRefused, |_, state| state.shown & 1 != 0),
                shows(Witness::LostReplyRepeated, |_, state| state.shown & 2 != 0),
                shows(Witness::FinishedAfterTwoReassignments, |_, state| state.shown & 4 != 0),
                shows(Witness::CancelWins, |_, state| state.shown & 8 != 0),
                shows(Witness::CompletionWins, |_, state| state.shown & 16 != 0),
                shows(Witness::LateReportRevives, |_, state| state.shown & 32 != 0),
                shows(Witness::Readopted, |_, state| state.shown & 64 != 0),
            ]);
        }
        properties
    }

    fn within_boundary(&self, state: &State) -> bool {
        // Registrations that arrive late take turns without end.
        let starts = self.crashes + 2;
        state.rows.jobs.iter().all(|job| job.epoch <= self.epochs)
            && state.rows.workers.iter().flatten().all(|worker| worker.incarnation <= starts)
            && state.daemons.iter().all(|daemon| daemon.registration <= starts)
    }
}

fn give_back(daemon: &mut Daemon, class: FailureClass) {
    if let Stage::Working(work) = daemon.stage {
        daemon.conclude(work.incarnation, Conclusion::Fail(class));
    }
}

fn keeps(model: &System, state: &State, safety: Safety) -> bool {
    !state.breaches.has(safety)
        && match safety {
            Safety::S3 => model.refuses_strangers(state),
            Safety::S14 => reader_sees_one_value(&state.rows, model.breaks(Mutant::ShowSuperseded)),
            _ => holds(safety, &state.rows, &state.objects, &model.budgets, state.retries),
        }
}

fn shows(witness: Witness, condition: fn(&System, &State) -> bool) -> Property<System> {
    Property::sometimes(witness.name(), condition)
}
