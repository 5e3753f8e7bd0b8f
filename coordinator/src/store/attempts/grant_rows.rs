//! The rows of grants: the front of the queue, and what a grant writes.

use std::collections::{BTreeMap, BTreeSet};

use cakes::labels::Labels;
use cakes_proto::ids::LeaseToken;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::{Json, Uuid};

use super::acquire::Acquisition;
use super::gang::{Formed, Slot};
use crate::core::assign::{Candidate, Wish};
use crate::core::gang::Seat;
use crate::core::job::{JobEvent, JobState, transition};
use crate::core::lease::Policy;
use crate::store::error::{Error, failed};
use crate::store::labels;

/// An attempt that an earlier call with the same request made.
pub(super) struct Earlier {
    pub worker_id: String,
    pub request: Uuid,
    pub job_id: Uuid,
    pub epoch: i64,
    pub nonce: Vec<u8>,
    pub state: String,
    /// Of an attempt on several slots, of which this is one.
    pub member: Option<i16>,
}

/// Grants of the same requests, ended ones included, and parts of jobs that wait for the slot
/// to ask.
pub(super) async fn earlier(
    connection: &mut PgConnection,
    wishes: impl Iterator<Item = &Acquisition>,
) -> Result<Vec<Earlier>, Error> {
    let (mut workers, mut incarnations, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    let mut devices = Vec::new();
    for slot in wishes.map(Slot::of) {
        workers.push(slot.worker);
        incarnations.push(slot.incarnation);
        requests.push(slot.request_id);
        devices.push(slot.device);
    }
    if workers.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as!(
        Earlier,
        r#"with wish as (
               select * from unnest($1::text[], $2::bigint[], $3::uuid[], $4::text[])
                   as wish (worker_id, incarnation, request_id, device)
           ), part as (
               select member.job_id, member.epoch, member.member, member.state, wish.worker_id, wish.request_id
               from wish
               join attempt_member member on member.worker_id = wish.worker_id
                   and member.incarnation = wish.incarnation and member.acquire_request_id = wish.request_id
               union all
               select member.job_id, member.epoch, member.member, member.state, wish.worker_id, wish.request_id
               from wish
               join attempt_member member on member.worker_id = wish.worker_id and member.device = wish.device
                   and member.state <> 'ended' and member.acquire_request_id is null
                   and member.incarnation = wish.incarnation
           )
           select attempt.worker_id as "worker_id!", attempt.acquire_request_id as "request!",
               attempt.job_id as "job_id!", attempt.epoch as "epoch!", attempt.nonce as "nonce!",
               attempt.state as "state!", null::smallint as member
           from wish
           join attempt on attempt.worker_id = wish.worker_id and attempt.incarnation = wish.incarnation
               and attempt.acquire_request_id = wish.request_id and attempt.member_count = 1
           union all
           select part.worker_id, part.request_id, part.job_id, part.epoch, attempt.nonce, part.state, part.member
           from part join attempt on attempt.job_id = part.job_id and attempt.epoch = part.epoch"#,
        &workers,
        &incarnations,
        &requests,
        &devices
    )
    .fetch_all(connection)
    .await
    .map_err(failed("look for earlier grants"))
}

struct CandidateRow {
    id: Uuid,
    epoch: i64,
    memory_mib: i64,
    device_count: i32,
    worker_labels: Json<Labels>,
    project: String,
    has_quota: bool,
    position: i64,
    priority: i32,
    is_supernet: bool,
    deadline_s: Option<i64>,
    avoids: Option<String>,
    resume_step: Option<i64>,
    data: Option<String>,
}

impl From<CandidateRow> for Candidate {
    fn from(row: CandidateRow) -> Self {
        Candidate {
            id: row.id,
            epoch: row.epoch,
            memory_mib: row.memory_mib,
            device_count: row.device_count,
            worker_labels: row.worker_labels.0,
            project: row.project,
            has_quota: row.has_quota,
            position: row.position,
            priority: row.priority,
            is_supernet: row.is_supernet,
            deadline_s: row.deadline_s,
            avoids: row.avoids,
            resume_step: row.resume_step,
            data: row.data,
        }
    }
}

