//! What decides about the checkpoints of jobs.

use std::collections::BTreeMap;

use cakes::metric::Metric;
use sqlx::PgConnection;
use sqlx::types::Uuid;

use crate::core::retention::{Checkpoint, Facts};
use crate::store::error::{Error, failed};

/// Checkpoints of a job that are not condemned.
#[derive(Debug, Default)]
pub(in crate::store) struct JobFacts {
    /// In the order of step and epoch.
    pub facts: Facts,
    /// Whether each is settled.
    pub settled: Vec<bool>,
}

/// Facts by job; a job all of whose checkpoints are condemned, or that has none, is left
/// out. They hold as long as the rows of the jobs are locked.
pub(in crate::store) async fn of_jobs(
    connection: &mut PgConnection,
    jobs: &[Uuid],
) -> Result<BTreeMap<Uuid, JobFacts>, Error> {
    let rows = sqlx::query!(
        r#"select checkpoint.job_id, checkpoint.epoch, checkpoint.step, checkpoint.pinned, checkpoint.settled,
               job.state = 'succeeded' as "has_succeeded!",
               coalesce(checkpoint.epoch = job.checkpoint_epoch and checkpoint.step = job.checkpoint_step, false)
                   as "is_current!",
               exists (
                   select from result where result.job_id = checkpoint.job_id
                       and result.checkpoint_epoch = checkpoint.epoch
                       and result.checkpoint_step = checkpoint.step
               ) as "is_result!",
               exists (
                   select from attempt where attempt.job_id = checkpoint.job_id and attempt.state <> 'ended'
                       and attempt.resume_epoch = checkpoint.epoch and attempt.resume_step = checkpoint.step
               ) as "is_resumed!",
               (select max(metric.value) from metric
                where metric.job_id = checkpoint.job_id and metric.epoch = checkpoint.epoch
                    and metric.key = case job.task when 'segmentation' then $2 else $3 end
                    and metric.step = checkpoint.step
                    and metric.value between 0 and 1) as quality
           from checkpoint join job on job.id = checkpoint.job_id
           where checkpoint.job_id = any($1) and checkpoint.condemn_time is null
           order by checkpoint.job_id, checkpoint.step, checkpoint.epoch"#,
        jobs,
        Metric::MeanDice.key(),
        Metric::Top1.key()
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read what is known of checkpoints"))?;
    let mut found: BTreeMap<Uuid, JobFacts> = BTreeMap::new();
    for row in rows {
        let job = found.entry(row.job_id).or_default();
        job.facts.has_succeeded = row.has_succeeded;
        job.settled.push(row.settled);
        job.facts.checkpoints.push(Checkpoint {
            epoch: row.epoch,
            step: row.step,
            is_current: row.is_current,
            is_result: row.is_result,
            is_resumed: row.is_resumed,
            is_pinned: row.pinned,
            quality: row.quality,
        });
    }
    Ok(found)
}
