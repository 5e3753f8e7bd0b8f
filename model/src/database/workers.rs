//! Registration and reconciliation.

use cakes_coordinator::core::job::EndReason;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::worker::Schedule;

use super::attempts::{end_badly, fence};
use super::rows::{Rows, WorkerRow};
use super::{Answer, Token, World};

/// `store/workers/register.rs`: the last request's repetition is the same
/// start, every other one is a new start.
pub(super) fn register(rows: &mut Rows, worker: u8, request: u8) -> Answer {
    let row = &mut rows.workers[usize::from(worker)];
    let incarnation = match *row {
        Some(known) if known.register_request == request => known.incarnation,
        Some(known) => known.incarnation + 1,
        None => 1,
    };
    let schedule = row.map_or(Schedule::Ready, |known| known.schedule);
    *row = Some(WorkerRow { incarnation, register_request: request, schedule });
    Answer::Registered { incarnation }
}

/// `store/workers/mod.rs`, `lock_current`.
pub(super) fn current(rows: &Rows, worker: u8, incarnation: u8) -> Option<Schedule> {
    let row = rows.workers[usize::from(worker)]?;
    (row.incarnation == incarnation).then_some(row.schedule)
}

/// `store/attempts/reconcile.rs`.
pub(super) fn reconcile(
    rows: &mut Rows,
    world: &World<'_>,
    worker: u8,
    incarnation: u8,
    named: Option<Token>,
) -> Answer {
    if current(rows, worker, incarnation).is_none() {
        return Answer::Stale;
    }
    let mut live = Vec::new();
    for (job, row) in (0..).zip(&rows.jobs) {
        for attempt in row.attempts.iter().filter(|attempt| attempt.lives() && attempt.worker == worker) {
            let token = Token { job, epoch: attempt.epoch, nonce: attempt.nonce };
            live.push((token, attempt.incarnation));
        }
    }
    for (token, granted_to) in &live {
        let Some((job, index)) = fence(rows, world, *token) else { continue };
        if named == Some(*token) {
            rows.jobs[job].attempts[index].incarnation = incarnation;
        } else if *granted_to < incarnation {
            end_badly(&mut rows.jobs[job], index, world, None, EndReason::Superseded, FailureClass::Lost);
        }
    }
    Answer::Verdict { keep: live.iter().any(|(token, _)| named == Some(*token)) }
}
