//! Ends of attempts: the row, the lease, and what becomes of the job.

use cakes_proto::ids::LeaseToken;
use sqlx::PgConnection;

use crate::core::gang::blamed;
use crate::core::job::{EndReason, JobEvent, JobState, transition};
use crate::core::lease::{Policy, desired};
use crate::core::retry::{Failure, FailureClass, judge};
use crate::core::{lease, worker};
use crate::store::error::{Error, corrupt, failed};
use crate::store::fence::{Attempt, Life};
use crate::store::job_row::{self, JobRow, Move};
use crate::store::text::storable;

/// Longest stored message, in bytes.
const MESSAGE_BYTES_MAX: usize = 4000;

/// A bad end as it was reported or noticed.
pub(super) struct BadEnd<'a> {
    pub end: EndReason,
    pub class: FailureClass,
    pub message: &'a str,
}

/// Ends a live attempt without a result and moves its job on. Job and attempt
/// are locked. What is said of it names the member that brought it about, unless that led.
pub(super) async fn end_badly(
    connection: &mut PgConnection,
    policy: &Policy,
    job: &JobRow,
    token: LeaseToken,
    attempt: &Attempt,
    bad: &BadEnd<'_>,
) -> Result<(), Error> {
    let message = match token.leads() {
        true => bad.message.to_owned(),
        false => blamed(token.member, attempt.worker.as_str(), bad.message),
    };
    let message = storable(&message, MESSAGE_BYTES_MAX);
    let bad = &BadEnd { message: &message, end: bad.end, class: bad.class };
    let asked_to_yield = asked_to_yield(connection, job, token, attempt).await?;
    let went_away = matches!(bad.class, FailureClass::Lost | FailureClass::Cancelled);
    let handed_back = bad.end == EndReason::Failed && went_away && asked_to_yield;
    let end = if handed_back { EndReason::HandedBack } else { bad.end };
    let began = attempt.life != Life::Offered;
    let (class, last_step) = (bad.class, attempt.last_step);
    let failure = Failure { end, class, message: bad.message, began, last_step };
    let judgement = judge(&failure, job.counters, &policy.budgets, jitter(token));
    let moved = transition(job.state, &JobEvent::Fail { end, decision: judgement.decision })?;
    let end = moved.ends_attempt.unwrap_or(end);
    end_attempt(connection, token, end, Some(bad)).await?;
    let reason = match &moved.reason {
        Some(reason) => Some(reason.as_str()),
        // The reason is that of whoever cancelled or paused.
        None if moved.next == JobState::Cancelled || handed_back && moved.next == JobState::Paused => None,
        None if handed_back => Some(""),
        None => Some(bad.message),
    };
    let kind = match moved.next {
        JobState::Failed => "job_failed",
        JobState::Cancelled => "job_cancelled",
        JobState::Paused => "job_paused",
        _ => "job_requeued",
    };
    let avoid = judgement.avoid_worker.then_some(&attempt.worker);
    let change = Move { kind, moved: &moved, reason, counters: judgement.counters, avoid };
    job_row::apply(connection, job, change).await
}

/// Removes the leases of an attempt and marks it as ended, with all its members.
pub(super) async fn end_attempt(
    connection: &mut PgConnection,
    token: LeaseToken,
    end: EndReason,
    bad: Option<&BadEnd<'_>>,
) -> Result<(), Error> {
    // First the leases, then the members, as of those who start or renew.
    sqlx::query!("delete from attempt_lease where job_id = $1 and epoch = $2", token.job.0, token.epoch)
        .execute(&mut *connection)
        .await
        .map_err(failed("remove a lease"))?;
    sqlx::query!(
        "update attempt set state = 'ended', end_reason = $3, failure_class = $4, message = $5,
             end_time = clock_timestamp(), ended_by = $6
         where job_id = $1 and epoch = $2",
        token.job.0,
        token.epoch,
        end.as_str(),
        bad.map(|bad| bad.class.as_str()),
        bad.map_or("", |bad| bad.message),
        bad.map(|_| token.member)
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("end an attempt"))
}

/// Whether the worker had been asked to hand the job back, or that of any other member.
async fn asked_to_yield(
    connection: &mut PgConnection,
    job: &JobRow,
    token: LeaseToken,
    attempt: &Attempt,
) -> Result<bool, Error> {
    let schedule = sqlx::query_scalar!(
        r#"select case when exists (
               select from attempt_member member join worker on worker.id = member.worker_id
               where member.job_id = $2 and member.epoch = $3 and worker.schedule = 'draining'
           ) then 'draining' else schedule end as "schedule!"
           from worker where id = $1"#,
        attempt.worker.as_str(),
        token.job.0,
        token.epoch
    )
    .fetch_one(connection)
    .await
    .map_err(failed("read a worker's schedule"))?;
    let schedule: worker::Schedule = schedule
        .parse()
        .map_err(|error| corrupt(format!("the schedule of worker {}", attempt.worker), &error))?;
    Ok(desired(job.state, schedule, job.makes_way) == lease::Desired::Yield)
}

/// Differs between jobs and attempts.
fn jitter(token: LeaseToken) -> u64 {
    token.job.0.as_u64_pair().1 ^ token.epoch.unsigned_abs()
}
