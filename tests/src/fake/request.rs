//! A call that can be made again, by whoever has kept it.

use cakes_proto::v1::worker_service_client::WorkerServiceClient;
use cakes_proto::v1::{self, LeaseToken};
use tonic::Status;
use tonic::transport::Channel;

use super::Kind;

/// A request as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Register(v1::RegisterRequest),
    Acquire(v1::AcquireRequest),
    Start(v1::StartRequest),
    Report(v1::ReportRequest),
    Commit(v1::CommitCheckpointRequest),
    Complete(Box<v1::CompleteRequest>),
    Fail(v1::FailRequest),
    Reconcile(v1::ReconcileRequest),
}

impl Request {
    pub fn kind(&self) -> Kind {
        match self {
            Request::Register(_) => Kind::Register,
            Request::Acquire(_) => Kind::Acquire,
            Request::Start(_) => Kind::Start,
            Request::Report(_) => Kind::Report,
            Request::Commit(_) => Kind::Commit,
            Request::Complete(_) => Kind::Complete,
            Request::Fail(_) => Kind::Fail,
            Request::Reconcile(_) => Kind::Reconcile,
        }
    }

    /// The attempt that it is about.
    pub fn token(&self) -> Option<&LeaseToken> {
        match self {
            Request::Register(_) | Request::Acquire(_) | Request::Reconcile(_) => None,
            Request::Start(request) => request.token.as_ref(),
            Request::Report(request) => request.token.as_ref(),
            Request::Commit(request) => request.token.as_ref(),
            Request::Complete(request) => request.token.as_ref(),
            Request::Fail(request) => request.token.as_ref(),
        }
    }

    /// Sends it once.
    ///
    /// # Errors
    /// As the coordinator says, or there is no answer.
    pub async fn send(self, channel: Channel) -> Result<(), Status> {
        let mut client = WorkerServiceClient::new(channel);
        match self {
            Request::Register(request) => client.register(request).await.map(drop),
            Request::Acquire(request) => client.acquire(request).await.map(drop),
            Request::Start(request) => client.start(request).await.map(drop),
            Request::Report(request) => client.report(request).await.map(drop),
            Request::Commit(request) => client.commit_checkpoint(request).await.map(drop),
            Request::Complete(request) => client.complete(*request).await.map(drop),
            Request::Fail(request) => client.fail(request).await.map(drop),
            Request::Reconcile(request) => client.reconcile(request).await.map(drop),
        }
    }
}
