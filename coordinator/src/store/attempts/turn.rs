//! Calls that move a job on: its trainer runs, a checkpoint is committed, the
//! result is there.
//!
//! ```text
//! lock job and attempt ─► decide ─► checkpoints ─► results ─► moves ─► commit
//! ```
//!
//! Everything that a call can be refused for is known before its first row is
//! written, but for what the database alone knows: whether a checkpoint is there.

use std::collections::BTreeSet;
use std::time::Duration;

use cakes_proto::ids::{LeaseToken, SearchId};
use sqlx::types::Uuid;
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use super::commit_checkpoint::{self, Saved};
use super::complete::{self, Completion, Content};
use super::start;
use super::together::{Answers, Locks, Tokens, only, refuse_rest};
use super::turn_rows::{self, Moves, Turning};
use crate::core::job::Transition;
use crate::store::error::{Error, failed};

/// A call that moves a job on.
#[derive(Clone, Debug)]
pub struct Turn {
    pub token: LeaseToken,
    pub deed: Deed,
}

/// What an attempt has done.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Its trainer runs; the lease lasts this long.
    Start { lease_ttl: Duration },
    /// A checkpoint was uploaded.
    Commit(Saved),
    /// The job is done.
    Complete(Box<Completion>),
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    /// The job's search, of which there may be something to plan.
    pub search: Option<SearchId>,
}

/// What a call means for its rows.
pub(super) enum Decision {
    /// Nothing: it was done before.
    Nothing,
    Refuse(Error),
    /// The token is not the current one.
    Lost,
    /// The result stands; is it the same?
    Compare,
    Write(Effects),
}

/// Rows to write.
#[derive(Default)]
pub(super) struct Effects {
    pub succeeds: bool,
    pub moved: Option<(&'static str, Transition)>,
    /// How long the lease lasts from now on.
    pub lease: Option<Duration>,
    /// The answer that goes with them.
    pub refusal: Option<Error>,
}

/// Makes one call, which waits for whoever is at its rows.
///
/// # Errors
/// As of the call.
#[instrument(skip_all, fields(job = %turn.token.job, epoch = turn.token.epoch), err(level = "debug"))]
pub async fn turn(pool: &PgPool, turn: &Turn) -> Result<Turned, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin a call of an attempt"))?;
    let answers = perform(&mut transaction, &[turn], Locks::Wait).await?;
    transaction.commit().await.map_err(failed("commit a call of an attempt"))?;
    only(answers).unwrap_or(Err(Error::LeaseLost { current_epoch: 0 }))
}

/// Makes many calls.
pub(super) async fn perform(
    connection: &mut PgConnection,
    turns: &[&Turn],
    locks: Locks,
) -> Result<Answers<Turned>, Error> {
    let mut batch = Batch::of(turns);
    let sound = turns.iter().enumerate().filter(|(place, _)| batch.answers[*place].is_none());
    let tokens = Tokens::of(sound.map(|(place, turn)| (place, turn.token)));
    if tokens.is_empty() {
        return Ok(batch.answers);
    }
    for row in turn_rows::lock(connection, &tokens, locks).await? {
        if let Some(place) = tokens.place(row.job) {
            batch.decide(connection, place, row).await?;
        }
    }
    batch.write(connection).await?;
    if locks == Locks::Wait {
        refuse_rest(connection, turns.iter().map(|turn| turn.token), &mut batch.answers).await?;
    }
    Ok(batch.answers)
}

/// Calls, what of them is to be written, and what they are told.
struct Batch<'a> {
    turns: &'a [&'a Turn],
    contents: Vec<Option<Content>>,
    answers: Answers<Turned>,
    writes: Vec<(usize, Turning, Effects)>,
}

