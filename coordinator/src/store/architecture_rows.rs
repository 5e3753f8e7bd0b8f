//! Architectures, and which searches hold them.

use cakes::architecture::{Architecture, ArchitectureDigest};
use cakes_proto::ids::SearchId;
use sqlx::PgConnection;

use super::error::{Error, corrupt, failed};
use crate::core::search::Derived;

/// Records an architecture of a search. With `retrain` it becomes part of the
/// plan; without, a recorded one stays as it is.
pub(super) async fn record(
    connection: &mut PgConnection,
    search: SearchId,
    derived: &Derived,
    retrain: bool,
) -> Result<ArchitectureDigest, Error> {
    let digest = derived.architecture.digest();
    let digits = digest.to_string();
    let json = |value: serde_json::Result<serde_json::Value>| {
        value.map_err(|error| corrupt("an architecture", &error))
    };
    sqlx::query!(
        "insert into architecture (digest, spec) values ($1, $2) on conflict do nothing",
        digits,
        json(serde_json::to_value(&derived.architecture))?
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("record an architecture"))?;
    let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    sqlx::query!(
        "insert into search_architecture
             (search_id, origin, digest, retrain, cost, param_count, mac_count, mac_fraction)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (search_id, origin) do update set retrain = true
             where excluded.retrain and not search_architecture.retrain",
        search.0,
        derived.origin,
        digits,
        retrain,
        json(serde_json::to_value(&derived.cost))?,
        count(derived.cost.param_count),
        count(derived.cost.mac_count),
        derived.mac_fraction
    )
    .execute(connection)
    .await
    .map_err(failed("record an architecture of a search"))?;
    Ok(digest)
}

/// One architecture.
///
/// # Errors
/// The digest is unknown.
pub(super) async fn read_architecture(
    connection: &mut PgConnection,
    digest: ArchitectureDigest,
) -> Result<Architecture, Error> {
    let spec = sqlx::query_scalar!("select spec from architecture where digest = $1", digest.to_string())
        .fetch_optional(connection)
        .await
        .map_err(failed("read an architecture"))?
        .ok_or_else(|| Error::NotFound { kind: "architecture", id: digest.to_string() })?;
    serde_json::from_value(spec).map_err(|error| corrupt(format!("architecture {digest}"), &error))
}
