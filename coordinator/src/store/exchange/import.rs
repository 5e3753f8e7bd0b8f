//! Takes a search from a file: all of it, or nothing.
//!
//! The file is checked whole before the database hears of it. Then its lines are written
//! in one transaction. The database's own rules are the last check: what they refuse is
//! told as a fault of the file.

use std::fs::File;

use cakes_proto::ids::SearchId;
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;
use tracing::instrument;

use super::export::content_sha256;
use super::insert::{Rows, sum_up_curves};
use crate::exchange::check::{Checked, check};
use crate::exchange::{Archive, ExchangeError, Manifest, Member};
use crate::store::error::{Error, corrupt, failed};
use crate::store::event::{self, Event};

/// Lines and bytes that are written together, about.
const BATCH_LINES: usize = 2000;
const BATCH_BYTES: usize = 4 << 20;
/// Batches that are read ahead.
const BATCHES_AHEAD: usize = 2;

/// A search that is here now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    pub id: SearchId,
    /// False if it had come in before.
    pub is_new: bool,
}

/// A file whose lines are sound.
#[derive(Debug)]
pub struct Sound {
    archive: Archive<File>,
    checked: Checked,
}

impl Sound {
    /// Checks a file; takes a processor for a while.
    ///
    /// # Errors
    /// The first thing that is wrong with it, and where.
    pub fn of(file: File) -> Result<Self, Error> {
        let mut archive = Archive::open(file)?;
        let checked = check(&mut archive)?;
        Ok(Sound { archive, checked })
    }
}

impl From<ExchangeError> for Error {
    fn from(error: ExchangeError) -> Self {
        Error::InvalidArgument { field: "file", problem: error.to_string() }
    }
}

/// Writes the search, with all that belongs to it, under its own id. The same content
/// again is the search that is here already.
///
/// # Errors
/// A search with this id and other content is here, the database refuses a row, or it fails.
#[instrument(skip_all, fields(search = %sound.checked.search), err(level = "debug"))]
pub async fn import(pool: &PgPool, sound: Sound) -> Result<Imported, Error> {
    let Sound { archive, checked } = sound;
    let id = SearchId(checked.search);
    let manifest = archive.manifest.clone();
    let mut transaction = pool.begin().await.map_err(failed("begin to import a search"))?;
    be_patient(&mut transaction).await?;
    match earlier(&mut transaction, id).await? {
        Earlier::Nothing => {}
        Earlier::Import { content_sha256 } => return same(id, &content_sha256, &manifest),
        Earlier::Own => {
            drop(transaction);
            return same(id, &Box::pin(content_sha256(pool, id)).await?, &manifest);
        }
    }
    let rows = Rows { export_time: manifest.export_time };
    let (mut batches, reading) = read_ahead(archive);
    while let Some((member, lines)) = batches.recv().await {
        rows.insert(&mut transaction, member, id, &lines).await.map_err(of_the_file)?;
    }
    reading.await.map_err(|error| corrupt("a search's file", &error))??;
    sum_up_curves(&mut transaction, id).await?;
    record(&mut transaction, id, &manifest).await.map_err(of_the_file)?;
    transaction.commit().await.map_err(failed("commit an imported search"))?;
    Ok(Imported { id, is_new: true })
}

/// Lines of a member, as one JSON array.
type Batches = Receiver<(Member, String)>;
type Reading = JoinHandle<Result<(), Error>>;

/// Reads lines while others are written; stops when nobody takes them.
fn read_ahead(mut archive: Archive<File>) -> (Batches, Reading) {
    let (sender, receiver) = channel(BATCHES_AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        let gone = || Error::Refused("the import has ended".to_owned());
        for member in Member::ALL {
            let (mut batch, mut count) = (String::new(), 0);
            archive.lines(member, |_, line| {
                // The lines are handed on as they are: no number is rounded on its way.
                batch.push(if batch.is_empty() { '[' } else { ',' });
                batch.push_str(line);
                count += 1;
                if count < BATCH_LINES && batch.len() < BATCH_BYTES {
                    return Ok(());
                }
                count = 0;
                let batch = std::mem::take(&mut batch) + "]";
                sender.blocking_send((member, batch)).map_err(|_| gone())
            })?;
            if !batch.is_empty() {
                sender.blocking_send((member, batch + "]")).map_err(|_| gone())?;
            }
        }
        Ok(())
    });
    (receiver, reading)
}

/// What a rule of the database refuses is wrong with the file.
fn of_the_file(error: Error) -> Error {
    let Error::Database { source, .. } = &error else { return error };
    let Some(refusal) = source.as_database_error() else { return error };
    // Integrity constraints and values.
    let is_refusal = refusal.code().is_some_and(|code| code.starts_with("23") || code.starts_with("22"));
    if !is_refusal {
        return error;
    }
    let rule = refusal.constraint().map(|rule| format!(" ({rule})")).unwrap_or_default();
    Error::InvalidArgument {
        field: "file",
        problem: format!("the database refuses a row of it: {}{rule}", refusal.message()),
    }
}

async fn be_patient(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!(
        r#"select set_config('statement_timeout', '1h', true) as "a!",
               set_config('idle_in_transaction_session_timeout', '10min', true) as "b!""#
    )
    .fetch_one(connection)
    .await
    .map(drop)
    .map_err(failed("set the time limits of an import"))
}

/// What is here under the id of a search that comes in.
enum Earlier {
    Nothing,
    Import {
        content_sha256: String,
    },
    /// A search that was made here.
    Own,
}

async fn earlier(connection: &mut PgConnection, id: SearchId) -> Result<Earlier, Error> {
    // Of two who import one search at once the second waits, and finds the first.
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 20))", id.to_string())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("wait for another import"))?;
    let known = sqlx::query_scalar!(
        r#"select search_import.content_sha256 as "content_sha256?"
           from search left join search_import on search_import.search_id = search.id
           where search.id = $1"#,
        id.0
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("look for an earlier import"))?;
    Ok(match known {
        None => Earlier::Nothing,
        Some(Some(content_sha256)) => Earlier::Import { content_sha256 },
        Some(None) => Earlier::Own,
    })
}

/// The same content again is the search that is here.
fn same(id: SearchId, here: &str, manifest: &Manifest) -> Result<Imported, Error> {
    if here == manifest.content_sha256 {
        return Ok(Imported { id, is_new: false });
    }
    Err(Error::Refused(format!(
        "search {id} is here already with other content, maybe another state of it; it stays as it is"
    )))
}

async fn record(connection: &mut PgConnection, id: SearchId, manifest: &Manifest) -> Result<(), Error> {
    sqlx::query!(
        "insert into search_import (search_id, content_sha256, source, cakes_version, export_time, is_snapshot)
         values ($1, $2, $3, $4, $5, $6)",
        id.0,
        manifest.content_sha256,
        manifest.source,
        manifest.cakes_version,
        manifest.export_time,
        manifest.is_snapshot
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("record an import"))?;
    let body = json!({ "source": manifest.source });
    let event = Event { kind: "search_imported", search: Some(id), body: Some(body), ..Event::default() };
    event::record(connection, event).await
}
