//! History, newest first, and what has changed since somebody looked.

use cakes_proto::ids::{JobId, SearchId};
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::types::Uuid;

use super::failed;
use crate::store::Error;

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct EventRecord {
    pub id: i64,
    pub time: DateTime<Utc>,
    pub kind: String,
    pub search: Option<Uuid>,
    pub job: Option<Uuid>,
    /// What the job is for.
    pub label: Option<String>,
    pub epoch: Option<i64>,
    pub worker: Option<String>,
    pub body: serde_json::Value,
}

/// Which events a list holds.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub search: Option<SearchId>,
    pub job: Option<JobId>,
    /// Empty for all.
    pub worker: String,
    /// Empty for all.
    pub kind: String,
}

/// Events, newest first, before number `behind`.
///
/// # Errors
/// The database fails.
pub async fn page(
    pool: &PgPool,
    filter: &EventFilter,
    behind: Option<i64>,
    limit: i64,
) -> Result<Vec<EventRecord>, Error> {
    let EventFilter { search, job, worker, kind } = filter;
    sqlx::query_as!(
        EventRecord,
        r#"select event.id, event.time, event.kind, event.search_id as search, event.job_id as job,
               job.label as "label?", event.epoch, event.worker_id as worker, event.body
           from event left join job on job.id = event.job_id
           where ($1::uuid is null or event.search_id = $1)
               and ($2::uuid is null or event.job_id = $2)
               and ($3 = '' or event.worker_id = $3)
               and ($4 = '' or event.kind = $4)
               and ($5::bigint is null or event.id < $5)
           order by event.id desc limit $6"#,
        search.map(|search| search.0),
        job.map(|job| job.0),
        worker,
        kind,
        behind,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list events"))
}

/// Where a look at the changes ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last event that was seen.
    pub event: i64,
    /// Sum of the revisions of the progress of live jobs. It may fall when a job
    /// ends, which is an event.
    pub progress: i64,
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub mark: Mark,
    pub searches: Vec<Uuid>,
    pub jobs: Vec<Uuid>,
    pub workers: Vec<String>,
    /// There are more than the lists hold.
    pub more: bool,
}

/// Events that one look takes; more than these are "everything may have changed".
const EVENTS_MAX: i64 = 200;

/// Changes behind `mark`; without one, only where to begin.
///
/// # Errors
/// The database fails.
pub async fn changes(pool: &PgPool, mark: Option<Mark>) -> Result<Changes, Error> {
    let now = sqlx::query!(
        r#"select coalesce((select max(id) from event), 0) as "event!",
               coalesce((select sum(progress.revision)
                   from attempt join job_progress progress on progress.job_id = attempt.job_id
                   where attempt.end_time is null), 0)::bigint as "progress!""#
    )
    .fetch_one(pool)
    .await
    .map_err(failed("look for changes"))?;
    let now = Mark { event: now.event, progress: now.progress };
    let mut changes = Changes { mark: now, ..Changes::default() };
    let Some(mark) = mark.filter(|mark| *mark != now) else { return Ok(changes) };
    let rows = sqlx::query!(
        "select search_id, job_id, worker_id from event where id > $1 order by id limit $2",
        mark.event,
        EVENTS_MAX
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read what changed"))?;
    changes.more = i64::try_from(rows.len()).is_ok_and(|count| count >= EVENTS_MAX);
    for row in rows {
        changes.searches.extend(row.search_id);
        changes.jobs.extend(row.job_id);
        changes.workers.extend(row.worker_id);
    }
    if mark.progress != now.progress {
        let live = sqlx::query!(
            "select attempt.job_id, job.search_id from attempt join job on job.id = attempt.job_id
             where attempt.end_time is null limit $1",
            EVENTS_MAX
        )
        .fetch_all(pool)
        .await
        .map_err(failed("read which jobs are live"))?;
        for row in live {
            changes.jobs.push(row.job_id);
            changes.searches.extend(row.search_id);
        }
    }
    changes.searches.sort_unstable();
    changes.searches.dedup();
    changes.jobs.sort_unstable();
    changes.jobs.dedup();
    changes.workers.sort_unstable();
    changes.workers.dedup();
    Ok(changes)
}
