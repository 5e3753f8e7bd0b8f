//! Connections, and tables brought up to date.

use std::str::FromStr;
use std::time::{Duration, Instant};

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{Connection, PgPool};
use tracing::instrument;

use super::error::{Error, failed};
use super::read::dashboard::without_readers;

/// Connections to the database, apart by purpose: slow lists must not keep
/// leases from being renewed.
#[derive(Clone, Debug)]
pub struct Pools {
    /// For everything else.
    pub control: PgPool,
    /// For reports, which renew leases.
    pub renewals: PgPool,
    /// For grants, starts, checkpoints and results.
    pub turnover: PgPool,
    /// For tasks that look after rows which every job adds.
    pub upkeep: PgPool,
}

impl Pools {
    /// Closes all connections once their current use has ended.
    pub async fn close(&self) {
        self.control.close().await;
        self.renewals.close().await;
        self.turnover.close().await;
        self.upkeep.close().await;
    }

    fn named(&self) -> [(&'static str, &PgPool); 4] {
        [
            ("control", &self.control),
            ("renewals", &self.renewals),
            ("turnover", &self.turnover),
            ("upkeep", &self.upkeep),
        ]
    }

    /// How many connections there are.
    pub fn sizes(&self) -> [PoolSize; 4] {
        self.named().map(|(name, pool)| {
            let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
            let max = pool.options().get_max_connections();
            PoolSize { name, max, used: pool.size().saturating_sub(idle), idle }
        })
    }

    /// How long a connection of each pool takes to get; at most 2 s.
    pub async fn waits(&self) -> [(&'static str, Duration); 4] {
        let waits = self.named().map(async |(name, pool)| {
            let began = Instant::now();
            let _ = tokio::time::timeout(PING_TIMEOUT, pool.acquire()).await;
            (name, began.elapsed().min(PING_TIMEOUT))
        });
        let [control, renewals, turnover, upkeep] = waits;
        tokio::join!(control, renewals, turnover, upkeep).into()
    }
}

/// Connections of a pool now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSize {
    pub name: &'static str,
    pub max: u32,
    pub used: u32,
    pub idle: u32,
}

/// Most connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSizes {
    /// Two of them at the most are for upkeep, and half of the others for the turnover.
    pub control: u32,
    pub renewals: u32,
}

impl Default for PoolSizes {
    fn default() -> Self {
        PoolSizes { control: 16, renewals: 8 }
    }
}

/// One for checkpoints, one for workers.
const UPKEEP: u32 = 2;
/// How long a call waits for a connection before it is told to try later.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that was in use so recently is believed to be there.
pub(super) const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Longest time of a whole transaction as its caller sees it. Longer than any limit
/// of the server, so it only ends what the server does not answer to any more.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(20);
/// The server ends what takes longer, and what a vanished coordinator left open.
const SESSION_LIMITS: [(&str, &str); 3] =
    [("statement_timeout", "15s"), ("lock_timeout", "10s"), ("idle_in_transaction_session_timeout", "30s")];

/// Statements that many calls share are planned once per connection, along the
/// indexes: a plan must not depend on how many rows there were when it was made.
const PLANNED_ONCE: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
];

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
    let planned_once = options.clone().options(PLANNED_ONCE);
    let pool = |size: u32, options: &PgConnectOptions| pool_options(size).connect_lazy_with(options.clone());
    let upkeep = UPKEEP.min(sizes.control / 4).max(1);
    let turnover = (sizes.control.saturating_sub(upkeep) / 2).max(1);
    Ok(Pools {
        control: pool(sizes.control.saturating_sub(upkeep + turnover).max(1), &options),
        renewals: pool(sizes.renewals, &planned_once),
        turnover: pool(turnover, &planned_once),
        upkeep: pool(upkeep, &planned_once),
    })
}

/// A pool that gives up connections whose other end has gone without a word. The
/// tests of sqlx itself would wait for an answer as long as the system keeps the
/// socket, and hold the connection's place meanwhile.
fn pool_options(size: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move {
                match about.idle_for < TRUSTED_FOR {
                    true => Ok(true),
                    false => answers(connection).await,
                }
            })
        })
        // Whoever used it may have been cancelled in the middle.
        .after_release(|connection, _| Box::pin(answers(connection)))
}

