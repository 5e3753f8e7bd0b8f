//! The calls of one attempt. Each is repeated until it is answered for good and
//! becomes one [`Event`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cakes::sparse::Sparse;
use cakes_proto::ids::LeaseToken;
use cakes_proto::v1;
use cakes_telemetry::trace::{Span, SpanKind, TraceContext};
use object_store::path::Path;
use tracing::{info, warn};

use crate::app::Context;
use crate::artifacts::Artifacts;
use crate::attempt::{Conclusion, Event, Failure, LocalCheckpoint, StoredCheckpoint};
use crate::client::{Answer, CallError, Client, Coordinator};
use crate::clock::since_boot;
use crate::journal::{Concluding, Journal, Record};
use crate::metrics::metrics;
use crate::outbox::Batch;
use crate::session::{Registration, Session};
use crate::spans;
use crate::wire::{Granted, complete_request, fail_request, stored_to_wire};

/// What the calls of an attempt have in common.
#[derive(Debug)]
pub struct Calls {
    session: Arc<Session>,
    token: LeaseToken,
    artifacts: Artifacts,
    prefix: Path,
    /// What their spans belong to.
    trace: Option<TraceContext>,
    /// Of the many reports few are shown.
    shown: Mutex<Sparse>,
    /// Taken away behind the attempt, so that no late answer writes it again.
    journal: Mutex<Option<Journal>>,
}

impl Calls {
    pub fn new(
        context: &Context,
        granted: &Granted,
        registration: &Registration,
        journal: Journal,
    ) -> Arc<Self> {
        Arc::new(Calls {
            session: Arc::clone(&context.session),
            token: granted.token,
            artifacts: registration.artifacts.clone(),
            prefix: granted.artifact_prefix.clone(),
            trace: granted.trace.clone(),
            shown: Mutex::default(),
            journal: Mutex::new(Some(journal)),
        })
    }

    /// Takes the journal to remove it.
    pub fn take_journal(&self) -> Option<Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Writes the journal. Where the disk refuses, the attempt goes on: it then
    /// would not survive this daemon's death, which is no reason to end it now.
    async fn record(self: &Arc<Self>, change: impl FnOnce(&mut Record) + Send + 'static) {
        let calls = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let mut journal = calls.journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.as_mut().map_or(Ok(()), |journal| journal.update(change))
        });
        if let Ok(Err(problem)) = written.await {
            warn!("the journal cannot be written: {problem}");
        }
    }

    pub async fn start(self: Arc<Self>) -> Event {
        let request = v1::StartRequest { token: Some(self.token.into()) };
        let span = spans::call("Start", self.trace.as_ref());
        let call = |mut client: Client| {
            let request = spans::request(request.clone(), span.context());
            async move { client.start(request).await }
        };
        match spans::answered(self.session.coordinator().persist("Start", call).await, span) {
            Ok(Answer { value, sent_at }) => {
                Event::Started { sent_at, ttl: Duration::from_millis(value.lease_ttl_ms) }
            }
            Err(error) => refused("Start", error),
        }
    }

    /// Start of a member that follows.
    pub async fn join(self: Arc<Self>) -> Event {
        let request = v1::StartRequest { token: Some(self.token.into()) };
        let span = spans::call("Start", self.trace.as_ref());
        let call = |mut client: Client| {
            let request = spans::request(request.clone(), span.context());
            async move { client.start(request).await }
        };
        match spans::answered(self.session.coordinator().persist("Start", call).await, span) {
            Ok(Answer { value, sent_at }) => Event::Joined {
                sent_at,
                ttl: Duration::from_millis(value.lease_ttl_ms),
                address: said(value.rendezvous_address),
            },
            Err(error) => refused("Start", error),
        }
    }

    /// Renews the lease of a member that follows.
    pub async fn renew(self: Arc<Self>) -> Event {
        let request = v1::ReportRequest { token: Some(self.token.into()), ..v1::ReportRequest::default() };
        match self.say("Report", request).await {
            Ok(Answer { value, sent_at }) => Event::Renewed {
                sent_at,
                ttl: Duration::from_millis(value.lease_ttl_ms),
                desired: value.desired(),
                address: said(value.rendezvous_address),
            },
            Err(error) => refused("Report", error),
        }
    }

    /// Tells where the ranks meet.
    pub async fn tell(self: Arc<Self>, address: String) -> Event {
        let request = v1::ReportRequest {
            token: Some(self.token.into()),
            rendezvous_address: address,
            ..v1::ReportRequest::default()
        };
        match self.say("Report", request).await {
            Ok(_) => Event::Told,
            Err(error) => refused("Report", error),
        }
    }

    async fn say(
        &self,
        name: &'static str,
        request: v1::ReportRequest,
    ) -> Result<Answer<v1::ReportResponse>, CallError> {
        let call = |mut client: Client| {
            let request = spans::request(request.clone(), None);
            async move { client.report(request).await }
        };
        self.session.coordinator().persist(name, call).await
    }

    pub async fn report(self: Arc<Self>, batch: Batch, progress: v1::JobProgress) -> Event {
        let request = v1::ReportRequest {
            token: Some(self.token.into()),
            first_seq: batch.first_seq,
            entries: batch.entries,
            progress: Some(progress),
            ..v1::ReportRequest::default()
        };
        let is_shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).takes(since_boot());
        let span = spans::call("Report", self.trace.as_ref().filter(|_| is_shown));
        let call = |mut client: Client| {
            let request = spans::request(request.clone(), span.context());
            async move { client.report(request).await }
        };
        let reported = self.session.coordinator().persist("Report", call).await;
        let (value, sent_at) = match spans::answered(reported, span) {
            Ok(Answer { value, sent_at }) => (value, sent_at),
            Err(error) => return refused("Report", error),
        };
        Event::Acknowledged {
            sent_at,
            ttl: Duration::from_millis(value.lease_ttl_ms),
            ack_seq: value.ack_seq,
            desired: value.desired(),
        }
    }

    /// Puts a checkpoint into the store.
    pub async fn upload(self: Arc<Self>, checkpoint: LocalCheckpoint) -> Event {
        let began = since_boot();
        let mut span = Span::within("upload checkpoint", SpanKind::Internal, self.trace.as_ref())
            .with("cakes.step", checkpoint.step as i64)
            .with("cakes.checkpoint.bytes", checkpoint.bytes as i64);
        match self.artifacts.upload(&checkpoint, &self.prefix).await {
            Ok(stored) => {
                let took = since_boot().saturating_sub(began);
                metrics().checkpoint_upload.observe(took.as_secs_f64());
                Event::Uploaded { checkpoint: stored, bytes: checkpoint.bytes }
            }
            Err(error) => {
                span.fail(&error.to_string());
                Event::StoreFailed { permanent: error.is_permanent(), message: error.to_string() }
            }
        }
    }

    /// Makes an uploaded checkpoint the one to resume from.
    pub async fn commit(self: Arc<Self>, stored: StoredCheckpoint, bytes: u64) -> Event {
        let request = v1::CommitCheckpointRequest {
            token: Some(self.token.into()),
            checkpoint: Some(stored_to_wire(stored.clone())),
            bytes,
        };
        let span = spans::call("CommitCheckpoint", self.trace.as_ref());
        let call = |mut client: Client| {
            let request = spans::request(request.clone(), span.context());
            async move { client.commit_checkpoint(request).await }
        };
        let committed = self.session.coordinator().persist("CommitCheckpoint", call).await;
        match spans::answered(committed, span) {
            Ok(_) => Event::Stored(stored),
            Err(CallError::Refused(message) | CallError::Unwelcome(message)) => {
                Event::StoreFailed { message, permanent: true }
            }
            Err(error) => refused("CommitCheckpoint", error),
        }
    }

    /// Ends the attempt. The intent is on disk before the call is made.
    pub async fn conclude(self: Arc<Self>, conclusion: Conclusion) -> Event {
        let concluding = match conclusion {
            Conclusion::Fail(failure) => Concluding::Fail(fail_request(self.token, &failure)),
            Conclusion::Complete(completion) => match complete_request(self.token, *completion) {
                Ok(request) => Concluding::Complete(Box::new(request)),
                Err(error) => return Event::Refused { call: "Complete", message: error.to_string() },
            },
        };
        let intent = concluding.clone();
        self.record(move |record| record.conclusion = Some(intent)).await;
        match conclude(self.session.coordinator(), concluding, self.trace.as_ref()).await {
            Ok(()) => Event::Concluded,
            Err(error) => refused("the end of the attempt", final_answer(error)),
        }
    }
}

