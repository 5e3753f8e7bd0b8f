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
//! What is left out although it changes something: Pause, Resume and Retry reach a
//! coordinator once. Repeated behind a later call of the same person they would
//! act again; `docs/reliability.md` names this among the things not promised.
//!
//! Timers fire at any moment: the end of a lease, the fence, the end of the hold.

mod enabled;
mod reduce;
mod steps;

use cakes_coordinator::core::retry::{Budgets, FailureClass};
use stateright::{Model, Property};

use self::steps::{give_back, send};
use crate::daemon::{Daemon, Limits, Stage, Work};
use crate::database::{Call, Checkpoint, Lease, Rows, Token, World, execute, unneeded};
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
    /// Registrations of a daemon at the most. With one more than its starts, one
    /// that comes late makes the daemon look like an older start of itself.
    pub registrations: u8,
    /// Calls of people; each may come at any time.
    pub intents: Vec<Call>,
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
    /// The last checkpoint is uploaded; the completion commits it.
    SaveLast {
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
    /// Retention looks at a job.
    Condemn {
        job: u8,
    },
    Collect {
        object: Object,
    },
    FailOver,
}

impl System {
    fn breaks(&self, mutant: Mutant) -> bool {
        self.rules.breaks(mutant)
    }

    fn limits(&self) -> Limits {
        Limits { steps: self.steps, questions: self.epochs, ghosts: self.ghosts, rules: self.rules }
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
                    Call::Complete { token, last_seq, checkpoint, saves: false },
                    Call::Complete { token, last_seq, checkpoint: Checkpoint { epoch, step }, saves: true },
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
            let without_current = self.breaks(Mutant::CondemnCurrent);
            let jobs = (0..).zip(&state.rows.jobs);
            let doomed = jobs.filter(|(_, row)| !unneeded(row, without_current).is_empty());
            actions.extend(doomed.map(|(job, _)| Action::Condemn { job }));
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
            Action::Save { worker } => self.save(&mut state, usize::from(worker), false),
            Action::SaveLast { worker } => self.save(&mut state, usize::from(worker), true),
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
            Action::Condemn { job } => self.deliver(&mut state, &Call::Condemn { job }, false),
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
        state.rows.jobs.iter().all(|job| job.epoch <= self.epochs)
            && state.rows.workers.iter().flatten().all(|worker| worker.incarnation <= self.registrations)
            && state.daemons.iter().all(|daemon| daemon.registration <= self.registrations)
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
