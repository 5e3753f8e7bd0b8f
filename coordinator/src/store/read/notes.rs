//! Notes of a search, a job or an architecture.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::failed;
use crate::store::Error;
use crate::store::notes::Subject;

/// A remark of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteRecord {
    pub author: String,
    pub text: String,
    pub create_time: DateTime<Utc>,
}

/// Notes, oldest first; none of what does not exist.
///
/// # Errors
/// The database fails.
pub async fn of(pool: &PgPool, subject: Subject) -> Result<Vec<NoteRecord>, Error> {
    let (search, job, architecture) = subject.columns();
    sqlx::query_as!(
        NoteRecord,
        "select author, text, create_time from note
         where search_id = $1 or job_id = $2 or architecture_digest = $3
         order by create_time, id",
        search,
        job,
        architecture
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read notes"))
}
