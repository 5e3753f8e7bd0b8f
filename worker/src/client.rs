//! Calls to the coordinator: each has a deadline, each may be repeated, and each
//! is repeated until there is an answer.
//!
//! What a status means is decided here once. "Unavailable", "deadline exceeded",
//! "cancelled" and the like leave open whether the coordinator acted; since every
//! call may be repeated, it is. Several coordinators are taken in turn.
//!
//! A connection does not outlive its certificate: as soon as another one lies in the file,
//! the next call goes over a new connection. A token is read again when it is refused; while
//! the file holds the refused one, calls are repeated, and how long is the lease's to say.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use cakes_proto::bearer::{Bearer, BearerError};
use cakes_proto::v1::worker_service_client::WorkerServiceClient;
use cakes_tls::client::{ClientFiles, ConnectError, Connector};
use cakes_tls::files::{Stamp, stamp};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;
use tracing::{info, warn};

use crate::clock::since_boot;
use crate::metrics::metrics;

/// Largest request or answer; scores of a large supernet take about a megabyte.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between tries grow from the first to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// How often the certificate's file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long before a certificate ends a missing successor is complained about, and how often.
const EXPIRY_NOTICE: Duration = Duration::from_secs(3600);
const EXPIRY_COMPLAINTS: Duration = Duration::from_secs(300);
/// Reasons of FAILED_PRECONDITION that are about one call; all others say that
/// the lease or the incarnation is gone.
const WRONG_CALL: [&str; 2] = ["WRONG_STATE", "PROTOCOL_VERSION"];

/// A connection to one of the coordinators.
pub type Client = WorkerServiceClient<InterceptedService<Channel, Bearer>>;

/// An answer that repeating would not change.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The token or the incarnation is no longer current.
    #[error("{0}")]
    Stale(String),
    #[error("the coordinator misses entries: {message}")]
    OutOfRange { ack_seq: Option<u64>, message: String },
    #[error("{0}")]
    Refused(String),
    /// Who calls is refused, or the call as such, whatever it says: that passes with other
    /// rights, or with another coordinator.
    #[error("{0}")]
    Unwelcome(String),
}

/// An answer with the time at which its request was sent.
#[derive(Debug)]
pub struct Answer<T> {
    pub value: T,
    pub sent_at: Duration,
}

/// What says who this worker is.
#[derive(Debug, Default)]
pub struct Credentials {
    token_file: Option<PathBuf>,
    bearer: Bearer,
    files: ClientFiles,
}

impl Credentials {
    /// # Errors
    /// The file cannot be read or holds no token.
    pub fn read(token_file: Option<PathBuf>, files: ClientFiles) -> Result<Self, BearerError> {
        let bearer = token_file.as_deref().map_or_else(|| Ok(Bearer::default()), Bearer::from_file)?;
        Ok(Credentials { token_file, bearer, files })
    }

    /// The token, or none.
    pub fn bearer(&self) -> &Bearer {
        &self.bearer
    }

    /// # Errors
    /// Others could read them on their way to `url`.
    pub fn check_way(&self, url: &str) -> Result<(), BearerError> {
        self.bearer.check_way(url)
    }
}

/// The coordinators, one of them in use.
#[derive(Debug)]
pub struct Coordinator {
    endpoints: Vec<Endpoint>,
    token_file: Option<PathBuf>,
    files: ClientFiles,
    connector: Connector,
    current: Mutex<Current>,
    /// A call was answered: the token was one of this worker's.
    is_known: AtomicBool,
}

/// What calls go through now.
#[derive(Clone, Debug)]
struct Current {
    /// Grows with every coordinator that is left.
    number: usize,
    bearer: Bearer,
    client: Client,
    /// The certificate's file when the connection was made or its successor was noticed.
    certificate: Option<Stamp>,
    /// Since boot.
    looked_at: Duration,
    complained_at: Option<Duration>,
}

