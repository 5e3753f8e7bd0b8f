//! Who is a member of what.

use sqlx::PgPool;

use crate::core::access::Role;
use crate::store::error::{Error, corrupt, failed};

/// Somebody who may do something in a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    pub project: String,
    pub name: String,
    pub role: Role,
}

/// Members by project and name; only those of one project, if one is named.
///
/// # Errors
/// The database fails.
pub async fn members(pool: &PgPool, project: Option<&str>) -> Result<Vec<MemberRecord>, Error> {
    let rows = sqlx::query!(
        "select project, name, role from project_member
         where $1::text is null or project = $1 order by project, name",
        project
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list members of projects"))?;
    let members = rows.into_iter().map(|row| {
        let role = row.role.parse().map_err(|error| corrupt("the role of a member", &error))?;
        Ok(MemberRecord { project: row.project, name: row.name, role })
    });
    members.collect()
}
