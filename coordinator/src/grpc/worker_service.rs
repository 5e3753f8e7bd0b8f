//! What worker daemons say. Requests are checked in [`super::worker_wire`].

use cakes_proto::ids::{LeaseToken, WorkerId};
use cakes_proto::v1::worker_service_server::WorkerService;
use cakes_proto::{WORKER_PROTOCOL, v1};
use serde::de::DeserializeOwned;
use tonic::{Extensions, Request, Response, Status};

use super::gate::caller;
use super::status::{invalid_field, not_own, other_protocol};
use super::{Api, labels, lookup, values, worker_wire};
use crate::core::lease::Verdict;
use crate::core::rights::speaks_for;
use crate::metrics::metrics;
use crate::store::attempts::{Deed, Saved, Turn, Turned, gang};
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
            joins_gangs: request.joins_gangs,
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
        let rendezvous_address = if token.leads() {
            self.moves.turn(Turn { token, deed: Deed::Start { lease_ttl } }).await?;
            None
        } else {
            let policy = self.policy;
            self.write(move |pool| async move { gang::start(&pool, &policy, token).await }).await?
        };
        Ok(Response::new(v1::StartResponse {
            lease_ttl_ms: worker_wire::milliseconds(lease_ttl),
            rendezvous_address: rendezvous_address.unwrap_or_default(),
        }))
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let (_, extensions, mut request) = request.into_parts();
        let address = worker_wire::rendezvous(std::mem::take(&mut request.rendezvous_address))?;
        if request.token.as_ref().is_some_and(|token| token.member > 0) {
            return self.report_of_member(&extensions, &request, address).await;
        }
        let report = worker_wire::report(request)?;
        let token = report.token;
        self.leases.check(&extensions, token).await?;
        let entries = report.entries.len();
        let receipt = self.reports.call(report).await?;
        metrics().report_entries.add(entries as u64);
        if let Some(address) = address {
            self.write(move |pool| async move { gang::tell(&pool, token, &address).await }).await?;
        }
        Ok(Response::new(v1::ReportResponse {
            ack_seq: receipt.ack_seq.unsigned_abs(),
            lease_ttl_ms: worker_wire::milliseconds(self.policy.lease_ttl),
            desired: worker_wire::desired(receipt.desired).into(),
            ..Default::default()
        }))
    }

    async fn commit_checkpoint(
        &self,
        request: Request<v1::CommitCheckpointRequest>,
    ) -> Result<Response<v1::CommitCheckpointResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::CommitCheckpointRequest { token: wire, checkpoint, bytes } = request;
        let token = leader(wire)?;
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
        let token = leader(request.token)?;
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

impl Api {
    /// Renews the lease of a member that does not lead.
    async fn report_of_member(
        &self,
        extensions: &Extensions,
        request: &v1::ReportRequest,
        address: Option<String>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let token = token(request.token.clone())?;
        let said = [
            ("entries", !request.entries.is_empty()),
            ("progress", request.progress.is_some()),
            ("rendezvous_address", address.is_some()),
        ];
        if let Some((field, _)) = said.into_iter().find(|(_, is_said)| *is_said) {
            return Err(invalid_field(field, "is the leader's to tell; other members report nothing else"));
        }
        self.leases.check(extensions, token).await?;
        let policy = self.policy;
        let renewal = self.write(move |pool| async move { gang::renew(&pool, &policy, token).await }).await?;
        Ok(Response::new(v1::ReportResponse {
            ack_seq: 0,
            lease_ttl_ms: worker_wire::milliseconds(policy.lease_ttl),
            desired: worker_wire::desired(renewal.desired).into(),
            rendezvous_address: renewal.address.unwrap_or_default(),
        }))
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

/// Of a call that is the leader's alone.
fn leader(wire: Option<v1::LeaseToken>) -> Result<LeaseToken, Status> {
    let token = token(wire)?;
    if token.leads() {
        return Ok(token);
    }
    Err(invalid_field(
        "token.member",
        format!("{} does not lead; only member 0 saves and completes", token.member),
    ))
}

/// What only a supernet leaves behind, in the domain's JSON form; none for a retraining.
fn of_a_supernet<T: DeserializeOwned>(field: &str, json: &str) -> Result<Option<T>, Status> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(json).map(Some).map_err(|error| invalid_field(field, error))
}
