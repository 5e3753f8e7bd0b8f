//! What workers and the sweep write (`store/attempts/`).

use cakes_coordinator::core::job::{EndReason, JobEvent, JobState, transition};
use cakes_coordinator::core::lease::{self, desired};
use cakes_coordinator::core::retry::{Failure, FailureClass, judge};
use cakes_coordinator::core::worker::Schedule;

use super::rows::{AttemptRow, CheckpointRow, JobRow, Lease, Life, ResultRow, Rows};
use super::workers::current;
use super::{Answer, Checkpoint, Token, World};
use crate::mutant::Mutant;

/// Entries of a report.
#[derive(Clone, Copy)]
pub(super) struct Batch {
    pub first_seq: u8,
    pub count: u8,
    pub first_step: u8,
}

/// `store/fence.rs`, `attempt`: the row with this job, epoch and nonce, by the
/// indices of job and attempt.
pub(super) fn fence(rows: &Rows, world: &World<'_>, token: Token) -> Option<(usize, usize)> {
    let job = usize::from(token.job);
    let attempts = &rows.jobs.get(job)?.attempts;
    let rules = world.rules;
    let holder = || attempts.iter().find(|row| row.epoch == token.epoch && row.nonce == token.nonce);
    let index = if rules.breaks(Mutant::DropEpochCheck) {
        attempts.iter().position(AttemptRow::lives)
    } else if rules.breaks(Mutant::FenceByWorker) {
        let worker = holder()?.worker;
        attempts.iter().rposition(|row| row.worker == worker)
    } else if rules.breaks(Mutant::EpochWithoutNonce) {
        attempts.iter().position(|row| row.epoch == token.epoch)
    } else {
        attempts.iter().position(|row| row.epoch == token.epoch && row.nonce == token.nonce)
    };
    Some((job, index?))
}

/// `store/fence.rs`, `live_attempt`.
fn live(rows: &Rows, world: &World<'_>, token: Token) -> Option<(usize, usize)> {
    fence(rows, world, token).filter(|(job, index)| rows.jobs[*job].attempts[*index].lives())
}

/// `store/attempts/acquire.rs`.
pub(super) fn acquire(
    rows: &mut Rows,
    world: &World<'_>,
    worker: u8,
    incarnation: u8,
    request: u8,
) -> Answer {
    let Some(schedule) = current(rows, worker, incarnation) else { return Answer::Stale };
    for (job, row) in (0..).zip(&rows.jobs) {
        let earlier = row.attempts.iter().find(|attempt| {
            (attempt.worker, attempt.incarnation, attempt.request) == (worker, incarnation, request)
        });
        if let Some(attempt) = earlier {
            return if attempt.lives() { granted(job, attempt) } else { Answer::NothingToDo };
        }
    }
    if schedule != Schedule::Ready {
        return Answer::NothingToDo;
    }
    let any = world.rules.breaks(Mutant::GrantAnyState);
    let waits = |job: &JobRow| job.state == JobState::Queued || (any && job.state.has_attempt());
    let Some((job, row)) = (0..).zip(&mut rows.jobs).find(|(_, row)| waits(row)) else {
        return Answer::NothingToDo;
    };
    if let Ok(moved) = transition(JobState::Queued, &JobEvent::Grant) {
        row.state = moved.next;
    }
    row.epoch = match row.live() {
        live if world.rules.breaks(Mutant::EpochFromLease) => live.map_or(0, |live| live.epoch) + 1,
        _ => row.epoch + 1,
    };
    let resume = match world.newest_object {
        Some(object) if world.rules.breaks(Mutant::ResumeFromStore) => Some(object),
        _ => row.checkpoint,
    };
    let attempt = AttemptRow {
        epoch: row.epoch,
        nonce: world.fresh_nonce,
        worker,
        incarnation,
        request,
        life: Life::Offered,
        class: None,
        resume,
        last_step: resume.map_or(0, |resume| resume.step),
        last_seq: 0,
        entries: Vec::new(),
        lease: (!world.rules.breaks(Mutant::NoDeadline)).then_some(Lease::Lasts),
    };
    let answer = granted(job, &attempt);
    row.attempts.push(attempt);
    answer
}

fn granted(job: u8, attempt: &AttemptRow) -> Answer {
    let token = Token { job, epoch: attempt.epoch, nonce: attempt.nonce };
    Answer::Granted { token, resume: attempt.resume }
}

/// `store/attempts/start.rs`.
pub(super) fn start(rows: &mut Rows, world: &World<'_>, token: Token) -> Answer {
    let Some((job, index)) = live(rows, world, token) else { return Answer::LeaseLost };
    let row = &mut rows.jobs[job];
    if row.attempts[index].life == Life::Running {
        return Answer::Done;
    }
    let Ok(moved) = transition(row.state, &JobEvent::Start) else { return Answer::Refused };
    row.state = moved.next;
    let attempt = &mut row.attempts[index];
    attempt.life = Life::Running;
    renew(attempt);
    Answer::Done
}

