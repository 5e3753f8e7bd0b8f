//! The rows of an imported search. What had not ended when it was exported is cancelled
//! here, with the moment of the export as its end.

use cakes_proto::ids::SearchId;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::remarks::notes;
use crate::exchange::Member;
use crate::store::error::{Error, failed};

/// How rows are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub export_time: DateTime<Utc>,
}

impl Rows {
    /// Writes lines of a member, as a JSON array of them.
    pub(super) async fn insert(
        &self,
        connection: &mut PgConnection,
        member: Member,
        search: SearchId,
        lines: &str,
    ) -> Result<(), Error> {
        match member {
            Member::Search => {
                self.search(connection, lines).await?;
                notes(connection, member, lines).await
            }
            // It follows from the search.
            Member::Request => Ok(()),
            Member::Architectures => {
                architectures(connection, search, lines).await?;
                notes(connection, member, lines).await
            }
            Member::Jobs => {
                self.jobs(connection, search, lines).await?;
                self.attempts(connection, lines).await?;
                what_jobs_left(connection, lines).await?;
                results(connection, lines).await?;
                notes(connection, member, lines).await
            }
            Member::Scores => scores(connection, lines).await,
            Member::Events => events(connection, search, lines).await,
            Member::Metrics => metrics(connection, lines).await,
        }
    }

    async fn search(&self, connection: &mut PgConnection, lines: &str) -> Result<(), Error> {
        sqlx::query!(
            "insert into search
                 (id, name, spec, state, state_reason, revision, create_time, end_time, labels, imported)
             select id, name, spec,
                 case when end_time is null then 'cancelled' else state end,
                 case when end_time is null then 'a snapshot of a search that was ' || state else state_reason end,
                 revision, create_time, coalesce(end_time, $2), coalesce(labels, '{}'), true
             from jsonb_to_recordset($1::text::jsonb) as row (
                 id uuid, name text, spec jsonb, state text, state_reason text, revision bigint,
                 create_time timestamptz, end_time timestamptz, labels jsonb)",
            lines,
            self.export_time
        )
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("import a search"))
    }

    async fn jobs(&self, connection: &mut PgConnection, search: SearchId, lines: &str) -> Result<(), Error> {
        sqlx::query!(
            "insert into job
                 (id, search_id, kind, label, priority, architecture_digest, seed, trainer_job, step_count,
                  memory_mib, task, state, state_reason, epoch, lost_count, infrastructure_count,
                  resource_count, numeric_count, no_progress_count, furthest_step, checkpoint_epoch,
                  checkpoint_step, supernet_job_id, revision, create_time, start_time, end_time, labels, imported,
                  spreads)
             select id, $2, kind, label, priority, architecture_digest, seed, trainer_job, step_count,
                  memory_mib, task,
                  case when end_time is null then 'cancelled' else state end,
                  case when end_time is null then 'was ' || state || ' when its search was exported'
                      else state_reason end,
                  epoch, lost_count, infrastructure_count, resource_count, numeric_count, no_progress_count,
                  furthest_step, checkpoint_epoch, checkpoint_step, supernet_job_id, revision, create_time,
                  start_time, coalesce(end_time, $3), coalesce(labels, '{}'), true,
                  coalesce((trainer_job -> 'training' ->> 'spread')::boolean, false)
             from rows from (jsonb_to_recordset($1::text::jsonb) as (
                 id uuid, kind text, label text, priority integer, architecture_digest text,
                 seed numeric, trainer_job jsonb, step_count bigint, memory_mib bigint, task text, state text,
                 state_reason text, epoch bigint, lost_count integer, infrastructure_count integer,
                 resource_count integer, numeric_count integer, no_progress_count integer,
                 furthest_step bigint, checkpoint_epoch bigint, checkpoint_step bigint, supernet_job_id uuid,
                 revision bigint, create_time timestamptz, start_time timestamptz, end_time timestamptz, labels jsonb
             )) with ordinality as row
             order by row.ordinality",
            lines,
            search.0,
            self.export_time
        )
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("import jobs"))
    }

    /// Their nonces are new: what was proof of a lease elsewhere is none here.
    async fn attempts(&self, connection: &mut PgConnection, lines: &str) -> Result<(), Error> {
        sqlx::query!(
            "with attempts as (
                 select job.id as job_id, row.*
                 from jsonb_to_recordset($1::text::jsonb) as job (id uuid, attempts jsonb)
                 cross join lateral jsonb_to_recordset(job.attempts) as row (
                     epoch bigint, worker_id text, incarnation bigint, device text, resume_epoch bigint,
                     resume_step bigint, last_step bigint, last_seq bigint, end_reason text,
                     failure_class text, message text, grant_time timestamptz, start_time timestamptz,
                     end_time timestamptz, environment jsonb)
             ), told as (
                 insert into attempt_environment
                     (job_id, epoch, libtorch, device, worker_version, data_sha256, data_file_count, data_bytes,
                      entry_seqs)
                 select job_id, epoch, environment ->> 'libtorch', environment ->> 'device',
                     environment ->> 'worker_version', environment ->> 'data_sha256',
                     (environment ->> 'data_file_count')::bigint, (environment ->> 'data_bytes')::bigint,
                     array(select jsonb_array_elements_text(environment -> 'entry_seqs')::bigint)
                 from attempts where jsonb_typeof(environment) = 'object'
             )
             insert into attempt
                 (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id, state,
                  resume_epoch, resume_step, last_step, last_seq, end_reason, failure_class, message,
                  grant_time, start_time, end_time, imported)
             select job_id, epoch, uuid_send(gen_random_uuid()), worker_id, incarnation, device,
                 gen_random_uuid(), 'ended', resume_epoch, resume_step, last_step, last_seq,
                 coalesce(end_reason, 'cancelled'), failure_class, message, grant_time, start_time,
                 coalesce(end_time, $2), true
             from attempts",
            lines,
            self.export_time
        )
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("import attempts"))
    }
}

