//! The rows of calls that move jobs on: locked, then written, many in one
//! statement each.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Uuid;

use super::together::{Locks, Tokens};
use crate::core::job::{EndReason, JobState, Transition};
use crate::store::error::{Error, corrupt, failed};
use crate::store::fence::Life;

/// A job and its attempt; both rows are locked until the transaction ends.
#[derive(Clone, Debug)]
pub(super) struct Turning {
    pub job: Uuid,
    pub search_id: Option<Uuid>,
    /// "supernet" or "retrain".
    pub kind: String,
    /// "segmentation" or "classification".
    pub task: String,
    pub state: JobState,
    /// Of the job, which may be beyond the attempt's.
    pub epoch: i64,
    pub life: Life,
    pub device: String,
    pub last_seq: i64,
}

struct Row {
    job: Uuid,
    search_id: Option<Uuid>,
    kind: String,
    task: String,
    state: String,
    epoch: i64,
    attempt_state: String,
    end_reason: Option<String>,
    device: String,
    last_seq: i64,
}

/// Locks jobs with the attempts of these tokens; those that are not the token's,
/// or that others hold where they are passed over, are left out.
pub(super) async fn lock(
    connection: &mut PgConnection,
    tokens: &Tokens,
    locks: Locks,
) -> Result<Vec<Turning>, Error> {
    macro_rules! lock {
        ($locks:literal) => {
            // S3 S10: epoch and nonce of a grant; who completes and who cancels wait for each other.
            sqlx::query_as!(
                Row,
                "select job.id as job, job.search_id, job.kind, job.task, job.state, job.epoch,
                     attempt.state as attempt_state, attempt.end_reason, attempt.device, attempt.last_seq
                 from unnest($1::uuid[], $2::bigint[], $3::bytea[]) as token (job_id, epoch, nonce)
                 join job on job.id = token.job_id
                 join attempt on attempt.job_id = token.job_id and attempt.epoch = token.epoch
                     and attempt.nonce = token.nonce
                 order by job.id
                 for no key update of job, attempt "
                    + $locks,
                &tokens.jobs,
                &tokens.epochs,
                &tokens.nonces
            )
            .fetch_all(connection)
            .await
        };
    }
    let locked = match locks {
        Locks::Wait => lock!(""),
        Locks::PassOver => lock!("skip locked"),
    };
    locked.map_err(failed("check leases"))?.into_iter().map(Turning::try_from).collect()
}

impl TryFrom<Row> for Turning {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let what = || format!("job {}", row.job);
        Ok(Turning {
            state: row.state.parse().map_err(|error| corrupt(what(), &error))?,
            life: Life::of(&row.attempt_state, row.end_reason.as_deref())
                .map_err(|error| corrupt(what(), &error))?,
            job: row.job,
            search_id: row.search_id,
            kind: row.kind,
            task: row.task,
            epoch: row.epoch,
            device: row.device,
            last_seq: row.last_seq,
        })
    }
}

/// Columns of moves: of the job, of its attempt, of the lease, and of the event
/// that tells of it.
#[derive(Debug, Default)]
pub(super) struct Moves {
    jobs: Vec<Uuid>,
    epochs: Vec<i64>,
    states: Vec<&'static str>,
    nexts: Vec<&'static str>,
    reasons: Vec<Option<&'static str>>,
    ends: Vec<Option<&'static str>>,
    leases_s: Vec<f64>,
    kinds: Vec<&'static str>,
    bodies: Vec<Value>,
}

impl Moves {
    /// Adds a move of a job and its attempt, which ends or starts.
    pub(super) fn add(
        &mut self,
        row: &Turning,
        kind: &'static str,
        moved: &Transition,
        lease: Option<Duration>,
    ) {
        // What was said of the job before does not hold for a success.
        let reason = (moved.next == JobState::Succeeded).then_some("");
        self.jobs.push(row.job);
        self.epochs.push(row.epoch);
        self.states.push(row.state.as_str());
        self.nexts.push(moved.next.as_str());
        self.reasons.push(reason);
        self.ends.push(moved.ends_attempt.map(EndReason::as_str));
        self.leases_s.push(lease.unwrap_or_default().as_secs_f64());
        self.kinds.push(kind);
        self.bodies.push(json!({
            "from": row.state.as_str(),
            "to": moved.next.as_str(),
            "reason": reason,
            "delay_s": null,
        }));
    }

    pub(super) async fn write(&self, connection: &mut PgConnection) -> Result<(), Error> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        // S6 S13: from the state that the move was decided for; a lease goes with its attempt.
        let moved = sqlx::query_scalar!(
            r#"with change as (
                   select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[],
                           $7::float8[], $8::text[], $9::jsonb[])
                       as change (job_id, epoch, state, next, reason, end_reason, lease_s, kind, body)
               ), moved as (
                   update job set
                       state = change.next, state_reason = coalesce(change.reason, state_reason),
                       revision = revision + 1, run_after = null, avoid_worker_id = null, avoid_until = null,
                       start_time = case when change.next = 'running' then coalesce(start_time, clock_timestamp())
                           else start_time end,
                       end_time = case when change.next in ('succeeded', 'failed', 'cancelled')
                           then clock_timestamp() end
                   from change
                   where job.id = change.job_id and job.state = change.state and job.epoch = change.epoch
                   returning job.id, job.search_id
               ), turned as (
                   update attempt set
                       state = case when change.end_reason is null then 'running' else 'ended' end,
                       start_time = case when change.end_reason is null then clock_timestamp()
                           else start_time end,
                       end_reason = change.end_reason,
                       end_time = case when change.end_reason is not null then clock_timestamp() end
                   from change where attempt.job_id = change.job_id and attempt.epoch = change.epoch
               ), renewed as (
                   update attempt_lease set deadline = clock_timestamp() + make_interval(secs => change.lease_s)
                   from change
                   where attempt_lease.job_id = change.job_id and attempt_lease.epoch = change.epoch
                       and attempt_lease.member = 0 and change.end_reason is null
               ), removed as (
                   delete from attempt_lease using change
                   where attempt_lease.job_id = change.job_id and attempt_lease.epoch = change.epoch
                       and change.end_reason is not null
               ), told as (
                   insert into event (kind, search_id, job_id, epoch, body)
                   select change.kind, moved.search_id, change.job_id, change.epoch, change.body
                   from change join moved on moved.id = change.job_id
               )
               select count(*) as "count!" from moved"#,
            &self.jobs,
            &self.epochs,
            &self.states as _,
            &self.nexts as _,
            &self.reasons as _,
            &self.ends as _,
            &self.leases_s,
            &self.kinds as _,
            &self.bodies
        )
        .fetch_one(connection)
        .await
        .map_err(failed("move jobs on"))?;
        if usize::try_from(moved) != Ok(self.jobs.len()) {
            return Err(corrupt("a locked row of a job", &"it changed under the lock"));
        }
        Ok(())
    }
}
