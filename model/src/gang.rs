//! A gang of two slots, exhaustively: who is granted what, whose lease ends whom, and for how
//! long half a gang may train on. It is a model of its own, because what it adds to the protocol
//! (wishes, members, a lease for each) has nothing to do with entries, checkpoints and results,
//! which would multiply its states.
//!
//! Seats and the states of members are the coordinator's own code. Time is counted here: a lease
//! lasts [`LEASE`] ticks at the coordinator, and a daemon stops when more than [`FENCE`] have passed
//! since the last call that was answered. Every call may come again at any time, and its answer may be lost.

use cakes_coordinator::core::gang::{MemberEvent, MemberState, Wishing, seats, transition};
use stateright::{Model, Property};

/// Ticks of a lease without a word, at the coordinator.
pub const LEASE: u8 = 2;
/// Ticks without an answer through which a daemon trains on.
pub const FENCE: u8 = 1;
const SLOTS: usize = 2;

/// A fault; each breaks a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Whoever asks first is granted its part alone.
    OneByOne,
    /// What ends a member leaves the others alone.
    EndAlone,
    /// A renewal is taken although the attempt has ended.
    RenewEnded,
    /// The claim does not ask whether the job has an attempt.
    GrantAgain,
    /// A daemon does not stop by itself.
    NoFence,
}

impl Fault {
    pub const ALL: [Fault; 5] =
        [Fault::OneByOne, Fault::EndAlone, Fault::RenewEnded, Fault::GrantAgain, Fault::NoFence];

    /// The property that it breaks.
    pub fn breaks(self) -> &'static str {
        match self {
            Fault::OneByOne => WHOLE,
            Fault::EndAlone => TOGETHER,
            Fault::RenewEnded | Fault::NoFence => IN_TIME,
            Fault::GrantAgain => ONE,
        }
    }
}

pub const WHOLE: &str = "an attempt has all members of the gang from its first moment";
pub const TOGETHER: &str = "the end of one member ends all, and each lives as long as it has a lease";
pub const ONE: &str = "at most one attempt of the job lives";
pub const IN_TIME: &str = "nobody trains on for a lease's time when the attempt has ended";
pub const DONE: &str = "a gang finishes although a daemon crashed";

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub struct Gang {
    pub epochs: u8,
    pub crashes: u8,
    /// Questions of each daemon that differ.
    pub questions: u8,
    pub fault: Option<Fault>,
}

impl Default for Gang {
    fn default() -> Self {
        Gang { epochs: 2, crashes: 1, questions: 2, fault: None }
    }
}

/// A row of `attempt_member` with its row of `attempt_lease`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    slot: u8,
    incarnation: u8,
    /// The question that was answered with it.
    collected: Option<u8>,
    state: MemberState,
    lease: Option<u8>,
}

/// A row of `attempt`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt {
    epoch: u8,
    members: Vec<Member>,
}

impl Attempt {
    fn lives(&self) -> bool {
        self.members.iter().any(|member| member.state != MemberState::Ended)
    }
}

/// What a daemon is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Asking {
        question: u8,
    },
    /// It has a part, and trains through `left` ticks more unless it is answered.
    Training {
        epoch: u8,
        member: u8,
        started: bool,
        left: u8,
    },
}

/// A daemon of one slot, and how long it has trained for an attempt that had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Daemon {
    incarnation: u8,
    stage: Stage,
    late: u8,
}

/// A call, as it goes over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Acquire {
        slot: u8,
        incarnation: u8,
        question: u8,
    },
    Start {
        epoch: u8,
        member: u8,
    },
    Renew {
        epoch: u8,
        member: u8,
    },
    Fail {
        epoch: u8,
        member: u8,
    },
    /// The leader's.
    Complete {
        epoch: u8,
    },
    /// Of a start that knows of nothing.
    Reconcile {
        slot: u8,
        incarnation: u8,
    },
}