async fn architectures(connection: &mut PgConnection, search: SearchId, lines: &str) -> Result<(), Error> {
    sqlx::query!(
        "insert into architecture (digest, spec)
         select distinct on (digest) digest, architecture
         from jsonb_to_recordset($1::text::jsonb) as row (digest text, architecture jsonb)
         on conflict do nothing",
        lines
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("import architectures"))?;
    sqlx::query!(
        "insert into search_architecture
             (search_id, origin, digest, retrain, cost, param_count, mac_count, mac_fraction, create_time)
         select $2, origin, digest, retrain, cost, param_count, mac_count, mac_fraction, create_time
         from rows from (jsonb_to_recordset($1::text::jsonb) as (
             origin text, digest text, retrain boolean, cost jsonb, param_count bigint, mac_count bigint,
             mac_fraction float8, create_time timestamptz
         )) with ordinality as row
         order by row.ordinality",
        lines,
        search.0
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("import the architectures of a search"))
}

/// Progress and checkpoints. What becomes of these is the affair of whoever has their
/// objects.
async fn what_jobs_left(connection: &mut PgConnection, lines: &str) -> Result<(), Error> {
    sqlx::query!(
        "with job as (
             select * from jsonb_to_recordset($1::text::jsonb) as row (id uuid, progress jsonb, checkpoints jsonb)
         ), shown as (
             insert into job_progress
                 (job_id, step, step_count, loss, learning_rate, samples_per_s, quality, quality_metric,
                  remaining_s, phase, update_time, revision)
             select job.id, row.*
             from job cross join lateral jsonb_to_record(job.progress) as row (
                 step bigint, step_count bigint, loss float8, learning_rate float8, samples_per_s float8,
                 quality float8, quality_metric text, remaining_s float8, phase text,
                 update_time timestamptz, revision bigint)
             where jsonb_typeof(job.progress) = 'object'
         )
         insert into checkpoint (job_id, settled, epoch, step, key, manifest_sha256, bytes, commit_time)
         select job.id, true, row.*
         from job cross join lateral jsonb_to_recordset(job.checkpoints) as row (
             epoch bigint, step bigint, key text, manifest_sha256 text, bytes bigint, commit_time timestamptz)",
        lines
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("import progress and checkpoints"))
}

