//! What always holds, by the names S1 to S15, and what must be able to happen.
//!
//! Some properties are about rows: they are looked at in every state. The others
//! are about a step: whether a write was allowed is seen in the rows before and
//! after it. A step that breaks one leaves a [`Breaches`] bit in the state.

use cakes_coordinator::core::job::{EndReason, JobState};
use cakes_coordinator::core::retry::{Budgets, FailureClass};

use crate::database::{
    Answer, AttemptRow, Call, Checkpoint, CheckpointRow, JobRow, Lease, Life, Rows, Token,
};

/// A property by its number in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Safety {
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
    S8,
    S9,
    S10,
    S11,
    S12,
    S13,
    S14,
    S15,
}

impl Safety {
    pub const ALL: [Safety; 15] = [
        Safety::S1,
        Safety::S2,
        Safety::S3,
        Safety::S4,
        Safety::S5,
        Safety::S6,
        Safety::S7,
        Safety::S8,
        Safety::S9,
        Safety::S10,
        Safety::S11,
        Safety::S12,
        Safety::S13,
        Safety::S14,
        Safety::S15,
    ];

    /// Number and statement.
    pub fn name(self) -> &'static str {
        match self {
            Safety::S1 => "S1 at most one attempt of a job is offered or running",
            Safety::S2 => "S2 epochs of a job increase with every grant",
            Safety::S3 => "S3 a write that is taken carries the current epoch and nonce",
            Safety::S4 => "S4 entries of an attempt are 1 to n, each stored once",
            Safety::S5 => "S5 what was acknowledged is stored; what was decided stays in the journal",
            Safety::S6 => "S6 ends are final, but for a person's retry",
            Safety::S7 => "S7 at most one result, with its checkpoint and all entries, exactly if succeeded",
            Safety::S8 => "S8 an attempt goes on from the farthest committed checkpoint",
            Safety::S9 => "S9 one submission key is one job",
            Safety::S10 => "S10 after a cancel that was acknowledged nothing succeeds; the loser is told",
            Safety::S11 => {
                "S11 what is kept is in the store, what is needed is kept; no key is written twice"
            }
            Safety::S12 => "S12 bad ends stay within the budget",
            Safety::S13 => "S13 an attempt lives exactly as long as it has a deadline",
            Safety::S14 => "S14 a reader finds one value per step",
            Safety::S15 => "S15 the sweep takes no attempt whose lease lasts",
        }
    }

    fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

/// Properties that a step has broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Breaches(u16);

impl Breaches {
    pub fn note(&mut self, property: Safety, broken: bool) {
        if broken {
            self.0 |= property.bit();
        }
    }

    pub fn has(self, property: Safety) -> bool {
        self.0 & property.bit() != 0
    }
}

/// An object in the store: its key holds the writer's token and the step.
pub type Object = (Token, u8);

/// Whether a property that is about rows holds. Those about steps are true here.
pub fn holds(property: Safety, rows: &Rows, objects: &[Object], budgets: &Budgets, retries: u8) -> bool {
    let jobs = || rows.jobs.iter();
    let attempts = || rows.jobs.iter().flat_map(|job| &job.attempts);
    match property {
        Safety::S1 => jobs().all(|job| job.attempts.iter().filter(|attempt| attempt.lives()).count() <= 1),
        Safety::S4 => {
            attempts().all(|attempt| attempt.entries.iter().map(|(seq, _)| *seq).eq(1..=attempt.last_seq))
        }
        Safety::S7 => jobs().all(result_is_whole),
        Safety::S9 => {
            let keys: Vec<u8> = jobs().filter_map(|job| job.request).map(|(key, _)| key).collect();
            keys.iter().enumerate().all(|(index, key)| !keys[..index].contains(key))
        }
        Safety::S11 => (0..).zip(&rows.jobs).all(|(job, row)| {
            let stored = row.checkpoints.iter().filter(|row| !row.condemned).all(|row| {
                let token = Token { job, epoch: row.epoch, nonce: row.nonce };
                objects.contains(&(token, row.step))
            });
            let results = row.results.iter().map(|result| result.checkpoint);
            let resumed = row.live().and_then(|live| live.resume);
            let needed = results.chain(row.checkpoint).chain(resumed);
            let condemned = |needed| row.checkpoints.iter().any(|row| row.is(needed) && row.condemned);
            stored && !needed.into_iter().any(condemned)
        }),
        Safety::S12 => jobs().all(|job| within_budgets(job, budgets, u32::from(retries))),
        Safety::S13 => attempts().all(|attempt| attempt.lives() == attempt.lease.is_some()),
        _ => true,
    }
}

fn result_is_whole(job: &JobRow) -> bool {
    let whole = job.results.iter().all(|result| {
        let stored = job.attempts.iter().find(|attempt| attempt.epoch == result.epoch);
        job.is_committed(result.checkpoint)
            && stored.is_some_and(|attempt| attempt.last_seq == result.last_seq)
    });
    job.results.len() == usize::from(job.state == JobState::Succeeded) && whole
}

