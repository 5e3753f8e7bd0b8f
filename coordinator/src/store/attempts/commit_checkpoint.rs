//! Makes an uploaded checkpoint the one to resume from.

use std::collections::BTreeSet;

use cakes_proto::ids::LeaseToken;
use sqlx::types::Uuid;
use sqlx::{PgConnection, PgPool};

use super::turn::{Decision, Deed, Effects, Turn, turn};
use super::turn_rows::Turning;
use super::{CheckpointRef, artifact_prefix};
use crate::store::error::{Error, failed};
use crate::store::fence::Life;

/// A checkpoint that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub checkpoint: CheckpointRef,
    /// Size of all its files.
    pub bytes: i64,
}

/// Records the checkpoint. A repetition changes nothing.
///
/// # Errors
/// The token is not the current one, the key lies outside the attempt's prefix,
/// or another checkpoint of the same step was committed before.
pub async fn commit_checkpoint(
    pool: &PgPool,
    token: LeaseToken,
    checkpoint: &CheckpointRef,
    bytes: i64,
) -> Result<(), Error> {
    let deed = Deed::Commit(Saved { checkpoint: checkpoint.clone(), bytes });
    turn(pool, &Turn { token, deed }).await.map(drop)
}

/// What can be told of a checkpoint without the database.
pub(super) fn check(token: LeaseToken, saved: &Saved) -> Result<(), Error> {
    let Saved { checkpoint, bytes } = saved;
    let invalid = |field, problem: String| Err(Error::InvalidArgument { field, problem });
    let prefix = artifact_prefix(token);
    let name = checkpoint.key.strip_prefix(&prefix).and_then(|rest| rest.strip_prefix('/'));
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= 256
            && name != ".."
            && name != "."
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
    };
    if !name.is_some_and(plain) {
        return invalid(
            "checkpoint.key",
            format!("must be one folder below the attempt's prefix, {prefix}/"),
        );
    }
    let digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if checkpoint.manifest_sha256.len() != 64 || !digits(&checkpoint.manifest_sha256) {
        return invalid(
            "checkpoint.manifest_sha256",
            "must have 64 lower-case hexadecimal digits".to_owned(),
        );
    }
    if checkpoint.step < 1 {
        return invalid("checkpoint.step", "must be 1 or more".to_owned());
    }
    if *bytes < 0 {
        return invalid("bytes", "must not be negative".to_owned());
    }
    Ok(())
}

pub(super) fn decide(row: &Turning) -> Decision {
    match row.life {
        Life::Ended(_) => Decision::Lost,
        Life::Offered | Life::Running => Decision::Write(Effects::default()),
    }
}

/// Stores checkpoints of different jobs, and lets each job go on from its one if
/// that is farther. Jobs that have another one of that step, or of that key, are
/// given back with the refusal.
pub(super) async fn insert(
    connection: &mut PgConnection,
    saved: &[(LeaseToken, &Saved)],
) -> Result<Vec<(Uuid, Error)>, Error> {
    let column = |of: fn(&(LeaseToken, &Saved)) -> i64| -> Vec<i64> { saved.iter().map(of).collect() };
    let text = |of: fn(&Saved) -> &str| -> Vec<String> {
        saved.iter().map(|(_, saved)| of(saved).to_owned()).collect()
    };
    let jobs: Vec<Uuid> = saved.iter().map(|(token, _)| token.job.0).collect();
    // S8 S11: never back; a key belongs to one attempt, and a row to one key.
    let stored = sqlx::query_scalar!(
        r#"with stored as (
               insert into checkpoint (job_id, epoch, step, key, manifest_sha256, bytes)
               select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])
               on conflict do nothing
               returning job_id, epoch, step
           ), raised as (
               update job set checkpoint_epoch = stored.epoch, checkpoint_step = stored.step,
                   revision = revision + 1
               from stored
               where job.id = stored.job_id and job.epoch = stored.epoch
                   and (checkpoint_step is null or checkpoint_step < stored.step)
           )
           select job_id as "job!" from stored"#,
        &jobs,
        &column(|(token, _)| token.epoch),
        &column(|(_, saved)| saved.checkpoint.step),
        &text(|saved| &saved.checkpoint.key),
        &text(|saved| &saved.checkpoint.manifest_sha256),
        &column(|(_, saved)| saved.bytes)
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("record checkpoints"))?;
    let stored: BTreeSet<Uuid> = stored.into_iter().collect();
    let mut refused = Vec::new();
    for (token, saved) in saved.iter().filter(|(token, _)| !stored.contains(&token.job.0)) {
        if !is_stored(connection, *token, &saved.checkpoint).await? {
            let problem = format!(
                "another checkpoint of step {} or with the same key was committed before",
                saved.checkpoint.step
            );
            refused.push((token.job.0, Error::Refused(problem)));
        }
    }
    Ok(refused)
}

/// Whether an equal one is there already.
async fn is_stored(
    connection: &mut PgConnection,
    token: LeaseToken,
    checkpoint: &CheckpointRef,
) -> Result<bool, Error> {
    sqlx::query_scalar!(
        r#"select exists (
               select from checkpoint where job_id = $1 and epoch = $2 and step = $3
                   and key = $4 and manifest_sha256 = $5
           ) as "equal!""#,
        token.job.0,
        token.epoch,
        checkpoint.step,
        checkpoint.key,
        checkpoint.manifest_sha256
    )
    .fetch_one(connection)
    .await
    .map_err(failed("compare a checkpoint"))
}