async fn results(connection: &mut PgConnection, lines: &str) -> Result<(), Error> {
    sqlx::query!(
        "insert into result
             (job_id, epoch, last_seq, content_hash, checkpoint_epoch, checkpoint_step, quality,
              quality_metric, mean_dice, dice_per_class, case_count, classification, param_count, mac_count,
              latency_ms, peak_memory_mib, train_duration_s, device, end_time)
         select job.id, row.*
         from jsonb_to_recordset($1::text::jsonb) as job (id uuid, result jsonb)
         cross join lateral jsonb_to_record(job.result) as row (
             epoch bigint, last_seq bigint, content_hash bytea, checkpoint_epoch bigint,
             checkpoint_step bigint, quality float8, quality_metric text, mean_dice float8,
             dice_per_class float8[], case_count bigint, classification jsonb, param_count bigint,
             mac_count bigint, latency_ms float8, peak_memory_mib float8, train_duration_s float8,
             device text, end_time timestamptz)
         where jsonb_typeof(job.result) = 'object'",
        lines
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("import results"))
}

async fn scores(connection: &mut PgConnection, lines: &str) -> Result<(), Error> {
    sqlx::query!(
        "insert into supernet_scores (job_id, scores, latency)
         select job_id, scores, latency
         from jsonb_to_recordset($1::text::jsonb) as row (job_id uuid, scores jsonb, latency jsonb)",
        lines
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("import what supernets found"))
}

async fn events(connection: &mut PgConnection, search: SearchId, lines: &str) -> Result<(), Error> {
    sqlx::query!(
        "insert into event (time, kind, search_id, job_id, epoch, worker_id, body, imported)
         select time, kind, $2, job_id, epoch, worker_id, body, true
         from rows from (jsonb_to_recordset($1::text::jsonb) as (
             time timestamptz, kind text, job_id uuid, epoch bigint, worker_id text, body jsonb
         )) with ordinality as row
         order by row.ordinality",
        lines,
        search.0
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("import events"))
}

async fn metrics(connection: &mut PgConnection, lines: &str) -> Result<(), Error> {
    sqlx::query!(
        "insert into metric (job_id, key, epoch, seq, step, value, time)
         select job_id, key, epoch, seq, step, value, time
         from jsonb_to_recordset($1::text::jsonb) as row (
             job_id uuid, key text, epoch bigint, seq bigint, step bigint, value float8, time timestamptz)",
        lines
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("import metrics"))
}

/// Long curves are also kept summed up; the sums follow from the points.
pub(super) async fn sum_up_curves(connection: &mut PgConnection, search: SearchId) -> Result<(), Error> {
    sqlx::query!(
        "insert into metric_range
         select point.job_id, point.key, range_number(point.step, point.step_count),
                min(point.step), max(point.step), count(*), count(point.value), coalesce(sum(point.value), 0),
                min(point.value), max(point.value),
                (array_agg(point.epoch order by point.epoch, point.seq))[1],
                (array_agg(point.seq order by point.epoch, point.seq))[1],
                max(point.time)
         from (
             select distinct on (metric.job_id, metric.key, metric.step)
                    metric.job_id, metric.key, metric.step, metric.epoch, metric.seq, metric.time, job.step_count,
                    nullif(nullif(nullif(metric.value, 'NaN'), 'Infinity'), '-Infinity') as value
             from job join metric on metric.job_id = job.id
             where job.search_id = $1 and job.step_count > 256
                 and metric.step <= coalesce(
                     (select min(later.resume_step) from attempt later
                      where later.job_id = metric.job_id and later.epoch > metric.epoch),
                     metric.step
                 )
             order by metric.job_id, metric.key, metric.step, metric.epoch desc, metric.seq desc
         ) point
         group by point.job_id, point.key, range_number(point.step, point.step_count)",
        search.0
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("sum up imported curves"))
}
