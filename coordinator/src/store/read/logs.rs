//! Log lines of a job, in order.

use cakes_proto::ids::JobId;
use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::failed;
use crate::store::Error;

/// One line.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Where the line stands.
    pub at: LogPosition,
    pub time: DateTime<Utc>,
    pub text: String,
}

/// Where a line stands: lines of an attempt before those of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    pub epoch: i64,
    pub seq: i64,
}

/// Lines behind `behind`, oldest first.
///
/// An attempt writes its lines in order and one attempt lives at a time, so a
/// line never appears before one that was already read.
///
/// # Errors
/// The database fails.
pub async fn after(
    pool: &PgPool,
    job: JobId,
    behind: LogPosition,
    limit: i64,
) -> Result<Vec<LogRecord>, Error> {
    sqlx::query!(
        "select epoch, seq, time, text from log_line
         where job_id = $1 and (epoch, seq) > ($2, $3)
         order by epoch, seq limit $4",
        job.0,
        behind.epoch,
        behind.seq,
        limit
    )
    .map(|row| LogRecord {
        at: LogPosition { epoch: row.epoch, seq: row.seq },
        time: row.time,
        text: row.text,
    })
    .fetch_all(pool)
    .await
    .map_err(failed("read the log of a job"))
}

/// The last lines of a job, oldest first.
///
/// # Errors
/// The database fails.
pub async fn tail(pool: &PgPool, job: JobId, limit: i64) -> Result<Vec<LogRecord>, Error> {
    let mut lines = sqlx::query!(
        "select epoch, seq, time, text from log_line where job_id = $1
         order by epoch desc, seq desc limit $2",
        job.0,
        limit
    )
    .map(|row| LogRecord {
        at: LogPosition { epoch: row.epoch, seq: row.seq },
        time: row.time,
        text: row.text,
    })
    .fetch_all(pool)
    .await
    .map_err(failed("read the end of a job's log"))?;
    lines.reverse();
    Ok(lines)
}
