//! Calls in traces, and the time that jobs wait.

use std::time::SystemTime;

use axum::extract::Request;
use cakes_telemetry::trace::{Span, SpanKind, TraceContext};
use sha2::{Digest, Sha256};
use tonic::Code;

use crate::store::attempts::{Grant, Wait};

/// Workers and balancers ask again and again: their calls are part of traces, but begin none.
const POLLED: [&str; 2] = ["/cakes.v1.WorkerService/", "/grpc.health.v1.Health/"];

/// The span of a call that has arrived; `is_known` says that there is such a method.
pub(super) fn arrived(request: &Request, is_known: bool) -> Span {
    let caller = TraceContext::from_headers(request.headers());
    let path = request.uri().path();
    let begins = is_known && !POLLED.iter().any(|service| path.starts_with(service));
    let span = match (&caller, begins) {
        (None, false) => return Span::default(),
        (Some(_), _) | (None, true) => Span::begin(name(path, is_known), SpanKind::Server, caller.as_ref()),
    };
    if !span.is_recorded() {
        return span;
    }
    let (service, method) = name(path, is_known).split_once('/').unwrap_or_default();
    span.with("rpc.system", "grpc")
        .with("rpc.service", service.to_owned())
        .with("rpc.method", method.to_owned())
}

/// `cakes.v1.SearchService/SubmitSearch`; what there is not has one name, whatever it is called.
fn name(path: &str, is_known: bool) -> &str {
    if is_known { path.trim_start_matches('/') } else { "other" }
}

/// Ends a call with its code. What the caller did wrong is no failure of this server.
pub(super) fn answered(span: &mut Span, code: Code) {
    span.set("rpc.grpc.status_code", i64::from(i32::from(code)));
    if matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    ) {
        span.fail(code.description());
    }
}

/// The span of a job's time in the queue, and what its attempt belongs to. A repeated grant
/// gives the same one.
pub(super) fn waited(grant: &Grant) -> Option<TraceContext> {
    let Wait { trace, since } = grant.wait.as_ref()?;
    let (job, epoch) = (grant.token.job, grant.token.epoch);
    let span = Span::within("job queued", SpanKind::Internal, Some(trace))
        .numbered(number(&format!("{job} {epoch}")))
        .since(SystemTime::from(*since))
        .with("cakes.job.id", job.to_string())
        .with("cakes.attempt", epoch);
    span.context().cloned()
}

fn number(of: &str) -> u64 {
    Sha256::digest(of).iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
