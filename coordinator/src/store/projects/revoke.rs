//! Takes a member from a project.

use sqlx::PgPool;
use tracing::instrument;

use crate::core::member::check_name;
use crate::core::project::ProjectName;
use crate::store::error::{Error, failed};

/// Takes a member away; what they submitted goes on.
///
/// # Errors
/// The project has no such member, nobody can have the name, or the database fails.
#[instrument(skip_all, fields(project = project.as_str(), name), err(level = "debug"))]
pub async fn revoke(pool: &PgPool, project: &ProjectName, name: &str) -> Result<(), Error> {
    check_name(name).map_err(|problem| Error::InvalidArgument { field: "member", problem })?;
    let project = project.as_str();
    let gone = sqlx::query!("delete from project_member where project = $1 and name = $2", project, name)
        .execute(pool)
        .await
        .map_err(failed("take a member away"))?;
    match gone.rows_affected() {
        0 => Err(Error::NotFound { kind: "member", id: format!("{name} of project {project}") }),
        _ => Ok(()),
    }
}
