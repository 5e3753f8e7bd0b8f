//! The gRPC server with its limits.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use cakes_proto::DESCRIPTORS;
use cakes_proto::method::Method;
use cakes_proto::v1::architecture_service_server::ArchitectureServiceServer;
use cakes_proto::v1::fleet_service_server::FleetServiceServer;
use cakes_proto::v1::job_service_server::JobServiceServer;
use cakes_proto::v1::search_service_server::SearchServiceServer;
use cakes_proto::v1::webhook_service_server::WebhookServiceServer;
use cakes_proto::v1::worker_service_server::WorkerServiceServer;
use tonic::service::Routes;
use tonic::transport::Server;

use super::gate::{self, Gate};
use super::{Api, Limits, health, listener, measure, status};
use crate::accept::{Accepting, Arrivals};
use crate::core::size::message_bytes_max;
use crate::runtimes::Runtimes;
use crate::shutdown::Shutdown;

/// Largest response.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A peer that is gone without a word is noticed after these two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest metadata of a request: a token has 70 characters, and whoever sends more than a few
/// kibibytes wants memory and nothing else.
const METADATA_BYTES_MAX: u32 = 8 << 10;

/// Streams that a peer opened and reset before they were looked at, after which its
/// connection is closed; and those that it was told are wrong. Nobody means to do either.
const PENDING_RESETS_MAX: usize = 20;
const ERROR_RESETS_MAX: usize = 256;

/// Why the server ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the descriptors of the API are broken")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
    #[error("connections cannot be accepted apart from their service")]
    Accept(#[from] std::io::Error),
    #[error("the gRPC server ended by a defect")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Serves who is accepted until asked to stop and every connection is closed.
///
/// # Errors
/// The server could not be set up or failed.
pub async fn serve(
    accepting: Accepting,
    api: Api,
    runtimes: Runtimes,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let routes = Routes::from(routes(&api, &shutdown).await?).prepare();
    let Arrivals { ordinary, crowded } = accepting.apart(&runtimes, &shutdown.tasks)?;
    let serving = |arriving| {
        let stop = shutdown.stop.clone();
        server(&api.limits, routes.clone())
            .serve_with_incoming_shutdown(listener::connections(arriving), stop.cancelled_owned())
    };
    let (serving, crowded) = (serving(ordinary), runtimes.crowded.spawn(serving(crowded)));
    serving.await?;
    crowded.await??;
    Ok(())
}

fn server(limits: &Limits, routes: Routes) -> tonic::transport::server::Router {
    // No max_connection_age: in this version of tonic it cuts streams off.
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(limits.streams_per_connection)
        .http2_max_header_list_size(METADATA_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .add_routes(routes)
}

/// All services behind their gate, for requests that bring a [`PeerInfo`](super::PeerInfo).
///
/// # Errors
/// The descriptors of the API are broken.
pub async fn routes(api: &Api, shutdown: &Shutdown) -> Result<Router, ServeError> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    health::begin(&reporter).await;
    shutdown.tasks.spawn(health::watch(reporter, api.reader().clone(), shutdown.draining.clone()));
    // The gate has a limit for each method; these are the largest of each service's.
    macro_rules! limited {
        ($service:ident, $largest:ident) => {
            $service::new(api.clone())
                .max_decoding_message_size(message_bytes_max(Method::$largest))
                .max_encoding_message_size(ANSWER_BYTES_MAX)
        };
    }
    let gate = Gate::new(&api.pools, api.requires_identity, api.limits.callers, shutdown.tasks.clone());
    let services = Routes::new(limited!(SearchServiceServer, ImportSearch))
        .add_service(limited!(JobServiceServer, SubmitRetrain))
        .add_service(limited!(ArchitectureServiceServer, EstimateCost))
        .add_service(limited!(FleetServiceServer, ListWorkers))
        .add_service(limited!(WebhookServiceServer, AddWebhook))
        .add_service(limited!(WorkerServiceServer, Complete))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .into_axum_router();
    let services = services.layer(from_fn_with_state(gate, gate::guard));
    let services = services.layer(from_fn_with_state(api.limits.call_timeout, end_in_time));
    Ok(services.layer(from_fn(measure::measure)))
}

/// Answers a call whose time is up, of a stream that has not begun. What it was about to write is
/// written all the same.
async fn end_in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(limit, next.run(request)).await;
    answered.unwrap_or_else(|_| status::took_too_long(limit).into_http())
}

/// Everything that a client may see, error details included.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
