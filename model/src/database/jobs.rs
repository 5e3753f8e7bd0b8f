//! What people want of jobs (`store/jobs/`).

use cakes_coordinator::core::job::{JobEvent, JobState, transition};
use cakes_coordinator::core::retry::Counters;

use super::rows::{JobRow, Life, Rows};
use super::{Answer, World};
use crate::mutant::Mutant;

/// `store/jobs/submit_retrain.rs` and `enqueue.rs`: `on conflict do nothing` on
/// the unique `request_id`, then the content is compared.
pub(super) fn submit(rows: &mut Rows, world: &World<'_>, key: u8, body: u8) -> Answer {
    let known = (0..).zip(&rows.jobs).find(|(_, job)| job.request.is_some_and(|(known, _)| known == key));
    match known {
        Some((job, row)) if !world.rules.breaks(Mutant::SubmitTwice) => match row.request {
            Some((_, known)) if known == body => Answer::Submitted { job },
            _ => Answer::Refused,
        },
        _ => {
            rows.jobs.push(JobRow::queued(Some((key, body))));
            Answer::Submitted { job: u8::try_from(rows.jobs.len() - 1).unwrap_or(u8::MAX) }
        }
    }
}

/// `store/jobs/cancel.rs`.
pub(super) fn cancel(rows: &mut Rows, world: &World<'_>, job: u8) -> Answer {
    let Some(row) = rows.jobs.get_mut(usize::from(job)) else { return Answer::NotFound };
    if world.rules.breaks(Mutant::CancelFinished) && row.state == JobState::Succeeded {
        row.state = JobState::Cancelled;
        return Answer::Done;
    }
    act(row, &JobEvent::Cancel)
}

/// `store/jobs/pause.rs`.
pub(super) fn pause(rows: &mut Rows, job: u8) -> Answer {
    let Some(row) = rows.jobs.get_mut(usize::from(job)) else { return Answer::NotFound };
    act(row, &JobEvent::Pause)
}

/// `store/jobs/resume.rs`.
pub(super) fn resume(rows: &mut Rows, job: u8) -> Answer {
    let Some(row) = rows.jobs.get_mut(usize::from(job)) else { return Answer::NotFound };
    let started = row.attempts.iter().any(|attempt| attempt.life == Life::Running);
    act(row, &JobEvent::Resume { started })
}

/// `store/jobs/retry.rs`: a new set of tries, from the last checkpoint.
pub(super) fn retry(rows: &mut Rows, job: u8) -> Answer {
    let Some(row) = rows.jobs.get_mut(usize::from(job)) else { return Answer::NotFound };
    let before = row.state;
    let answer = act(row, &JobEvent::Retry);
    if row.state != before {
        row.counters = Counters { furthest_step: row.counters.furthest_step, ..Counters::default() };
    }
    answer
}

/// `store/jobs/mod.rs`, `act`: a move to where the job is changes nothing.
fn act(row: &mut JobRow, event: &JobEvent) -> Answer {
    match transition(row.state, event) {
        Ok(moved) => {
            row.state = moved.next;
            Answer::Done
        }
        Err(_) => Answer::Refused,
    }
}
