//! Who reads the views for dashboards.

use sqlx::PgConnection;

use super::failed;
use crate::store::Error;

/// This connection's user, if nobody but the owner may read the schema: the role for it is missing.
///
/// # Errors
/// The database fails.
pub async fn without_readers(connection: &mut PgConnection) -> Result<Option<String>, Error> {
    sqlx::query_scalar!(
        r#"select current_user::text as "user!" from pg_namespace
           where nspname = 'dashboard'
               and not exists (select from aclexplode(nspacl) as given where given.grantee <> nspowner)"#
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("look who reads the schema dashboard"))
}