/// What is wanted of the front of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Jobs that need more are left out.
    pub memory_mib: i64,
    pub device_count: i32,
    /// Jobs whose `worker_labels` are not all among one of these are left out.
    pub labels: &'a [&'a Labels],
    /// Jobs that keep away from it are left out.
    pub worker: Option<&'a str>,
    pub limit: i64,
    pub except: &'a [Uuid],
    /// Projects whose jobs are left out.
    pub closed: &'a [String],
}

/// What is done with the front of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The jobs are taken, past rows that others hold.
    Take,
    /// They are told with their data, and left to others: [`take`] takes the chosen ones.
    Look,
}

/// The first jobs of the queue.
pub(super) async fn front(
    connection: &mut PgConnection,
    wanted: &Wanted<'_>,
    reach: Reach,
) -> Result<Vec<Candidate>, Error> {
    let labels: BTreeSet<&Labels> = wanted.labels.iter().copied().collect();
    let labels = labels.into_iter().map(labels::to_column).collect::<Result<Vec<Value>, Error>>()?;
    macro_rules! front {
        ($locks:literal) => {
            // Mostly all jobs are of one project and ask for no labels: compared as columns, Postgres
            // would expect hardly any to be left, and read and sort all of them.
            // The path of the data set lies beside the table; few rows are asked for it.
            // S1: only a job that waits.
            sqlx::query_as!(
                CandidateRow,
                r#"select id, epoch, memory_mib, device_count as "device_count!", project,
                       worker_labels as "worker_labels!: Json<Labels>",
                       exists (
                           select from project
                           where name = job.project and (device_quota is not null or device_s_quota is not null)
                       ) as "has_quota!",
                       position, priority, kind = 'supernet' as "is_supernet!",
                       extract(epoch from deadline)::bigint as deadline_s,
                       case when avoid_until > clock_timestamp() then avoid_worker_id end as avoids,
                       checkpoint_step as resume_step,
                       case when $8::boolean
                           then jsonb_path_query_first(trainer_job, '$.dataset.*.path') #>> '{}' end as data
                   from job
                   where waits and not is_held
                       and (run_after is null or run_after <= clock_timestamp())
                       and ($2::text is null or avoid_until is null or avoid_worker_id <> $2
                           or avoid_until <= clock_timestamp())
                       and memory_mib <= $1
                       and device_count <= $5
                       and id <> all($4)
                       and (project || '') <> all($6)
                       and case when worker_labels = '{}' then true
                           else exists (
                               select from unnest($7::jsonb[]) as has (labels) where has.labels @> worker_labels
                           ) end
                   order by is_held, rank
                   limit $3 "#
                    + $locks,
                wanted.memory_mib,
                wanted.worker,
                wanted.limit,
                wanted.except,
                wanted.device_count,
                wanted.closed,
                &labels,
                reach == Reach::Look
            )
            .fetch_all(connection)
            .await
        };
    }
    let found = match reach {
        Reach::Take => front!("for no key update skip locked"),
        Reach::Look => front!(""),
    };
    Ok(found.map_err(failed("read the front of the queue"))?.into_iter().map(Candidate::from).collect())
}

/// Takes jobs that were looked at, past rows that others hold; which of them are taken.
pub(super) async fn take(
    connection: &mut PgConnection,
    jobs: &[&Candidate],
) -> Result<BTreeSet<Uuid>, Error> {
    if jobs.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (ids, epochs): (Vec<Uuid>, Vec<i64>) = jobs.iter().map(|job| (job.id, job.epoch)).unzip();
    // S1: only a job that waits, and as it was looked at: nobody was granted it since.
    let taken = sqlx::query_scalar!(
        r#"select job.id
           from unnest($1::uuid[], $2::bigint[]) as seen (id, epoch)
           join job on job.id = seen.id and job.epoch = seen.epoch
           where job.waits and not job.is_held
           for no key update of job skip locked"#,
        &ids,
        &epochs
    )
    .fetch_all(connection)
    .await
    .map_err(failed("take the jobs that were chosen"))?;
    Ok(taken.into_iter().collect())
}

