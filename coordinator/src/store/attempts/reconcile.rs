//! Settles what a restarted daemon still knows of, and what it has forgotten.

use cakes_proto::ids::{JobId, LeaseToken, WorkerId};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;

use super::acquire::nonce_from;
use super::end::{BadEnd, end_badly};
use super::gang;
use crate::core::job::EndReason;
use crate::core::lease::{Policy, Verdict};
use crate::core::retry::FailureClass;
use crate::store::error::{Error, failed};
use crate::store::fence::{self, Life};
use crate::store::job_row;
use crate::store::workers::lock_current;

/// One verdict per token, in their order. Live attempts of earlier starts of the
/// daemon that it does not name have died with it: their jobs are queued again
/// at once, without waiting for the lease to run out.
///
/// # Errors
/// The caller is not the current start of its daemon.
#[instrument(skip_all, fields(%worker, incarnation), err(level = "debug"))]
pub async fn reconcile(
    pool: &PgPool,
    policy: &Policy,
    worker: &WorkerId,
    incarnation: i64,
    tokens: &[LeaseToken],
) -> Result<Vec<Verdict>, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to reconcile"))?;
    lock_current(&mut transaction, worker, incarnation).await?;
    let live = live_attempts(&mut transaction, worker).await?;
    let mut kept = Vec::new();
    for (token, granted_to) in live {
        // The list was read without locks; an attempt may have ended since.
        let job = job_row::lock(&mut transaction, token.job).await?;
        let attempt = fence::attempt(&mut transaction, token).await?;
        if matches!(attempt.life, Life::Ended(_)) {
            continue;
        }
        if tokens.contains(&token) {
            adopt(&mut transaction, token, incarnation).await?;
            kept.push(token);
        } else if granted_to < incarnation {
            let class = FailureClass::Lost;
            let Some(attempt) = gang::speaks_for(&mut transaction, token, attempt, class).await? else {
                continue;
            };
            let message = format!("worker {worker} was restarted");
            let bad = BadEnd { end: EndReason::Superseded, class, message: &message };
            end_badly(&mut transaction, policy, &job, token, &attempt, &bad).await?;
            // Nor does another part of it live on that this worker has.
            kept.retain(|other: &LeaseToken| other.job != token.job);
        }
    }
    transaction.commit().await.map_err(failed("commit what was reconciled"))?;
    let verdict = |token: &LeaseToken| if kept.contains(token) { Verdict::Keep } else { Verdict::Kill };
    Ok(tokens.iter().map(verdict).collect())
}

/// Tokens of the worker's live attempts, and of those that it has a part in, with the incarnation
/// that they were granted to, in one order for all who lock several.
async fn live_attempts(
    connection: &mut PgConnection,
    worker: &WorkerId,
) -> Result<Vec<(LeaseToken, i64)>, Error> {
    let rows = sqlx::query!(
        r#"select job_id as "job_id!", epoch as "epoch!", nonce as "nonce!", incarnation as "incarnation!",
               0::smallint as "member!"
           from attempt where worker_id = $1 and end_time is null
           union all
           select member.job_id, member.epoch, attempt.nonce, member.incarnation, member.member
           from attempt_member member
           join attempt on attempt.job_id = member.job_id and attempt.epoch = member.epoch
           where member.worker_id = $1 and member.state <> 'ended' and member.member > 0
           order by 1, 5"#,
        worker.as_str()
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list the attempts of a worker"))?;
    rows.into_iter()
        .map(|row| {
            let nonce = nonce_from(&row.nonce)?;
            Ok((
                LeaseToken { job: JobId(row.job_id), epoch: row.epoch, nonce, member: row.member },
                row.incarnation,
            ))
        })
        .collect()
}

/// The attempt goes on under the new start of its daemon.
async fn adopt(connection: &mut PgConnection, token: LeaseToken, incarnation: i64) -> Result<(), Error> {
    sqlx::query!(
        "with part as (
             update attempt_member set incarnation = $3
             where job_id = $1 and epoch = $2 and member = $4 and state <> 'ended'
         )
         update attempt set incarnation = $3
         where job_id = $1 and epoch = $2 and state <> 'ended' and $4::smallint = 0",
        token.job.0,
        token.epoch,
        incarnation,
        token.member
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("adopt an attempt"))
}
