//! Connections, and tables brought up to date.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{Connection, PgPool};
use tracing::instrument;

use super::error::Error;

/// Connections to the database, apart by purpose: slow lists must not keep
/// leases from being renewed.
#[derive(Clone, Debug)]
pub struct Pools {
    /// For everything else.
    pub control: PgPool,
    /// For reports, which renew leases.
    pub renewals: PgPool,
}

impl Pools {
    /// Closes all connections once their current use has ended.
    pub async fn close(&self) {
        self.control.close().await;
        self.renewals.close().await;
    }
}

/// Most connections of each pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSizes {
    pub control: u32,
    pub renewals: u32,
}

impl Default for PoolSizes {
    fn default() -> Self {
        PoolSizes { control: 16, renewals: 8 }
    }
}

/// How long a call waits for a connection before it is told to try later.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The server ends what takes longer, and what a vanished coordinator left open.
const SESSION_LIMITS: [(&str, &str); 3] =
    [("statement_timeout", "15s"), ("lock_timeout", "10s"), ("idle_in_transaction_session_timeout", "30s")];

/// Connects, and applies the migrations that are missing.
///
/// # Errors
/// The server does not answer, or its database has a schema that this version
/// does not know.
#[instrument(skip_all)]
pub async fn connect(url: &str, sizes: PoolSizes) -> Result<Pools, Error> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|source| Error::Connect { source })?
        .application_name("cakes-coordinator");
    migrate(&options).await?;
    let options = options.options(SESSION_LIMITS);
    let pool = |size: u32| {
        let pool = PgPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE_TIMEOUT);
        pool.connect_lazy_with(options.clone())
    };
    Ok(Pools { control: pool(sizes.control), renewals: pool(sizes.renewals) })
}

/// Over a connection of its own, without limits: a migration may take long.
async fn migrate(options: &PgConnectOptions) -> Result<(), Error> {
    // No pool: it would try again until its time is up, and then say no more
    // than that.
    let connecting = PgConnection::connect_with(options);
    let connection = tokio::time::timeout(ACQUIRE_TIMEOUT, connecting).await;
    let mut connection =
        connection.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(|source| Error::Connect { source })?;
    let known = super::MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let result = super::MIGRATIONS.run(&mut connection).await;
    // The answer does not depend on a polite end.
    let _ = connection.close().await;
    result.map_err(|source| match source {
        MigrateError::VersionMissing(found) if found > known => Error::NewerSchema { found, known },
        source => Error::Migrate { source },
    })
}