/// Waits for what is done in the database, but not for ever: a server that has gone
/// without a word does not answer, and its socket tells nothing for a quarter of an
/// hour. Whether it was done is open then.
///
/// # Errors
/// Those of `work`, or time is up.
pub async fn limited<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(TRANSACTION_LIMIT, work).await {
        Ok(done) => done,
        Err(_) => Err(failed("wait for the database")(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))),
    }
}

/// An error if the connection is silent.
async fn answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match tokio::time::timeout(PING_TIMEOUT, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// How long a migration waits for a lock, and between two tries. Whoever asks for the same
/// table meanwhile waits behind it, also where it only reads: coordinators of the version
/// before are at work. Less than the second after which Postgres looks for deadlocks, so that
/// of the two it is the migration that gives way.
const MIGRATION_LOCK_TIMEOUT: &str = "500ms";
/// The same of every fourth try: only after that second does Postgres end an autovacuum that is in
/// the way.
const MIGRATION_LOCK_TIMEOUT_LONG: &str = "1500ms";
const MIGRATION_PAUSE: Duration = Duration::from_secs(1);

/// Each migration that gives the rights to read the views anew would say that the role is missing;
/// it is said once, behind them.
const QUIET: (&str, &str) = ("client_min_messages", "error");

/// What Postgres says of a lock that it could not get in time, and of a deadlock.
const LOCKED: [&str; 2] = ["55P03", "40P01"];

/// Applies what is missing, each migration in a transaction of its own; tries again while
/// somebody else holds a table, or migrates.
async fn migrate(options: &PgConnectOptions) -> Result<(), Error> {
    let mut limits = [MIGRATION_LOCK_TIMEOUT; 3].into_iter().chain([MIGRATION_LOCK_TIMEOUT_LONG]).cycle();
    loop {
        let limit = limits.next().unwrap_or(MIGRATION_LOCK_TIMEOUT);
        let options = options.clone().options([("lock_timeout", limit), QUIET]);
        match migrate_once(&options).await {
            Err(Error::Migrate { source }) if waits_for_a_lock(&source) => {
                tracing::warn!(
                    "the tables are in use, or somebody else brings them up to date; trying again"
                );
                tokio::time::sleep(MIGRATION_PAUSE).await;
            }
            done => return done,
        }
    }
}

fn waits_for_a_lock(error: &MigrateError) -> bool {
    let (MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)) = error else {
        return false;
    };
    let code = source.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| LOCKED.contains(&&*code))
}

/// Over a connection of its own, without a limit for a statement: a migration may take long.
async fn migrate_once(options: &PgConnectOptions) -> Result<(), Error> {
    // No pool: it would try again until its time is up, and then say no more
    // than that.
    let connecting = PgConnection::connect_with(options);
    let connection = tokio::time::timeout(ACQUIRE_TIMEOUT, connecting).await;
    let mut connection =
        connection.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(|source| Error::Connect { source })?;
    let known = super::MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let result = super::MIGRATIONS.run(&mut connection).await;
    if result.is_ok() {
        warn_without_readers(&mut connection).await;
    }
    // The answer does not depend on a polite end.
    let _ = connection.close().await;
    result.map_err(|source| match source {
        MigrateError::VersionMissing(found) if found > known => Error::NewerSchema { found, known },
        source => Error::Migrate { source },
    })
}

/// The daemon does without, so that nothing here keeps it from starting.
async fn warn_without_readers(connection: &mut PgConnection) {
    match without_readers(connection).await {
        Ok(None) => {}
        Ok(Some(user)) => tracing::warn!(
            user,
            "nobody else reads the schema dashboard, since this user may not create roles; let an administrator \
             `create role cakes_dashboard nologin`, and then give it its rights: `select grant_dashboard()`"
        ),
        Err(error) => tracing::warn!(%error, "who reads the schema dashboard is not known"),
    }
}
