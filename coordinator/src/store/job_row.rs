//! A job's row under its lock, and the one statement that moves it.

use cakes::spec::TaskKind;
use cakes_proto::ids::{JobId, SearchId, WorkerId};
use serde_json::json;
use sqlx::PgConnection;

use super::error::{Error, corrupt, failed};
use super::event::{self, Event};
use super::webhooks::{self, Happening};
use crate::core::job::{JobState, Transition};
use crate::core::retry::{AVOID_WORKER_FOR, Counters};
use crate::core::webhook::WebhookEvent;

/// The name in the database.
pub(super) fn task_name(task: TaskKind) -> &'static str {
    match task {
        TaskKind::Segmentation => "segmentation",
        TaskKind::Classification => "classification",
    }
}

/// What moves of a job are decided from; its row is locked until the
/// transaction ends.
#[derive(Clone, Debug)]
pub(super) struct JobRow {
    pub id: JobId,
    pub search: Option<SearchId>,
    pub state: JobState,
    pub epoch: i64,
    /// Whether the attempt of this epoch was told to make way for another job.
    pub makes_way: bool,
    pub counters: Counters,
}

/// Locks a job.
///
/// # Errors
/// There is no such job.
pub(super) async fn lock(connection: &mut PgConnection, id: JobId) -> Result<JobRow, Error> {
    // S10: who completes and who cancels wait for each other here.
    let row = sqlx::query!(
        r#"select search_id, state, epoch, coalesce(yield_epoch = epoch, false) as "makes_way!",
               lost_count, infrastructure_count, resource_count, numeric_count, no_progress_count, furthest_step
           from job where id = $1 for no key update"#,
        id.0
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("lock a job"))?
    .ok_or_else(|| Error::NotFound { kind: "job", id: id.to_string() })?;
    Ok(JobRow {
        id,
        search: row.search_id.map(SearchId),
        state: row.state.parse().map_err(|error| corrupt(format!("the state of job {id}"), &error))?,
        epoch: row.epoch,
        makes_way: row.makes_way,
        counters: Counters {
            lost: row.lost_count.unsigned_abs(),
            infrastructure: row.infrastructure_count.unsigned_abs(),
            resource: row.resource_count.unsigned_abs(),
            numeric: row.numeric_count.unsigned_abs(),
            no_progress: row.no_progress_count.unsigned_abs(),
            furthest_step: row.furthest_step,
        },
    })
}

/// A move to write, with what changes beside the state.
pub(super) struct Move<'a> {
    /// Kind of the event: "job_paused".
    pub kind: &'static str,
    pub moved: &'a Transition,
    /// Replaces the reason of the state; `None` leaves it.
    pub reason: Option<&'a str>,
    pub counters: Counters,
    /// The worker to keep away from for a while.
    pub avoid: Option<&'a WorkerId>,
}

/// Writes a move of a locked job, and the event that tells of it. A job that has lost its
/// device goes on before those of its priority that wait: the planner may have put them far
/// before its old place, and looks at long queues only now and then.
pub(super) async fn apply(
    connection: &mut PgConnection,
    job: &JobRow,
    change: Move<'_>,
) -> Result<(), Error> {
    let Move { kind, moved, reason, counters, avoid } = change;
    let count = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let is_delayed = moved.delay.is_some_and(|delay| !delay.is_zero());
    let goes_first =
        moved.next == JobState::Queued && job.state.has_attempt() && !job.makes_way && !is_delayed;
    // S6 S12: from the state that the move was decided for, with the counted ends.
    let changed = sqlx::query!(
        "update job set
             state = $4, state_reason = coalesce($5, state_reason), revision = revision + 1,
             run_after = clock_timestamp() + make_interval(secs => $6),
             lost_count = $7, infrastructure_count = $8, resource_count = $9, numeric_count = $10,
             no_progress_count = $11, furthest_step = $12,
             avoid_worker_id = $13,
             avoid_until = case when $13::text is null then null
                 else clock_timestamp() + make_interval(secs => $14) end,
             start_time = case when $4 = 'running' then coalesce(start_time, clock_timestamp())
                 else start_time end,
             end_time = case when $4 in ('succeeded', 'failed', 'cancelled') then clock_timestamp() end,
             planned_rank = case when $15 then (
                 select front.rank - 1 from job front
                 where front.waits and not front.is_held and front.priority <= job.priority
                 order by front.is_held, front.rank limit 1
             ) end
         where id = $1 and state = $2 and epoch = $3",
        job.id.0,
        job.state.as_str(),
        job.epoch,
        moved.next.as_str(),
        reason,
        moved.delay.filter(|delay| !delay.is_zero()).map(|delay| delay.as_secs_f64()),
        count(counters.lost),
        count(counters.infrastructure),
        count(counters.resource),
        count(counters.numeric),
        count(counters.no_progress),
        counters.furthest_step,
        avoid.map(WorkerId::as_str),
        AVOID_WORKER_FOR.as_secs_f64(),
        goes_first
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("move a job to another state"))?;
    if changed.rows_affected() != 1 {
        return Err(corrupt(format!("the locked row of job {}", job.id), &"it changed under the lock"));
    }
    let body = json!({
        "from": job.state.as_str(),
        "to": moved.next.as_str(),
        "reason": reason,
        "delay_s": moved.delay.map(|delay| delay.as_secs_f64()),
    });
    event::record(
        &mut *connection,
        Event {
            kind,
            search: job.search,
            job: Some(job.id),
            epoch: Some(job.epoch),
            worker: avoid,
            body: Some(body),
        },
    )
    .await?;
    if moved.next != JobState::Failed {
        return Ok(());
    }
    let happening =
        Happening { event: WebhookEvent::JobFailed, search: job.search, job: Some(job.id), point: None };
    webhooks::record(connection, happening).await
}