/// Makes the last call of an attempt.
///
/// # Errors
/// The coordinator refuses it.
pub async fn conclude(
    coordinator: &Coordinator,
    concluding: Concluding,
    trace: Option<&TraceContext>,
) -> Result<(), CallError> {
    match concluding {
        Concluding::Complete(request) => {
            let span = spans::call("Complete", trace);
            let call = |mut client: Client| {
                let request = spans::request((*request).clone(), span.context());
                async move { client.complete(request).await }
            };
            spans::answered(coordinator.persist("Complete", call).await, span).map(|_| ())
        }
        Concluding::Fail(request) => {
            let span = spans::call("Fail", trace);
            let call = |mut client: Client| {
                let request = spans::request(request.clone(), span.context());
                async move { client.fail(request).await }
            };
            spans::answered(coordinator.persist("Fail", call).await, span).map(|_| ())
        }
    }
}

/// Hands back an attempt that has no journal.
pub async fn fail(
    coordinator: &Coordinator,
    token: LeaseToken,
    failure: &Failure,
    trace: Option<&TraceContext>,
) {
    let concluding = Concluding::Fail(fail_request(token, failure));
    if let Err(error) = conclude(coordinator, concluding, trace).await {
        info!("the coordinator does not take the attempt back: {error}");
    }
}

/// What is empty was not said.
fn said(address: String) -> Option<String> {
    Some(address).filter(|address| !address.is_empty())
}

/// A last call that is out of range without missing entries is too long, and stays so.
fn final_answer(error: CallError) -> CallError {
    match error {
        CallError::OutOfRange { ack_seq: None, message } => CallError::Refused(message),
        other => other,
    }
}

fn refused(call: &'static str, error: CallError) -> Event {
    match error {
        CallError::Stale(message) => Event::LeaseLost(message),
        CallError::OutOfRange { ack_seq, .. } => Event::OutOfRange { ack_seq },
        CallError::Refused(message) | CallError::Unwelcome(message) => Event::Refused { call, message },
    }
}
