//! The loop of one device: ask for a job, run it, ask again.

use std::sync::Arc;
use std::time::Duration;

use cakes_proto::v1;
use cakes_telemetry::trace;
use tokio::time::timeout;
use tracing::{Instrument, error, info, info_span, warn};

use crate::app::{Context, Shutdown};
use crate::attempt::Outcome;
use crate::client::{CallError, jittered};
use crate::session::{Acquired, Offer, SessionError};
use crate::wire::{Granted, fail_request};
use crate::{attempt, runner, spans};

/// Between two questions when the coordinator does not say.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at a disk that is full.
const FULL_INTERVAL: Duration = Duration::from_secs(2);
/// For the answer to a question that was asked when the daemon is told to end.
const LAST_ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Runs jobs on `device` until the daemon is told to end.
///
/// # Errors
/// The coordinator does not take this daemon any more.
pub async fn run(context: Arc<Context>, device: v1::Device, shutdown: Shutdown) -> Result<(), SessionError> {
    let mut is_full = false;
    while !shutdown.is_asked() {
        // A job that cannot save would only be handed back.
        let problem = disk_problem(&context);
        if let Some(problem) = problem.as_ref().filter(|_| !is_full) {
            warn!("no job is begun until there is space: {problem}");
        }
        is_full = problem.is_some();
        if is_full {
            pause(&shutdown, FULL_INTERVAL).await;
            continue;
        }
        let mut asking = std::pin::pin!(context.session.acquire(&device, context.data.list()));
        let acquired = tokio::select! {
            acquired = &mut asking => acquired?,
            () = shutdown.asked() => {
                if let Ok(acquired) = timeout(LAST_ANSWER_LIMIT, asking).await {
                    return_grant(&context, acquired?).await;
                }
                return Ok(());
            }
        };
        match acquired {
            Acquired::Grant(offer) => attempt_job(&context, *offer, &device, &shutdown).await,
            Acquired::Nothing { retry_after } => {
                let wanted = if retry_after.is_zero() { ASK_INTERVAL } else { retry_after };
                pause(&shutdown, wanted).await;
            }
        }
    }
    Ok(())
}

/// Why no job should be begun here; none where the disk cannot be asked.
fn disk_problem(context: &Context) -> Option<String> {
    let (folder, least_mib) = (context.work.attempts(), context.config.disk_free_min_mib);
    let disk = nix::sys::statvfs::statvfs(&folder).ok()?;
    let free_mib = (disk.blocks_available() * disk.fragment_size()) >> 20;
    (free_mib < least_mib).then(|| {
        format!(
            "the disk of {} has {free_mib} MiB left, --disk-free-min-mib asks for {least_mib}",
            folder.display()
        )
    })
}

async fn attempt_job(context: &Arc<Context>, offer: Offer, device: &v1::Device, shutdown: &Shutdown) {
    let mut granted = match Granted::try_from(offer.grant) {
        Ok(granted) => granted,
        Err(problem) => {
            // Without a token nothing can be told; the offer runs out.
            error!("a grant cannot be read: {problem}");
            return pause(shutdown, ASK_INTERVAL).await;
        }
    };
    let (job, epoch) = (granted.token.job, granted.token.epoch);
    let mut traced = spans::attempt(&granted, &device.name);
    granted.trace = traced.context().cloned();
    let span = info_span!("attempt", %job, epoch, device = device.name);
    let scope = span.in_scope(|| trace::scope(traced.context()));
    let data_at_hand = granted.data.as_ref().is_some_and(|path| context.data.has(path));
    scope.in_scope(|| info!(%job, epoch, device = device.name, data_at_hand, "attempt begins"));
    let running = runner::run(context, granted, offer.sent_at, offer.registration, device, shutdown);
    let outcome = running.instrument(scope.clone()).instrument(span).await;
    match &outcome {
        Outcome::Completed | Outcome::Left => {}
        Outcome::Failed => traced.fail("the attempt failed, see the job's log"),
        Outcome::Dropped { why } => traced.fail(why),
    }
    drop(traced);
    scope.in_scope(|| info!(%job, epoch, ?outcome, "attempt ended"));
}

async fn pause(shutdown: &Shutdown, length: Duration) {
    tokio::select! {
        () = tokio::time::sleep(jittered(length)) => {}
        () = shutdown.asked() => {}
    }
}

/// Hands back a job that was granted too late to begin it.
async fn return_grant(context: &Context, acquired: Acquired) {
    let Acquired::Grant(offer) = acquired else { return };
    let Ok(granted) = Granted::try_from(offer.grant) else { return };
    let failure =
        attempt::Failure::new(v1::FailureClass::Lost, "the worker shuts down; the job was not begun");
    let request = fail_request(granted.token, &failure);
    let call = |mut client: crate::client::Client| {
        let request = request.clone();
        async move { client.fail(request).await }
    };
    match timeout(LAST_ANSWER_LIMIT, context.session.coordinator().persist("Fail", call)).await {
        Ok(Ok(_) | Err(CallError::Stale(_))) => {}
        Ok(Err(problem)) => warn!("a job could not be handed back: {problem}"),
        Err(_) => warn!("a job could not be handed back in time; its offer runs out"),
    }
}
