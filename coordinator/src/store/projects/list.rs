//! All projects.

use sqlx::PgPool;

use crate::store::error::{Error, failed};

/// A project with what it uses.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectRecord {
    pub name: String,
    pub share: i32,
    pub device_quota: Option<i32>,
    pub device_s_quota: Option<i64>,
    pub period_days: i32,
    /// Device-seconds of the present period, as of some seconds ago.
    pub used_device_s: f64,
    /// The same, older ones counting less.
    pub usage_device_s: f64,
    /// Devices that its jobs have.
    pub busy_device_count: i64,
    /// Jobs of it that wait.
    pub waiting_job_count: i64,
}

/// Projects by name; only that one, if one is named.
///
/// # Errors
/// The database fails.
pub async fn list(pool: &PgPool, name: Option<&str>) -> Result<Vec<ProjectRecord>, Error> {
    sqlx::query_as!(
        ProjectRecord,
        r#"select project.name, share, device_quota, device_s_quota, period_days, used_device_s, usage_device_s,
               coalesce(live.devices, 0)::bigint as "busy_device_count!",
               coalesce(waiting.jobs, 0) as "waiting_job_count!"
           from project
           left join (
               select job.project, sum(job.device_count) as devices
               from attempt join job on job.id = attempt.job_id
               where attempt.end_time is null group by job.project
           ) live on live.project = project.name
           left join (
               select project, count(*) as jobs from job where waits group by project
           ) waiting on waiting.project = project.name
           where $1::text is null or project.name = $1
           order by project.name"#,
        name
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list projects"))
}
