//! Which calls of workers share transactions.

use tonic::Status;

use super::status;
use crate::core::lease::Policy;
use crate::lane::{Calls, LaneError};
use crate::store::attempts::{
    Acquisition, Answers, Grant, Receipt, Report, Turn, Turned, acquire, acquire_together, report,
    report_together, turn, turn_together,
};
use crate::store::{Error, PgPool, limited};

/// Reports, which renew leases: over connections of their own.
#[derive(Clone)]
pub(super) struct Reports {
    pub pool: PgPool,
    pub policy: Policy,
}

/// Entries that cost as much as a report without any.
const ENTRIES_PER_WEIGHT: usize = 16;

impl Calls for Reports {
    type Call = Report;
    type Answer = Receipt;
    const WEIGHT_MAX: usize = 256;

    fn weight(report: &Report) -> usize {
        1 + report.entries.len() / ENTRIES_PER_WEIGHT
    }

    async fn together(&self, reports: &[Report]) -> Result<Answers<Receipt>, Error> {
        limited(report_together(&self.pool, &self.policy, reports)).await
    }

    async fn alone(&self, wanted: &Report) -> Result<Receipt, Error> {
        limited(report(&self.pool, &self.policy, wanted)).await
    }
}

/// Starts, checkpoints and results.
#[derive(Clone)]
pub(super) struct Turns {
    pub pool: PgPool,
}

impl Calls for Turns {
    type Call = Turn;
    type Answer = Turned;
    const WEIGHT_MAX: usize = 64;

    fn weight(_: &Turn) -> usize {
        1
    }

    async fn together(&self, turns: &[Turn]) -> Result<Answers<Turned>, Error> {
        limited(turn_together(&self.pool, turns)).await
    }

    async fn alone(&self, wanted: &Turn) -> Result<Turned, Error> {
        limited(turn(&self.pool, wanted)).await
    }
}

/// Wishes for jobs.
#[derive(Clone)]
pub(super) struct Wishes {
    pub pool: PgPool,
    pub policy: Policy,
}

impl Calls for Wishes {
    type Call = Acquisition;
    type Answer = Option<Grant>;
    const WEIGHT_MAX: usize = 32;

    fn weight(_: &Acquisition) -> usize {
        1
    }

    async fn together(&self, wishes: &[Acquisition]) -> Result<Answers<Option<Grant>>, Error> {
        limited(acquire_together(&self.pool, &self.policy, wishes)).await
    }

    async fn alone(&self, wish: &Acquisition) -> Result<Option<Grant>, Error> {
        limited(acquire(&self.pool, &self.policy, wish)).await
    }
}

impl From<LaneError> for Status {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Store(error) => error.into(),
            LaneError::Full => status::busy(&error),
            LaneError::Ended => status::internal(&error),
        }
    }
}
