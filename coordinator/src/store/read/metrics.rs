//! Learning curves of a job.

use cakes_proto::ids::JobId;
use sqlx::PgPool;

use super::failed;
use crate::store::Error;

/// A value at a step.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvePoint {
    pub key: String,
    pub step: i64,
    pub value: f64,
}

/// Points of the curves `keys` (all if empty), by key and step.
///
/// An attempt's points beyond the step from which a later attempt went on are
/// superseded and left out. A curve of more than `point_count_max` points is
/// thinned evenly; its first and last point stay.
///
/// # Errors
/// The database fails.
pub async fn curves(
    pool: &PgPool,
    job: JobId,
    keys: &[String],
    point_count_max: i64,
) -> Result<Vec<CurvePoint>, Error> {
    // S14: up to the step from which the next attempt went on.
    sqlx::query_as!(
        CurvePoint,
        r#"with lineage as (
               select attempt.epoch, min(later.resume_step) as superseded_after
               from attempt left join attempt later
                   on later.job_id = attempt.job_id and later.epoch > attempt.epoch
               where attempt.job_id = $1
               group by attempt.epoch
           ), point as (
               select distinct on (metric.key, metric.step) metric.key, metric.step, metric.value
               from metric join lineage on lineage.epoch = metric.epoch
               where metric.job_id = $1
                   and (cardinality($2::text[]) = 0 or metric.key = any($2))
                   and (lineage.superseded_after is null or metric.step <= lineage.superseded_after)
               order by metric.key, metric.step, metric.epoch desc, metric.seq desc
           ), numbered as (
               select point.*,
                   row_number() over (partition by key order by step) - 1 as number,
                   count(*) over (partition by key) - 1 as last
               from point
           )
           select key, step, value from numbered
           where last < $3 or number = 0
               -- Of the last + 1 points, those where the next of $3 equal shares begins.
               or number * ($3 - 1) / last <> (number - 1) * ($3 - 1) / last
           order by key, step"#,
        job.0,
        keys,
        point_count_max.max(2)
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read the curves of a job"))
}
