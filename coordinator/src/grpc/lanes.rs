//! Which calls of workers share transactions.

use tonic::Status;

use super::status;
use crate::core::lease::Policy;
use crate::lane::{Calls, Lane, LaneError};
use crate::store::attempts::{
    Acquisition, Answers, Grant, Receipt, Report, Turn, Turned, acquire, move_together, report,
    report_together, turn,
};
use crate::store::{Error, Kept, PgPool, limited};

/// Reports, which renew leases: over connections of their own.
#[derive(Clone)]
pub(super) struct Reports {
    pub pool: PgPool,
    pub kept: Kept,
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
        limited(report_together(&self.kept, &self.policy, reports)).await
    }

    async fn alone(&self, wanted: &Report) -> Result<Receipt, Error> {
        limited(report(&self.pool, &self.policy, wanted)).await
    }
}

/// Wishes for jobs, starts, checkpoints and results.
#[derive(Clone)]
pub(super) struct Moves {
    pub pool: PgPool,
    pub kept: Kept,
    pub policy: Policy,
}

pub(super) enum Move {
    Wish(Acquisition),
    Turn(Turn),
}

/// The answer to a [`Move`] of the same name.
pub(super) enum Moved {
    Wish(Option<Box<Grant>>),
    Turn(Turned),
}

impl Calls for Moves {
    type Call = Move;
    type Answer = Moved;
    const WEIGHT_MAX: usize = 64;

    fn weight(_: &Move) -> usize {
        1
    }

    async fn together(&self, moves: &[Move]) -> Result<Answers<Moved>, Error> {
        let (mut turns, mut wishes) = (Vec::new(), Vec::new());
        for one in moves {
            match one {
                Move::Turn(turn) => turns.push(turn),
                Move::Wish(wish) => wishes.push(wish),
            }
        }
        let moving = move_together(&self.kept, &self.policy, &turns, &wishes);
        let (turned, granted) = limited(moving).await?;
        let (mut turned, mut granted) = (turned.into_iter(), granted.into_iter());
        let answer = |one: &Move| match one {
            Move::Turn(_) => turned.next().flatten().map(|answer| answer.map(Moved::Turn)),
            Move::Wish(_) => {
                granted.next().flatten().map(|answer| answer.map(|grant| Moved::Wish(grant.map(Box::new))))
            }
        };
        Ok(moves.iter().map(answer).collect())
    }

    async fn alone(&self, wanted: &Move) -> Result<Moved, Error> {
        match wanted {
            Move::Turn(wanted) => limited(turn(&self.pool, wanted)).await.map(Moved::Turn),
            Move::Wish(wish) => limited(acquire(&self.pool, &self.policy, wish))
                .await
                .map(|grant| Moved::Wish(grant.map(Box::new))),
        }
    }
}

impl Lane<Moves> {
    pub(super) async fn turn(&self, turn: Turn) -> Result<Turned, LaneError> {
        match self.call(Move::Turn(turn)).await? {
            Moved::Turn(turned) => Ok(turned),
            Moved::Wish(_) => Err(LaneError::Ended),
        }
    }

    pub(super) async fn wish(&self, wish: Acquisition) -> Result<Option<Grant>, LaneError> {
        match self.call(Move::Wish(wish)).await? {
            Moved::Wish(grant) => Ok(grant.map(|grant| *grant)),
            Moved::Turn(_) => Err(LaneError::Ended),
        }
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
