//! Whether one more job or search may be queued.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::Status;

use super::{Limits, status};
use crate::refusals;
use crate::store::read::backlog::{self, Backlog};
use crate::store::{self, PgPool};

/// How long a count is believed; what is queued meanwhile is added to it. Counting costs as
/// much as the queue is long, and a limit may be passed a little.
const BELIEVED_FOR: Duration = Duration::from_secs(2);

/// What waits, counted now and then. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    most: Backlog,
    counted: Arc<Mutex<Option<(Instant, Backlog)>>>,
}

impl Queue {
    pub(super) fn new(limits: &Limits) -> Self {
        let most = Backlog { waiting_jobs: limits.waiting_jobs, open_searches: limits.open_searches };
        Queue { most, counted: Arc::default() }
    }

    /// One more job is to wait.
    ///
    /// # Errors
    /// As many do as may, or the database fails.
    pub(super) async fn add_job(&self, pool: &PgPool) -> Result<(), Status> {
        let counted = self.count(pool).await?;
        if counted.waiting_jobs >= self.most.waiting_jobs {
            refusals::call("queue", &"a job");
            return Err(status::queue_is_full("jobs wait", self.most.waiting_jobs));
        }
        self.remember(|counted| counted.waiting_jobs += 1);
        Ok(())
    }

    /// One more search is to begin.
    ///
    /// # Errors
    /// As many are open as may, its first job finds no place, or the database fails.
    pub(super) async fn add_search(&self, pool: &PgPool) -> Result<(), Status> {
        let counted = self.count(pool).await?;
        if counted.open_searches >= self.most.open_searches {
            refusals::call("searches", &"a search");
            return Err(status::queue_is_full("searches are open", self.most.open_searches));
        }
        self.add_job(pool).await?;
        self.remember(|counted| counted.open_searches += 1);
        Ok(())
    }

    async fn count(&self, pool: &PgPool) -> Result<Backlog, Status> {
        let known = *self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, counted)) = known
            && at.elapsed() < BELIEVED_FOR
        {
            return Ok(counted);
        }
        let counted = store::limited(backlog::count(pool, self.most)).await?;
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), counted));
        Ok(counted)
    }

    fn remember(&self, change: impl FnOnce(&mut Backlog)) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counted)) = counted.as_mut() {
            change(counted);
        }
    }
}
