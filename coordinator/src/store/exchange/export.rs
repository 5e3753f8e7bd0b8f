//! Writes a search as a file, row by row, as it was at one moment.
//!
//! Lines are the database's own JSON, whose numbers are exact. Their order follows from
//! what they hold, so the same search is the same lines wherever it lies.

use cakes::spec::CheckedSearch;
use cakes_proto::convert::search_to_wire;
use cakes_proto::ids::SearchId;
use cakes_proto::v1;
use chrono::Utc;
use futures::TryStreamExt;
use sqlx::{PgConnection, PgPool};
use tokio::sync::mpsc::{Sender, channel};
use tracing::instrument;
use uuid::Uuid;

use crate::exchange::{Exporter, Member, Writer};
use crate::store::error::{Error, corrupt, failed};

/// Packed bytes that are sent together, about.
const CHUNK_BYTES: usize = 256 << 10;

/// The digest of what the file of a search would hold.
///
/// # Errors
/// There is no such search, or the database fails.
pub(super) async fn content_sha256(pool: &PgPool, id: SearchId) -> Result<String, Error> {
    let (pieces, mut packed) = channel(1);
    let pack = async move {
        // The sender ends with it, and so does the draining.
        let pieces = pieces;
        Box::pin(export(pool, id, "", &pieces)).await
    };
    let drain = async { while packed.recv().await.is_some() {} };
    tokio::join!(pack, drain).0
}

/// Sends the file in pieces, as fast as they are taken; the digest of what it holds. Who
/// takes them may go away.
///
/// # Errors
/// There is no such search, or the database fails.
#[instrument(skip_all, fields(search = %id), err(level = "debug"))]
pub async fn export(
    pool: &PgPool,
    id: SearchId,
    source: &str,
    pieces: &Sender<Vec<u8>>,
) -> Result<String, Error> {
    let mut transaction = pool
        .begin_with("begin isolation level repeatable read, read only")
        .await
        .map_err(failed("begin to export a search"))?;
    be_patient(&mut transaction).await?;
    let mut file = File { writer: Writer::default(), pieces };
    let (line, spec, is_snapshot) = search(&mut transaction, id).await?;
    file.begin(Member::Search)?;
    file.remarked(&line).await?;
    file.begin(Member::Request)?;
    file.line(&request(id, spec)?).await?;
    file.begin(Member::Architectures)?;
    architectures(&mut transaction, id, &mut file).await?;
    let jobs = jobs_in_order(&mut transaction, id).await?;
    file.begin(Member::Jobs)?;
    for job in &jobs {
        file.remarked(&job_line(&mut transaction, *job).await?).await?;
    }
    file.begin(Member::Scores)?;
    for job in &jobs {
        scores(&mut transaction, *job, &mut file).await?;
    }
    file.begin(Member::Events)?;
    events(&mut transaction, id, &mut file).await?;
    file.begin(Member::Metrics)?;
    for job in &jobs {
        metrics(&mut transaction, *job, &mut file).await?;
    }
    transaction.commit().await.map_err(failed("end an export"))?;
    let exporter = Exporter {
        cakes_version: env!("CARGO_PKG_VERSION").to_owned(),
        source: source.to_owned(),
        export_time: Utc::now(),
    };
    file.finish(id.0, is_snapshot, exporter).await
}

/// A line that may have labels and notes; without them it is what it was before there were any.
struct Remarked {
    json: String,
    has_remarks: bool,
}

/// A file on its way.
struct File<'a> {
    writer: Writer,
    pieces: &'a Sender<Vec<u8>>,
}

impl File<'_> {
    fn begin(&mut self, member: Member) -> Result<(), Error> {
        self.writer.begin(member).map_err(|error| unpacked(&error))
    }

    async fn line(&mut self, json: &str) -> Result<(), Error> {
        self.writer.line(json).map_err(|error| unpacked(&error))?;
        if self.writer.waiting() >= CHUNK_BYTES {
            let piece = self.writer.take();
            self.pieces.send(piece).await.map_err(|_| gone())?;
        }
        Ok(())
    }

    async fn remarked(&mut self, line: &Remarked) -> Result<(), Error> {
        if line.has_remarks {
            self.writer.has_remarks();
        }
        self.line(&line.json).await
    }

    async fn finish(self, search: Uuid, is_snapshot: bool, exporter: Exporter) -> Result<String, Error> {
        let finished = self.writer.finish(search, is_snapshot, exporter);
        let (rest, digest) = finished.map_err(|error| unpacked(&error))?;
        self.pieces.send(rest).await.map_err(|_| gone())?;
        Ok(digest)
    }
}

