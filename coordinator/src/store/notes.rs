//! Notes that people add to searches, jobs and architectures.

use cakes::architecture::ArchitectureDigest;
use cakes_proto::ids::{JobId, SearchId};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use super::error::{Error, failed};
use super::text::check_request_id;
use crate::core::note::NOTES_MAX;

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Search(SearchId),
    Job(JobId),
    Architecture(ArchitectureDigest),
}

/// The three columns of a subject, one of which is set.
pub(super) type SubjectColumns = (Option<uuid::Uuid>, Option<uuid::Uuid>, Option<String>);

impl Subject {
    pub(super) fn columns(self) -> SubjectColumns {
        match self {
            Subject::Search(id) => (Some(id.0), None, None),
            Subject::Job(id) => (None, Some(id.0), None),
            Subject::Architecture(digest) => (None, None, Some(digest.to_string())),
        }
    }
}

/// A note to add.
#[derive(Clone, Debug)]
pub struct NewNote {
    pub subject: Subject,
    /// 1 to 100 characters.
    pub author: String,
    /// 1 to 2000 characters.
    pub text: String,
    /// A repetition adds no second note.
    pub request_id: Option<String>,
}

/// Adds a note, and tells whoever watches its subject.
///
/// # Errors
/// The subject does not exist or has too many notes, or the request id was used for
/// something else.
#[instrument(skip_all, fields(subject = ?note.subject), err(level = "debug"))]
pub async fn add(pool: &PgPool, note: &NewNote) -> Result<(), Error> {
    check_request_id(note.request_id.as_deref())?;
    let mut transaction = pool.begin().await.map_err(failed("begin to add a note"))?;
    lock_subject(&mut transaction, note.subject).await?;
    if !insert(&mut transaction, note).await? {
        return compare(&mut transaction, note).await;
    }
    refuse_too_many(&mut transaction, note.subject).await?;
    transaction.commit().await.map_err(failed("commit a note"))
}

/// Locks what the note is about, and counts the change where somebody may watch.
async fn lock_subject(connection: &mut PgConnection, subject: Subject) -> Result<(), Error> {
    let (kind, id, locked) = match subject {
        Subject::Search(id) => {
            let touched = sqlx::query!("update search set revision = revision + 1 where id = $1", id.0);
            ("search", id.to_string(), touched.execute(connection).await)
        }
        Subject::Job(id) => {
            let touched = sqlx::query!("update job set revision = revision + 1 where id = $1", id.0);
            ("job", id.to_string(), touched.execute(connection).await)
        }
        Subject::Architecture(digest) => {
            let digits = digest.to_string();
            let locked = sqlx::query!("select from architecture where digest = $1 for no key update", digits);
            ("architecture", digits.clone(), locked.execute(connection).await)
        }
    };
    match locked.map_err(failed("lock what a note is about"))?.rows_affected() {
        0 => Err(Error::NotFound { kind, id }),
        _ => Ok(()),
    }
}

/// Whether it was not there already.
async fn insert(connection: &mut PgConnection, note: &NewNote) -> Result<bool, Error> {
    let (search, job, architecture) = note.subject.columns();
    let inserted = sqlx::query!(
        "insert into note (search_id, job_id, architecture_digest, author, text, request_id, request_hash)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (request_id) do nothing",
        search,
        job,
        architecture,
        note.author,
        note.text,
        note.request_id,
        note.request_id.as_ref().map(|_| content_hash(note).to_vec())
    )
    .execute(connection)
    .await
    .map_err(failed("add a note"))?;
    Ok(inserted.rows_affected() == 1)
}

/// Answers a repetition; what was counted before is rolled back.
async fn compare(connection: &mut PgConnection, note: &NewNote) -> Result<(), Error> {
    let request_id = note.request_id.clone().unwrap_or_default();
    let first = sqlx::query_scalar!("select request_hash from note where request_id = $1", request_id)
        .fetch_one(connection)
        .await
        .map_err(failed("look for an earlier note"))?;
    if first.as_deref() == Some(&content_hash(note)[..]) {
        Ok(())
    } else {
        Err(Error::Conflict { request_id })
    }
}

async fn refuse_too_many(connection: &mut PgConnection, subject: Subject) -> Result<(), Error> {
    let (search, job, architecture) = subject.columns();
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from note
           where search_id = $1 or job_id = $2 or architecture_digest = $3"#,
        search,
        job,
        architecture
    )
    .fetch_one(connection)
    .await
    .map_err(failed("count notes"))?;
    if count > NOTES_MAX {
        return Err(Error::Refused(format!("it has {NOTES_MAX} notes already, which is the limit")));
    }
    Ok(())
}

fn content_hash(note: &NewNote) -> [u8; 32] {
    let content = (note.subject.columns(), &note.author, &note.text);
    // Plain data into memory cannot fail.
    Sha256::digest(serde_json::to_vec(&content).unwrap_or_default()).into()
}
