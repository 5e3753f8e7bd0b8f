//! Projects: what they may use, and what they use.

mod list;
mod set;

pub use list::{ProjectRecord, list};
pub use set::set;

use sqlx::PgConnection;

use super::error::{Error, failed};
use crate::core::project::ProjectName;

/// # Errors
/// There is no such project.
pub(super) async fn refuse_unknown(connection: &mut PgConnection, name: &ProjectName) -> Result<(), Error> {
    let is_known = sqlx::query_scalar!(
        r#"select exists (select from project where name = $1) as "known!""#,
        name.as_str()
    )
    .fetch_one(connection)
    .await
    .map_err(failed("look for a project"))?;
    if is_known {
        return Ok(());
    }
    let problem = format!(
        "there is no project '{}'; `cakes project list` shows them, and an operator makes one with \
         `cakes project set {}`",
        name.as_str(),
        name.as_str()
    );
    Err(Error::InvalidArgument { field: "project", problem })
}
