//! Whether entries that come again are those that are stored.

use sqlx::PgConnection;

use super::report::{Entry, Report};
use super::report_rows::{Reporting, line};
use crate::store::error::{Error, failed};

/// What a report tells once more, as columns.
#[derive(Debug, Default)]
struct Told<'a> {
    metric_seqs: Vec<i64>,
    keys: Vec<&'a str>,
    steps: Vec<i64>,
    values: Vec<f64>,
    log_seqs: Vec<i64>,
    lines: Vec<String>,
    environment_seqs: Vec<i64>,
}

/// Number of the last entry of a report that is stored already, if there is one.
pub(super) fn last(report: &Report, attempt: &Reporting) -> Option<i64> {
    let count = i64::try_from(report.entries.len()).unwrap_or(i64::MAX);
    let last = report.first_seq.saturating_add(count - 1).min(attempt.last_seq);
    (last >= report.first_seq).then_some(last)
}

/// Compares the entries up to this one with what is stored under their numbers. Times are left out.
///
/// # Errors
/// The database fails; the inner error: an entry tells something else than is stored. That nobody
/// can have sent by the protocol: two processes report for one attempt, or memory is broken.
pub(super) async fn compare(
    connection: &mut PgConnection,
    report: &Report,
    last: i64,
) -> Result<Result<(), Error>, Error> {
    let mut told = Told::default();
    for (seq, entry) in (report.first_seq..=last).zip(&report.entries) {
        match entry {
            Entry::Metric { step, values, .. } => {
                for (key, value) in values {
                    told.metric_seqs.push(seq);
                    told.keys.push(key);
                    told.steps.push(*step);
                    told.values.push(*value);
                }
            }
            Entry::Log { text, .. } => {
                told.log_seqs.push(seq);
                told.lines.push(line(text));
            }
            Entry::Environment(_) => told.environment_seqs.push(seq),
        }
    }
    let token = report.token;
    let other = sqlx::query_scalar!(
        r#"select min(seq) from (
               select told.seq
               from unnest($3::bigint[], $4::text[], $5::bigint[], $6::float8[]) as told (seq, key, step, value)
               where not exists (
                   select from metric
                   where metric.job_id = $1 and metric.key = told.key and metric.epoch = $2
                       and metric.seq = told.seq and metric.step = told.step and metric.value = told.value
               )
               union all
               select told.seq from unnest($7::bigint[], $8::text[]) as told (seq, text)
               where not exists (
                   select from log_line
                   where log_line.job_id = $1 and log_line.epoch = $2 and log_line.seq = told.seq
                       and log_line.text = told.text
               )
               union all
               select told.seq from unnest($9::bigint[]) as told (seq)
               where not exists (
                   select from attempt_environment
                   where job_id = $1 and epoch = $2 and told.seq = any(entry_seqs)
               )
           ) as other (seq)"#,
        token.job.0,
        token.epoch,
        &told.metric_seqs,
        &told.keys as _,
        &told.steps,
        &told.values,
        &told.log_seqs,
        &told.lines,
        &told.environment_seqs
    )
    .fetch_one(connection)
    .await
    .map_err(failed("compare entries that came again"))?;
    let Some(seq) = other else { return Ok(Ok(())) };
    tracing::warn!(job = %token.job, epoch = token.epoch, seq, "an attempt reports an entry again with other content");
    let problem =
        format!("number {seq} is stored with other content; number what is new from the next one on");
    Ok(Err(Error::InvalidArgument { field: "entries", problem }))
}
