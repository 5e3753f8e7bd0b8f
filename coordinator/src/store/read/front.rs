//! Results of a search's retrainings.

use cakes::architecture::ArchitectureDigest;
use cakes::frame::Quality;
use cakes_proto::ids::{JobId, SearchId};
use sqlx::PgPool;

use super::failed;
use crate::store::Error;
use crate::store::quality::QualityColumns;

/// The result of one retraining.
#[derive(Clone, Debug)]
pub struct RetrainResult {
    pub job: JobId,
    pub architecture: ArchitectureDigest,
    pub quality: Quality,
    pub latency_ms: Option<f64>,
    pub device: String,
}

/// Results of a search's succeeded retrainings, in the order of the jobs' creation.
///
/// # Errors
/// The database fails.
pub async fn results(pool: &PgPool, search: SearchId) -> Result<Vec<RetrainResult>, Error> {
    let rows = sqlx::query!(
        r#"select job.id, job.architecture_digest as "digest!", result.mean_dice, result.dice_per_class,
               result.case_count, result.classification, result.latency_ms, result.device
           from job join result on result.job_id = job.id
           where job.search_id = $1 and job.kind = 'retrain' and job.state = 'succeeded'
           order by job.position"#,
        search.0
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read the results of a search"))?;
    let result = rows.into_iter().map(|row| {
        let columns = QualityColumns {
            mean_dice: row.mean_dice,
            dice_per_class: row.dice_per_class,
            case_count: row.case_count,
            classification: row.classification,
        };
        Ok(RetrainResult {
            job: JobId(row.id),
            architecture: super::architectures::digest(&row.digest)?,
            quality: columns.quality()?,
            latency_ms: row.latency_ms,
            device: row.device,
        })
    });
    result.collect()
}

/// Retrainings of a search that have not ended.
///
/// # Errors
/// The database fails.
pub async fn pending_count(pool: &PgPool, search: SearchId) -> Result<i64, Error> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from job
           where search_id = $1 and kind = 'retrain' and end_time is null"#,
        search.0
    )
    .fetch_one(pool)
    .await
    .map_err(failed("count the pending retrainings of a search"))
}
