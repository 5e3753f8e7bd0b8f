//! Makes an uploaded checkpoint the one to resume from.

use cakes_proto::ids::LeaseToken;
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use super::{CheckpointRef, artifact_prefix};
use crate::store::error::{Error, failed};
use crate::store::fence;
use crate::store::job_row;

/// Records the checkpoint. A repetition changes nothing.
///
/// # Errors
/// The token is not the current one, the key lies outside the attempt's prefix,
/// or another checkpoint of the same step was committed before.
#[instrument(skip_all, fields(job = %token.job, epoch = token.epoch, step = checkpoint.step), err(level = "debug"))]
pub async fn commit_checkpoint(
    pool: &PgPool,
    token: LeaseToken,
    checkpoint: &CheckpointRef,
    bytes: i64,
) -> Result<(), Error> {
    check(token, checkpoint, bytes)?;
    let mut transaction = pool.begin().await.map_err(failed("begin a checkpoint"))?;
    job_row::lock(&mut transaction, token.job).await?;
    fence::live_attempt(&mut transaction, token).await?;
    if insert(&mut transaction, token, checkpoint, bytes).await? {
        raise(&mut transaction, token, checkpoint.step).await?;
    }
    transaction.commit().await.map_err(failed("commit a checkpoint"))
}

fn check(token: LeaseToken, checkpoint: &CheckpointRef, bytes: i64) -> Result<(), Error> {
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
    if bytes < 0 {
        return invalid("bytes", "must not be negative".to_owned());
    }
    Ok(())
}

/// Whether the row is new; an equal one may stand there already.
async fn insert(
    connection: &mut PgConnection,
    token: LeaseToken,
    checkpoint: &CheckpointRef,
    bytes: i64,
) -> Result<bool, Error> {
    // S11: a key belongs to one attempt, and a row to one key.
    let inserted = sqlx::query!(
        "insert into checkpoint (job_id, epoch, step, key, manifest_sha256, bytes)
         values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        token.job.0,
        token.epoch,
        checkpoint.step,
        checkpoint.key,
        checkpoint.manifest_sha256,
        bytes
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("record a checkpoint"))?;
    if inserted.rows_affected() == 1 {
        return Ok(true);
    }
    let equal = sqlx::query_scalar!(
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
    .map_err(failed("compare a checkpoint"))?;
    if equal {
        return Ok(false);
    }
    Err(Error::Refused(format!(
        "another checkpoint of step {} or with the same key was committed before",
        checkpoint.step
    )))
}

/// The next attempt goes on from the farthest checkpoint.
async fn raise(connection: &mut PgConnection, token: LeaseToken, step: i64) -> Result<(), Error> {
    // S8: never back.
    sqlx::query!(
        "update job set checkpoint_epoch = $2, checkpoint_step = $3, revision = revision + 1
         where id = $1 and epoch = $2 and (checkpoint_step is null or checkpoint_step < $3)",
        token.job.0,
        token.epoch,
        step
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("raise the checkpoint of a job"))
}
