//! Grants a waiting job to a worker that asks.

use cakes_proto::ids::{JobId, LeaseToken, Nonce, SearchId, WorkerId};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;
use uuid::Uuid;

use super::{CheckpointRef, artifact_prefix};
use crate::core::job::{JobEvent, JobState, transition};
use crate::core::lease::Policy;
use crate::core::worker::{Device, Schedule};
use crate::store::error::{Error, corrupt, failed};
use crate::store::event::{self, Event};
use crate::store::text::storable;
use crate::store::workers::lock_current;

/// Longest stored name of a device, in bytes.
const DEVICE_BYTES_MAX: usize = 200;

/// A worker's wish for a job.
#[derive(Clone, Debug)]
pub struct Acquisition {
    pub worker: WorkerId,
    pub incarnation: i64,
    /// A repetition gets the first grant.
    pub request_id: Uuid,
    /// The free device.
    pub device: Device,
}

/// A job, offered to one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub token: LeaseToken,
    /// For the trainer, in the domain's JSON form.
    pub trainer_job_json: String,
    /// `None` for a fresh start.
    pub resume_from: Option<CheckpointRef>,
    /// The final checkpoint of the supernet that a fresh start takes its weights from.
    pub start_from: Option<CheckpointRef>,
    /// Where this attempt alone may write in the artifact store.
    pub artifact_prefix: String,
}

/// Grants the first waiting job that fits the device; `None` if there is none,
/// if the worker is to take no more, or if the request's grant has ended.
///
/// # Errors
/// The caller is not the current start of its daemon.
#[instrument(skip_all, fields(worker = %wish.worker, device = wish.device.name), err(level = "debug"))]
pub async fn acquire(pool: &PgPool, policy: &Policy, wish: &Acquisition) -> Result<Option<Grant>, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin a grant"))?;
    let schedule = lock_current(&mut transaction, &wish.worker, wish.incarnation).await?;
    let granted = match earlier_grant(&mut transaction, wish).await? {
        Some(earlier) => earlier,
        None if schedule == Schedule::Ready => claim(&mut transaction, policy, wish).await?,
        None => None,
    };
    let grant = match granted {
        Some(token) => Some(read_grant(&mut transaction, token).await?),
        None => None,
    };
    transaction.commit().await.map_err(failed("commit a grant"))?;
    Ok(grant)
}

/// The grant of the same request; `Some(None)` if it has ended since.
async fn earlier_grant(
    connection: &mut PgConnection,
    wish: &Acquisition,
) -> Result<Option<Option<LeaseToken>>, Error> {
    let row = sqlx::query!(
        "select job_id, epoch, nonce, state from attempt
         where worker_id = $1 and incarnation = $2 and acquire_request_id = $3",
        wish.worker.as_str(),
        wish.incarnation,
        wish.request_id
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("look for an earlier grant"))?;
    let Some(row) = row else { return Ok(None) };
    if row.state == "ended" {
        return Ok(Some(None));
    }
    let nonce = nonce_from(&row.nonce)?;
    Ok(Some(Some(LeaseToken { job: JobId(row.job_id), epoch: row.epoch, nonce })))
}

/// Takes the first waiting job, in one statement, past rows that others hold.
/// The state is written out in it: a generic plan for a parameter could not use
/// the index of waiting jobs.
async fn claim(
    connection: &mut PgConnection,
    policy: &Policy,
    wish: &Acquisition,
) -> Result<Option<LeaseToken>, Error> {
    let leased = transition(JobState::Queued, &JobEvent::Grant)?.next;
    // S1 S2: only a queued job, and its epoch grows with it.
    let row = sqlx::query!(
        "with candidate as (
             select id from job
             where state = 'queued'
                 and (run_after is null or run_after <= clock_timestamp())
                 and (avoid_until is null or avoid_worker_id <> $1 or avoid_until <= clock_timestamp())
                 and memory_mib <= $2
             order by priority desc, position
             limit 1
             for no key update skip locked
         )
         update job set state = $3, epoch = job.epoch + 1, run_after = null, revision = job.revision + 1
         from candidate where job.id = candidate.id and job.state = 'queued'
         returning job.id, job.epoch, job.search_id, job.checkpoint_epoch, job.checkpoint_step",
        wish.worker.as_str(),
        i64::try_from(wish.device.memory_mib).unwrap_or(i64::MAX),
        leased.as_str()
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("claim a job"))?;
    let Some(row) = row else { return Ok(None) };
    let token = LeaseToken { job: JobId(row.id), epoch: row.epoch, nonce: fresh_nonce()? };
    insert_attempt(connection, token, wish, row.checkpoint_epoch, row.checkpoint_step).await?;
    insert_lease(connection, token, policy).await?;
    event::record(
        connection,
        Event {
            kind: "job_leased",
            search: row.search_id.map(SearchId),
            job: Some(token.job),
            epoch: Some(token.epoch),
            worker: Some(&wish.worker),
            body: Some(serde_json::json!({
                "device": storable(&wish.device.name, DEVICE_BYTES_MAX),
                "resume_step": row.checkpoint_step.unwrap_or(0),
            })),
        },
    )
    .await?;
    Ok(Some(token))
}