fn unpacked(error: &std::io::Error) -> Error {
    corrupt("a search's file", error)
}

fn gone() -> Error {
    Error::Refused("nobody takes the file any more".to_owned())
}

/// Whoever takes the file decides how long its statements last.
async fn be_patient(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!(
        r#"select set_config('statement_timeout', '1h', true) as "a!",
               set_config('idle_in_transaction_session_timeout', '10min', true) as "b!",
               set_config('timezone', 'UTC', true) as "c!""#
    )
    .fetch_one(connection)
    .await
    .map(drop)
    .map_err(failed("set the time limits of an export"))
}

async fn search(
    connection: &mut PgConnection,
    id: SearchId,
) -> Result<(Remarked, serde_json::Value, bool), Error> {
    let row = sqlx::query!(
        r#"select (to_jsonb(line) || given.remarks)::text as "json!", given.remarks <> '{}' as "has_remarks!",
               line.spec, line.end_time is null as "is_snapshot!"
           from (
               select id, name, spec, state, state_reason, revision, create_time, end_time
               from search where id = $1
           ) line
           cross join lateral (
               select case when labels = '{}' then '{}' else jsonb_build_object('labels', labels) end || coalesce((
                   select jsonb_build_object('notes', jsonb_agg(
                       jsonb_build_object('author', author, 'text', text, 'create_time', note.create_time)
                       order by note.create_time, author, text))
                   from note where note.search_id = line.id having count(*) > 0
               ), '{}') as remarks
               from search where search.id = line.id
           ) given"#,
        id.0
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("export a search"))?
    .ok_or_else(|| Error::NotFound { kind: "search", id: id.to_string() })?;
    let line = Remarked { json: row.json, has_remarks: row.has_remarks };
    Ok((line, row.spec, row.is_snapshot))
}

/// The search as people submit it.
fn request(id: SearchId, spec: serde_json::Value) -> Result<String, Error> {
    let what = || format!("the description of search {id}");
    let checked: CheckedSearch = serde_json::from_value(spec).map_err(|error| corrupt(what(), &error))?;
    let search = Some(search_to_wire(checked.spec()));
    let request = v1::SubmitSearchRequest { search, ..v1::SubmitSearchRequest::default() };
    serde_json::to_string(&request).map_err(|error| corrupt(what(), &error))
}

async fn architectures(
    connection: &mut PgConnection,
    id: SearchId,
    file: &mut File<'_>,
) -> Result<(), Error> {
    let doing = failed("export the architectures of a search");
    let mut lines = sqlx::query_as!(
        Remarked,
        r#"select (to_jsonb(line) - 'position' || remarks)::text as "json!", remarks <> '{}' as "has_remarks!"
           from (
               select given.position, given.origin, given.digest, given.retrain, given.param_count, given.mac_count,
                   given.mac_fraction, given.cost, given.create_time, architecture.spec as architecture
               from search_architecture given join architecture on architecture.digest = given.digest
               where given.search_id = $1
           ) line
           cross join lateral (
               select coalesce((
                   select jsonb_build_object('notes', jsonb_agg(
                       jsonb_build_object('author', author, 'text', text, 'create_time', note.create_time)
                       order by note.create_time, author, text))
                   from note
                   where note.architecture_digest = line.digest and line.position = (
                       select min(position) from search_architecture first
                       where first.search_id = $1 and first.digest = line.digest
                   )
                   having count(*) > 0
               ), '{}') as remarks
           ) given
           order by line.position"#,
        id.0
    )
    .fetch(connection);
    while let Some(line) = lines.try_next().await.map_err(&doing)? {
        file.remarked(&line).await?;
    }
    Ok(())
}

async fn jobs_in_order(connection: &mut PgConnection, id: SearchId) -> Result<Vec<Uuid>, Error> {
    sqlx::query_scalar!("select id from job where search_id = $1 order by position", id.0)
        .fetch_all(connection)
        .await
        .map_err(failed("export the jobs of a search"))
}

