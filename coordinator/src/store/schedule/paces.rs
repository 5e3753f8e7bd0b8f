//! How fast jobs are that waiting ones may be like.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::core::schedule::WaitingRow;
use crate::core::schedule::estimate::{Kind, Known, Pace};
use crate::store::error::{Error, failed};

/// Retrainings of an architecture that are looked at, and jobs of a search, its first ones: they are
/// the first to end. However many a search has, a round reads no more of them.
const SAME_MAX: i64 = 4;
const NEAR_MAX: i64 = 16;
/// Architectures of a search that are looked at.
const ARCHITECTURES_MAX: i64 = 256;

/// What is known of retrainings of the searches that waiting jobs are of.
pub(super) async fn known(connection: &mut PgConnection, waiting: &[WaitingRow]) -> Result<Known, Error> {
    // Whoever knows how fast it was itself asks for nothing.
    let asking = waiting.iter().filter(|row| row.work.step_s.is_none());
    let kinds: BTreeSet<&Kind> = asking.filter_map(|row| row.work.kind.as_ref()).collect();
    if kinds.is_empty() {
        return Ok(Known::default());
    }
    let known = Known::new(paces(connection, &kinds).await?);
    let searches = known.searches_to_scale(kinds);
    if searches.is_empty() {
        return Ok(known);
    }
    let searches: Vec<Uuid> = searches.into_iter().collect();
    Ok(known.with_mac_counts(mac_counts(connection, &searches).await?))
}

/// Of each of these architectures, and of each of their searches.
async fn paces(connection: &mut PgConnection, kinds: &BTreeSet<&Kind>) -> Result<Vec<Pace>, Error> {
    let searches: Vec<Uuid> = kinds.iter().map(|kind| kind.search).collect();
    let digests: Vec<String> = kinds.iter().map(|kind| kind.digest.clone()).collect();
    // Row by row along indexes: each select within a case is one look-up by key, whatever a plan for
    // other tables would make of a join. An attempt trained from the checkpoint that it went on from.
    let rows = sqlx::query!(
        r#"with wanted as (
               select * from unnest($1::uuid[], $2::text[]) as kind (search_id, digest)
           ), found as (
               select alike.* from wanted cross join lateral (
                   select job.id, job.search_id, job.architecture_digest, job.device_count, job.state from job
                   where job.search_id = wanted.search_id and job.architecture_digest = wanted.digest
                       and job.kind = 'retrain'
                   order by job.seed limit $3
               ) alike
               union
               select near.id, near.search_id, near.architecture_digest, near.device_count, near.state
               from (select distinct search_id from wanted) asked cross join lateral (
                   select job.id, job.search_id, job.architecture_digest, job.device_count, job.state, job.kind
                   from job where job.search_id = asked.search_id order by job.position limit $4
               ) near
               where near.kind = 'retrain'
           )
           select found.search_id as "search_id!", found.architecture_digest as "digest!",
               found.device_count as "device_count!", found.state = 'succeeded' as "has_ended!",
               case found.state
                   when 'succeeded' then (
                       select result.train_duration_s
                           / nullif(greatest(result.checkpoint_step - attempt.resume_step, 0), 0)
                       from result
                       join attempt on attempt.job_id = result.job_id and attempt.epoch = result.epoch
                       where result.job_id = found.id
                   )
                   when 'running' then (
                       select step_s(progress)
                       from job_progress progress where progress.job_id = found.id
                   )
               end as step_s
           from found where found.state in ('succeeded', 'running')"#,
        &searches,
        &digests,
        SAME_MAX,
        NEAR_MAX
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read how fast jobs are"))?;
    let pace = rows.into_iter().filter_map(|row| {
        Some(Pace {
            kind: Kind { search: row.search_id, digest: row.digest },
            device_count: row.device_count,
            has_ended: row.has_ended,
            step_s: row.step_s?,
        })
    });
    Ok(pace.collect())
}

/// Of the architectures of these searches.
async fn mac_counts(connection: &mut PgConnection, searches: &[Uuid]) -> Result<Vec<(Kind, i64)>, Error> {
    let rows = sqlx::query!(
        r#"select cost.search_id as "search_id!", cost.digest as "digest!", cost.mac_count as "mac_count!"
           from unnest($1::uuid[]) as asked (search_id) cross join lateral (
               select search_architecture.search_id, search_architecture.digest, search_architecture.mac_count
               from search_architecture where search_architecture.search_id = asked.search_id
               order by search_architecture.origin limit $2
           ) cost"#,
        searches,
        ARCHITECTURES_MAX
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read what architectures cost"))?;
    let cost =
        rows.into_iter().map(|row| (Kind { search: row.search_id, digest: row.digest }, row.mac_count));
    Ok(cost.collect())
}
