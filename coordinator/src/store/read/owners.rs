//! Who submitted something, to which project, and what that says of whoever asks.

use cakes_proto::ids::{JobId, SearchId};
use sqlx::PgPool;

use super::failed;
use crate::core::member::Belongs;
use crate::store::Error;
use crate::store::projects::of_row;

/// Whose a job is: that of whoever submitted it, or its search.
///
/// `asks`: the name of the caller; none for nobody known.
///
/// # Errors
/// There is no such job, or the database fails.
pub async fn of_job(pool: &PgPool, id: JobId, asks: Option<&str>) -> Result<Belongs, Error> {
    let row = sqlx::query!(
        r#"select owner, project,
               exists (select from project_member where project = job.project) as "has_members!",
               (select role from project_member where project = job.project and name = $2) as role
           from job where id = $1"#,
        id.0,
        asks
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("look for the owner of a job"))?
    .ok_or_else(|| Error::NotFound { kind: "job", id: id.to_string() })?;
    let standing = of_row(row.has_members, row.role.as_deref())?;
    Ok(Belongs { owner: row.owner, project: row.project, standing })
}

/// Whose a search is.
///
/// `asks`: the name of the caller; none for nobody known.
///
/// # Errors
/// There is no such search, or the database fails.
pub async fn of_search(pool: &PgPool, id: SearchId, asks: Option<&str>) -> Result<Belongs, Error> {
    let row = sqlx::query!(
        r#"select owner, project,
               exists (select from project_member where project = search.project) as "has_members!",
               (select role from project_member where project = search.project and name = $2) as role
           from search where id = $1"#,
        id.0,
        asks
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("look for the owner of a search"))?
    .ok_or_else(|| Error::NotFound { kind: "search", id: id.to_string() })?;
    let standing = of_row(row.has_members, row.role.as_deref())?;
    Ok(Belongs { owner: row.owner, project: row.project, standing })
}
