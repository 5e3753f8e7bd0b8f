//! Searches and jobs in a line each, for lists that are looked at often.

use cakes::labels::Labels;
use cakes_proto::ids::{JobId, SearchId};
use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::jobs::{self, JobRecord};
use super::{corrupt, failed};
use crate::core::job::{JobKind, JobState};
use crate::core::search::SearchState;
use crate::store::{Error, labels};

/// A search in a line.
#[derive(Clone, Debug)]
pub struct SearchSummary {
    pub id: SearchId,
    pub name: String,
    /// "encoder_decoder", "volume_resnet", "video_resnet".
    pub backbone: String,
    pub state: SearchState,
    pub state_reason: String,
    pub create_time: DateTime<Utc>,
    pub end_time: Option<DateTime<Utc>>,
    /// Whether it was made elsewhere and came in a file.
    pub imported: bool,
    pub job_count: i64,
    pub succeeded_count: i64,
    pub failed_count: i64,
    pub cancelled_count: i64,
    pub live_count: i64,
    /// Steps done over steps of the jobs that are queued so far; what has ended
    /// counts whole. 0 to 1.
    pub step_share: f64,
    /// Best quality of a retraining, and its metric's name.
    pub best: Option<(f64, String)>,
    pub labels: Labels,
    /// Who submitted it; none for nobody known.
    pub owner: Option<String>,
    pub project: String,
}

/// Which searches a list holds.
#[derive(Clone, Debug, Default)]
pub struct SearchFilter {
    pub id: Option<SearchId>,
    /// Empty for all.
    pub states: Vec<SearchState>,
    /// Part of the name, or beginning of the id; empty for all.
    pub text: String,
    /// Only searches that have all of these.
    pub labels: Labels,
}

/// Searches, newest first, behind the given time and id.
///
/// # Errors
/// The database fails.
pub async fn searches(
    pool: &PgPool,
    filter: &SearchFilter,
    behind: Option<(DateTime<Utc>, SearchId)>,
    limit: i64,
) -> Result<Vec<SearchSummary>, Error> {
    let states: Vec<String> = filter.states.iter().map(|state| state.as_str().to_owned()).collect();
    let (time, id) = behind.unzip();
    let rows = sqlx::query!(
        r#"with page as (
               select id, name, spec -> 'backbone' as backbone, state, state_reason, create_time, end_time, imported,
                   labels, owner, project
               from search
               where ($1::uuid is null or id = $1)
                   and (cardinality($2::text[]) = 0 or state = any($2))
                   and ($3 = '' or strpos(lower(name), lower($3)) > 0 or starts_with(id::text, lower($3)))
                   and ($4::timestamptz is null or (create_time, id) < ($4, $5::uuid))
                   and labels @> $7
               order by create_time desc, id desc limit $6
           )
           select page.id, page.name, page.state, page.state_reason, page.create_time, page.end_time,
               page.imported, page.labels, page.owner, page.project,
               coalesce((select key from jsonb_object_keys(page.backbone) key limit 1), '') as "backbone!",
               jobs.total as "total!", jobs.succeeded as "succeeded!", jobs.failed as "failed!",
               jobs.cancelled as "cancelled!", jobs.live as "live!", jobs.step_share as "step_share!",
               best.quality as "quality?", best.quality_metric as "quality_metric?"
           from page
           join lateral (
               select count(*) as total,
                   count(*) filter (where job.state = 'succeeded') as succeeded,
                   count(*) filter (where job.state = 'failed') as failed,
                   count(*) filter (where job.state = 'cancelled') as cancelled,
                   count(*) filter (where job.state in ('leased', 'running', 'cancelling', 'pausing')) as live,
                   coalesce(
                       sum(case when job.end_time is not null then job.step_count
                               else least(coalesce(progress.step, 0), job.step_count) end)
                       / sum(job.step_count), 0)::float8 as step_share
               from job left join job_progress progress on progress.job_id = job.id
               where job.search_id = page.id
           ) jobs on true
           left join lateral (
               select result.quality, result.quality_metric
               from job join result on result.job_id = job.id
               where job.search_id = page.id and job.kind = 'retrain'
               order by result.quality desc limit 1
           ) best on true
           order by page.create_time desc, page.id desc"#,
        filter.id.map(|id| id.0),
        &states,
        filter.text,
        time,
        id.map(|id| id.0),
        limit,
        labels::to_column(&filter.labels)?
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list searches"))?;
    let summaries = rows.into_iter().map(|row| {
        Ok(SearchSummary {
            id: SearchId(row.id),
            name: row.name,
            backbone: row.backbone,
            state: row.state.parse().map_err(|error| corrupt("the state of a search", &error))?,
            state_reason: row.state_reason,
            create_time: row.create_time,
            end_time: row.end_time,
            imported: row.imported,
            job_count: row.total,
            succeeded_count: row.succeeded,
            failed_count: row.failed,
            cancelled_count: row.cancelled,
            live_count: row.live,
            step_share: row.step_share,
            best: row.quality.zip(row.quality_metric),
            labels: labels::from_column(row.labels)?,
            owner: row.owner,
            project: row.project,
        })
    });
    summaries.collect()
}

