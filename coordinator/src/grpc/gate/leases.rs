//! To which worker an attempt was granted. That never changes, so it is asked for once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cakes_proto::ids::{LeaseToken, WorkerId};
use tonic::{Extensions, Status};

use super::{caller, status};
use crate::core::rights::{Caller, speaks_for};
use crate::store::read::attempts::worker_of;
use crate::store::{PgPool, limited};

/// Attempts that are remembered: many more than run at a time.
const REMEMBERED_MAX: usize = 20_000;

/// Job, epoch, nonce and member.
type Key = (uuid::Uuid, i64, [u8; 16], i16);

/// Checks that workers speak of attempts of their own. Cheap to clone.
#[derive(Clone)]
pub(in crate::grpc) struct Leases {
    pool: PgPool,
    known: Arc<Mutex<HashMap<Key, WorkerId>>>,
}

impl Leases {
    pub(in crate::grpc) fn new(pool: PgPool) -> Self {
        Leases { pool, known: Arc::default() }
    }

    /// Passes where the lease was granted to the caller, and where there is no such lease:
    /// the write that it is for says so then.
    ///
    /// # Errors
    /// It is that of another worker, or the database fails.
    pub(in crate::grpc) async fn check(
        &self,
        extensions: &Extensions,
        token: LeaseToken,
    ) -> Result<(), Status> {
        let caller = caller(extensions)?;
        if *caller == Caller::Trusted {
            return Ok(());
        }
        match self.worker(token).await? {
            Some(worker) => speaks_for(caller, worker.as_str()).map_err(|refused| status::not_own(&refused)),
            None => Ok(()),
        }
    }

    async fn worker(&self, token: LeaseToken) -> Result<Option<WorkerId>, Status> {
        let key = (token.job.0, token.epoch, token.nonce.0, token.member);
        if let Some(worker) = self.known().get(&key) {
            return Ok(Some(worker.clone()));
        }
        let Some(worker) = limited(worker_of(&self.pool, token)).await? else { return Ok(None) };
        let mut known = self.known();
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(key, worker.clone());
        Ok(Some(worker))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Key, WorkerId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