/// A state of everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    attempts: Vec<Attempt>,
    is_done: bool,
    /// Of each kept slot, its start and its question.
    wishes: [Option<(u8, u8)>; SLOTS],
    daemons: [Daemon; SLOTS],
    /// Calls that were made, in order; each may come again.
    made: Vec<Call>,
    crashes: u8,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A daemon makes a call; the answer arrives or not.
    Make {
        slot: usize,
        call: Call,
        arrives: bool,
    },
    /// A daemon sends one that will be slow.
    Send {
        call: Call,
    },
    /// A call comes again; nobody waits for the answer.
    Repeat {
        call: Call,
    },
    /// A wish is too old to count.
    Age {
        slot: usize,
    },
    Crash {
        slot: usize,
    },
    Tick,
    /// The sweep takes a lease that ran out.
    Sweep {
        attempt: usize,
        member: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Granted { epoch: u8, member: u8 },
    Nothing,
    Done,
    Lost,
}

impl Gang {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// `store/attempts/` in one transaction.
    fn execute(&self, state: &mut State, call: Call) -> Answer {
        match call {
            Call::Acquire { slot, incarnation, question } => self.acquire(state, slot, incarnation, question),
            Call::Start { epoch, member } => self.touch(state, epoch, member, MemberEvent::Start),
            Call::Renew { epoch, member } => self.touch(state, epoch, member, MemberEvent::Renew),
            Call::Fail { epoch, member } => self.end(state, epoch, member, false),
            Call::Complete { epoch } => self.end(state, epoch, 0, true),
            Call::Reconcile { slot, incarnation } => {
                if state.daemons[usize::from(slot)].incarnation != incarnation {
                    return Answer::Lost;
                }
                for index in 0..state.attempts.len() {
                    let attempt = &state.attempts[index];
                    let is_forgotten =
                        |member: &Member| member.slot == slot && member.incarnation < incarnation;
                    let found = attempt.members.iter().position(is_forgotten);
                    if let (Some(place), true) = (found, attempt.lives()) {
                        let epoch = attempt.epoch;
                        self.end(state, epoch, place as u8, false);
                    }
                }
                Answer::Done
            }
        }
    }

    fn acquire(&self, state: &mut State, slot: u8, incarnation: u8, question: u8) -> Answer {
        if state.daemons[usize::from(slot)].incarnation != incarnation {
            return Answer::Lost;
        }
        for attempt in state.attempts.iter_mut().filter(|attempt| attempt.lives()) {
            let epoch = attempt.epoch;
            for (number, member) in (0_u8..).zip(&mut attempt.members) {
                let is_its = member.slot == slot && member.incarnation == incarnation;
                if is_its && member.collected.is_none_or(|collected| collected == question) {
                    member.collected = Some(question);
                    return Answer::Granted { epoch, member: number };
                }
            }
        }
        let is_busy = state.attempts.iter().any(Attempt::lives) && !self.has(Fault::GrantAgain);
        if state.is_done || is_busy {
            return Answer::Nothing;
        }
        state.wishes[usize::from(slot)] = Some((incarnation, question));
        let wishing = (0_u8..).zip(&state.wishes).filter_map(|(slot, wish)| {
            let (incarnation, _) = (*wish)?;
            let is_current = state.daemons[usize::from(slot)].incarnation == incarnation;
            is_current.then_some(Wishing { device_count: 1, slot: (slot, incarnation) })
        });
        let wishing: Vec<Wishing<(u8, u8)>> = wishing.collect();
        let chosen: Vec<(u8, u8)> = match seats(wishing, SLOTS as i32) {
            Some(seats) => seats.into_iter().map(|(_, slot)| slot).collect(),
            None if self.has(Fault::OneByOne) => vec![(slot, incarnation)],
            None => return Answer::Nothing,
        };
        let member = |(of, incarnation): (u8, u8)| Member {
            slot: of,
            incarnation,
            collected: (of == slot).then_some(question),
            state: MemberState::Offered,
            lease: Some(LEASE),
        };
        let members: Vec<Member> = chosen.into_iter().map(member).collect();
        let place = members.iter().position(|member| member.slot == slot).unwrap_or(0);
        let epoch = state.attempts.len() as u8 + 1;
        state.attempts.push(Attempt { epoch, members });
        state.wishes = [None; SLOTS];
        Answer::Granted { epoch, member: place as u8 }
    }

