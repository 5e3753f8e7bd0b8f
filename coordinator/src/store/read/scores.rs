//! What supernets say of their channels.

use cakes::scores::ChannelScores;
use cakes_proto::ids::SearchId;
use sqlx::PgPool;

use super::{corrupt, failed};
use crate::store::Error;

/// |gamma| of every candidate channel of a search; `None` before its supernet has
/// succeeded.
///
/// # Errors
/// The database fails.
pub async fn of_search(pool: &PgPool, search: SearchId) -> Result<Option<ChannelScores>, Error> {
    let scores = sqlx::query_scalar!(
        "select supernet_scores.scores
         from supernet_scores join job on job.id = supernet_scores.job_id
         where job.search_id = $1 and job.kind = 'supernet'",
        search.0
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("read the scores of channels"))?;
    scores
        .map(serde_json::from_value)
        .transpose()
        .map_err(|error| corrupt(format!("the scores of search {search}"), &error))
}
