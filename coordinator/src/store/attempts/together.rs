//! Calls of many attempts in one transaction, so that one write to the disk
//! serves them all.
//!
//! A call must not suffer from its neighbours. So a common transaction waits for
//! no lock and refuses nobody: it passes over every call that it cannot serve, and
//! that call is made alone, where it waits, is refused or fails by itself.

use std::collections::BTreeMap;

use cakes_proto::ids::LeaseToken;
use sqlx::PgConnection;
use sqlx::types::Uuid;

use crate::store::error::Error;
use crate::store::fence;

/// One per call, in their order; `None`: to be made alone.
pub type Answers<T> = Vec<Option<Result<T, Error>>>;

/// How a transaction meets rows that others hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Locks {
    Wait,
    /// Acts as if they were not there.
    PassOver,
}

/// The answer of a transaction with one call, which waits and is never passed over.
pub(super) fn only<T>(answers: Answers<T>) -> Option<Result<T, Error>> {
    answers.into_iter().next().flatten()
}

/// Nobody was passed over: who has no answer has no lease.
pub(super) async fn refuse_rest<T>(
    connection: &mut PgConnection,
    tokens: impl Iterator<Item = LeaseToken>,
    answers: &mut Answers<T>,
) -> Result<(), Error> {
    for (token, answer) in tokens.zip(answers) {
        if answer.is_none() {
            *answer = Some(Err(fence::lost(connection, token).await?));
        }
    }
    Ok(())
}

/// Tokens of different jobs as columns, with the place of each among the calls.
#[derive(Debug, Default)]
pub(in crate::store) struct Tokens {
    pub jobs: Vec<Uuid>,
    pub epochs: Vec<i64>,
    pub nonces: Vec<Vec<u8>>,
    places: BTreeMap<Uuid, usize>,
}

impl Tokens {
    /// Leaves out what is behind another call for the same job.
    pub(in crate::store) fn of(calls: impl Iterator<Item = (usize, LeaseToken)>) -> Self {
        let mut tokens = Tokens::default();
        for (place, token) in calls {
            if let std::collections::btree_map::Entry::Vacant(entry) = tokens.places.entry(token.job.0) {
                entry.insert(place);
                tokens.jobs.push(token.job.0);
                tokens.epochs.push(token.epoch);
                tokens.nonces.push(token.nonce.0.to_vec());
            }
        }
        tokens
    }

    /// Place of the call for a job.
    pub(in crate::store) fn place(&self, job: Uuid) -> Option<usize> {
        self.places.get(&job).copied()
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}
