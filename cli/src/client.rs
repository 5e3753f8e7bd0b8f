//! The connection to the coordinator.

use std::time::Duration;

use cakes_proto::bearer::{Bearer, BearerError};
use cakes_proto::v1::architecture_service_client::ArchitectureServiceClient;
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use cakes_proto::v1::job_service_client::JobServiceClient;
use cakes_proto::v1::search_service_client::SearchServiceClient;
use cakes_proto::v1::webhook_service_client::WebhookServiceClient;
use cakes_telemetry::trace::TraceContext;
use cakes_tls::client::{ClientFiles, ConnectError, Connector};
use serde::Serialize;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use crate::args::GlobalArguments;
use crate::error::CommandError;
use crate::settings::{self, Context, DEFAULT_PORT, DEFAULT_SERVER, Wanted};
use crate::traced;

/// Largest accepted answer, in bytes: a thousand searches with all their fields.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Variable that holds a token itself.
const TOKEN_VARIABLE: &str = "CAKES_TOKEN";

/// A connection whose calls say who makes them.
pub type Wire = InterceptedService<Channel, Caller>;

/// What every call says: who makes it, and which trace it belongs to.
#[derive(Clone)]
pub struct Caller {
    bearer: Bearer,
    trace: Option<TraceContext>,
}

impl Interceptor for Caller {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut request = self.bearer.call(request)?;
        if let Some(trace) = &self.trace {
            trace.insert_into(request.metadata_mut());
        }
        Ok(request)
    }
}

/// A connected client.
pub struct Client {
    wire: Wire,
    bearer: Bearer,
    server: String,
    files: ClientFiles,
    shows_calls: bool,
}

