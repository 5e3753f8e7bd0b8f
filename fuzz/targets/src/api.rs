//! The gRPC API: every method, from the bytes of its request to the database.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use cakes_coordinator::core::identity::Identity;
use cakes_coordinator::core::rights::Caller;
use cakes_proto::method::Method;
use tonic::{Code, Status};

use crate::choice;
use crate::served::{request, status, with_served};

/// Set in the first byte, a worker calls.
const BY_WORKER: u8 = 0x80;

/// A byte that chooses the method, and the message.
pub fn api_calls(bytes: &[u8]) {
    let Some((kind, message)) = choice(bytes) else { return };
    let Some(method) = Method::ALL.get(usize::from(kind & !BY_WORKER)) else { return };
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend_from_slice(message);
    let request =
        Request::post(method.path()).header(CONTENT_TYPE, "application/grpc").body(Body::from(body));
    let mut request = request.expect("paths of methods are paths");
    request.extensions_mut().insert(match kind & BY_WORKER {
        0 => Caller::Trusted,
        _ => Caller::Known(Identity::Worker { name: "gpu-01".to_owned() }),
    });
    with_served(|served| {
        let response = served.ask(&served.handlers, request);
        if let Some(status) = status(response.headers()) {
            check(*method, &status);
        }
    });
}

/// Whatever is asked, nothing of ours is at fault.
fn check(method: Method, status: &Status) {
    let is_ours = status.message().starts_with("internal error");
    assert!(!is_ours && status.code() != Code::Unknown, "{}: {status:?}", method.path());
    if status.code() == Code::InvalidArgument {
        assert!(!status.details().is_empty(), "{} does not say which field is wrong", method.path());
    }
}

/// A request of HTTP as it comes to the gate: path, metadata, frames.
pub fn api_gate(bytes: &[u8]) {
    let Some(request) = request(bytes) else { return };
    let method = Method::from_path(request.uri().path());
    with_served(|served| {
        let response = served.ask(&served.gated, request);
        let Some(status) = status(response.headers()) else { return };
        match method {
            Some(method) => check(method, &status),
            None => assert_eq!(status.code(), Code::Unimplemented),
        }
    });
}