impl<'a> Batch<'a> {
    /// Checks what can be checked without the database.
    fn of(turns: &'a [&'a Turn]) -> Self {
        let (mut contents, mut answers) = (Vec::new(), Vec::new());
        for Turn { token, deed } in turns.iter().copied() {
            let checked = match deed {
                Deed::Start { .. } => Ok(None),
                Deed::Commit(saved) => commit_checkpoint::check(*token, saved).map(|()| None),
                Deed::Complete(completion) => complete::check(*token, completion).map(Some),
            };
            let (content, refusal) = match checked {
                Ok(content) => (content, None),
                Err(error) => (None, Some(Err(error))),
            };
            contents.push(content);
            answers.push(refusal);
        }
        Batch { turns, contents, answers, writes: Vec::new() }
    }

    async fn decide(
        &mut self,
        connection: &mut PgConnection,
        place: usize,
        row: Turning,
    ) -> Result<(), Error> {
        let Turn { token, deed } = self.turns[place];
        let mut decision = match deed {
            Deed::Start { lease_ttl } => start::decide(&row, *lease_ttl),
            Deed::Commit(_) => commit_checkpoint::decide(&row),
            Deed::Complete(completion) => complete::decide(&row, completion),
        };
        if let (Decision::Write(Effects { succeeds: true, .. }), Deed::Complete(completion)) =
            (&decision, deed)
            && let Err(error) = complete::check_findings(connection, *token, &row, completion).await?
        {
            decision = Decision::Refuse(error);
        }
        let turned = Turned { search: row.search_id.map(SearchId) };
        self.answers[place] = match decision {
            Decision::Nothing => Some(Ok(turned)),
            Decision::Refuse(error) => Some(Err(error)),
            Decision::Lost => Some(Err(Error::LeaseLost { current_epoch: row.epoch })),
            Decision::Compare => {
                let hash = self.contents[place].as_ref().map(|content| content.hash);
                Some(complete::compare(connection, *token, hash).await?.map(|()| turned))
            }
            Decision::Write(effects) => {
                self.writes.push((place, row, effects));
                None
            }
        };
        Ok(())
    }

    async fn write(&mut self, connection: &mut PgConnection) -> Result<(), Error> {
        self.save(connection).await?;
        self.record_results(connection).await?;
        let mut moves = Moves::default();
        for (_, row, effects) in &self.writes {
            if let Some((kind, moved)) = &effects.moved {
                moves.add(row, kind, moved, effects.lease);
            }
        }
        moves.write(connection).await?;
        for (place, row, effects) in self.writes.drain(..) {
            let turned = Turned { search: row.search_id.map(SearchId) };
            self.answers[place] = Some(effects.refusal.map_or(Ok(turned), Err));
        }
        Ok(())
    }

    /// Checkpoints; who names another one than was committed before is refused.
    async fn save(&mut self, connection: &mut PgConnection) -> Result<(), Error> {
        let mut saved: Vec<(LeaseToken, &Saved)> = Vec::new();
        for (place, _, effects) in &self.writes {
            let Turn { token, deed } = self.turns[*place];
            let of_it = match deed {
                Deed::Commit(saved) => Some(saved),
                Deed::Complete(_) if effects.succeeds => {
                    self.contents[*place].as_ref().and_then(|content| content.saved.as_ref())
                }
                Deed::Start { .. } | Deed::Complete(_) => None,
            };
            saved.extend(of_it.map(|of_it| (*token, of_it)));
        }
        if saved.is_empty() {
            return Ok(());
        }
        let refused = commit_checkpoint::insert(connection, &saved).await?;
        for (job, error) in refused {
            self.refuse(job, error);
        }
        Ok(())
    }

    /// Results; who names a checkpoint that is not committed is refused.
    async fn record_results(&mut self, connection: &mut PgConnection) -> Result<(), Error> {
        let mut rows = Vec::new();
        for (place, row, effects) in &self.writes {
            if let (true, Deed::Complete(completion), Some(content)) =
                (effects.succeeds, &self.turns[*place].deed, &self.contents[*place])
            {
                rows.push(complete::result_row(self.turns[*place].token, row, completion, content));
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let recorded: BTreeSet<Uuid> = complete::insert_results(connection, &rows).await?;
        let jobs: Vec<Uuid> = rows.iter().map(|row| row.job_id).collect();
        for job in jobs.into_iter().filter(|job| !recorded.contains(job)) {
            let problem = "the final checkpoint is not committed, or is not kept any more; commit it first";
            self.refuse(job, Error::Refused(problem.to_owned()));
        }
        for (place, _, effects) in &self.writes {
            let Turn { token, deed } = self.turns[*place];
            if let (true, Deed::Complete(completion)) = (effects.succeeds, deed) {
                complete::insert_findings(connection, *token, completion).await?;
            }
        }
        Ok(())
    }

    fn refuse(&mut self, job: Uuid, error: Error) {
        if let Some(index) = self.writes.iter().position(|(_, row, _)| row.job == job) {
            let (place, ..) = self.writes.swap_remove(index);
            self.answers[place] = Some(Err(error));
        }
    }
}
