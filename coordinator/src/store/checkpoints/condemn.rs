//! Condemns checkpoints that nothing keeps.

use std::collections::BTreeMap;

use sqlx::PgPool;
use sqlx::types::Uuid;
use tracing::instrument;

use super::facts::{JobFacts, of_jobs};
use crate::core::retention::{Fate, Policy, fates};
use crate::store::error::{Error, failed};

/// Jobs that one review looks at.
const JOBS_MAX: i64 = 500;
/// Jobs that are locked at a time: whoever has a call for one of them waits meanwhile.
const LOCKED_MAX: usize = 50;

/// What a review did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// Checkpoints that were condemned.
    pub condemned: usize,
    /// The last job looked at, where more come behind it.
    pub next: Option<Uuid>,
}

/// Looks at a page of jobs behind `after` and condemns checkpoints that nothing keeps.
/// Jobs that somebody is at are left for the next time.
///
/// # Errors
/// The database fails; what was condemned before stays so.
#[instrument(skip_all, err(level = "debug"))]
pub async fn review(pool: &PgPool, policy: Policy, after: Option<Uuid>) -> Result<Review, Error> {
    let mut connection = pool.acquire().await.map_err(failed("begin to look at checkpoints"))?;
    let jobs: Vec<Uuid> = sqlx::query_scalar!(
        "select distinct job_id from checkpoint join job on job.id = checkpoint.job_id
         where not settled and not job.imported and ($1::uuid is null or job_id > $1)
         order by job_id limit $2",
        after,
        JOBS_MAX
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("look for checkpoints that may be condemned"))?;
    let found = of_jobs(&mut connection, &jobs).await?;
    drop(connection);
    let is_due = |job: &Uuid, facts: &JobFacts| {
        let mut plan = Plan::default();
        plan.add(*job, facts, policy);
        !plan.is_empty()
    };
    let due: Vec<Uuid> =
        found.iter().filter(|(job, facts)| is_due(job, facts)).map(|(job, _)| *job).collect();
    let mut condemned = 0;
    for jobs in due.chunks(LOCKED_MAX) {
        condemned += apply(pool, policy, jobs).await?;
    }
    let is_full = i64::try_from(jobs.len()) == Ok(JOBS_MAX);
    Ok(Review { condemned, next: jobs.last().copied().filter(|_| is_full) })
}

/// Rows to write: columns of keys.
#[derive(Debug, Default)]
struct Plan {
    jobs: Vec<Uuid>,
    epochs: Vec<i64>,
    steps: Vec<i64>,
    /// None for one that is settled and stays.
    reasons: Vec<Option<String>>,
}

impl Plan {
    fn add(&mut self, job: Uuid, facts: &JobFacts, policy: Policy) {
        let judged = fates(&facts.facts, policy);
        for ((checkpoint, fate), settled) in facts.facts.checkpoints.iter().zip(judged).zip(&facts.settled) {
            let reason = match fate {
                Fate::Condemned(reason) => Some(reason),
                Fate::Kept(_) if facts.facts.has_succeeded && !settled => None,
                Fate::Kept(_) => continue,
            };
            self.jobs.push(job);
            self.epochs.push(checkpoint.epoch);
            self.steps.push(checkpoint.step);
            self.reasons.push(reason);
        }
    }

    fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}

/// Decides again under the locks of the jobs, and writes; how many were condemned.
async fn apply(pool: &PgPool, policy: Policy, jobs: &[Uuid]) -> Result<usize, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to condemn checkpoints"))?;
    let locked = sqlx::query_scalar!(
        "select id from job where id = any($1) order by id for no key update skip locked",
        jobs
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed("lock jobs"))?;
    // A statement of its own: it sees what was committed before the locks were had.
    let found = of_jobs(&mut transaction, &locked).await?;
    let mut plan = Plan::default();
    for (job, facts) in &found {
        plan.add(*job, facts, policy);
    }
    if plan.is_empty() {
        return Ok(0);
    }
    // S11: under the lock of whoever grants, commits, completes or pins.
    let condemned = sqlx::query_scalar!(
        "update checkpoint set settled = true, condemn_reason = chosen.reason,
             condemn_time = case when chosen.reason is not null then clock_timestamp() end
         from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[]) as chosen (job_id, epoch, step, reason)
         where checkpoint.job_id = chosen.job_id and checkpoint.epoch = chosen.epoch
             and checkpoint.step = chosen.step and checkpoint.condemn_time is null
         returning case when condemn_time is not null then checkpoint.job_id end",
        &plan.jobs,
        &plan.epochs,
        &plan.steps,
        &plan.reasons as _
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed("condemn checkpoints"))?;
    transaction.commit().await.map_err(failed("commit condemned checkpoints"))?;
    let mut by_job: BTreeMap<Uuid, usize> = BTreeMap::new();
    for job in condemned.into_iter().flatten() {
        *by_job.entry(job).or_default() += 1;
    }
    for (job, condemned) in &by_job {
        tracing::info!(%job, condemned, "gave up checkpoints that nothing needs");
    }
    Ok(by_job.values().sum())
}
