//! Makes somebody a member of a project.

use sqlx::PgPool;
use tracing::instrument;

use super::refuse_unknown;
use crate::core::access::Role;
use crate::core::member::check_name;
use crate::core::project::ProjectName;
use crate::store::error::{Error, failed};

/// Makes somebody a member, or gives a member another role.
///
/// # Errors
/// There is no such project, nobody can have the name, or the database fails.
#[instrument(skip_all, fields(project = project.as_str(), name), err(level = "debug"))]
pub async fn grant(pool: &PgPool, project: &ProjectName, name: &str, role: Role) -> Result<(), Error> {
    check_name(name).map_err(|problem| Error::InvalidArgument { field: "member", problem })?;
    let mut transaction = pool.begin().await.map_err(failed("begin to make a member"))?;
    refuse_unknown(&mut transaction, project).await?;
    sqlx::query!(
        "insert into project_member (project, name, role) values ($1, $2, $3)
         on conflict (project, name) do update set role = excluded.role",
        project.as_str(),
        name,
        role.as_str()
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("make a member"))?;
    transaction.commit().await.map_err(failed("commit a member"))
}
