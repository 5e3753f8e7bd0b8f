//! What worker daemons say. Requests are checked in [`super::worker_wire`].

use cakes_proto::ids::{LeaseToken, WorkerId};
use cakes_proto::v1::worker_service_server::WorkerService;
use cakes_proto::{WORKER_PROTOCOL, v1};
use serde::de::DeserializeOwned;
use tonic::{Extensions, Request, Response, Status};

use super::gate::caller;
use super::status::{invalid_field, not_own, other_protocol};
use super::{Api, labels, lookup, values, worker_wire};
use crate::core::lease::Desired;
use crate::core::lease::Verdict;
use crate::core::rights::speaks_for;
use crate::metrics::metrics;
use crate::store::attempts::{Deed, Saved, Turn, Turned};
use crate::store::{attempts, workers};

/// When a worker that got nothing asks again.
const ACQUIRE_RETRY_MS: u64 = 1000;

/// Attempts that a daemon may bring back after a restart.
const RECONCILED_MAX: usize = 1000;

const VERSION_CHARS_MAX: usize = 64;
const MESSAGE_CHARS_MAX: usize = 4000;

#[tonic::async_trait]
impl WorkerService for Api {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        // First, because nothing else in an unknown version's request can be trusted.
        if request.protocol_version != WORKER_PROTOCOL {
            return Err(other_protocol(request.protocol_version));
        }
        let registration = workers::Registration {
            worker: own(&extensions, &request.worker_id)?,
            request_id: worker_wire::uuid("request_id", &request.request_id)?,
            devices: worker_wire::devices(request.devices)?,
            labels: labels::checked("labels", request.labels)?,
            version: values::checked("version", request.version, VERSION_CHARS_MAX)?,
        };
        let incarnation =
            self.write(|pool| async move { workers::register(&pool, &registration).await }).await?;
        Ok(Response::new(v1::RegisterResponse {
            incarnation: incarnation.unsigned_abs(),
            protocol_version: WORKER_PROTOCOL,
            artifact_url: self.artifact_url.clone(),
            report_interval_ms: worker_wire::milliseconds(self.report_interval),
        }))
    }

    async fn acquire(
        &self,
        request: Request<v1::AcquireRequest>,
    ) -> Result<Response<v1::AcquireResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let acquisition = attempts::Acquisition {
            worker: own(&extensions, &request.worker_id)?,
            incarnation: values::signed("incarnation", request.incarnation)?,
            request_id: worker_wire::uuid("request_id", &request.request_id)?,
            device: worker_wire::device("device", request.device)?,
            data_at_hand: worker_wire::data_at_hand(request.data_at_hand)?,
        };
        let grant = self.moves.wish(acquisition).await?;
        if let Some(grant) = &grant {
            metrics().grants.add(1);
            metrics().grants_data_at_hand.add(u64::from(grant.has_data_at_hand));
        }
        Ok(Response::new(v1::AcquireResponse {
            grant: grant.map(|grant| worker_wire::grant(grant, &self.policy)),
            retry_after_ms: ACQUIRE_RETRY_MS,
        }))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Result<Response<v1::StartResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let token = token(request.token)?;
        self.leases.check(&extensions, token).await?;
        let lease_ttl = self.policy.lease_ttl;
        self.moves.turn(Turn { token, deed: Deed::Start { lease_ttl } }).await?;
        Ok(Response::new(v1::StartResponse {
            lease_ttl_ms: worker_wire::milliseconds(lease_ttl),
            ..Default::default()
        }))
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let report = worker_wire::report(request)?;
        self.leases.check(&extensions, report.token).await?;
        let entries = report.entries.len();
        let receipt = self.reports.call(report).await?;
        metrics().report_entries.add(entries as u64);
        let desired = match receipt.desired {
            Desired::Run => v1::DesiredState::Run,
            Desired::Cancel => v1::DesiredState::Cancel,
            Desired::Yield => v1::DesiredState::Yield,
        };
        Ok(Response::new(v1::ReportResponse {
            ack_seq: receipt.ack_seq.unsigned_abs(),
            lease_ttl_ms: worker_wire::milliseconds(self.policy.lease_ttl),
            desired: desired.into(),
            ..Default::default()
        }))
    }

    async fn commit_checkpoint(
        &self,
        request: Request<v1::CommitCheckpointRequest>,
    ) -> Result<Response<v1::CommitCheckpointResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::CommitCheckpointRequest { token: wire, checkpoint, bytes } = request;
        let token = token(wire)?;
        self.leases.check(&extensions, token).await?;
        let checkpoint = worker_wire::checkpoint(checkpoint)?;
        let bytes = values::signed("bytes", bytes)?;
        self.moves.turn(Turn { token, deed: Deed::Commit(Saved { checkpoint, bytes }) }).await?;
        Ok(Response::new(v1::CommitCheckpointResponse {}))
    }

    async fn complete(
        &self,
        request: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::CompleteResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let token = token(request.token)?;
        self.leases.check(&extensions, token).await?;
        let checkpoint = worker_wire::checkpoint(request.checkpoint)?;
        let checkpoint_bytes =
            request.checkpoint_bytes.map(|bytes| values::signed("checkpoint_bytes", bytes)).transpose()?;
        let completion = attempts::Completion {
            last_seq: values::signed("last_seq", request.last_seq)?,
            checkpoint,
            checkpoint_bytes,
            outcome: worker_wire::outcome(request.result)?,
            scores: of_a_supernet("scores_json", &request.scores_json)?,
            latency: of_a_supernet("latency_json", &request.latency_json)?,
        };
        let turned = self.moves.turn(Turn { token, deed: Deed::Complete(Box::new(completion)) }).await;
        // A job of no search leaves nothing to plan.
        if !matches!(turned, Ok(Turned { search: None })) {
            self.bell.ring();
        }
        turned?;
        metrics().attempts_ended.add(["completed"], 1);
        Ok(Response::new(v1::CompleteResponse {}))
    }

    async fn fail(&self, request: Request<v1::FailRequest>) -> Result<Response<v1::FailResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::FailRequest { token: wire, failure_class, message } = request;
        let token = token(wire)?;
        self.leases.check(&extensions, token).await?;
        let class = worker_wire::failure_class(failure_class)?;
        let message = values::cleaned(&message, MESSAGE_CHARS_MAX);
        let policy = self.policy;
        self.write_then_plan(move |pool| async move {
            attempts::fail(&pool, &policy, token, class, &message).await
        })
        .await?;
        metrics().attempts_ended.add([class.as_str()], 1);
        Ok(Response::new(v1::FailResponse {}))
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> Result<Response<v1::ReconcileResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::ReconcileRequest { worker_id, incarnation, tokens } = request;
        let worker = own(&extensions, &worker_id)?;
        let incarnation = values::signed("incarnation", incarnation)?;
        if tokens.len() > RECONCILED_MAX {
            return Err(invalid_field("tokens", format!("{} are more than {RECONCILED_MAX}", tokens.len())));
        }
        let tokens = tokens.into_iter().map(|wire| token(Some(wire))).collect::<Result<Vec<_>, _>>()?;
        let policy = self.policy;
        let verdicts = self
            .write_then_plan(move |pool| async move {
                attempts::reconcile(&pool, &policy, &worker, incarnation, &tokens).await
            })
            .await?;
        let verdicts = verdicts.into_iter().map(|verdict| match verdict {
            Verdict::Keep => v1::Verdict::Keep.into(),
            Verdict::Kill => v1::Verdict::Kill.into(),
        });
        Ok(Response::new(v1::ReconcileResponse { verdicts: verdicts.collect() }))
    }
}

/// The worker that a request names, which must be the one that calls.
fn own(extensions: &Extensions, worker_id: &str) -> Result<WorkerId, Status> {
    let worker = lookup::worker("worker_id", worker_id)?;
    speaks_for(caller(extensions)?, worker.as_str()).map_err(|refused| not_own(&refused))?;
    Ok(worker)
}

fn token(wire: Option<v1::LeaseToken>) -> Result<LeaseToken, Status> {
    wire.try_into().map_err(|error| invalid_field("token", error))
}

/// What only a supernet leaves behind, in the domain's JSON form; none for a retraining.
fn of_a_supernet<T: DeserializeOwned>(field: &str, json: &str) -> Result<Option<T>, Status> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(json).map(Some).map_err(|error| invalid_field(field, error))
}
