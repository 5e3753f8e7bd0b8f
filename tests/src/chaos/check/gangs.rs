//! What holds of attempts on several slots, at the end and at every moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use sqlx::PgPool;
use uuid::Uuid;

use super::{Findings, Statements, rows};
use crate::chaos::history::{Grant, History};

/// Slots of the rig have one device each, so a job of several is never on one.
pub(super) const LOST: Statements = &[
    (
        "a gang that was not granted as a whole",
        "select attempt.job_id, attempt.epoch, attempt.member_count, job.device_count, count(member.member) as members,
             sum(member.device_count) as devices
         from attempt join job on job.id = attempt.job_id
         left join attempt_member member on member.job_id = attempt.job_id and member.epoch = attempt.epoch
         where attempt.member_count > 1 or job.device_count > 1
         group by attempt.job_id, attempt.epoch, job.device_count
         having count(member.member) <> attempt.member_count or max(member.member) <> attempt.member_count - 1
             or sum(member.device_count) is distinct from job.device_count",
    ),
    (
        // The event is of the transaction that granted it.
        "a gang of other slots than were granted",
        "select event.job_id, event.epoch, event.body -> 'members' as granted
         from event join attempt on attempt.job_id = event.job_id and attempt.epoch = event.epoch
         where event.kind = 'job_leased' and attempt.member_count > 1 and event.body -> 'members' is distinct from (
             select jsonb_agg(jsonb_build_object('worker', worker_id, 'device', device) order by member)
             from attempt_member member where member.job_id = attempt.job_id and member.epoch = attempt.epoch
         )",
    ),
];

pub(super) const DUPLICATED: Statements = &[(
    "a gang on a slot that another attempt had",
    "with slot as (
         select job_id, epoch, worker_id, device, grant_time, end_time, member_count > 1 as is_of_gang from attempt
         union all
         select member.job_id, member.epoch, member.worker_id, member.device, attempt.grant_time, member.end_time, true
         from attempt_member member
         join attempt on attempt.job_id = member.job_id and attempt.epoch = member.epoch
         where member.member > 0
     )
     select gang.job_id, gang.epoch, gang.worker_id, gang.device, other.job_id as other_job, other.epoch as other_epoch
     from slot gang join slot other on other.worker_id = gang.worker_id and other.device = gang.device
         and (other.job_id, other.epoch) <> (gang.job_id, gang.epoch)
     where gang.is_of_gang and other.grant_time <= gang.grant_time
         and coalesce(other.end_time, 'infinity') > gang.grant_time",
)];

pub(super) const ZOMBIES: Statements = &[
    (
        "a member that outlived its attempt",
        "select member.job_id, member.epoch, member.member, member.worker_id
         from attempt_member member join attempt on attempt.job_id = member.job_id and attempt.epoch = member.epoch
         where attempt.state = 'ended'
             and (member.state <> 'ended' or coalesce(member.end_time, 'infinity') > attempt.end_time)",
    ),
    (
        "a lease that outlived its attempt",
        "select lease.job_id, lease.epoch, lease.member
         from attempt_lease lease join attempt on attempt.job_id = lease.job_id and attempt.epoch = lease.epoch
         where attempt.state = 'ended'",
    ),
    (
        "a result stored behind its attempt's end",
        "select result.job_id, result.epoch
         from result join attempt on attempt.job_id = result.job_id and attempt.epoch = result.epoch
         where attempt.state = 'ended'
             and pg_xact_commit_timestamp(result.xmin) > pg_xact_commit_timestamp(attempt.xmin)",
    ),
];

pub(super) const STUCK: Statements = &[(
    "a member that does not end",
    "select job_id, epoch, member, worker_id from attempt_member where state <> 'ended'",
)];