/// Takes the job that a slot is kept for, if the slot can have it now, or a part of it: then the
/// job trains on more devices than the slot has.
pub(super) async fn claim_kept(
    connection: &mut PgConnection,
    job: Uuid,
    wish: &Wish<'_>,
) -> Result<Option<Candidate>, Error> {
    // S1: only a job that waits.
    let found = sqlx::query_as!(
        CandidateRow,
        r#"select id, epoch, memory_mib, device_count as "device_count!", project,
               worker_labels as "worker_labels!: Json<Labels>",
               exists (
                   select from project
                   where name = job.project and (device_quota is not null or device_s_quota is not null)
               ) as "has_quota!",
               position, priority, kind = 'supernet' as "is_supernet!",
               extract(epoch from deadline)::bigint as deadline_s,
               null::text as avoids, checkpoint_step as resume_step, null::text as data
           from job
           where id = $1 and waits and not is_held
               and (run_after is null or run_after <= clock_timestamp())
               and (avoid_until is null or avoid_worker_id <> $2 or avoid_until <= clock_timestamp())
               and memory_mib <= $3 and (device_count <= $4 or spreads) and worker_labels <@ $5
           for no key update skip locked"#,
        job,
        wish.worker,
        wish.memory_mib,
        wish.device_count,
        labels::to_column(wish.labels)?
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("claim the job that a slot is kept for"))?;
    Ok(found.map(Candidate::from))
}

/// What the worker needs of a granted job.
#[derive(Clone, Debug)]
pub(super) struct GrantRow {
    pub job: Uuid,
    pub trainer_job: String,
    /// Of the checkpoint that the attempt goes on from.
    pub key: Option<String>,
    pub step: Option<i64>,
    pub manifest: Option<String>,
    /// Of the supernet that the job starts from.
    pub supernet_key: Option<String>,
    pub supernet_step: Option<i64>,
    pub supernet_manifest: Option<String>,
    /// What the job was queued within.
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    /// Since when it waited for this grant; only known within a trace.
    pub queued_at: Option<DateTime<Utc>>,
}

