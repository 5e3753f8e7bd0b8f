//! What came in a file is read, never run.

use cakes_proto::ids::{JobId, SearchId};
use sqlx::PgConnection;

use crate::store::error::{Error, failed};

/// # Errors
/// The search came in a file.
pub(in crate::store) async fn refuse_imported_search(
    connection: &mut PgConnection,
    id: SearchId,
) -> Result<(), Error> {
    let source = sqlx::query_scalar!("select source from search_import where search_id = $1", id.0)
        .fetch_optional(connection)
        .await
        .map_err(failed("look whether a search was imported"))?;
    match source {
        None => Ok(()),
        Some(source) => Err(Error::Refused(format!(
            "search {id} was imported from {source} and is only read here; to run it here, submit its request.json \
             as a new search"
        ))),
    }
}

/// # Errors
/// The job came with its search in a file.
pub(in crate::store) async fn refuse_imported_job(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<(), Error> {
    let source = sqlx::query_scalar!(
        "select search_import.source from job join search_import on search_import.search_id = job.search_id
         where job.id = $1",
        id.0
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("look whether a job was imported"))?;
    match source {
        None => Ok(()),
        Some(source) => Err(Error::Refused(format!(
            "job {id} was imported with its search from {source} and is only read here; its weights are there"
        ))),
    }
}
