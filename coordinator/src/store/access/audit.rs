//! What was done on the web page and over the gRPC API, and what was refused there. Rows
//! are only added.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::core::access::{FAILURES_WINDOW_S, Failures};
use crate::store::error::{Error, failed};
use crate::store::text::storable;

/// Longest stored object, and longest stored detail, in bytes.
const OBJECT_BYTES_MAX: usize = 200;
const DETAIL_BYTES_MAX: usize = 1000;

/// Which way something was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Page,
    Api,
}

impl Via {
    fn as_str(self) -> &'static str {
        match self {
            Via::Page => "page",
            Via::Api => "api",
        }
    }
}

/// Whoever asks for something.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Of the token or the certificate; None where there is none.
    pub name: Option<&'a str>,
    /// None for nobody who is known.
    pub role: Option<&'a str>,
    /// An address.
    pub peer: &'a str,
    pub via: Via,
}

/// One thing that somebody asked for.
#[derive(Clone, Debug)]
pub struct AuditEntry<'a> {
    pub asker: Asker<'a>,
    pub action: &'a str,
    pub object: &'a str,
    /// "ok", the code of the refusal, or [`BEGUN`].
    pub answer: &'a str,
    pub detail: &'a str,
    /// The row that said that it was begun.
    pub begun: Option<i64>,
}

/// The answer of what is about to be done. It stays the last word where a coordinator died.
pub const BEGUN: &str = "BEGUN";

/// A row of the record.
#[derive(Clone, Debug)]
pub struct AuditRecord {
    pub id: i64,
    pub time: DateTime<Utc>,
    pub token_name: Option<String>,
    pub role: Option<String>,
    /// "page", or "api" for gRPC.
    pub via: String,
    pub peer: String,
    pub action: String,
    pub object: String,
    pub answer: String,
    pub detail: String,
}

/// Adds a row, and says its number.
///
/// # Errors
/// The database fails.
pub async fn record(pool: &PgPool, entry: &AuditEntry<'_>) -> Result<i64, Error> {
    sqlx::query_scalar!(
        "insert into audit (token_name, role, peer, action, object, answer, detail, begun_id, via)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         returning id",
        entry.asker.name,
        entry.asker.role,
        entry.asker.peer,
        entry.action,
        storable(entry.object, OBJECT_BYTES_MAX),
        entry.answer,
        storable(entry.detail, DETAIL_BYTES_MAX),
        entry.begun,
        entry.asker.via.as_str()
    )
    .fetch_one(pool)
    .await
    .map_err(failed("record what was done"))
}

/// Recent refusals of an action to callers that nobody knows.
///
/// # Errors
/// The database fails.
pub async fn failures(pool: &PgPool, peer: &str, action: &str) -> Result<Failures, Error> {
    let row = sqlx::query!(
        r#"select count(*) filter (where peer = $1) as "of_peer!", count(*) as "of_all!" from audit
           where token_name is null and role is null and action = $3
               and time > clock_timestamp() - make_interval(secs => $2)"#,
        peer,
        FAILURES_WINDOW_S,
        action
    )
    .fetch_one(pool)
    .await
    .map_err(failed("count refusals"))?;
    Ok(Failures { of_peer: row.of_peer, of_all: row.of_all })
}

/// Rows, newest first, before number `behind`. What was begun stands there until its outcome does.
///
/// # Errors
/// The database fails.
pub async fn page(pool: &PgPool, behind: Option<i64>, limit: i64) -> Result<Vec<AuditRecord>, Error> {
    sqlx::query_as!(
        AuditRecord,
        "select id, time, token_name, role, via, peer, action, object, answer, detail from audit
         where ($1::bigint is null or id < $1)
             and not exists (select from audit outcome where outcome.begun_id = audit.id)
         order by id desc limit $2",
        behind,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list what was done"))
}
