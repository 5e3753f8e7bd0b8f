//! Derives more architectures from what the supernet of a search found.

use cakes::architecture::ArchitectureDigest;
use cakes::derive::check_budget;
use cakes::spec::{CheckedSearch, CostMeasure};
use cakes_proto::ids::SearchId;
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use super::advance::touch;
use super::snapshot::{lock_snapshot, read_findings, read_spec};
use crate::core::search::{Budget, Derived, Findings, NOT_MEASURED, Source, derive as derive_one};
use crate::store::architecture_rows;
use crate::store::error::{Error, corrupt, failed};
use crate::store::exchange::refuse_imported_search;

/// Most architectures of one call.
const BUDGETS_MAX: usize = 64;

/// What to derive.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub budgets: Vec<f64>,
    /// Also by the paper's rule.
    pub unconstrained: bool,
    /// The search's own without one.
    pub measure: Option<CostMeasure>,
    pub count_multiple: Option<u32>,
}

/// Derives and records an architecture for each budget, the unconstrained one
/// last, without queueing a job.
///
/// # Errors
/// There is no such search, its supernet has not succeeded, a budget is out of
/// range, or it is one of latency and no times were measured.
#[instrument(skip_all, fields(search = %id), err(level = "debug"))]
pub async fn derive(
    pool: &PgPool,
    id: SearchId,
    wish: &Wish,
) -> Result<Vec<(ArchitectureDigest, Derived)>, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to derive architectures"))?;
    refuse_imported_search(&mut transaction, id).await?;
    let search = lock_snapshot(&mut transaction, id).await?.0.search;
    let mut found = Vec::with_capacity(wish.budgets.len() + 1);
    for derived in wished(&mut transaction, id, search, wish).await? {
        found.push((architecture_rows::record(&mut transaction, id, &derived, false).await?, derived));
    }
    touch(&mut transaction, id).await?;
    transaction.commit().await.map_err(failed("commit derived architectures"))?;
    Ok(found)
}

/// What [`derive`] would find, without recording anything.
///
/// # Errors
/// Those of [`derive`].
#[instrument(skip_all, fields(search = %id), err(level = "debug"))]
pub async fn preview(pool: &PgPool, id: SearchId, wish: &Wish) -> Result<Vec<Derived>, Error> {
    let mut connection = pool.acquire().await.map_err(failed("look at a search"))?;
    let search = read_spec(&mut connection, id).await?;
    wished(&mut connection, id, search, wish).await
}

async fn wished(
    connection: &mut PgConnection,
    id: SearchId,
    search: CheckedSearch,
    wish: &Wish,
) -> Result<Vec<Derived>, Error> {
    let sources = sources(&search, wish)?;
    let findings = read_findings(connection, id).await?.ok_or_else(|| {
        Error::Refused(format!("search {id} has no scores yet; wait until its supernet has succeeded"))
    })?;
    let in_time =
        |source: &Source| matches!(source, Source::Budget(Budget { measure: CostMeasure::Latency, .. }));
    if findings.latency.is_none() && sources.iter().any(in_time) {
        return Err(Error::Refused(NOT_MEASURED.to_owned()));
    }
    derive_all(search, findings, sources).await
}

fn sources(search: &CheckedSearch, wish: &Wish) -> Result<Vec<Source>, Error> {
    let Wish { budgets, unconstrained, measure, count_multiple } = wish;
    let invalid = |problem: String| Error::InvalidArgument { field: "budgets", problem };
    if budgets.len() > BUDGETS_MAX {
        return Err(invalid(format!("at most {BUDGETS_MAX} at a time, got {}", budgets.len())));
    }
    let spec = search.spec();
    let measure = measure.unwrap_or(spec.budget_measure);
    let count_multiple = count_multiple.unwrap_or(spec.count_multiple);
    if !(1..=64).contains(&count_multiple) {
        let problem = format!("must be 1 to 64, got {count_multiple}");
        return Err(Error::InvalidArgument { field: "count_multiple", problem });
    }
    for budget in budgets {
        check_budget(&spec.backbone, &spec.supernet.kernels, spec.patch, measure, *budget)
            .map_err(|error| invalid(error.to_string()))?;
    }
    let budget = |fraction: &f64| Source::Budget(Budget { fraction: *fraction, measure, count_multiple });
    let mut sources: Vec<Source> = budgets.iter().map(budget).collect();
    if *unconstrained {
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
    findings: Findings,
    sources: Vec<Source>,
) -> Result<Vec<Derived>, Error> {
    let derived = tokio::task::spawn_blocking(move || {
        sources
            .into_iter()
            .map(|source| derive_one(&search, &findings, source))
            .collect::<Result<Vec<_>, _>>()
    });
    let derived = derived.await.map_err(|error| corrupt("a derivation", &error))?;
    derived.map_err(|problem| Error::InvalidArgument { field: "budgets", problem })
}
