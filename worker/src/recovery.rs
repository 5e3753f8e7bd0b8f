//! What an earlier daemon of this work folder left behind when it was killed:
//! processes are ended, decided conclusions are told, and jobs that were under
//! way are handed back at once instead of when their leases run out.

use std::sync::Arc;

use cakes_proto::v1;
use tracing::{info, warn};

use crate::calls::conclude;
use crate::client::{CallError, jittered};
use crate::journal::{Concluding, Journal, WorkDir};
use crate::process::kill_marked;
use crate::session::{Session, SessionError, UNWELCOME_PAUSE};

/// Kills what still runs of earlier attempts; returns what their journals hold.
///
/// # Errors
/// The work folder cannot be read, or a process of an earlier attempt cannot be
/// killed, so that its device is not free.
pub fn clear_processes(work: &WorkDir) -> anyhow::Result<Vec<Journal>> {
    let (found, left) = kill_marked(&work.attempts());
    if found > 0 {
        warn!(found, "processes of an earlier daemon were killed");
    }
    if left > 0 {
        anyhow::bail!(
            "{left} processes of an earlier daemon cannot be killed; their devices are not free until the machine restarts"
        );
    }
    Ok(work.left_behind()?)
}

/// Settles earlier attempts with the coordinator and removes their folders. It is
/// asked even if there are none here: attempts that it knows of and this daemon
/// does not are then given to others at once.
///
/// # Errors
/// The daemon had to register anew and was refused; the journals stay.
pub async fn settle(session: &Arc<Session>, journals: Vec<Journal>) -> Result<(), SessionError> {
    let tokens = journals.iter().map(|journal| journal.record().token.clone()).collect();
    let verdicts = session.reconcile(tokens).await?;
    for (journal, verdict) in journals.into_iter().zip(verdicts) {
        if verdict == v1::Verdict::Keep {
            tell_end(session, &journal).await;
        }
        if let Err(problem) = journal.remove() {
            warn!("an earlier attempt's folder cannot be removed: {problem}");
        }
    }
    Ok(())
}

/// Says how an attempt ended, until there is an answer that stays: a result is not given up over
/// rights that this worker lacks for a while.
async fn tell_end(session: &Arc<Session>, journal: &Journal) {
    let record = journal.record();
    let job = record.token.job_id.as_str();
    let decided = record.conclusion.is_some();
    let concluding = record.conclusion.clone().unwrap_or_else(|| {
        Concluding::Fail(v1::FailRequest {
            token: Some(record.token.clone()),
            failure_class: v1::FailureClass::Lost.into(),
            message: "the worker's daemon was restarted; handed back behind its last checkpoint".to_owned(),
        })
    });
    loop {
        match conclude(session.coordinator(), concluding.clone(), None).await {
            Ok(()) => {
                info!(job, decided, "an earlier attempt is concluded");
                return;
            }
            Err(CallError::Unwelcome(problem)) => {
                warn!(
                    job,
                    decided,
                    "this worker may not tell the end of an earlier attempt: {problem}; trying again"
                );
                tokio::time::sleep(jittered(UNWELCOME_PAUSE)).await;
            }
            Err(problem) => {
                info!(job, decided, "an earlier attempt is not wanted any more: {problem}");
                return;
            }
        }
    }
}
