//! Counts calls and how long they take, gives each an id for log lines and for its caller,
//! and tells its connection of it.

use std::time::Instant;

use super::{PeerInfo, traces};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use cakes_proto::method::Method;
use cakes_telemetry::trace::{Span, scope};
use tonic::{Code, Status};
use tracing::Instrument;

use crate::metrics::metrics;

/// A call that is counted when it is answered, or given up.
struct Call {
    method: &'static str,
    arrived: Instant,
    code: Code,
    span: Span,
}

/// Under this name a caller may send an id of its own, and gets it or ours with the answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken from a caller.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Counts a call, and says in which lines of the log it is.
pub(super) async fn measure(mut request: Request, next: Next) -> Response {
    let known = Method::from_path(request.uri().path());
    let method = known.map_or("other", Method::name);
    let span = traces::arrived(&request, known.is_some());
    let within = span.context().cloned();
    let mut call = Call { method, arrived: Instant::now(), code: Code::Cancelled, span };
    let under_way = request.extensions().get::<PeerInfo>().map(|peer| peer.activity.begin());
    let id = request_id(request.headers());
    let span = tracing::info_span!("call", method, request_id = id);
    let scope = match within {
        Some(within) => {
            let scope = span.in_scope(|| scope(Some(&within)));
            request.extensions_mut().insert(within);
            scope
        }
        None => tracing::Span::none(),
    };
    let mut response = next.run(request).instrument(scope).instrument(span).await;
    call.code = code(&response);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    match under_way {
        Some(under_way) => under_way.answer(response),
        None => response,
    }
}

/// The caller's own, if it can stand in a line of the log, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_plain = |text: &&str| {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        (1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_known)
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_plain);
    given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

impl Drop for Call {
    fn drop(&mut self) {
        traces::answered(&mut self.span, self.code);
        metrics().calls.add([self.method, name(self.code)], 1);
        metrics().call_seconds.observe([self.method], self.arrived.elapsed().as_secs_f64());
    }
}

fn code(response: &Response) -> Code {
    let told = response.extensions().get::<Status>().map(Status::code);
    told.or_else(|| Some(Status::from_header_map(response.headers())?.code())).unwrap_or(Code::Ok)
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_s_id_is_taken_if_it_can_stand_in_a_log() {
        let of = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            request_id(&headers)
        };
        assert_eq!(of(b"nightly-7.a:1"), "nightly-7.a:1");
        for odd in [&b""[..], b"two words", b"\xc3\xa4", b"a\tb", &[b'a'; 65]] {
            assert_eq!(of(odd).len(), 36, "{odd:?}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