impl Coordinator {
    /// Connects when the first call is made, with what the files hold then.
    pub fn new(first: Endpoint, others: Vec<Endpoint>, credentials: Credentials) -> Self {
        let Credentials { token_file, bearer, files } = credentials;
        let first = with_deadlines(first);
        let connector = Connector::new(files.clone());
        let current = Current {
            number: 0,
            client: client(&connector, &first, &bearer),
            bearer,
            certificate: files.certificate.as_deref().map(stamp),
            looked_at: since_boot(),
            complained_at: None,
        };
        let endpoints = std::iter::once(first).chain(others.into_iter().map(with_deadlines)).collect();
        Coordinator {
            endpoints,
            token_file,
            files,
            connector,
            current: Mutex::new(current),
            is_known: AtomicBool::new(false),
        }
    }

    /// Repeats a call until the coordinator has answered it for good.
    ///
    /// # Errors
    /// The answer is a refusal.
    pub async fn persist<T, F>(
        &self,
        call: &'static str,
        operation: impl Fn(Client) -> F,
    ) -> Result<Answer<T>, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut pause = PAUSE_FIRST;
        let mut failures = 0_u32;
        loop {
            let Current { number, bearer, client, .. } = self.current();
            let sent_at = since_boot();
            let status = match operation(client).await {
                Ok(response) => {
                    self.is_known.store(true, Ordering::Relaxed);
                    if failures > 0 {
                        info!(call, failures, "the coordinator answers again");
                    }
                    return Ok(Answer { value: response.into_inner(), sent_at });
                }
                Err(status) => status,
            };
            if status.code() == Code::Unauthenticated && self.has_new_token(number, &bearer) {
                info!(call, "the token is refused; the file has another one, which is used from now on");
                continue;
            }
            let may_follow = status.code() == Code::Unauthenticated && self.may_be_known_again();
            if let Some(error) = refusal(&status).filter(|_| !may_follow) {
                return Err(error);
            }
            failures += 1;
            metrics().call_failures.add([call], 1);
            if failures.is_power_of_two() {
                let reason = ConnectError::within(&status).map(ToString::to_string);
                let reason = reason.as_deref().unwrap_or(status.message());
                warn!(call, failures, code = ?status.code(), "no answer: {reason}");
            }
            self.leave(number);
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }

    /// Whether another certificate or token is to be expected, until which the lease decides:
    /// certificates end, tokens are revoked before others are issued. A token that was never
    /// taken is a wrong one.
    fn may_be_known_again(&self) -> bool {
        let had_token = self.token_file.is_some() && self.is_known.load(Ordering::Relaxed);
        self.files.certificate.is_some() || had_token
    }

    fn current(&self) -> Current {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.follow_certificate(&mut current);
        current.clone()
    }

    /// Turns to a new connection when another certificate lies in the file. Calls under way
    /// end on the old one.
    fn follow_certificate(&self, current: &mut Current) {
        let Some(path) = &self.files.certificate else { return };
        let now = since_boot();
        if now < current.looked_at + LOOK_INTERVAL {
            return;
        }
        current.looked_at = now;
        let found = Some(stamp(path));
        // Key and certificate are replaced one by one: until they are of each other, the
        // connection with the old ones goes on.
        if found != current.certificate && self.files.config().is_ok() {
            info!("another certificate is in place; connecting with it");
            current.certificate = found;
            current.client = self.connect(current.number, &current.bearer);
            current.complained_at = None;
        } else if current.complained_at.is_none_or(|at| now > at + EXPIRY_COMPLAINTS) {
            current.complained_at = self.complain().then_some(now).or(current.complained_at);
        }
    }

    /// Says that the certificate ends soon or has ended; whether it does.
    fn complain(&self) -> bool {
        let Ok(Some(end)) = self.files.expires_at() else { return false };
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        if left > EXPIRY_NOTICE {
            return false;
        }
        let end = humantime::format_rfc3339_seconds(end);
        warn!(%end, "the certificate of --cert-file ends and no other one is there; jobs are lost with it");
        true
    }

    /// A client of the coordinator whose turn it is, which connects when it is used.
    fn connect(&self, number: usize, bearer: &Bearer) -> Client {
        client(&self.connector, &self.endpoints[number % self.endpoints.len()], bearer)
    }

