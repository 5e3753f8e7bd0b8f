//! Queues the retraining of one architecture outside a search's plan.

use cakes::architecture::{Architecture, ArchitectureDigest};
use cakes::job::TrainerJob;
use cakes::labels::Labels;
use cakes::spec::{CheckedSearch, InitialWeights, TrainingSpec};
use cakes_proto::ids::{JobId, SearchId};
use cakes_telemetry::trace::TraceContext;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use super::{NewJob, enqueue};
use crate::store::architecture_rows::read_architecture;
use crate::store::error::{Error, corrupt, failed};
use crate::store::exchange::refuse_imported_search;
use crate::store::searches::read_spec;
use crate::store::text::check_request_id;

/// What to retrain, on whose data.
#[derive(Clone, Debug)]
pub struct Retrain {
    /// A repetition gets the first job.
    pub request_id: Option<String>,
    pub digest: ArchitectureDigest,
    /// The search whose data set and patch are used.
    pub search: SearchId,
    /// `None` for that of the search.
    pub training: Option<TrainingSpec>,
    /// `None` for those of the search.
    pub initial_weights: Option<InitialWeights>,
    pub seed: u64,
    /// From its beginning.
    pub labels: Labels,
    /// Who submits it; none for nobody known. Not part of what a request id stands for.
    pub owner: Option<String>,
    /// What the submission belongs to. Not part of what a request id stands for either.
    pub trace: Option<TraceContext>,
}

/// Queues the job.
///
/// # Errors
/// Search or architecture are unknown or do not fit each other, the training is
/// invalid, the supernet that it starts from is not there yet, or the request id was
/// used for something else.
#[instrument(skip_all, fields(search = %retrain.search, digest = %retrain.digest), err(level = "debug"))]
pub async fn submit_retrain(pool: &PgPool, retrain: &Retrain) -> Result<JobId, Error> {
    check_request_id(retrain.request_id.as_deref())?;
    let mut transaction = pool.begin().await.map_err(failed("begin to queue a retraining"))?;
    refuse_imported_search(&mut transaction, retrain.search).await?;
    let search = read_spec(&mut transaction, retrain.search).await?;
    let architecture = read_architecture(&mut transaction, retrain.digest).await?;
    let trainer_job = trainer_job(&search, architecture, retrain)?;
    let starts_from_supernet = trainer_job.initial_weights == InitialWeights::Supernet;
    if starts_from_supernet {
        refuse_before_supernet(&mut transaction, retrain.search).await?;
    }
    let hash = content_hash(retrain);
    let digits = retrain.digest.to_string();
    let new = NewJob {
        search: None,
        label: &format!("retrain {} seed {}", &digits[..12], retrain.seed),
        architecture: Some(retrain.digest),
        trainer_job: &trainer_job,
        of: retrain.search,
        supernet_of: starts_from_supernet.then_some(retrain.search),
        like: steps_are_alike(&search, &trainer_job).then_some(retrain.search),
        request: retrain.request_id.as_deref().map(|id| (id, &hash)),
        labels: Some(&retrain.labels),
        owner: retrain.owner.as_deref(),
        trace: retrain.trace.as_ref(),
    };
    let id = match enqueue(&mut transaction, &new).await? {
        Some(id) => id,
        None => first_job(&mut transaction, retrain, &hash).await?,
    };
    transaction.commit().await.map_err(failed("commit a retraining"))?;
    Ok(id)
}

/// The job that the search would queue, with the training that was asked for.
fn trainer_job(
    search: &CheckedSearch,
    architecture: Architecture,
    retrain: &Retrain,
) -> Result<TrainerJob, Error> {
    let mut job = search.retrain_job(architecture, retrain.seed);
    if let Some(training) = &retrain.training {
        job.training = training.clone();
    }
    if let Some(weights) = &retrain.initial_weights {
        job.initial_weights = weights.clone();
    }
    search.check_retrain(&job).map_err(Error::InvalidSpec)?;
    Ok(job)
}

/// Whether a step takes as long as one of the search's own retrainings; how many there are, and
/// of which learning rate, makes no difference.
fn steps_are_alike(search: &CheckedSearch, job: &TrainerJob) -> bool {
    let own = &search.spec().retrain.training;
    let as_long = TrainingSpec {
        epochs: own.epochs,
        warmup_steps: own.warmup_steps,
        schedule: own.schedule.clone(),
        ..job.training.clone()
    };
    as_long == *own
}

async fn refuse_before_supernet(connection: &mut PgConnection, search: SearchId) -> Result<(), Error> {
    let state =
        sqlx::query_scalar!("select state from job where search_id = $1 and kind = 'supernet'", search.0)
            .fetch_optional(connection)
            .await
            .map_err(failed("look for a supernet"))?;
    match state.as_deref() {
        Some("succeeded") => Ok(()),
        state => Err(Error::Refused(format!(
            "the supernet of search {search}, whose weights the retraining starts from, is {}; wait until it has \
             succeeded, or start from other weights",
            state.unwrap_or("not queued yet")
        ))),
    }
}

/// The job of an earlier request with the same id.
async fn first_job(
    connection: &mut PgConnection,
    retrain: &Retrain,
    hash: &[u8; 32],
) -> Result<JobId, Error> {
    let request_id = retrain.request_id.clone().unwrap_or_default();
    let first = sqlx::query!("select id, request_hash from job where request_id = $1", request_id)
        .fetch_optional(connection)
        .await
        .map_err(failed("look for an earlier request"))?
        .ok_or_else(|| corrupt("the queue", &"it refused a job without a request id"))?;
    if first.request_hash.as_deref() == Some(&hash[..]) {
        return Ok(JobId(first.id));
    }
    Err(Error::Conflict { request_id })
}

fn content_hash(retrain: &Retrain) -> [u8; 32] {
    let content = (
        retrain.digest.to_string(),
        retrain.search,
        &retrain.training,
        &retrain.initial_weights,
        retrain.seed,
    );
    // Without labels that of before there were any.
    let bytes = match retrain.labels.is_empty() {
        true => serde_json::to_vec(&content),
        false => serde_json::to_vec(&(content, &retrain.labels)),
    };
    // Plain data into memory cannot fail.
    Sha256::digest(bytes.unwrap_or_default()).into()
}
