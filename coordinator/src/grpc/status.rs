//! The one place where errors become gRPC statuses.
//!
//! | code | means | caller |
//! |---|---|---|
//! | INVALID_ARGUMENT | fields named in `BadRequest` are wrong, or the whole is no request of the method | corrects them |
//! | NOT_FOUND, ALREADY_EXISTS | what the message names | asks for something else |
//! | UNAUTHENTICATED | nobody known calls, or with what does not hold; `ErrorInfo` says which | shows something else |
//! | PERMISSION_DENIED | `ErrorInfo` says whether by the role (method, role, needed_role), the owner or the project | asks whoever may |
//! | FAILED_PRECONDITION | the state forbids it; the reason is in `ErrorInfo` | stops, or changes the state |
//! | ABORTED | it is not as it was when the caller looked; its etag is in `ErrorInfo` | looks again |
//! | OUT_OF_RANGE | a message is too long; or report entries are missing, `ack_seq` is in `ErrorInfo` | asks for less at once; sends from there |
//! | CANCELLED | time was up; what was to be written may be | looks, or repeats the call |
//! | UNAVAILABLE, RESOURCE_EXHAUSTED | not now | repeats the call later: after what `RetryInfo` says, if there is one |
//! | INTERNAL | a defect; the log has details under the id in the message | reports it |

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use cakes::spec::{InvalidSpec, Violation};
use cakes_proto::WORKER_PROTOCOL;
use cakes_proto::convert::in_wire_terms;
use cakes_proto::method::Method;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::core::access::Role;
use crate::core::member::{NotMember, NotOwner, NotTheirs};
use crate::core::rights::{NotOwn, Refusal};
use crate::store;

/// Domain of every `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "cakes.v1";

/// Statuses travel in headers, which clients limit to 16 KiB. A byte takes up to three there in
/// the message, and one and a third in the details.
const VIOLATIONS_MAX: usize = 20;
const VIOLATIONS_BYTES_MAX: usize = 2500;
const PROBLEM_CHARS_MAX: usize = 300;

/// After so long somebody else's calls may have ended, and something of the queue.
const BUSY_PAUSE: Duration = Duration::from_millis(500);
const QUEUE_PAUSE: Duration = Duration::from_secs(30);

/// One field is wrong.
pub(super) fn invalid_field(field: impl Into<String>, problem: impl Display) -> Status {
    invalid("", &[Violation { field: field.into(), problem: problem.to_string() }])
}

/// Fields of a specification are wrong, which stands in the request under `parent`.
pub(super) fn invalid_spec(parent: &str, InvalidSpec(violations): &InvalidSpec) -> Status {
    invalid(parent, violations)
}

fn invalid(parent: &str, violations: &[Violation]) -> Status {
    let mut bytes = 0;
    let shown: Vec<(String, String)> = violations
        .iter()
        .take(VIOLATIONS_MAX)
        .map(|violation| (shorten(&path(parent, &violation.field)), shorten(&violation.problem)))
        .take_while(|(field, problem)| {
            let is_first = bytes == 0;
            bytes += field.len() + problem.len();
            is_first || bytes <= VIOLATIONS_BYTES_MAX
        })
        .collect();
    let mut lines: Vec<String> = shown.iter().map(|(field, problem)| format!("{field}: {problem}")).collect();
    if violations.len() > shown.len() {
        lines.push(format!("and {} more", violations.len() - shown.len()));
    }
    let fields: Vec<FieldViolation> =
        shown.into_iter().map(|(field, problem)| FieldViolation::new(field, problem)).collect();
    let mut details = ErrorDetails::with_bad_request(fields);
    details.set_error_info("INVALID_ARGUMENT", ERROR_DOMAIN, HashMap::new());
    Status::with_error_details(Code::InvalidArgument, lines.join("\n"), details)
}

