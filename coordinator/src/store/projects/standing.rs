//! What projects say of somebody.

use std::collections::BTreeMap;

use sqlx::PgPool;

use crate::core::access::Role;
use crate::core::member::Standing;
use crate::store::error::{Error, corrupt, failed};

/// What a project says of somebody; one that does not exist is open.
///
/// # Errors
/// The database fails.
pub async fn standing(pool: &PgPool, project: &str, name: Option<&str>) -> Result<Standing, Error> {
    let row = sqlx::query!(
        r#"select exists (select from project_member where project = $1) as "has_members!",
               (select role from project_member where project = $1 and name = $2) as role"#,
        project,
        name
    )
    .fetch_one(pool)
    .await
    .map_err(failed("look for a member"))?;
    of_row(row.has_members, row.role.as_deref())
}

/// What somebody may do in each project that has members; none where they are no member.
///
/// # Errors
/// The database fails.
pub async fn roles(pool: &PgPool, name: &str) -> Result<BTreeMap<String, Option<Role>>, Error> {
    let rows = sqlx::query!(
        "select project, max(role) filter (where name = $1) as role from project_member group by project",
        name
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list the projects of a member"))?;
    let roles = rows.into_iter().map(|row| Ok((row.project, row.role.as_deref().map(role).transpose()?)));
    roles.collect()
}

/// From whether a project has members, and the role of the one in question.
pub(in crate::store) fn of_row(has_members: bool, found: Option<&str>) -> Result<Standing, Error> {
    Ok(match (has_members, found) {
        (_, Some(found)) => Standing::Member(role(found)?),
        (true, None) => Standing::Outsider,
        (false, None) => Standing::Open,
    })
}

fn role(text: &str) -> Result<Role, Error> {
    text.parse().map_err(|error| corrupt("the role of a member", &error))
}