/// `update attempt_lease` touches a row that is there.
fn renew(attempt: &mut AttemptRow) {
    attempt.lease = attempt.lease.map(|_| Lease::Lasts);
}

/// `store/attempts/report.rs`.
pub(super) fn report(rows: &mut Rows, world: &World<'_>, token: Token, batch: Batch, step: u8) -> Answer {
    let Some((job, index)) = live(rows, world, token) else { return Answer::LeaseLost };
    let state = rows.jobs[job].state;
    let attempt = &mut rows.jobs[job].attempts[index];
    if attempt.life == Life::Offered {
        return Answer::Refused;
    }
    if batch.count > 0 && batch.first_seq > attempt.last_seq + 1 {
        return Answer::OutOfRange { ack_seq: attempt.last_seq };
    }
    let told = |offset: u8| (batch.first_seq + offset, batch.first_step + offset);
    // What is stored already comes again as it was (`store/attempts/repeated.rs`).
    let is_other = |(seq, step)| attempt.entries.iter().any(|known| known.0 == seq && known.1 != step);
    if (0..batch.count).map(told).any(is_other) {
        return Answer::Refused;
    }
    for (seq, step) in (0..batch.count).map(told) {
        if seq > attempt.last_seq || world.rules.breaks(Mutant::StoreRepeats) {
            attempt.entries.push((seq, step));
            attempt.last_seq = attempt.last_seq.max(seq);
        }
    }
    attempt.last_step = attempt.last_step.max(step);
    renew(attempt);
    let (ack_seq, worker) = (attempt.last_seq, attempt.worker);
    Answer::Receipt { ack_seq, desired: desired(state, schedule(rows, worker), false).into() }
}

fn schedule(rows: &Rows, worker: u8) -> Schedule {
    rows.workers[usize::from(worker)].map_or(Schedule::Ready, |row| row.schedule)
}

/// `store/attempts/commit_checkpoint.rs`.
pub(super) fn commit(rows: &mut Rows, world: &World<'_>, token: Token, step: u8) -> Answer {
    let Some((job, index)) = live(rows, world, token) else { return Answer::LeaseLost };
    let row = &mut rows.jobs[job];
    store(row, world, row.attempts[index].epoch, token, step);
    Answer::Done
}

fn store(row: &mut JobRow, world: &World<'_>, epoch: u8, token: Token, step: u8) {
    let checkpoint = Checkpoint { epoch, step };
    if world.rules.breaks(Mutant::ForgetCondemned) {
        row.checkpoints.retain(|row| !row.condemned);
    }
    let is_new = !row.is_committed(checkpoint);
    if is_new {
        // The key holds the caller's token, whatever the fence said.
        row.checkpoints.push(CheckpointRow { epoch, nonce: token.nonce, step, condemned: false });
    }
    let always = world.rules.breaks(Mutant::RaiseAlways);
    let farther = row.checkpoint.is_none_or(|last| last.step < step) && row.epoch == epoch;
    if (is_new && farther) || always {
        row.checkpoint = Some(checkpoint);
    }
}

/// `store/attempts/complete.rs`.
pub(super) fn complete(
    rows: &mut Rows,
    world: &World<'_>,
    token: Token,
    last_seq: u8,
    checkpoint: Checkpoint,
    saves: bool,
) -> Answer {
    let rules = world.rules;
    let running = |row: &JobRow| rules.breaks(Mutant::CompleteWithoutEpoch) && row.state == JobState::Running;
    let job = usize::from(token.job);
    let found = match rows.jobs.get(job) {
        Some(row) if running(row) => {
            row.attempts.iter().position(AttemptRow::lives).map(|index| (job, index))
        }
        _ => fence(rows, world, token),
    };
    let Some((job, index)) = found else { return Answer::LeaseLost };
    let row = &mut rows.jobs[job];
    let result = ResultRow { epoch: row.attempts[index].epoch, last_seq, checkpoint };
    if let Life::Ended(end) = row.attempts[index].life {
        if rules.breaks(Mutant::AcceptWhileQueued) && row.state == JobState::Queued {
            row.state = JobState::Succeeded;
            row.results.push(result);
            return Answer::Done;
        }
        return match end {
            EndReason::Succeeded if row.results.contains(&result) => Answer::Done,
            EndReason::Succeeded => Answer::Refused,
            EndReason::Cancelled => Answer::Cancelled,
            _ => Answer::LeaseLost,
        };
    }
    let Ok(moved) = transition(row.state, &JobEvent::Complete) else { return Answer::Refused };
    let beats_cancel = rules.breaks(Mutant::CompleteAfterCancel);
    let succeeded = moved.next == JobState::Succeeded || beats_cancel;
    if succeeded {
        let stored = row.attempts[index].last_seq;
        let early = rules.breaks(Mutant::CompleteEarly);
        match last_seq.cmp(&stored) {
            std::cmp::Ordering::Greater if !early => return Answer::OutOfRange { ack_seq: stored },
            std::cmp::Ordering::Less if !early => return Answer::Refused,
            _ => {}
        }
        if saves {
            store(row, world, result.epoch, token, checkpoint.step);
        }
        if !row.is_kept(checkpoint) && !early {
            return Answer::Refused;
        }
        row.results.push(result);
    }
    row.state = if beats_cancel { JobState::Succeeded } else { moved.next };
    end(&mut row.attempts[index], moved.ends_attempt.unwrap_or(EndReason::Succeeded), None);
    if succeeded { Answer::Done } else { Answer::Cancelled }
}