fn path(parent: &str, field: &str) -> String {
    if parent.is_empty() || field == parent { field.to_owned() } else { format!("{parent}.{field}") }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(PROBLEM_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A status with a machine-readable reason.
fn with_reason<const N: usize>(
    code: Code,
    message: impl Into<String>,
    reason: &str,
    metadata: [(&str, String); N],
) -> Status {
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// Nothing of that kind has this identity.
pub(super) fn not_found(kind: &str, id: &str) -> Status {
    let id = shorten(id);
    let mut details = ErrorDetails::with_resource_info(kind, &id, "", "");
    details.set_error_info("NOT_FOUND", ERROR_DOMAIN, HashMap::new());
    Status::with_error_details(Code::NotFound, format!("there is no {kind} '{id}'"), details)
}

/// A worker speaks another version of the protocol.
pub(super) fn other_protocol(theirs: u32) -> Status {
    with_reason(
        Code::FailedPrecondition,
        format!(
            "the worker speaks protocol {theirs}, this coordinator {WORKER_PROTOCOL}; \
             install the same version of cakes on both"
        ),
        "PROTOCOL_VERSION",
        [("worker", theirs.to_string()), ("coordinator", WORKER_PROTOCOL.to_string())],
    )
}

/// The daemon stops; another call may reach its successor.
pub(super) fn shutting_down() -> Status {
    with_reason(Code::Unavailable, "the coordinator is shutting down; try again", "SHUTTING_DOWN", [])
}

/// More streams than the daemon serves at a time.
pub(super) fn too_many_streams(limit: usize) -> Status {
    with_reason(
        Code::ResourceExhausted,
        format!("{limit} streams are open, which is the limit; close some, or try again later"),
        "TOO_MANY_STREAMS",
        [],
    )
}

/// One caller has more under way than it may.
pub(super) fn too_many_calls(limit: usize) -> Status {
    let message =
        format!("you have {limit} calls and streams under way, which is the limit; wait for some to end");
    later(&message, "TOO_MANY_CALLS", BUSY_PAUSE)
}

/// One caller calls more often than it may.
pub(super) fn too_fast(retry_after: Duration) -> Status {
    let message = format!(
        "you call more often than one caller may; try again in {} ms, or send fewer, larger requests",
        retry_after.as_millis().max(1)
    );
    later(&message, "TOO_FAST", retry_after)
}

/// All callers together have more under way than is served.
pub(super) fn too_many_in_all(limit: usize) -> Status {
    busy(&format!("{limit} calls and streams are under way, which is the limit; try again in a moment"))
}

/// As much is queued as may be.
pub(super) fn queue_is_full(what: &str, limit: i64) -> Status {
    let message = format!("{limit} {what}, which is the limit; wait until some have ended, or cancel some");
    later(&message, "QUEUE_FULL", QUEUE_PAUSE)
}

/// A message is longer than its method takes.
pub(super) fn too_long(limit: usize) -> Status {
    let message =
        format!("the request is longer than the {limit} bytes that this method takes; ask for less at once");
    with_reason(Code::OutOfRange, message, "TOO_LONG", [("limit_bytes", limit.to_string())])
}

/// The bytes of a request are no message of its method.
pub(super) fn unreadable(method: Method, error: &dyn Display) -> Status {
    let message =
        format!("this is no request of {}: {error}; was it made for another version?", method.name());
    with_reason(Code::InvalidArgument, message, "UNREADABLE", [])
}

/// A call's time is up.
pub(super) fn took_too_long(limit: Duration) -> Status {
    let message = format!(
        "the call took longer than {}; what it was to change may be changed all the same, so look, or repeat it \
         with the same ids",
        humantime::format_duration(limit)
    );
    with_reason(Code::Cancelled, message, "CALL_TIMEOUT", [("limit_ms", limit.as_millis().to_string())])
}

/// Not now, but when that time has passed.
fn later(message: &str, reason: &str, retry_after: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// More calls than can be served now.
pub(super) fn busy(what: &dyn Display) -> Status {
    later(&what.to_string(), "BUSY", BUSY_PAUSE)
}

/// Nothing is served under this path.
pub(super) fn no_such_method(path: &str) -> Status {
    let message = format!("there is no method '{}'; server reflection lists those that are", shorten(path));
    Status::unimplemented(message)
}

/// What the caller shows of itself does not hold.
pub(super) fn unauthenticated(reason: &str, message: &str) -> Status {
    with_reason(Code::Unauthenticated, message, reason, [])
}

/// The table of rights does not permit it.
pub(super) fn not_permitted(refusal: &Refusal) -> Status {
    let (code, reason) = match refusal.is_of_nobody() {
        true => (Code::Unauthenticated, "IDENTITY_REQUIRED"),
        false => (Code::PermissionDenied, "ROLE_REQUIRED"),
    };
    let Refusal { method, role, needs, message } = refusal;
    let said = [("method", method.path()), ("role", role), ("needed_role", needs)];
    with_reason(code, message, reason, said.map(|(key, value)| (key, value.to_owned())))
}

/// A worker speaks of another one.
pub(super) fn not_own(refused: &NotOwn) -> Status {
    let said = [("caller", refused.caller.clone()), ("worker", refused.worker.clone())];
    with_reason(Code::PermissionDenied, refused.to_string(), "NOT_OWN", said)
}

/// Somebody changes what is not theirs to change.
pub(super) fn not_theirs(refused: &NotTheirs) -> Status {
    match refused {
        NotTheirs::Owner(refused) => not_owner(refused),
        NotTheirs::Member(refused) => not_member(refused),
    }
}

/// Somebody adds to a project of others, or changes something in it.
pub(super) fn not_member(refused: &NotMember) -> Status {
    let NotMember { caller, project, role } = refused;
    let role = role.map_or("", Role::as_str).to_owned();
    let said = [("caller", caller.clone()), ("project", project.clone()), ("role", role)];
    with_reason(Code::PermissionDenied, refused.to_string(), "NOT_MEMBER", said)
}

/// A submitter changes what somebody else submitted.
fn not_owner(refused: &NotOwner) -> Status {
    let NotOwner { caller, owner } = refused;
    let said = [("caller", caller.clone()), ("owner", owner.clone().unwrap_or_default())];
    with_reason(Code::PermissionDenied, refused.to_string(), "NOT_OWNER", said)
}

/// What is to be done cannot be recorded, and so is not done.
pub(super) fn not_recorded(error: store::Error) -> Status {
    if error.is_unavailable() {
        return error.into();
    }
    let message = "nothing was done, since it cannot be recorded; the coordinator's log says why";
    with_reason(Code::Unavailable, message, "NOT_RECORDED", [])
}

/// How an answer is called in the record, by the page as well.
pub(crate) fn audited(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Unauthenticated => "UNAUTHORIZED",
        Code::PermissionDenied => "FORBIDDEN",
        Code::NotFound => "NOT_FOUND",
        Code::InvalidArgument | Code::OutOfRange => "INVALID_ARGUMENT",
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => "WRONG_STATE",
        Code::ResourceExhausted => "BUSY",
        Code::Unavailable => "UNAVAILABLE",
        Code::Cancelled => "CANCELLED",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::DataLoss => "INTERNAL",
    }
}

/// A defect: details go to the log, the caller gets their id.
pub(super) fn internal(what: &dyn Display) -> Status {
    let id = uuid::Uuid::new_v4();
    tracing::error!(%id, error = %what, "a request failed for an internal reason");
    Status::internal(format!("internal error; the coordinator's log has it under {id}"))
}

impl From<store::Error> for Status {
    fn from(error: store::Error) -> Self {
        use store::Error as E;
        let message = error.to_string();
        match error {
            E::NotFound { kind, id } => not_found(kind, &id),
            E::Ambiguous { .. } => invalid_field("id", message),
            E::Conflict { request_id } => {
                with_reason(Code::AlreadyExists, message, "REQUEST_ID_REUSED", [("request_id", request_id)])
            }
            E::LeaseLost { current_epoch } => with_reason(
                Code::FailedPrecondition,
                message,
                "LEASE_LOST",
                [("current_epoch", current_epoch.to_string())],
            ),
            E::JobCancelled { job } => {
                with_reason(Code::FailedPrecondition, message, "JOB_CANCELLED", [("job_id", job.to_string())])
            }
            E::StaleIncarnation { current } => with_reason(
                Code::FailedPrecondition,
                message,
                "STALE_INCARNATION",
                [("current", current.to_string())],
            ),
            E::OutOfRange { ack_seq } => {
                with_reason(Code::OutOfRange, message, "SEQUENCE_GAP", [("ack_seq", ack_seq.to_string())])
            }
            E::Refused(_) | E::IllegalTransition(_) => {
                with_reason(Code::FailedPrecondition, message, "WRONG_STATE", [])
            }
            E::Changed { kind, id, etag } => with_reason(
                Code::Aborted,
                message,
                "CHANGED",
                [("resource", format!("{kind} {id}")), ("etag", etag.to_string())],
            ),
            E::InvalidSpec(spec) => invalid_spec("", &in_wire_terms(spec)),
            E::InvalidArgument { field, problem } => invalid_field(field, problem),
            E::Database { .. } | E::Connect { .. } if error.is_unavailable() => {
                tracing::warn!(error = %Chain(&error), "the database does not answer");
                with_reason(
                    Code::Unavailable,
                    "the coordinator's database does not answer; try again",
                    "DATABASE_UNAVAILABLE",
                    [],
                )
            }
            _ => internal(&Chain(&error)),
        }
    }
}

/// An error with its causes, for the log.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut error = Some(self.0);
        let mut separator = "";
        while let Some(cause) = error {
            write!(f, "{separator}{cause}")?;
            separator = ": ";
            error = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(status: &Status) -> Vec<String> {
        let details = status.get_error_details();
        let request = details.bad_request().unwrap();
        request.field_violations.iter().map(|violation| violation.field.clone()).collect()
    }

    #[test]
    fn violations_are_named_by_their_path_in_the_request() {
        let spec = InvalidSpec(vec![
            Violation { field: "patch".into(), problem: "too big".into() },
            Violation { field: "search".into(), problem: "is missing".into() },
        ]);
        let status = invalid_spec("search", &spec);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(fields(&status), ["search.patch", "search"]);
        assert_eq!(status.message(), "search.patch: too big\nsearch: is missing");
    }

    #[test]
    fn a_flood_of_violations_still_fits_into_a_header() {
        let flood = |problem: &str| {
            let violation = Violation { field: "budgets[7]".into(), problem: problem.repeat(5000) };
            let status = invalid_spec("search", &InvalidSpec(vec![violation; 1000]));
            let headers = status.clone().into_http::<()>().headers().clone();
            let bytes: usize =
                headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(bytes < 16 << 10, "{bytes}");
            status
        };
        for problem in ["a", "ä", "\u{1f370}", "\u{1}"] {
            let status = flood(problem);
            let shown = fields(&status).len();
            assert!(shown >= 1 && status.message().ends_with(&format!("and {} more", 1000 - shown)));
        }
        let short = Violation { field: "budgets[7]".into(), problem: "is too small".into() };
        assert_eq!(fields(&invalid_spec("search", &InvalidSpec(vec![short; 1000]))).len(), VIOLATIONS_MAX);
    }

    #[test]
    fn a_lost_lease_is_told_by_its_reason_not_by_its_text() {
        let status = Status::from(store::Error::LeaseLost { current_epoch: 7 });
        assert_eq!(status.code(), Code::FailedPrecondition);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.reason, "LEASE_LOST");
        assert_eq!(info.metadata["current_epoch"], "7");
        let status = Status::from(store::Error::OutOfRange { ack_seq: 12 });
        assert_eq!(status.code(), Code::OutOfRange);
        assert_eq!(status.get_error_details().error_info().unwrap().metadata["ack_seq"], "12");
    }
}
