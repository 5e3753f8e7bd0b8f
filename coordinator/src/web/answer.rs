//! Answers in JSON: what was asked for, or why not.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cakes::labels::Labels;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use super::Web;
use super::listener::Peer;
use crate::grpc::audited;
use crate::metrics::metrics;
use crate::store;

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        Failure { status, code, message }
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// A parameter of the request makes no sense.
    pub(super) fn invalid(parameter: &str, problem: impl std::fmt::Display) -> Self {
        Failure::new(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", format!("{parameter}: {problem}"))
    }

    pub(super) fn overloaded() -> Self {
        let message = "the database is busy; try again in a moment".to_owned();
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "BUSY", message)
    }

    /// A task that ended by a defect.
    pub(super) fn broken(error: &tokio::task::JoinError) -> Self {
        tracing::error!(%error, "an action ended by a defect");
        let message = "internal error; the coordinator's log says more".to_owned();
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message)
    }

    /// A value that cannot be written as JSON.
    fn unwritable(error: &serde_json::Error) -> Self {
        tracing::error!(%error, "an answer cannot be written");
        let message = "internal error; the coordinator's log says more".to_owned();
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": { "code": self.code, "message": self.message } });
        (self.status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let http = match status.code() {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure::new(http, audited(status.code()), status.message().to_owned())
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Status::from(error).into()
    }
}

/// The answer as JSON, or 304 if the client has it already.
pub(super) fn json<T: Serialize>(headers: &HeaderMap, value: &T) -> Result<Response, Failure> {
    let body = serde_json::to_vec(value).map_err(|error| Failure::unwritable(&error))?;
    Ok(tagged(headers, "application/json", body))
}

/// A body with its tag; empty if the client has it already.
pub(super) fn tagged(
    headers: &HeaderMap,
    kind: &'static str,
    body: impl Into<Body> + AsRef<[u8]>,
) -> Response {
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(body.as_ref())[..12]));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    let is_known = known.is_some_and(|known| known.split(',').any(|known| known.trim() == tag));
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, kind)], Into::<Body>::into(body)).into_response(),
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Counts an answer, tells its connection of it, and refuses whoever asks too often.
pub(super) async fn count(
    State(web): State<Web>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let under_way = peer.activity.begin();
    let response = match web.visitors.refuse(peer.address) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    metrics().page_requests.add([response.status().as_u16().to_string()], 1);
    under_way.answer(response)
}

/// A path below `/api/v1` that means nothing.
pub(super) async fn no_such_path() -> Failure {
    let message = "there is no such path below /api/v1".to_owned();
    Failure::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
}

/// A path that cannot be asked in this way.
pub(super) async fn wrong_method() -> Failure {
    let message = "this path does not take that method; see docs/web.md".to_owned();
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "WRONG_METHOD", message)
}

/// Entries of a page: `given`, or `default`, between 1 and `max`.
pub(super) fn limit(given: Option<i64>, default: i64, max: i64) -> Result<i64, Failure> {
    match given {
        None => Ok(default),
        Some(limit) if limit >= 1 => Ok(limit.min(max)),
        Some(limit) => Err(Failure::invalid("limit", format!("must be 1 to {max}, got {limit}"))),
    }
}

/// Names from a list with commas.
pub(super) fn names<T: std::str::FromStr<Err: std::fmt::Display>>(
    parameter: &str,
    list: Option<&str>,
) -> Result<Vec<T>, Failure> {
    let given = list.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
    given.map(|name| name.parse().map_err(|error| Failure::invalid(parameter, error))).collect()
}

/// Labels from a list of KEY=VALUE with commas or blanks between them.
pub(super) fn labels(list: Option<&str>) -> Result<Labels, Failure> {
    let wrong = |problem: &dyn std::fmt::Display| Failure::invalid("label", problem);
    let given = list.unwrap_or_default().split([',', ' ']).filter(|label| !label.is_empty());
    let pair = |label: &str| {
        let (key, value) =
            label.split_once('=').ok_or_else(|| wrong(&format!("'{label}': write KEY=VALUE")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    let labels: BTreeMap<String, String> = given.map(pair).collect::<Result<_, Failure>>()?;
    Labels::new(labels).map_err(|violation| wrong(&violation.problem))
}

/// Cuts a page that was read with one entry too many, and says whether there was one.
pub(super) fn cut<T>(entries: &mut Vec<T>, limit: i64) -> bool {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = entries.len() > limit;
    entries.truncate(limit);
    more
}
