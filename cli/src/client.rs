//! The connection to the coordinator.

use std::time::Duration;

use cakes_proto::bearer::{Bearer, BearerError};
use cakes_proto::v1::architecture_service_client::ArchitectureServiceClient;
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use cakes_proto::v1::job_service_client::JobServiceClient;
use cakes_proto::v1::search_service_client::SearchServiceClient;
use cakes_proto::v1::webhook_service_client::WebhookServiceClient;
use serde::Serialize;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::args::GlobalArguments;
use crate::error::CommandError;
use crate::settings::{self, Context, Wanted};

/// Largest accepted answer, in bytes: a thousand searches with all their fields.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Variable that holds a token itself.
const TOKEN_VARIABLE: &str = "CAKES_TOKEN";

/// A connection whose calls say who makes them.
pub type Wire = InterceptedService<Channel, Bearer>;

/// A connected client.
pub struct Client {
    wire: Wire,
    bearer: Bearer,
    address: String,
    shows_calls: bool,
}

/// Calls one method, with its grpcurl equivalent shown if that was asked for.
macro_rules! rpc {
    ($client:expr, $service:ident . $method:ident, $name:literal, $request:expr) => {{
        let request = $request;
        $client.show_equivalent($name, &request);
        match $client.$service().$method(request).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err($crate::error::CommandError::Server(Box::new(status))),
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
        let server = with_scheme(&context.server)?;
        let bearer = bearer(global, &context)?;
        bearer.check_way(&server)?;
        let endpoint = Endpoint::from_shared(server.clone())
            .map_err(|error| CommandError::invalid(format!("--server {server}: {error}")))?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let address = server.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| CommandError::Unreachable { server, cause: innermost(&error) })?;
        let wire = InterceptedService::new(channel, bearer.clone());
        Ok(Client { wire, bearer, address, shows_calls: global.verbose })
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

    pub(crate) fn show_equivalent<T: Serialize>(&self, method: &str, request: &T) {
        if self.shows_calls {
            eprintln!("{}", grpcurl(&self.address, self.bearer.is_some(), method, request));
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
    let broken = matches!(status.code(), Cancelled | Unknown) && std::error::Error::source(status).is_some();
    // A connection that breaks in the middle of a stream shows as INTERNAL.
    let cut = status.code() == tonic::Code::Internal && status.message().contains("h2 protocol error");
    status.code() == Unavailable || broken || cut
}

/// `HOST:PORT` with its scheme.
///
/// # Errors
/// Another scheme than http.
pub fn with_scheme(server: &str) -> Result<String, CommandError> {
    match server.split_once("://") {
        None => Ok(format!("http://{server}")),
        Some(("http", _)) => Ok(server.to_owned()),
        Some((scheme, _)) => {
            Err(CommandError::invalid(format!("{server}: {scheme} is not supported; give http://HOST:PORT")))
        }
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
fn grpcurl<T: Serialize>(address: &str, with_token: bool, method: &str, request: &T) -> String {
    let json = serde_json::to_string(request).unwrap_or_else(|_| "{}".to_owned());
    let quoted = json.replace('\'', r"'\''");
    let token = if with_token { r#" -H "authorization: Bearer $CAKES_TOKEN""# } else { "" };
    format!("grpcurl -plaintext{token} -d '{quoted}' {address} cakes.v1.{method}")
}

#[cfg(test)]
mod tests {
    use cakes_proto::v1::CancelSearchRequest;

    use super::*;

    #[test]
    fn the_grpcurl_equivalent_can_be_pasted_into_a_shell() {
        let request = CancelSearchRequest { id: "0198f3".into(), reason: "isn't needed".into() };
        assert_eq!(
            grpcurl("127.0.0.1:7550", false, "SearchService/CancelSearch", &request),
            r#"grpcurl -plaintext -d '{"id":"0198f3","reason":"isn'\''t needed"}' 127.0.0.1:7550 cakes.v1.SearchService/CancelSearch"#
        );
        let with_token = grpcurl("127.0.0.1:7550", true, "SearchService/CancelSearch", &request);
        assert!(
            with_token.starts_with(r#"grpcurl -plaintext -H "authorization: Bearer $CAKES_TOKEN" -d "#),
            "{with_token}"
        );
    }

    #[test]
    fn a_server_needs_no_scheme_but_may_not_have_another() {
        assert_eq!(with_scheme("host:1").unwrap(), "http://host:1");
        assert_eq!(with_scheme("http://host:1").unwrap(), "http://host:1");
        assert!(with_scheme("https://host:1").is_err());
    }
}
