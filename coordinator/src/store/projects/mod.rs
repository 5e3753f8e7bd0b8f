//! Projects: what they may use, what they use, and who may do what in them.

mod grant;
mod list;
mod members;
mod revoke;
mod set;
mod standing;

pub use grant::grant;
pub use list::{ProjectRecord, list};
pub use members::{MemberRecord, members};
pub use revoke::revoke;
pub use set::set;
pub(super) use standing::of_row;
pub use standing::{roles, standing};

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