async fn job_line(connection: &mut PgConnection, id: Uuid) -> Result<Remarked, Error> {
    sqlx::query_as!(
        Remarked,
        r#"select (to_jsonb(line) || remarks)::text as "json!", remarks <> '{}' as "has_remarks!"
           from (
               select id, kind, label, priority, architecture_digest, seed, trainer_job, step_count, memory_mib,
                   task, state, state_reason, epoch, lost_count, infrastructure_count, resource_count,
                   numeric_count, no_progress_count, furthest_step, checkpoint_epoch, checkpoint_step,
                   supernet_job_id, revision, create_time, start_time, end_time,
                   coalesce((
                       select jsonb_agg(to_jsonb(one) order by one.epoch) from (
                           select attempt.epoch, worker_id, incarnation, attempt.device, state, resume_epoch,
                               resume_step, last_step, last_seq, end_reason, failure_class, message,
                               grant_time, start_time, end_time,
                               to_jsonb(environment) - 'job_id' - 'epoch' as environment
                           from attempt
                           left join attempt_environment environment
                               on environment.job_id = attempt.job_id and environment.epoch = attempt.epoch
                           where attempt.job_id = job.id
                       ) one
                   ), '[]') as attempts,
                   coalesce((
                       select jsonb_agg(to_jsonb(checkpoint) - array['job_id', 'pinned', 'settled',
                               'condemn_time', 'condemn_reason', 'delete_time'] order by epoch, step)
                       from checkpoint where checkpoint.job_id = job.id
                   ), '[]') as checkpoints,
                   (select to_jsonb(progress) - 'job_id' from job_progress progress
                    where progress.job_id = job.id) as progress,
                   (select to_jsonb(result) - 'job_id' from result where result.job_id = job.id) as result
               from job where id = $1
           ) line
           cross join lateral (
               select case when labels = '{}' then '{}' else jsonb_build_object('labels', labels) end || coalesce((
                   select jsonb_build_object('notes', jsonb_agg(
                       jsonb_build_object('author', author, 'text', text, 'create_time', note.create_time)
                       order by note.create_time, author, text))
                   from note where note.job_id = line.id having count(*) > 0
               ), '{}') as remarks
               from job where job.id = line.id
           ) given"#,
        id
    )
    .fetch_one(connection)
    .await
    .map_err(failed("export a job"))
}

async fn scores(connection: &mut PgConnection, job: Uuid, file: &mut File<'_>) -> Result<(), Error> {
    let line = sqlx::query_scalar!(
        r#"select to_jsonb(supernet_scores)::text as "line!" from supernet_scores where job_id = $1"#,
        job
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("export what a supernet found"))?;
    match line {
        Some(line) => file.line(&line).await,
        None => Ok(()),
    }
}

/// Jobs of the search tell of themselves under its id or under theirs alone. That a
/// search came in is no part of it.
async fn events(connection: &mut PgConnection, id: SearchId, file: &mut File<'_>) -> Result<(), Error> {
    let doing = failed("export the events of a search");
    let mut lines = sqlx::query_scalar!(
        r#"select to_jsonb(line)::text as "line!"
           from (
               select time, kind, job_id, epoch, worker_id, body
               from event
               where (search_id = $1 or job_id in (select job.id from job where job.search_id = $1))
                   and kind <> 'search_imported'
                   and (job_id is null or job_id in (select job.id from job where job.search_id = $1))
               order by id
           ) line"#,
        id.0
    )
    .fetch(connection);
    while let Some(line) = lines.try_next().await.map_err(&doing)? {
        file.line(&line).await?;
    }
    Ok(())
}

async fn metrics(connection: &mut PgConnection, job: Uuid, file: &mut File<'_>) -> Result<(), Error> {
    let doing = failed("export the metrics of a job");
    let mut lines = sqlx::query_scalar!(
        r#"select to_jsonb(line)::text as "line!"
           from (
               select job_id, key, epoch, seq, step, value, time from metric where job_id = $1
               order by key collate "C", epoch, seq
           ) line"#,
        job
    )
    .fetch(connection);
    while let Some(line) = lines.try_next().await.map_err(&doing)? {
        file.line(&line).await?;
    }
    Ok(())
}
