//! Inserts a job into the queue.

use cakes::architecture::ArchitectureDigest;
use cakes::job::TrainerJob;
use cakes::labels::Labels;
use cakes_proto::ids::{JobId, SearchId};
use cakes_telemetry::trace::TraceContext;
use sqlx::PgConnection;

use crate::core::job::JobKind;
use crate::core::memory::job_mib;
use crate::store::error::{Error, corrupt, failed};
use crate::store::event::{self, Event};
use crate::store::job_row::task_name;
use crate::store::labels;
use crate::store::traces::trace_columns;

/// A job to queue.
pub(in crate::store) struct NewJob<'a> {
    pub search: Option<SearchId>,
    pub label: &'a str,
    /// `None` for a supernet.
    pub architecture: Option<ArchitectureDigest>,
    pub trainer_job: &'a TrainerJob,
    /// The search that it is of, or that it is trained for: whose project, priority,
    /// labels of workers, deadline and cost limit it has.
    pub of: SearchId,
    /// The search whose supernet the training starts from, for one that does.
    pub supernet_of: Option<SearchId>,
    /// The search whose retrainings take as long for a step; of a job that is submitted alone.
    pub like: Option<SearchId>,
    /// The client's request id with the hash of its content.
    pub request: Option<(&'a str, &'a [u8; 32])>,
    /// None of a search's own jobs: those of the search are not repeated.
    pub labels: Option<&'a Labels>,
    /// Who submits a job alone; a search's own jobs are its owner's.
    pub owner: Option<&'a str>,
    /// What queues it.
    pub trace: Option<&'a TraceContext>,
}

/// Queues the job; `None` if an equal job of its search, or one of the same
/// request id, is there already.
pub(in crate::store) async fn enqueue(
    connection: &mut PgConnection,
    new: &NewJob<'_>,
) -> Result<Option<JobId>, Error> {
    let id = JobId::generate();
    let kind = if new.architecture.is_some() { JobKind::Retrain } else { JobKind::Supernet };
    let trainer_job =
        serde_json::to_value(new.trainer_job).map_err(|error| corrupt("a trainer's job", &error))?;
    let steps = i64::try_from(new.trainer_job.training.steps_total()).unwrap_or(i64::MAX);
    // A network that does not fit its patch never comes this far.
    let memory_mib = i64::try_from(job_mib(new.trainer_job).unwrap_or(0)).unwrap_or(i64::MAX);
    let labels = labels::to_column(new.labels.unwrap_or(&Labels::default()))?;
    let (traceparent, tracestate) = trace_columns(new.trace);
    // S9: the request id is unique.
    let inserted = sqlx::query!(
        "insert into job (id, search_id, kind, label, priority, project, architecture_digest, seed, trainer_job,
             step_count, memory_mib, request_id, request_hash, task, labels, supernet_job_id, owner,
             traceparent, tracestate, like_search_id, worker_labels, deadline, cost_limit_device_s, spreads)
         select $1, $2, $3, $4, search.priority, search.project, $6, $7::text::numeric, $8, $9, $10, $11, $12,
             $13, $14, (select id from job where search_id = $15 and kind = 'supernet'),
             case when $2::uuid is null then $16 else search.owner end, $17, $18, $19,
             search.worker_labels, search.deadline, search.cost_limit_device_s, $20
         from search where search.id = $5
         on conflict do nothing",
        id.0,
        new.search.map(|search| search.0),
        kind.as_str(),
        new.label,
        new.of.0,
        new.architecture.map(|digest| digest.to_string()),
        new.trainer_job.seed.to_string(),
        trainer_job,
        steps,
        memory_mib,
        new.request.map(|(id, _)| id),
        new.request.map(|(_, hash)| &hash[..]),
        task_name(new.trainer_job.task.backbone().task()),
        labels,
        new.supernet_of.map(|search| search.0),
        new.owner,
        traceparent,
        tracestate,
        new.like.map(|search| search.0),
        new.trainer_job.training.spread
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("queue a job"))?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    let body = serde_json::json!({ "label": new.label });
    let event =
        Event { kind: "job_queued", search: new.search, job: Some(id), body: Some(body), ..Event::default() };
    event::record(connection, event).await?;
    Ok(Some(id))
}
