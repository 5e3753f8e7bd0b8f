//! A coordinator whose database is gone: it reads every request as any other does, and says
//! then that it cannot go on.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use cakes_coordinator::accept::activity::Activity;
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::throttle::{self, Rate};
use cakes_coordinator::grpc::{self, Api, PeerInfo};
use cakes_coordinator::reconcile::Bell;
use cakes_coordinator::shutdown::Shutdown;
use cakes_coordinator::store::{PgPool, Pools};
use cakes_coordinator::web::{self, Peer};
use cakes_proto::v1::architecture_service_server::ArchitectureServiceServer;
use cakes_proto::v1::fleet_service_server::FleetServiceServer;
use cakes_proto::v1::job_service_server::JobServiceServer;
use cakes_proto::v1::search_service_server::SearchServiceServer;
use cakes_proto::v1::webhook_service_server::WebhookServiceServer;
use cakes_proto::v1::worker_service_server::WorkerServiceServer;
use tokio::runtime::{Builder, Runtime};
use tonic::service::Routes;
use tower_service::Service;

use crate::text;

/// What HTTP/2 libraries take of headers together, each counted with 32 bytes more.
const HEADERS_BYTES_MAX: usize = 16 << 10;
/// Nothing waits for a database that is not there.
const LONGEST: Duration = Duration::from_secs(10);
/// As often as they come.
const ENDLESS: Rate = Rate { per_s: 1e12, burst: 1e12 };

pub(crate) struct Served {
    runtime: Runtime,
    /// Handlers alone, for what has passed the gate.
    pub handlers: Router,
    /// With the gate before them.
    pub gated: Router,
    pub page: Router,
}

thread_local! {
    static SERVED: Served = Served::new();
}

pub(crate) fn with_served<T>(act: impl FnOnce(&Served) -> T) -> T {
    SERVED.with(act)
}

impl Served {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime of one thread");
        let (handlers, gated, page) = runtime.block_on(serve());
        Served { runtime, handlers, gated, page }
    }

    /// The answer's head, once it is there.
    pub(crate) fn ask(&self, service: &Router, request: Request) -> Response {
        let call = async { tokio::time::timeout(LONGEST, service.clone().call(request)).await };
        let answered = self.runtime.block_on(call);
        let Ok(response) = answered.expect("a request is answered in time");
        let headers = response.headers();
        let length: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(
            length <= HEADERS_BYTES_MAX,
            "an answer has {length} bytes of headers, which no client takes"
        );
        response
    }

    /// The answer's body; it has an end.
    pub(crate) fn body(&self, response: Response) -> Vec<u8> {
        let read = axum::body::to_bytes(response.into_body(), 16 << 20);
        let read = self.runtime.block_on(async { tokio::time::timeout(LONGEST, read).await });
        read.expect("an answer has an end").expect("an answer is whole").to_vec()
    }
}

async fn serve() -> (Router, Router, Router) {
    let pool = PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").expect("this is an address");
    pool.close().await;
    let pools =
        Pools { control: pool.clone(), renewals: pool.clone(), turnover: pool.clone(), upkeep: pool.clone() };
    let callers = throttle::Limits {
        rate_of_identity: ENDLESS,
        rate_of_address: ENDLESS,
        ..throttle::Limits::default()
    };
    let settings = grpc::Settings {
        policy: Policy::default(),
        planning: cakes_planner::Policy::default(),
        report_interval: Duration::from_secs(5),
        artifact_url: "file:///nowhere".to_owned(),
        keep_checkpoints: 2,
        allows_plain_webhooks: false,
        requires_identity: false,
        limits: grpc::Limits { callers, ..grpc::Limits::default() },
    };
    let shutdown = Shutdown::default();
    let api = Api::new(pools, settings, Bell::new(), &shutdown);
    let handlers = Routes::new(SearchServiceServer::new(api.clone()))
        .add_service(JobServiceServer::new(api.clone()))
        .add_service(ArchitectureServiceServer::new(api.clone()))
        .add_service(FleetServiceServer::new(api.clone()))
        .add_service(WebhookServiceServer::new(api.clone()))
        .add_service(WorkerServiceServer::new(api.clone()))
        .into_axum_router();
    let gated = grpc::routes(&api, &shutdown).await.expect("the descriptors are sound");
    let visitors =
        web::Settings { allowed_hosts: Vec::new(), requires_token: false, is_encrypted: false, callers };
    let page = web::page(7551, api, pool, visitors, &shutdown);
    (handlers, gated, page)
}

/// A request as HTTP/1 writes it: `METHOD TARGET`, headers, an empty line, a body.
pub(crate) fn request(bytes: &[u8]) -> Option<Request> {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = match end {
        Some(end) => (&bytes[..end], &bytes[end + 2..]),
        None => (bytes, &[][..]),
    };
    let mut lines = text(head)?.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    let method: Method = method.parse().ok()?;
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        request = request.header(name, value);
    }
    let mut request = request.body(Body::from(body.to_vec())).ok()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 4000));
    let activity = Activity::default();
    request.extensions_mut().insert(ConnectInfo(Peer { address, activity: activity.clone() }));
    request.extensions_mut().insert(PeerInfo {
        address: Some(address),
        certified: None,
        activity,
        gives_way: false,
    });
    Some(request)
}

/// The status of an answer, where its head says it.
pub(crate) fn status(headers: &HeaderMap) -> Option<tonic::Status> {
    tonic::Status::from_header_map(headers)
}
