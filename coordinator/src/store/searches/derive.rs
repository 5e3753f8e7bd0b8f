//! Derives more architectures from the scores of a search.

use cakes::architecture::ArchitectureDigest;
use cakes::derive::check_budget;
use cakes::scores::ChannelScores;
use cakes::spec::CheckedSearch;
use cakes_proto::ids::SearchId;
use sqlx::PgPool;
use tracing::instrument;

use super::advance::touch;
use super::snapshot::{lock_snapshot, read_scores};
use crate::core::search::{Derived, Source, derive as derive_one};
use crate::store::architecture_rows;
use crate::store::error::{Error, corrupt, failed};

/// Most architectures of one call.
const BUDGETS_MAX: usize = 64;

/// Derives and records an architecture for each budget, the unconstrained one
/// last, without queueing a job.
///
/// # Errors
/// There is no such search, its supernet has not succeeded, or a budget is out
/// of range.
#[instrument(skip_all, fields(search = %id), err(level = "debug"))]
pub async fn derive(
    pool: &PgPool,
    id: SearchId,
    budgets: &[f64],
    unconstrained: bool,
) -> Result<Vec<ArchitectureDigest>, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to derive architectures"))?;
    let search = lock_snapshot(&mut transaction, id).await?.search;
    let sources = sources(&search, budgets, unconstrained)?;
    let scores = read_scores(&mut transaction, id).await?.ok_or_else(|| {
        Error::Refused(format!("search {id} has no scores yet; wait until its supernet has succeeded"))
    })?;
    let mut digests = Vec::with_capacity(sources.len());
    for derived in derive_all(search, scores, sources).await? {
        digests.push(architecture_rows::record(&mut transaction, id, &derived, false).await?);
    }
    touch(&mut transaction, id).await?;
    transaction.commit().await.map_err(failed("commit derived architectures"))?;
    Ok(digests)
}

fn sources(search: &CheckedSearch, budgets: &[f64], unconstrained: bool) -> Result<Vec<Source>, Error> {
    let invalid = |problem: String| Error::InvalidArgument { field: "budgets", problem };
    if budgets.len() > BUDGETS_MAX {
        return Err(invalid(format!("at most {BUDGETS_MAX} at a time, got {}", budgets.len())));
    }
    let spec = search.spec();
    for budget in budgets {
        check_budget(&spec.backbone, &spec.supernet.kernels, spec.patch, spec.budget_measure, *budget)
            .map_err(|error| invalid(error.to_string()))?;
    }
    let mut sources: Vec<Source> = budgets.iter().copied().map(Source::Budget).collect();
    if unconstrained {
        sources.push(Source::PaperRule);
    }
    if sources.is_empty() {
        return Err(invalid("give at least one, or ask for the unconstrained architecture".to_owned()));
    }
    Ok(sources)
}

/// Deriving takes a processor for a while.
async fn derive_all(
    search: CheckedSearch,
    scores: ChannelScores,
    sources: Vec<Source>,
) -> Result<Vec<Derived>, Error> {
    let derived = tokio::task::spawn_blocking(move || {
        sources.into_iter().map(|source| derive_one(&search, &scores, source)).collect::<Result<Vec<_>, _>>()
    });
    let derived = derived.await.map_err(|error| corrupt("a derivation", &error))?;
    derived.map_err(|problem| Error::InvalidArgument { field: "budgets", problem })
}