/// `store/attempts/fail.rs`.
pub(super) fn fail(rows: &mut Rows, world: &World<'_>, token: Token, class: FailureClass) -> Answer {
    let Some((job, index)) = fence(rows, world, token) else { return Answer::LeaseLost };
    let attempt = &rows.jobs[job].attempts[index];
    match attempt.life {
        Life::Ended(EndReason::Failed | EndReason::HandedBack | EndReason::Cancelled) => return Answer::Done,
        Life::Ended(_) => return Answer::LeaseLost,
        Life::Offered | Life::Running => {}
    }
    let schedule = schedule(rows, attempt.worker);
    end_badly(&mut rows.jobs[job], index, world, Some(schedule), EndReason::Failed, class);
    Answer::Done
}

/// `store/attempts/expire.rs`: the lease is looked at once more.
pub(super) fn expire(rows: &mut Rows, world: &World<'_>, token: Token) -> Answer {
    let by_id = world.rules.breaks(Mutant::RescueById);
    let job = usize::from(token.job);
    let found = match rows.jobs.get(job) {
        Some(row) if by_id => row.attempts.iter().position(AttemptRow::lives).map(|index| (job, index)),
        _ => fence(rows, world, token),
    };
    let Some((job, index)) = found else { return Answer::LeaseLost };
    let attempt = &rows.jobs[job].attempts[index];
    let end = match attempt.life {
        Life::Ended(_) => return Answer::Done,
        Life::Offered => EndReason::OfferExpired,
        Life::Running => EndReason::LeaseExpired,
    };
    if attempt.lease == Some(Lease::Lasts) && !by_id {
        return Answer::Done;
    }
    end_badly(&mut rows.jobs[job], index, world, None, end, FailureClass::Lost);
    Answer::Done
}

/// `store/attempts/expire.rs`, `extend_leases`.
pub(super) fn extend(rows: &mut Rows) -> Answer {
    rows.jobs.iter_mut().flat_map(|job| &mut job.attempts).for_each(renew);
    Answer::Done
}

/// `store/attempts/end.rs`, `end_badly`. `schedule`: of the worker, where it
/// may have been asked to hand the job back.
pub(super) fn end_badly(
    row: &mut JobRow,
    index: usize,
    world: &World<'_>,
    schedule: Option<Schedule>,
    bad_end: EndReason,
    class: FailureClass,
) {
    let asked = schedule.is_some_and(|schedule| desired(row.state, schedule, false) == lease::Desired::Yield);
    let went_away = matches!(class, FailureClass::Lost | FailureClass::Cancelled);
    let handed_back = bad_end == EndReason::Failed && went_away && asked;
    let bad_end = if handed_back { EndReason::HandedBack } else { bad_end };
    let last_step = i64::from(row.attempts[index].last_step);
    let began = row.attempts[index].life != Life::Offered;
    let failure = Failure { end: bad_end, class, message: "", began, last_step };
    let mut judgement = judge(&failure, row.counters, world.budgets, 0);
    if world.rules.breaks(Mutant::LossNotCounted) && class == FailureClass::Lost {
        let uncounted = Failure { end: EndReason::HandedBack, ..failure };
        judgement = judge(&uncounted, row.counters, world.budgets, 0);
    }
    let Ok(moved) = transition(row.state, &JobEvent::Fail { end: bad_end, decision: judgement.decision })
    else {
        return;
    };
    row.state = moved.next;
    row.counters = judgement.counters;
    end(&mut row.attempts[index], moved.ends_attempt.unwrap_or(bad_end), Some(class));
}

/// `store/attempts/end.rs`, `end_attempt`.
fn end(attempt: &mut AttemptRow, end: EndReason, class: Option<FailureClass>) {
    attempt.life = Life::Ended(end);
    attempt.class = class;
    attempt.lease = None;
}
