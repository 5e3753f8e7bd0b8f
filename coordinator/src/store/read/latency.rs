//! Measured times of channels.

use cakes::derive::LatencyTable;
use cakes_proto::ids::SearchId;
use sqlx::PgPool;

use super::{corrupt, failed};
use crate::store::Error;

/// A table of times and where it was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredLatency {
    pub table: LatencyTable,
    pub device: String,
}

/// The table of a search; `None` before its supernet has succeeded, and of one that
/// was trained before times were measured.
///
/// # Errors
/// The database fails.
pub async fn latency(pool: &PgPool, search: SearchId) -> Result<Option<MeasuredLatency>, Error> {
    let row = sqlx::query!(
        r#"select supernet_scores.latency as "latency!", result.device
           from supernet_scores
           join result on result.job_id = supernet_scores.job_id
           join job on job.id = supernet_scores.job_id
           where job.search_id = $1 and job.kind = 'supernet' and supernet_scores.latency is not null"#,
        search.0
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("read the times of channels"))?;
    let Some(row) = row else { return Ok(None) };
    let table = serde_json::from_value(row.latency)
        .map_err(|error| corrupt(format!("the times of channels of search {search}"), &error))?;
    Ok(Some(MeasuredLatency { table, device: row.device }))
}
