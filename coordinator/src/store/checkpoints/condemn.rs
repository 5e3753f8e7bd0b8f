//! Condemns checkpoints that nothing keeps.

use sqlx::PgPool;
use sqlx::types::Uuid;
use tracing::instrument;

use super::facts::{JobFacts, of_jobs};
use crate::core::retention::{Fate, Policy, fates};
use crate::store::error::{Error, failed};

/// Jobs that one review looks at.
const JOBS_MAX: i64 = 500;

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
    let mut condemned = 0;
    for (job, facts) in found {
        if !Plan::of(&facts, policy).is_empty() {
            condemned += apply(pool, policy, job).await?;
        }
    }
    let is_full = i64::try_from(jobs.len()) == Ok(JOBS_MAX);
    Ok(Review { condemned, next: jobs.last().copied().filter(|_| is_full) })
}

/// Rows to write: columns of keys.
#[derive(Debug, Default)]
struct Plan {
    epochs: Vec<i64>,
    steps: Vec<i64>,
    /// None for one that is settled and stays.
    reasons: Vec<Option<String>>,
}

impl Plan {
    fn of(job: &JobFacts, policy: Policy) -> Self {
        let mut plan = Plan::default();
        let judged = fates(&job.facts, policy);
        for ((checkpoint, fate), settled) in job.facts.checkpoints.iter().zip(judged).zip(&job.settled) {
            let reason = match fate {
                Fate::Condemned(reason) => Some(reason),
                Fate::Kept(_) if job.facts.has_succeeded && !settled => None,
                Fate::Kept(_) => continue,
            };
            plan.epochs.push(checkpoint.epoch);
            plan.steps.push(checkpoint.step);
            plan.reasons.push(reason);
        }
        plan
    }

    fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// Decides again under the job's lock, and writes; how many were condemned.
async fn apply(pool: &PgPool, policy: Policy, job: Uuid) -> Result<usize, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to condemn checkpoints"))?;
    let locked = sqlx::query_scalar!("select id from job where id = $1 for no key update skip locked", job)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed("lock a job"))?;
    if locked.is_none() {
        return Ok(0);
    }
    // A statement of its own: it sees what was committed before the lock was had.
    let mut found = of_jobs(&mut transaction, &[job]).await?;
    let plan = found.remove(&job).map(|facts| Plan::of(&facts, policy)).unwrap_or_default();
    // S11: under the lock of whoever grants, commits, completes or pins.
    sqlx::query!(
        "update checkpoint set settled = true, condemn_reason = chosen.reason,
             condemn_time = case when chosen.reason is not null then clock_timestamp() end
         from unnest($2::bigint[], $3::bigint[], $4::text[]) as chosen (epoch, step, reason)
         where checkpoint.job_id = $1 and checkpoint.epoch = chosen.epoch and checkpoint.step = chosen.step
             and checkpoint.condemn_time is null",
        job,
        &plan.epochs,
        &plan.steps,
        &plan.reasons as _
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("condemn checkpoints"))?;
    transaction.commit().await.map_err(failed("commit condemned checkpoints"))?;
    let condemned = plan.reasons.iter().flatten().count();
    if condemned > 0 {
        tracing::info!(%job, condemned, "gave up checkpoints that nothing needs");
    }
    Ok(condemned)
}
