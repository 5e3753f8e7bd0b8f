//! A connection that one task keeps from transaction to transaction.
//!
//! Giving a connection back asks it twice whether it is there, which is as much as
//! a small transaction says by itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

use super::connect::TRUSTED_FOR;
use super::error::{Error, failed};

/// Pools with fewer connections have none to spare: those who wait for locks need some.
const POOL_MIN: u32 = 4;

/// A place of a pool for somebody who does one thing after the other. Several at a time
/// get connections of their own; one of those is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    pool: PgPool,
    slot: Arc<Mutex<Option<Slot>>>,
}

#[derive(Debug)]
struct Slot {
    connection: PoolConnection<Postgres>,
    used: Instant,
}

impl Kept {
    pub fn new(pool: PgPool) -> Self {
        Kept { pool, slot: Arc::default() }
    }

    /// Works over the connection that was kept, or over another one if it was not used for
    /// a while. After an error, or where the caller goes away, it goes back to the pool,
    /// which looks at it.
    ///
    /// # Errors
    /// Those of `work`, or no connection is to be had.
    pub(super) async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let kept = self.slot().take().filter(|slot| slot.used.elapsed() < TRUSTED_FOR);
        let mut connection = match kept {
            Some(slot) => slot.connection,
            None => self.pool.acquire().await.map_err(failed("get a connection"))?,
        };
        let done = work(&mut connection).await?;
        if self.pool.options().get_max_connections() >= POOL_MIN && !self.pool.is_closed() {
            *self.slot() = Some(Slot { connection, used: Instant::now() });
        }
        Ok(done)
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Slot>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