    /// Turns from a coordinator that does not answer to the next one, over a new
    /// connection. Does nothing if another call already did.
    fn leave(&self, number: usize) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.number == number {
            current.number = number.wrapping_add(1);
            current.client = self.connect(current.number, &current.bearer);
        }
    }

    /// Whether there is another token than the one that was refused: tokens are renewed
    /// without a restart.
    fn has_new_token(&self, number: usize, refused: &Bearer) -> bool {
        let Some(file) = &self.token_file else { return false };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !current.bearer.is_same(refused) {
            return true;
        }
        match Bearer::from_file(file) {
            Ok(bearer) if !bearer.is_same(refused) => {
                current.client = self.connect(number, &bearer);
                (current.number, current.bearer) = (number, bearer);
                true
            }
            Ok(_) => false,
            Err(problem) => {
                warn!("{problem}");
                false
            }
        }
    }
}

pub(crate) fn client(connector: &Connector, endpoint: &Endpoint, bearer: &Bearer) -> Client {
    WorkerServiceClient::with_interceptor(connector.connect_lazy(endpoint), bearer.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn with_deadlines(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// What makes a status final; none if the call is worth repeating.
fn refusal(status: &Status) -> Option<CallError> {
    let message = status.message().to_owned();
    match status.code() {
        Code::FailedPrecondition => {
            let details = status.get_error_details();
            let reason = details.error_info().map_or("", |info| info.reason.as_str());
            if WRONG_CALL.contains(&reason) {
                return Some(CallError::Refused(message));
            }
            Some(CallError::Stale(message))
        }
        Code::NotFound => Some(CallError::Stale(message)),
        Code::OutOfRange => {
            let details = status.get_error_details();
            let ack_seq = details.error_info().and_then(|info| info.metadata.get("ack_seq")?.parse().ok());
            Some(CallError::OutOfRange { ack_seq, message })
        }
        Code::InvalidArgument | Code::AlreadyExists => Some(CallError::Refused(message)),
        Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
            Some(CallError::Unwelcome(message))
        }
        _ => None,
    }
}

/// Between half and the whole of `pause`, so that many daemons do not call at once.
pub fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    pause.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn unknown_outcomes_are_repeated_and_refusals_are_not() {
        for code in [
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Cancelled,
            Code::Unknown,
            Code::Internal,
            Code::Aborted,
            Code::ResourceExhausted,
        ] {
            assert!(refusal(&Status::new(code, "")).is_none(), "{code:?}");
        }
        assert!(matches!(refusal(&Status::invalid_argument("")), Some(CallError::Refused(_))));
        for code in [Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented] {
            assert!(matches!(refusal(&Status::new(code, "")), Some(CallError::Unwelcome(_))), "{code:?}");
        }
    }

    fn with_reason(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let details = tonic_types::ErrorDetails::with_error_info(
            reason,
            "cakes.v1",
            metadata.collect::<HashMap<_, _>>(),
        );
        Status::with_error_details(code, "", details)
    }

    #[test]
    fn a_lost_lease_is_told_from_a_call_that_does_not_fit() {
        let of = |reason| refusal(&with_reason(Code::FailedPrecondition, reason, &[]));
        assert!(matches!(of("LEASE_LOST"), Some(CallError::Stale(_))));
        assert!(matches!(of("STALE_INCARNATION"), Some(CallError::Stale(_))));
        assert!(matches!(of("WRONG_STATE"), Some(CallError::Refused(_))));
        assert!(matches!(refusal(&Status::failed_precondition("")), Some(CallError::Stale(_))));
    }

    #[test]
    fn the_coordinator_may_say_what_it_has() {
        let gap = with_reason(Code::OutOfRange, "SEQUENCE_GAP", &[("ack_seq", "7")]);
        assert!(matches!(refusal(&gap), Some(CallError::OutOfRange { ack_seq: Some(7), .. })));
        let silent = Status::out_of_range("gap");
        assert!(matches!(refusal(&silent), Some(CallError::OutOfRange { ack_seq: None, .. })));
    }
}