/// Each retry by a person gives all tries again. A loss that its worker told takes no try
/// where it had got farther than every attempt before.
fn within_budgets(job: &JobRow, budgets: &Budgets, retries: u32) -> bool {
    let (mut lost, mut infrastructure, mut furthest) = (0, 0, 0);
    for attempt in &job.attempts {
        let (Life::Ended(end), Some(class)) = (attempt.life, attempt.class) else { continue };
        let progress = attempt.last_step > furthest;
        furthest = furthest.max(attempt.last_step);
        match (end, class) {
            (EndReason::HandedBack | EndReason::Cancelled, _) => {}
            (EndReason::Failed, FailureClass::Lost) if progress => {}
            (_, FailureClass::Lost | FailureClass::Cancelled) => lost += 1,
            (_, FailureClass::Infrastructure) => infrastructure += 1,
            _ => {}
        }
    }
    lost <= (budgets.lost + 1) * (retries + 1)
        && infrastructure <= (budgets.infrastructure + 1) * (retries + 1)
}

/// Whether a reader of curves finds at most one value per step (S14). The
/// statement in `store/read/metrics.rs`: points of an attempt count up to the
/// step from which the earliest later attempt went on.
pub fn reader_sees_one_value(rows: &Rows, show_superseded: bool) -> bool {
    rows.jobs.iter().all(|job| {
        let mut seen = Vec::new();
        for (index, attempt) in job.attempts.iter().enumerate() {
            let until = job.attempts[index + 1..].iter().map(AttemptRow::resume_step).min();
            let shown = |step: &u8| show_superseded || until.is_none_or(|until| *step <= until);
            seen.extend(attempt.entries.iter().map(|(_, step)| *step).filter(shown));
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        seen.len() == count
    })
}

/// Compares the rows before and after a call that was answered.
pub fn watch_call(breaches: &mut Breaches, before: &Rows, after: &Rows, call: &Call, answer: Answer) {
    let changed = before != after;
    if let Some(token) = call.token() {
        breaches.note(Safety::S3, changed && !before.is_current(token));
    }
    breaches.note(Safety::S5, !is_kept(before, after) || (answer.is_ok() && !is_stored(after, call, answer)));
    if matches!(call, Call::Expire { .. }) {
        breaches.note(Safety::S15, takes_a_lasting_lease(before, after));
    }
    for (old, new) in before.jobs.iter().zip(&after.jobs) {
        watch_job(breaches, old, new, call);
    }
    match (*call, answer) {
        (Call::Complete { token, .. }, Answer::Done) => {
            let job = &after.jobs[usize::from(token.job)];
            breaches.note(Safety::S10, matches!(job.state, JobState::Cancelled | JobState::Cancelling));
        }
        (Call::Cancel { job }, Answer::Done) => {
            let state = after.jobs[usize::from(job)].state;
            breaches.note(Safety::S10, !matches!(state, JobState::Cancelled | JobState::Cancelling));
        }
        (Call::Submit { key, body }, Answer::Submitted { job }) => {
            breaches.note(Safety::S9, after.jobs[usize::from(job)].request != Some((key, body)));
        }
        _ => {}
    }
}

fn watch_job(breaches: &mut Breaches, old: &JobRow, new: &JobRow, call: &Call) {
    let by_retry = matches!(call, Call::Retry { .. });
    let moved = old.state != new.state;
    let reopened = by_retry && old.state != JobState::Succeeded;
    breaches.note(Safety::S6, old.state.is_final() && moved && !reopened);
    let was_cancelled = matches!(old.state, JobState::Cancelling | JobState::Cancelled);
    let is_cancelled = matches!(new.state, JobState::Cancelling | JobState::Cancelled);
    breaches.note(Safety::S10, was_cancelled && !is_cancelled && !by_retry);
    breaches.note(Safety::S2, new.epoch < old.epoch);
    if let Some(granted) = new.attempts.get(old.attempts.len()) {
        let earlier = || old.attempts.iter();
        breaches.note(Safety::S2, earlier().any(|attempt| attempt.epoch >= granted.epoch));
        let committed = granted.resume.is_none_or(|resume| old.is_committed(resume));
        let farthest = old.checkpoints.iter().map(|checkpoint| checkpoint.step).max().unwrap_or(0);
        let back = granted.resume_step() < farthest;
        breaches.note(Safety::S8, !committed || back);
    }
}

/// Whether everything that was stored still is.
fn is_kept(before: &Rows, after: &Rows) -> bool {
    before.jobs.len() <= after.jobs.len()
        && before.jobs.iter().zip(&after.jobs).all(|(old, new)| {
            let keys = |job: &JobRow| job.checkpoints.iter().map(CheckpointRow::key).collect::<Vec<_>>();
            let freed = || {
                old.checkpoints.iter().zip(&new.checkpoints).any(|(old, new)| old.condemned && !new.condemned)
            };
            keys(new).starts_with(&keys(old))
                && !freed()
                && new.results.starts_with(&old.results)
                && old.attempts.len() <= new.attempts.len()
                && old
                    .attempts
                    .iter()
                    .zip(&new.attempts)
                    .all(|(old, new)| new.entries.starts_with(&old.entries))
        })
}

/// Whether what the answer says is in the rows.
fn is_stored(rows: &Rows, call: &Call, answer: Answer) -> bool {
    let life = |token| rows.attempt(token).map(|attempt| attempt.life);
    match (*call, answer) {
        (Call::Start { token }, _) => life(token).is_some_and(|life| life != Life::Offered),
        (Call::Report { token, first_seq, count, first_step, .. }, Answer::Receipt { ack_seq, .. }) => {
            let Some(attempt) = rows.attempt(token) else { return false };
            let is_there = |offset| attempt.entries.contains(&(first_seq + offset, first_step + offset));
            attempt.last_seq >= ack_seq
                && (count == 0 || ack_seq + 1 >= first_seq + count)
                && (0..count).all(is_there)
        }
        (Call::Commit { token, step }, _) => {
            let row = &rows.jobs[usize::from(token.job)];
            row.is_committed(Checkpoint { epoch: token.epoch, step })
        }
        (Call::Complete { token, .. }, _) => {
            rows.jobs[usize::from(token.job)].results.iter().any(|result| result.epoch == token.epoch)
        }
        (Call::Fail { token, .. }, _) => life(token).is_some_and(|life| matches!(life, Life::Ended(_))),
        (Call::Acquire { .. }, Answer::Granted { token, .. }) => life(token).is_some(),
        (Call::Submit { .. }, Answer::Submitted { job }) => rows.jobs.len() > usize::from(job),
        _ => true,
    }
}

fn takes_a_lasting_lease(before: &Rows, after: &Rows) -> bool {
    before.jobs.iter().zip(&after.jobs).any(|(old, new)| {
        old.attempts
            .iter()
            .zip(&new.attempts)
            .any(|(old, new)| old.lives() && !new.lives() && old.lease == Some(Lease::Lasts))
    })
}

/// Something that the model must be able to reach, or it would prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Witness {
    ZombieRefused,
    LostReplyRepeated,
    FinishedAfterTwoReassignments,
    CancelWins,
    CompletionWins,
    LateReportRevives,
    Readopted,
}