    /// Start and Report.
    fn touch(&self, state: &mut State, epoch: u8, member: u8, event: MemberEvent) -> Answer {
        let attempt = state.attempts.iter_mut().find(|attempt| attempt.epoch == epoch);
        let Some(member) = attempt.and_then(|attempt| attempt.members.get_mut(usize::from(member))) else {
            return Answer::Lost;
        };
        match transition(member.state, event) {
            Ok(next) => {
                (member.state, member.lease) = (next, Some(LEASE));
                Answer::Done
            }
            Err(_) if self.has(Fault::RenewEnded) => Answer::Done,
            Err(_) => Answer::Lost,
        }
    }

    fn end(&self, state: &mut State, epoch: u8, member: u8, completes: bool) -> Answer {
        let Some(attempt) = state.attempts.iter_mut().find(|attempt| attempt.epoch == epoch) else {
            return Answer::Lost;
        };
        if !attempt.lives() {
            return Answer::Lost;
        }
        let alone = self.has(Fault::EndAlone) && !completes;
        for (number, other) in (0_u8..).zip(&mut attempt.members) {
            if !alone || number == member {
                other.state = transition(other.state, MemberEvent::End).unwrap_or(MemberState::Ended);
                other.lease = None;
            }
        }
        state.is_done |= completes;
        Answer::Done
    }

    /// Calls that a daemon may make now.
    fn calls(state: &State, slot: usize) -> Vec<Call> {
        let Daemon { incarnation, stage, .. } = state.daemons[slot];
        match stage {
            Stage::Asking { question } => {
                let mut calls = vec![Call::Acquire { slot: slot as u8, incarnation, question }];
                // A first start has nothing to settle.
                calls.extend((incarnation > 1).then_some(Call::Reconcile { slot: slot as u8, incarnation }));
                calls
            }
            Stage::Training { epoch, member, started: false, .. } => {
                vec![Call::Start { epoch, member }, Call::Fail { epoch, member }]
            }
            Stage::Training { epoch, member, .. } => {
                let mut calls = vec![Call::Renew { epoch, member }, Call::Fail { epoch, member }];
                calls.extend((member == 0).then_some(Call::Complete { epoch }));
                calls
            }
        }
    }

    fn send(state: &mut State, call: Call) {
        if let Err(place) = state.made.binary_search(&call) {
            state.made.insert(place, call);
        }
    }

    /// Calls of attempts that have ended, and of starts that are not the last, change nothing more.
    fn forget(state: &mut State) {
        let live: Vec<u8> = state.attempts.iter().filter(|row| row.lives()).map(|row| row.epoch).collect();
        let daemons = state.daemons;
        state.made.retain(|call| match *call {
            Call::Acquire { slot, incarnation, .. } | Call::Reconcile { slot, incarnation } => {
                daemons[usize::from(slot)].incarnation == incarnation
            }
            Call::Start { epoch, .. }
            | Call::Renew { epoch, .. }
            | Call::Fail { epoch, .. }
            | Call::Complete { epoch } => live.contains(&epoch),
        });
    }

    fn hear(&self, daemon: &mut Daemon, call: Call, answer: Answer) {
        match (&mut daemon.stage, answer) {
            (stage, Answer::Granted { epoch, member }) => {
                *stage = Stage::Training { epoch, member, started: false, left: FENCE };
            }
            (Stage::Asking { question }, Answer::Nothing) => {
                *question = (*question + 1).min(self.questions);
            }
            (Stage::Training { started, left, .. }, Answer::Done) => match call {
                Call::Start { .. } | Call::Renew { .. } => (*started, *left) = (true, FENCE),
                _ => self.rest(daemon),
            },
            (Stage::Training { .. }, Answer::Lost) => self.rest(daemon),
            _ => {}
        }
    }