/// What must not be seen at any moment. Each is of one snapshot: what is done in one transaction
/// is seen together or not at all.
const AT_ANY_MOMENT: Statements = &[
    (
        "a part of a gang",
        "select attempt.job_id, attempt.epoch, attempt.member_count, job.device_count
         from attempt join job on job.id = attempt.job_id
         where attempt.state <> 'ended' and job.device_count > 1 and (
             select count(*) from attempt_member member
             where member.job_id = attempt.job_id and member.epoch = attempt.epoch
         ) is distinct from nullif(attempt.member_count, 1)",
    ),
    (
        "a member, or its lease, behind the end of its attempt",
        "select job_id, epoch, member from attempt_lease lease join attempt using (job_id, epoch)
         where attempt.state = 'ended'
         union all
         select job_id, epoch, member from attempt_member part join attempt using (job_id, epoch)
         where part.state <> 'ended' and attempt.state = 'ended'",
    ),
    (
        "a member without a lease, or the reverse",
        "select part.job_id, part.epoch, part.member
         from attempt_member part
         left join attempt_lease lease on lease.job_id = part.job_id and lease.epoch = part.epoch
             and lease.member = part.member
         where part.state <> 'ended' and lease.job_id is null
         union all
         select lease.job_id, lease.epoch, lease.member
         from attempt_lease lease
         left join attempt_member part on part.job_id = lease.job_id and part.epoch = lease.epoch
             and part.member = lease.member and part.state <> 'ended'
         where lease.member > 0 and part.job_id is null",
    ),
];

const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What was seen that must not be, each once.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<BTreeMap<String, u64>>>);

impl Seen {
    /// Looks until it is dropped. The database may be away now and then.
    pub async fn watch(self, pool: PgPool) {
        loop {
            let _ = self.look(&pool).await;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn look(&self, pool: &PgPool) -> Result<()> {
        for (what, statement) in AT_ANY_MOMENT {
            for found in rows(pool, what, statement).await? {
                let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                *seen.entry(found).or_default() += 1;
            }
        }
        Ok(())
    }

    pub fn add_to(&self, findings: &mut Findings) {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        findings.zombie_writes.extend(seen.iter().map(|(what, times)| format!("seen {times} times: {what}")));
    }
}

/// What members were told against their rows.
pub(super) async fn members(pool: &PgPool, history: &History, findings: &mut Findings) -> Result<()> {
    let statement = "select member.job_id, member.epoch, member.member, member.worker_id, member.state,
            encode(attempt.nonce, 'hex')
        from attempt_member member
        join attempt on attempt.job_id = member.job_id and attempt.epoch = member.epoch";
    let stored: Vec<(Uuid, i64, i16, String, String, String)> =
        sqlx::query_as(statement).fetch_all(pool).await?;
    let stored: BTreeMap<(Grant, u32), (String, String, String)> = stored
        .into_iter()
        .map(|(job, epoch, member, worker, state, nonce)| {
            (((job, epoch), u32::from(member.unsigned_abs())), (worker, state, nonce))
        })
        .collect();
    for (grant, told) in history.attempts() {
        for member in told.zombies() {
            let zombie = format!("taken of member {member} behind its end: {grant:?} {told:?}");
            findings.zombie_writes.push(zombie);
        }
        for (member, part) in told.parts.iter().filter(|(member, _)| **member > 0) {
            let Some((worker, state, nonce)) = stored.get(&(grant, *member)) else {
                findings.lost.push(format!("member {member} of a grant is not stored: {grant:?} {part:?}"));
                continue;
            };
            // What was only sent again by the rig has no worker here.
            let is_its = *worker == part.worker && part.nonces.iter().all(|told| told == nonce);
            if !part.worker.is_empty() && !is_its {
                findings.lost.push(format!("member {member} is stored for another: {grant:?} {part:?}"));
            }
            if part.failed && state != "ended" {
                findings.lost.push(format!("the end of member {member} is not stored: {grant:?}"));
            }
        }
    }
    Ok(())
}

/// What became of gangs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Gangs {
    /// Attempts on several slots that were started.
    pub begun: i64,
    /// Those of which a member was lost or failed.
    pub lost: i64,
    /// Those after which a gang went on from a checkpoint.
    pub resumed: i64,
}

/// # Errors
/// The database cannot be read.
pub async fn count(pool: &PgPool) -> Result<Gangs> {
    let statement = "with gang as (
             select job_id, epoch, resume_step,
                 end_reason in ('failed', 'lease expired', 'offer expired', 'superseded')
                     and failure_class in ('lost', 'infrastructure') as is_lost
             from attempt where member_count > 1 and start_time is not null
         )
         select count(*) as begun, count(*) filter (where is_lost) as lost,
             count(*) filter (where is_lost and exists (
                 select from gang next
                 where next.job_id = gang.job_id and next.epoch > gang.epoch and next.resume_step > 0
             )) as resumed
         from gang";
    Ok(sqlx::query_as(statement).fetch_one(pool).await?)
}