/// Which jobs a list holds.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    pub search: Option<SearchId>,
    /// Empty for all.
    pub states: Vec<JobState>,
    pub kind: Option<JobKind>,
    /// Part of the label, or beginning of the id; empty for all.
    pub text: String,
    /// Only jobs that have all of these themselves.
    pub labels: Labels,
}

/// Jobs, newest first, created before position `behind`, without the first `offset` of them.
///
/// # Errors
/// The database fails.
pub async fn jobs(
    pool: &PgPool,
    filter: &JobFilter,
    behind: Option<i64>,
    offset: i64,
    limit: i64,
) -> Result<Vec<JobRecord>, Error> {
    let states: Vec<String> = filter.states.iter().map(|state| state.as_str().to_owned()).collect();
    let ids = sqlx::query_scalar!(
        "select id from job
         where ($1::uuid is null or search_id = $1)
             and (cardinality($2::text[]) = 0 or state = any($2))
             and ($3::text is null or kind = $3)
             and ($4 = '' or strpos(lower(label), lower($4)) > 0 or starts_with(id::text, lower($4)))
             and ($5::bigint is null or position < $5)
             and labels @> $7
         order by position desc limit $6 offset $8",
        filter.search.map(|search| search.0),
        &states,
        filter.kind.map(JobKind::as_str),
        filter.text,
        behind,
        limit,
        labels::to_column(&filter.labels)?,
        offset
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list jobs"))?;
    let mut found = jobs::by_ids(pool, &ids).await?;
    found.reverse();
    Ok(found)
}

/// How many jobs a filter leaves, by state.
///
/// # Errors
/// The database fails.
pub async fn job_counts(pool: &PgPool, filter: &JobFilter) -> Result<Vec<(JobState, i64)>, Error> {
    let rows = sqlx::query!(
        r#"select state, count(*) as "count!" from job
           where ($1::uuid is null or search_id = $1)
               and ($2::text is null or kind = $2)
               and ($3 = '' or strpos(lower(label), lower($3)) > 0 or starts_with(id::text, lower($3)))
               and labels @> $4
           group by state"#,
        filter.search.map(|search| search.0),
        filter.kind.map(JobKind::as_str),
        filter.text,
        labels::to_column(&filter.labels)?
    )
    .fetch_all(pool)
    .await
    .map_err(failed("count jobs"))?;
    let counts = rows.into_iter().map(|row| {
        let state = row.state.parse().map_err(|error| corrupt("the state of a job", &error))?;
        Ok((state, row.count))
    });
    counts.collect()
}

/// Device-seconds that the jobs of a search took so far; none if none of them has a limit.
///
/// # Errors
/// The database fails.
pub async fn spent_device_s(pool: &PgPool, search: SearchId) -> Result<Option<i64>, Error> {
    sqlx::query_scalar!(
        "select sum(spent_device_s(job))::bigint from job
         where search_id = $1 and cost_limit_device_s is not null",
        search.0
    )
    .fetch_one(pool)
    .await
    .map_err(failed("add up what a search took"))
}

/// The supernet's job of a search, if it is planned.
///
/// # Errors
/// The database fails.
pub async fn supernet(pool: &PgPool, search: SearchId) -> Result<Option<JobId>, Error> {
    let id = sqlx::query_scalar!("select id from job where search_id = $1 and kind = 'supernet'", search.0)
        .fetch_optional(pool)
        .await
        .map_err(failed("look up the supernet's job"))?;
    Ok(id.map(JobId))
}