impl Witness {
    pub const ALL: [Witness; 7] = [
        Witness::ZombieRefused,
        Witness::LostReplyRepeated,
        Witness::FinishedAfterTwoReassignments,
        Witness::CancelWins,
        Witness::CompletionWins,
        Witness::LateReportRevives,
        Witness::Readopted,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Witness::ZombieRefused => "a zombie's write is refused",
            Witness::LostReplyRepeated => "a lost reply is asked for again and answered OK",
            Witness::FinishedAfterTwoReassignments => "a job finishes after two reassignments",
            Witness::CancelWins => "a cancel wins",
            Witness::CompletionWins => "a completion wins",
            Witness::LateReportRevives => "a late report revives a lease that ran out and nobody took",
            Witness::Readopted => "a restarted daemon's attempt is adopted",
        }
    }

    /// Whether this call shows it. `heard`: the caller learnt from the answer.
    pub fn is_shown(self, before: &Rows, after: &Rows, call: &Call, answer: Answer, heard: bool) -> bool {
        let lease = |rows: &Rows, token| rows.attempt(token).and_then(|attempt| attempt.lease);
        match self {
            Witness::ZombieRefused => {
                let was_granted = call.token().is_some_and(|token| before.attempt(token).is_some());
                was_granted && answer == Answer::LeaseLost
            }
            Witness::LostReplyRepeated => {
                let effect =
                    matches!(call, Call::Complete { .. } | Call::Commit { .. } | Call::Acquire { .. });
                let told = matches!(answer, Answer::Done | Answer::Granted { .. });
                effect && told && heard && before == after
            }
            Witness::FinishedAfterTwoReassignments => {
                after.jobs.iter().any(|job| job.state == JobState::Succeeded && job.epoch == 3)
            }
            Witness::CancelWins => matches!(call, Call::Complete { .. }) && answer == Answer::Cancelled,
            Witness::CompletionWins => match *call {
                Call::Cancel { job } => {
                    answer == Answer::Refused
                        && after
                            .jobs
                            .get(usize::from(job))
                            .is_some_and(|job| job.state == JobState::Succeeded)
                }
                _ => false,
            },
            Witness::LateReportRevives => match *call {
                Call::Report { token, .. } => {
                    lease(before, token) == Some(Lease::RanOut) && lease(after, token) == Some(Lease::Lasts)
                }
                _ => false,
            },
            Witness::Readopted => {
                matches!(call, Call::Reconcile { .. })
                    && answer == (Answer::Verdict { keep: true })
                    && before != after
            }
        }
    }
}
