//! How long the queries that people are shown take on a database of many
//! architectures and points.

mod fill;
mod queries;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cakes_postgres::{Cluster, ClusterConfig, Durability};
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::Place;
use super::latency::Sorted;
use super::postgres::Database;
pub use fill::Size;
pub use queries::{Query, documented, panels};

/// What to measure.
#[derive(Clone, Debug)]
pub struct SqlOptions {
    pub source: Source,
    /// Times that each query runs.
    pub rounds: u32,
}

/// The database to measure.
#[derive(Clone, Debug)]
pub enum Source {
    /// A new one, filled and removed again.
    Fill { size: Size, place: Place },
    /// One that exists; it is only read.
    Existing(String),
}

/// One query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SqlRow {
    pub file: String,
    pub name: String,
    /// Rows that it gave.
    pub rows: usize,
    /// Of the first round.
    pub first_ms: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// A filled database.
pub struct Filled {
    database: Database,
    url: String,
    // The server is dropped before its folder.
    _own: Option<(Cluster, tempfile::TempDir)>,
}

impl Filled {
    /// Starts a server, makes the tables and fills them.
    ///
    /// # Errors
    /// No server is installed, or a statement fails.
    pub async fn start(place: &Place, size: &Size) -> Result<Self> {
        size.check()?;
        let folder = tempfile::Builder::new()
            .prefix("cakes-sql-")
            // As root the server runs as somebody else, who must get in.
            .permissions(Permissions::from_mode(0o711))
            .tempdir_in(&place.parent)?;
        let config = ClusterConfig { data_dir: folder.path().join("pg"), durability: Durability::ThrowAway };
        let cluster = tokio::task::spawn_blocking(move || Cluster::start(&config)).await??;
        let url = cluster.url(cakes_postgres::DATABASE);
        let database = Database::at(url.clone());
        fill::fill(&database, &url, size).await?;
        Ok(Filled { database, url, _own: Some((cluster, folder)) })
    }

    fn existing(url: &str) -> Self {
        Filled { database: Database::at(url.to_owned()), url: url.to_owned(), _own: None }
    }

    /// A connection with the rights of dashboards.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn reader(&self) -> Result<PgConnection> {
        let mut connection = PgConnection::connect(&self.url).await?;
        connection.execute("set role cakes_dashboard").await?;
        Ok(connection)
    }

    /// Queries of the documentation and of all dashboards.
    ///
    /// # Errors
    /// A file cannot be understood.
    pub async fn queries(&self) -> Result<Vec<Query>> {
        let mut queries = documented(&root().join("docs/sql.md"))?;
        let mut reader = self.reader().await?;
        queries.extend(panels(&mut reader, &root().join("deploy/grafana/dashboards")).await?);
        Ok(queries)
    }

    /// Size of the database on disk.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn mib(&self) -> Result<u64> {
        self.database.number("select pg_database_size(current_database()) / 1048576").await
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Fills a database and measures; tells of each step.
///
/// # Errors
/// Something fails, or a query gives nothing.
pub async fn run(options: &SqlOptions, mut tell: impl FnMut(&str)) -> Result<Vec<SqlRow>> {
    ensure!(options.rounds > 0, "--rounds: must be at least 1");
    let began = Instant::now();
    let filled = match &options.source {
        Source::Fill { size, place } => Filled::start(place, size).await?,
        Source::Existing(url) => Filled::existing(url),
    };
    tell(&format!("ready after {:.0} s: {} MiB", began.elapsed().as_secs_f64(), filled.mib().await?));
    tell(HEAD);
    let mut reader = filled.reader().await?;
    let mut rows = Vec::new();
    for query in filled.queries().await? {
        let row = measure(&mut reader, &query, options.rounds).await;
        let row = row.with_context(|| format!("{}, {}:\n{}", query.file, query.name, query.text))?;
        tell(&show(&row));
        rows.push(row);
    }
    Ok(rows)
}

/// With the time for planning and for fetching all rows.
async fn measure(reader: &mut PgConnection, query: &Query, rounds: u32) -> Result<SqlRow> {
    let mut took = Vec::new();
    let mut rows = 0;
    for _ in 0..rounds {
        let began = Instant::now();
        rows = reader.fetch_all(sqlx::raw_sql(AssertSqlSafe(query.text.clone()))).await?.len();
        took.push(began.elapsed());
    }
    ensure!(rows > 0, "it gave nothing");
    let first_ms = took.first().map_or(0.0, Duration::as_secs_f64) * 1e3;
    let took = Sorted::new(took);
    let percentile = |percent| took.percentile_ms(percent).unwrap_or_default();
    Ok(SqlRow {
        file: query.file.clone(),
        name: query.name.clone(),
        rows,
        first_ms,
        p50_ms: percentile(50),
        p99_ms: percentile(99),
    })
}

/// Head of the lines of [`show`].
const HEAD: &str =
    "file                   query                                         rows  first ms   p50 ms   p99 ms";

fn show(row: &SqlRow) -> String {
    format!(
        "{:<22} {:<42} {:>7} {:>9.1} {:>8.1} {:>8.1}",
        row.file, row.name, row.rows, row.first_ms, row.p50_ms, row.p99_ms
    )
}