/// The same of an attempt that was granted before.
pub(super) async fn read(connection: &mut PgConnection, token: LeaseToken) -> Result<GrantRow, Error> {
    sqlx::query_as!(
        GrantRow,
        r#"select job.id as job, job.trainer_job::text as "trainer_job!",
               own.key as "key?", own.step as "step?", own.manifest_sha256 as "manifest?",
               supernet.key as "supernet_key?", supernet.step as "supernet_step?",
               supernet.manifest_sha256 as "supernet_manifest?", job.traceparent, job.tracestate,
               case when job.traceparent is not null then coalesce(
                   (select max(earlier.end_time) from attempt as earlier
                    where earlier.job_id = job.id and earlier.epoch < $2),
                   job.create_time) end as queued_at
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
    .map_err(failed("read a granted job"))
}

/// Columns of new grants.
#[derive(Debug, Default)]
pub(super) struct Grants {
    jobs: Vec<Uuid>,
    epochs: Vec<i64>,
    nonces: Vec<Vec<u8>>,
    workers: Vec<String>,
    incarnations: Vec<i64>,
    devices: Vec<String>,
    requests: Vec<Uuid>,
    bodies: Vec<Value>,
}

impl Grants {
    pub(super) fn add(&mut self, token: LeaseToken, wish: &Acquisition, job: &Candidate) {
        let slot = Slot::of(wish);
        let body = json!({ "device": slot.device, "resume_step": job.resume_step.unwrap_or(0) });
        self.push(token, slot, body);
    }

    /// A job on several slots, under the leader's name.
    pub(super) fn add_gang(&mut self, token: LeaseToken, formed: &Formed) {
        let Some((_, leader)) = formed.seats.first() else { return };
        let slot = |(_, slot): &(Seat, Slot)| json!({ "worker": slot.worker, "device": slot.device });
        let members: Vec<Value> = formed.seats.iter().map(slot).collect();
        let resume_step = formed.job.resume_step.unwrap_or(0);
        let body = json!({ "device": leader.device, "resume_step": resume_step, "members": members });
        self.push(token, leader.clone(), body);
    }

    fn push(&mut self, token: LeaseToken, slot: Slot, body: Value) {
        self.bodies.push(body);
        self.jobs.push(token.job.0);
        self.epochs.push(token.epoch);
        self.nonces.push(token.nonce.0.to_vec());
        self.workers.push(slot.worker);
        self.incarnations.push(slot.incarnation);
        self.devices.push(slot.device);
        self.requests.push(slot.request_id);
    }

    /// Leases the jobs, whose rows are locked; what each worker needs, by job.
    pub(super) async fn write(
        &self,
        connection: &mut PgConnection,
        policy: &Policy,
    ) -> Result<BTreeMap<Uuid, GrantRow>, Error> {
        if self.jobs.is_empty() {
            return Ok(BTreeMap::new());
        }
        let leased = transition(JobState::Queued, &JobEvent::Grant)?.next;
        // S1 S2 S8 S13: only a job that waits; a new epoch; from the job's checkpoint; with a lease.
        let rows = sqlx::query_as!(
            GrantRow,
            r#"with chosen as (
                   select * from unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::text[], $5::bigint[],
                           $6::text[], $7::uuid[], $8::jsonb[])
                       as chosen (job_id, epoch, nonce, worker_id, incarnation, device, request_id, body)
               ), leased as (
                   update job set state = $9, epoch = chosen.epoch, run_after = null, revision = revision + 1,
                       planned_rank = null, plan_reason = null
                   from chosen
                   where job.id = chosen.job_id and job.epoch = chosen.epoch - 1 and job.waits
                   returning job.id, job.search_id, job.supernet_job_id, job.checkpoint_epoch,
                       job.checkpoint_step
               ), begun as (
                   insert into attempt
                       (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id, resume_epoch,
                        resume_step, last_step)
                   select leased.id, epoch, nonce, worker_id, incarnation, device, request_id, checkpoint_epoch,
                       coalesce(checkpoint_step, 0), coalesce(checkpoint_step, 0)
                   from chosen join leased on leased.id = chosen.job_id
               ), offered as (
                   insert into attempt_lease (job_id, epoch, deadline)
                   select leased.id, epoch, clock_timestamp() + make_interval(secs => $10)
                   from chosen join leased on leased.id = chosen.job_id
               ), told as (
                   insert into event (kind, search_id, job_id, epoch, worker_id, body)
                   select 'job_leased', search_id, leased.id, epoch, worker_id, body
                   from chosen join leased on leased.id = chosen.job_id
               )
               select leased.id as job, job.trainer_job::text as "trainer_job!",
                   own.key as "key?", own.step as "step?", own.manifest_sha256 as "manifest?",
                   supernet.key as "supernet_key?", supernet.step as "supernet_step?",
                   supernet.manifest_sha256 as "supernet_manifest?", job.traceparent, job.tracestate,
                   case when job.traceparent is not null then coalesce(
                       (select max(earlier.end_time) from attempt as earlier where earlier.job_id = job.id),
                       job.create_time) end as queued_at
               from leased join job on job.id = leased.id
               left join checkpoint as own on own.job_id = leased.id
                   and own.epoch = leased.checkpoint_epoch and own.step = leased.checkpoint_step
               left join result on result.job_id = leased.supernet_job_id
               left join checkpoint as supernet on supernet.job_id = result.job_id
                   and supernet.epoch = result.checkpoint_epoch and supernet.step = result.checkpoint_step"#,
            &self.jobs,
            &self.epochs,
            &self.nonces,
            &self.workers,
            &self.incarnations,
            &self.devices,
            &self.requests,
            &self.bodies,
            leased.as_str(),
            policy.offer_ttl.as_secs_f64()
        )
        .fetch_all(connection)
        .await
        .map_err(failed("record grants"))?;
        Ok(rows.into_iter().map(|row| (row.job, row)).collect())
    }
}
