//! What can go wrong between a decision and its row.

use std::sync::Arc;

use cakes::spec::InvalidSpec;
use cakes_proto::ids::JobId;

use crate::core::etag::Etag;
use crate::core::job::IllegalTransition;

/// Why a read or a write did not happen. Nothing was written, except where a
/// variant says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no {kind} '{id}'")]
    NotFound { kind: &'static str, id: String },
    #[error("'{prefix}' is the beginning of more than one {kind}; give more of it")]
    Ambiguous { kind: &'static str, prefix: String },
    #[error("request id '{request_id}' was used before for something else; choose a new one")]
    Conflict { request_id: String },
    /// The caller's attempt is no longer the current one.
    #[error("the lease is lost; the job's current epoch is {current_epoch}")]
    LeaseLost { current_epoch: i64 },
    /// A result came after a cancellation. The attempt is ended.
    #[error("job {job} was cancelled before its result arrived")]
    JobCancelled { job: JobId },
    /// Entries are missing before the ones that came.
    #[error("report entries are stored up to number {ack_seq}; go on from the next one")]
    OutOfRange { ack_seq: i64 },
    /// A rule forbids it; the text says which and what to do.
    #[error("{0}")]
    Refused(String),
    /// It is not as the caller saw it.
    #[error("{kind} {id} has changed since you looked at it; look again, and send its new etag")]
    Changed { kind: &'static str, id: String, etag: Etag },
    #[error(transparent)]
    InvalidSpec(InvalidSpec),
    #[error("{field}: {problem}")]
    InvalidArgument { field: &'static str, problem: String },
    #[error(transparent)]
    IllegalTransition(#[from] IllegalTransition),
    /// The caller is an older start of its daemon, or has never registered.
    #[error("this start of the worker is not the current one, which is number {current}; register again")]
    StaleIncarnation { current: i64 },
    /// A row that the code cannot have written.
    #[error("{what} in the database is unusable: {problem}")]
    Corrupt { what: String, problem: String },
    #[error(
        "the database has migration {found}, but this version knows only up to {known}; \
         start a coordinator of the version that made it, or a newer one"
    )]
    NewerSchema { found: i64, known: i64 },
    #[error("connect to the database; check --database-url and that the server runs")]
    Connect {
        #[source]
        source: sqlx::Error,
    },
    #[error("bring the database's tables up to date")]
    Migrate {
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error("{doing}")]
    Database {
        /// The operation: "store a report".
        doing: &'static str,
        #[source]
        source: Arc<sqlx::Error>,
    },
}

impl Error {
    /// Whether the same call may succeed a little later.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Error::Database { source, .. } => is_transient(source),
            Error::Connect { source } => is_transient(source),
            _ => false,
        }
    }

    /// The same for somebody else, if the database does not answer: then it is
    /// nobody's own fault.
    pub(crate) fn for_all(&self) -> Option<Error> {
        match self {
            Error::Database { doing, source } if is_transient(source) && !gave_way(source) => {
                Some(Error::Database { doing, source: source.clone() })
            }
            _ => None,
        }
    }
}

/// Whether a transaction had to give way to another one.
fn gave_way(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code.starts_with("40"))
}

/// Lost connections, full pools, servers that stop or have no room, and
/// transactions that had to give way.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection, resources, operator intervention, rollback.
            ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class)) || code == "55P03"
        }),
        _ => false,
    }
}

/// Names the operation that failed.
pub(super) fn failed(doing: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |source| {
        if matches!(source, sqlx::Error::PoolTimedOut) {
            crate::metrics::metrics().database_timeouts.add(1);
        }
        Error::Database { doing, source: Arc::new(source) }
    }
}

/// A stored value that its type refuses.
pub(super) fn corrupt(what: impl Into<String>, problem: &dyn std::fmt::Display) -> Error {
    Error::Corrupt { what: what.into(), problem: problem.to_string() }
}
