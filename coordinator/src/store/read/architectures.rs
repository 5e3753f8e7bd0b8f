//! Architectures with their cost and where they came from.

use std::fmt::Display;

use cakes::Extent;
use cakes::architecture::{Architecture, ArchitectureDigest};
use cakes::cost::Cost;
use cakes_proto::ids::SearchId;
use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::{corrupt, failed};
use crate::store::Error;

/// An architecture as people see it.
#[derive(Clone, Debug)]
pub struct ArchitectureRecord {
    pub digest: ArchitectureDigest,
    pub architecture: Architecture,
    /// For one patch of the search that first gave it.
    pub cost: Cost,
    /// Extent of that patch.
    pub patch: Extent,
    /// MACs over those of the all-3x3x3 network.
    pub mac_fraction: f64,
    pub create_time: DateTime<Utc>,
    pub origins: Vec<String>,
}

/// Reads a stored digest.
pub(super) fn digest(text: &str) -> Result<ArchitectureDigest, Error> {
    text.parse().map_err(|error| corrupt("an architecture's digest", &error))
}

/// The architectures of these digests, newest first. With a search, cost and
/// origins are that search's, and architectures of others are left out.
///
/// # Errors
/// The database fails.
pub async fn by_digests(
    pool: &PgPool,
    digests: &[ArchitectureDigest],
    search: Option<SearchId>,
) -> Result<Vec<ArchitectureRecord>, Error> {
    let digests: Vec<String> = digests.iter().map(ArchitectureDigest::to_string).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"select architecture.digest, architecture.spec, architecture.create_time,
               first.cost, first.patch as "patch!", first.mac_fraction, names.origins as "origins!"
           from architecture
           join lateral (
               select given.cost, search.spec -> 'patch' as patch, given.mac_fraction
               from search_architecture given join search on search.id = given.search_id
               where given.digest = architecture.digest and ($2::uuid is null or given.search_id = $2)
               order by given.position limit 1
           ) first on true
           join lateral (
               select array_agg(origin order by position) as origins from (
                   select given.origin, min(given.position) as position
                   from search_architecture given
                   where given.digest = architecture.digest and ($2::uuid is null or given.search_id = $2)
                   group by given.origin
               ) distinct_origin
           ) names on true
           where architecture.digest = any($1)
           order by architecture.create_time desc, architecture.digest desc"#,
        &digests,
        search.map(|search| search.0)
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read architectures"))?;
    rows.into_iter().map(ArchitectureRecord::try_from).collect()
}

/// One architecture.
///
/// # Errors
/// It is not known, or the database fails.
pub async fn get(pool: &PgPool, digest: ArchitectureDigest) -> Result<ArchitectureRecord, Error> {
    let unknown = || Error::NotFound { kind: "architecture", id: digest.to_string() };
    by_digests(pool, &[digest], None).await?.pop().ok_or_else(unknown)
}

/// Architectures, newest first, behind the given time and digest.
///
/// # Errors
/// The database fails.
pub async fn page(
    pool: &PgPool,
    search: Option<SearchId>,
    behind: Option<(DateTime<Utc>, String)>,
    limit: i64,
) -> Result<Vec<ArchitectureRecord>, Error> {
    let (time, behind_digest) = behind.unzip();
    let digests = sqlx::query_scalar!(
        "select digest from architecture
         where exists (
                 select from search_architecture given
                 where given.digest = architecture.digest and ($1::uuid is null or given.search_id = $1)
             )
             and ($2::timestamptz is null or (create_time, digest) < ($2, $3))
         order by create_time desc, digest desc limit $4",
        search.map(|search| search.0),
        time,
        behind_digest,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list architectures"))?;
    let digests = digests.iter().map(|text| digest(text)).collect::<Result<Vec<_>, _>>()?;
    by_digests(pool, &digests, search).await
}

struct Row {
    digest: String,
    spec: serde_json::Value,
    create_time: DateTime<Utc>,
    cost: serde_json::Value,
    patch: serde_json::Value,
    mac_fraction: f64,
    origins: Vec<String>,
}

impl TryFrom<Row> for ArchitectureRecord {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let corrupt = |part: &str, problem: &dyn Display| {
            corrupt(format!("{part} of architecture {}", row.digest), problem)
        };
        Ok(ArchitectureRecord {
            digest: digest(&row.digest)?,
            architecture: serde_json::from_value(row.spec).map_err(|error| corrupt("the layers", &error))?,
            cost: serde_json::from_value(row.cost).map_err(|error| corrupt("the cost", &error))?,
            patch: serde_json::from_value(row.patch).map_err(|error| corrupt("the patch", &error))?,
            mac_fraction: row.mac_fraction,
            create_time: row.create_time,
            origins: row.origins,
        })
    }
}
