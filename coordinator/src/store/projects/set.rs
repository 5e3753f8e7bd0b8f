//! Makes a project, or changes what it may use.

use sqlx::PgPool;
use tracing::instrument;

use crate::core::project::{ProjectName, Terms};
use crate::store::error::{Error, failed};

/// Sets all terms of a project, which is made if it is not there. What it has used stays;
/// jobs that run go on, whatever the quotas are now.
///
/// # Errors
/// The database fails.
#[instrument(skip_all, fields(project = name.as_str()), err(level = "debug"))]
pub async fn set(pool: &PgPool, name: &ProjectName, terms: &Terms) -> Result<(), Error> {
    let integer = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    sqlx::query!(
        "insert into project (name, share, device_quota, device_s_quota, period_days) values ($1, $2, $3, $4, $5)
         on conflict (name) do update set share = excluded.share, device_quota = excluded.device_quota,
             device_s_quota = excluded.device_s_quota, period_days = excluded.period_days",
        name.as_str(),
        integer(terms.share.get()),
        terms.device_quota.map(integer),
        terms.device_s_quota.map(|quota| i64::try_from(quota).unwrap_or(i64::MAX)),
        integer(terms.period_days)
    )
    .execute(pool)
    .await
    .map(drop)
    .map_err(failed("set a project"))
}