async fn insert_attempt(
    connection: &mut PgConnection,
    token: LeaseToken,
    wish: &Acquisition,
    resume_epoch: Option<i64>,
    resume_step: Option<i64>,
) -> Result<(), Error> {
    // S8: from the checkpoint that the job names.
    sqlx::query!(
        "insert into attempt
             (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id, resume_epoch,
              resume_step, last_step)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
        token.job.0,
        token.epoch,
        &token.nonce.0[..],
        wish.worker.as_str(),
        wish.incarnation,
        storable(&wish.device.name, DEVICE_BYTES_MAX),
        wish.request_id,
        resume_epoch,
        resume_step.unwrap_or(0)
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record an attempt"))
}

async fn insert_lease(
    connection: &mut PgConnection,
    token: LeaseToken,
    policy: &Policy,
) -> Result<(), Error> {
    // S13: in the transaction of the attempt; it goes with the attempt's end.
    sqlx::query!(
        "insert into attempt_lease (job_id, epoch, deadline)
         values ($1, $2, clock_timestamp() + make_interval(secs => $3))",
        token.job.0,
        token.epoch,
        policy.offer_ttl.as_secs_f64()
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record a lease"))
}

/// What the worker needs for a granted token.
async fn read_grant(connection: &mut PgConnection, token: LeaseToken) -> Result<Grant, Error> {
    let row = sqlx::query!(
        r#"select job.trainer_job::text as "trainer_job!",
               attempt.resume_epoch,
               own.key as "key?", own.step as "step?", own.manifest_sha256 as "manifest?",
               supernet.key as "supernet_key?", supernet.step as "supernet_step?",
               supernet.manifest_sha256 as "supernet_manifest?"
           from attempt join job on job.id = attempt.job_id
           left join checkpoint as own on own.job_id = attempt.job_id
               and own.epoch = attempt.resume_epoch and own.step = attempt.resume_step
           left join result on result.job_id = job.supernet_job_id
           left join checkpoint as supernet on supernet.job_id = result.job_id
               and supernet.epoch = result.checkpoint_epoch and supernet.step = result.checkpoint_step
           where attempt.job_id = $1 and attempt.epoch = $2"#,
        token.job.0,
        token.epoch
    )
    .fetch_one(connection)
    .await
    .map_err(failed("read a granted job"))?;
    let reference =
        |key, step, manifest| Some(CheckpointRef { key: key?, step: step?, manifest_sha256: manifest? });
    let supernet = reference(row.supernet_key, row.supernet_step, row.supernet_manifest);
    Ok(Grant {
        token,
        trainer_job_json: row.trainer_job,
        resume_from: reference(row.key, row.step, row.manifest),
        // Its own checkpoint holds what it has made of them.
        start_from: supernet.filter(|_| row.resume_epoch.is_none()),
        artifact_prefix: artifact_prefix(token),
    })
}

fn fresh_nonce() -> Result<Nonce, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(Nonce(bytes))
}

pub(super) fn nonce_from(bytes: &[u8]) -> Result<Nonce, Error> {
    let bytes = bytes.try_into().map_err(|_| corrupt("the nonce of an attempt", &"it has not 16 bytes"))?;
    Ok(Nonce(bytes))
}