    /// The trainer is gone; the daemon asks for the next job.
    fn rest(&self, daemon: &mut Daemon) {
        daemon.stage = Stage::Asking { question: self.questions };
        daemon.late = 0;
    }

    fn tick(&self, state: &mut State) {
        for lease in state.attempts.iter_mut().flat_map(|attempt| &mut attempt.members) {
            lease.lease = lease.lease.map(|left| left.saturating_sub(1));
        }
        let live: Vec<u8> = state.attempts.iter().filter(|row| row.lives()).map(|row| row.epoch).collect();
        for daemon in &mut state.daemons {
            let Stage::Training { epoch, left, .. } = &mut daemon.stage else { continue };
            if *left == 0 && !self.has(Fault::NoFence) {
                self.rest(daemon);
                continue;
            }
            *left = left.saturating_sub(1);
            if !live.contains(epoch) {
                daemon.late = (daemon.late + 1).min(LEASE);
            }
        }
    }
}

impl Model for Gang {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let daemon = Daemon { incarnation: 1, stage: Stage::Asking { question: 1 }, late: 0 };
        vec![State {
            attempts: Vec::new(),
            is_done: false,
            wishes: [None; SLOTS],
            daemons: [daemon; SLOTS],
            made: Vec::new(),
            crashes: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for slot in 0..SLOTS {
            for call in Gang::calls(state, slot) {
                actions.extend([true, false].map(|arrives| Action::Make { slot, call, arrives }));
                let keeps_a_lease = matches!(call, Call::Start { .. } | Call::Renew { .. });
                actions.extend(keeps_a_lease.then_some(Action::Send { call }));
            }
            if state.wishes[slot].is_some() {
                actions.push(Action::Age { slot });
            }
            if state.crashes < self.crashes {
                actions.push(Action::Crash { slot });
            }
        }
        actions.extend(state.made.iter().map(|call| Action::Repeat { call: *call }));
        for (attempt, row) in state.attempts.iter().enumerate() {
            for (member, row) in row.members.iter().enumerate() {
                actions.extend((row.lease == Some(0)).then_some(Action::Sweep { attempt, member }));
            }
        }
        actions.push(Action::Tick);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Make { slot, call, arrives } => {
                let answer = self.execute(&mut state, call);
                Gang::send(&mut state, call);
                if arrives {
                    self.hear(&mut state.daemons[slot], call, answer);
                }
            }
            Action::Send { call } => Gang::send(&mut state, call),
            Action::Repeat { call } => {
                self.execute(&mut state, call);
            }
            Action::Age { slot } => state.wishes[slot] = None,
            Action::Crash { slot } => {
                state.crashes += 1;
                let daemon = &mut state.daemons[slot];
                daemon.incarnation += 1;
                self.rest(daemon);
            }
            Action::Tick => self.tick(&mut state),
            Action::Sweep { attempt, member } => {
                let epoch = state.attempts[attempt].epoch;
                self.end(&mut state, epoch, member as u8, false);
            }
        }
        Gang::forget(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(WHOLE, |_, state: &State| {
                state.attempts.iter().all(|attempt| attempt.members.len() == SLOTS)
            }),
            Property::always(TOGETHER, |_, state: &State| {
                let alive = |member: &Member| member.state != MemberState::Ended;
                state.attempts.iter().all(|attempt| {
                    let living = attempt.members.iter().filter(|member| alive(member)).count();
                    let is_sound = |member: &Member| alive(member) == member.lease.is_some();
                    (living == 0 || living == attempt.members.len()) && attempt.members.iter().all(is_sound)
                })
            }),
            Property::always(ONE, |_, state: &State| {
                state.attempts.iter().filter(|attempt| attempt.lives()).count() <= 1
            }),
            Property::always(IN_TIME, |_, state: &State| {
                state.daemons.iter().all(|daemon| daemon.late < LEASE)
            }),
            Property::sometimes(DONE, |_, state: &State| state.is_done && state.crashes > 0),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.attempts.len() <= usize::from(self.epochs)
    }
}