/// Calls one method, with its grpcurl equivalent shown if that was asked for.
macro_rules! rpc {
    ($client:expr, $service:ident . $method:ident, $name:literal, $request:expr) => {{
        let request = $request;
        $client.show_equivalent($name, &request);
        match $client.$service().$method(request).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err($client.failed(status)),
        }
    }};
}
pub(crate) use rpc;

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The address makes no sense, or nobody answers there; the token cannot be read, or
    /// others could read it on its way.
    pub async fn connect(global: &GlobalArguments) -> Result<Self, CommandError> {
        let wanted = Wanted { server: global.server.as_deref(), context: global.context.as_deref() };
        let context = settings::coordinator(wanted)?;
        let files = context.files(global.files());
        let server = with_scheme(&context.server, &files)?;
        files.check([server.as_str()]).map_err(CommandError::invalid)?;
        let bearer = bearer(global, &context)?;
        bearer.check_way(&server)?;
        let endpoint = Endpoint::from_shared(server.clone())
            .map_err(|error| CommandError::invalid(format!("--server {server}: {error}")))?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let channel = Connector::new(files.clone()).connect(&endpoint).await;
        let channel = channel.map_err(|error| unreachable(&server, &error))?;
        let wire =
            InterceptedService::new(channel, Caller { bearer: bearer.clone(), trace: traced::current() });
        Ok(Client { wire, bearer, server, files, shows_calls: global.verbose })
    }

    pub fn searches(&self) -> SearchServiceClient<Wire> {
        SearchServiceClient::new(self.wire.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn jobs(&self) -> JobServiceClient<Wire> {
        JobServiceClient::new(self.wire.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn architectures(&self) -> ArchitectureServiceClient<Wire> {
        ArchitectureServiceClient::new(self.wire.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn fleet(&self) -> FleetServiceClient<Wire> {
        FleetServiceClient::new(self.wire.clone())
    }

    pub fn webhooks(&self) -> WebhookServiceClient<Wire> {
        WebhookServiceClient::new(self.wire.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// What a call that failed says. Who speaks plain HTTP/2 to a port with TLS gets no answer
    /// that HTTP/2 knows.
    pub(crate) fn failed(&self, status: Status) -> CommandError {
        if self.server.starts_with("http://") && is_garbled(&status) {
            let cause = "what answers there is no plain HTTP/2; write https:// where it serves with TLS";
            let (server, cause) = (self.server.clone(), cause.to_owned());
            return CommandError::Distrust { server, cause, is_refused: false };
        }
        CommandError::Server(Box::new(status))
    }

    pub(crate) fn show_equivalent<T: Serialize>(&self, method: &str, request: &T) {
        if self.shows_calls {
            let shown = grpcurl(&self.server, &self.files, self.bearer.is_some(), method, request);
            eprintln!("{shown}");
        }
    }
}

/// The token: of the command line, of the environment, of the context.
fn bearer(global: &GlobalArguments, context: &Context) -> Result<Bearer, BearerError> {
    if let Some(file) = &global.token_file {
        return Bearer::from_file(file);
    }
    match std::env::var(TOKEN_VARIABLE) {
        Ok(token) if !token.is_empty() => Bearer::new(&token, TOKEN_VARIABLE),
        _ => context.token_file.as_deref().map_or_else(|| Ok(Bearer::default()), Bearer::from_file),
    }
}

/// Whether a call that ended so may be tried again as it is: the coordinator
/// went away or restarts.
pub fn is_interruption(status: &Status) -> bool {
    use tonic::Code::{Cancelled, Unavailable, Unknown};
    if matches!(ConnectError::within(status), Some(known) if !matches!(known, ConnectError::Tcp(_))) {
        return false;
    }
    let broken = matches!(status.code(), Cancelled | Unknown) && std::error::Error::source(status).is_some();
    // A connection that breaks in the middle of a stream shows as INTERNAL.
    status.code() == Unavailable || broken || is_garbled(status)
}

fn is_garbled(status: &Status) -> bool {
    status.code() == tonic::Code::Internal && status.message().contains("h2 protocol error")
}

/// The URL of a coordinator. One that is given as `HOST` or `HOST:PORT` gets its scheme, https where
/// there are certificates, and its port; a URL is left as it is.
///
/// # Errors
/// Another scheme than http and https, or no host.
pub fn with_scheme(server: &str, files: &ClientFiles) -> Result<String, CommandError> {
    let scheme = match server.split_once("://") {
        None if *files == ClientFiles::default() => "http",
        None => "https",
        Some(("http" | "https", _)) => return uri(server, server).map(|_| server.to_owned()),
        Some((scheme, _)) => {
            return Err(CommandError::invalid(format!(
                "{server}: {scheme} is not supported; give http://HOST:PORT or https://HOST:PORT"
            )));
        }
    };
    let given = format!("{scheme}://{server}");
    match uri(server, &given)?.authority() {
        Some(authority) if authority.port().is_none() => {
            let url = format!("{scheme}://{authority}:{DEFAULT_PORT}");
            uri(server, &url).map(|_| url)
        }
        _ => Ok(given),
    }
}

/// What was `given` for a coordinator, taken apart.
fn uri(given: &str, url: &str) -> Result<Uri, CommandError> {
    let wrong = || {
        CommandError::invalid(format!(
            "'{given}' is no address like {DEFAULT_SERVER} or gpu-01:{DEFAULT_PORT}"
        ))
    };
    url.parse::<Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty())).ok_or_else(wrong)
}

/// Nobody there, or one of the two does not want the other.
fn unreachable(server: &str, error: &tonic::transport::Error) -> CommandError {
    let server = server.to_owned();
    match ConnectError::within(error) {
        None | Some(ConnectError::Tcp(_)) => CommandError::Unreachable { server, cause: innermost(error) },
        Some(known) => CommandError::Distrust {
            server,
            cause: known.to_string(),
            is_refused: matches!(known, ConnectError::Refused(_)),
        },
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The command that makes the same call with grpcurl; a token is in its variable then.
fn grpcurl<T: Serialize>(
    server: &str,
    files: &ClientFiles,
    with_token: bool,
    method: &str,
    request: &T,
) -> String {
    let json = serde_json::to_string(request).unwrap_or_else(|_| "{}".to_owned());
    let (scheme, address) = server.split_once("://").unwrap_or(("http", server));
    let address = address.trim_end_matches('/');
    let named = [("cacert", &files.ca), ("cert", &files.certificate), ("key", &files.key)];
    let how = match scheme {
        "https" => named
            .iter()
            .filter_map(|(flag, file)| {
                Some(format!("-{flag} {} ", quoted(&file.as_ref()?.display().to_string())))
            })
            .collect(),
        _ => "-plaintext ".to_owned(),
    };
    let token = if with_token { r#"-H "authorization: Bearer $CAKES_TOKEN" "# } else { "" };
    format!("grpcurl {how}{token}-d {} {address} cakes.v1.{method}", quoted(&json))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use cakes_proto::v1::CancelSearchRequest;

    use super::*;

    #[test]
    fn the_grpcurl_equivalent_can_be_pasted_into_a_shell() {
        let request = CancelSearchRequest {
            id: "0198f3".into(),
            reason: "isn't needed".into(),
            ..CancelSearchRequest::default()
        };
        let plain = grpcurl(
            "http://127.0.0.1:7550/",
            &ClientFiles::default(),
            false,
            "SearchService/CancelSearch",
            &request,
        );
        assert_eq!(
            plain,
            r#"grpcurl -plaintext -d '{"id":"0198f3","reason":"isn'\''t needed"}' 127.0.0.1:7550 cakes.v1.SearchService/CancelSearch"#
        );
        let with_token = grpcurl(
            "http://127.0.0.1:7550",
            &ClientFiles::default(),
            true,
            "SearchService/CancelSearch",
            &request,
        );
        assert!(
            with_token.starts_with(r#"grpcurl -plaintext -H "authorization: Bearer $CAKES_TOKEN" -d "#),
            "{with_token}"
        );
        let shown = grpcurl("https://lab:7550", &files(), false, "FleetService/ListWorkers", &());
        assert_eq!(
            shown,
            "grpcurl -cacert '/c/ca.pem' -cert '/c/cert.pem' -d 'null' lab:7550 cakes.v1.FleetService/ListWorkers"
        );
    }

    fn files() -> ClientFiles {
        let file = |name: &str| Some(std::path::Path::new("/c").join(name));
        ClientFiles { ca: file("ca.pem"), certificate: file("cert.pem"), key: None }
    }

    #[test]
    fn a_server_needs_no_scheme_but_may_not_have_another() {
        let none = ClientFiles::default();
        assert_eq!(with_scheme("host:1", &none).unwrap(), "http://host:1");
        assert_eq!(with_scheme("host:1", &files()).unwrap(), "https://host:1");
        assert_eq!(with_scheme("https://host:1", &none).unwrap(), "https://host:1");
        assert!(with_scheme("ftp://host:1", &none).is_err());
    }

    #[test]
    fn a_host_alone_is_called_where_coordinators_listen_and_not_at_port_80() {
        let none = ClientFiles::default();
        assert_eq!(with_scheme("gpu-head", &none).unwrap(), "http://gpu-head:7550");
        assert_eq!(with_scheme("gpu-head/", &files()).unwrap(), "https://gpu-head:7550");
        assert_eq!(with_scheme("[::1]", &none).unwrap(), "http://[::1]:7550");
        // A proxy's, with the port of its scheme.
        assert_eq!(with_scheme("https://lab", &none).unwrap(), "https://lab");
        for wrong in ["", "http://", "gpu head", "::1", "gpu-head:", "gpu-head:port"] {
            let said = with_scheme(wrong, &none).unwrap_err().to_string();
            assert!(said.contains(&format!("'{wrong}'")) && said.contains("7550"), "{said}");
        }
    }
}
