//! Who calls, what they are told, and what the coordinator counts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::bearer::Bearer;
use cakes_proto::v1::ListProjectsRequest;
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use cakes_tests::fake::connect;
use cakes_tests::scrape::{Scrape, get_over_tls, said_address};
use cakes_tests::{Cluster, until};
use cakes_tls::client::ClientFiles;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whoever is not answered within it waits.
pub const A_MOMENT: Duration = Duration::from_millis(500);

/// A connection of its own, with a token or without.
pub type Client = InterceptedService<Channel, Bearer>;

/// A stream that does not end by itself, and that no other limit counts.
pub type Lasting = Response<Streaming<HealthCheckResponse>>;

/// Somebody new, who may do everything.
pub async fn operator(cluster: &Cluster, name: &str) -> Result<Bearer> {
    Ok(Bearer::new(&cluster.token(name, "operator").await?, name)?)
}

pub fn client(cluster: &Cluster, who: &Bearer) -> Result<Client> {
    Ok(InterceptedService::new(connect(&cluster.url())?, who.clone()))
}

/// An ordinary call.
pub async fn ask(client: &Client) -> Result<(), Status> {
    let mut fleet = FleetServiceClient::new(client.clone());
    fleet.list_projects(ListProjectsRequest::default()).await.map(drop)
}

/// Asks until there is an answer: places of what has ended are free a moment later.
pub async fn ask_again(client: &Client) -> Result<()> {
    until("a call is served again", PATIENCE, async || Ok(ask(client).await.ok())).await
}

/// Opens a stream, as soon as places of others that have ended are free.
pub async fn lasting(client: &Client) -> Result<Lasting> {
    until("a stream begins", PATIENCE, async || {
        Ok(HealthClient::new(client.clone()).watch(HealthCheckRequest::default()).await.ok())
    })
    .await
}

/// Checks that a call was refused for this reason; when to call again, if that is said.
pub fn told<T>(answer: Result<T, Status>, reason: &str) -> Result<Option<Duration>> {
    let status = answer.err().with_context(|| format!("what should be refused as {reason} is served"))?;
    let details = status.get_error_details();
    let said = details.error_info().map(|info| (info.domain.as_str(), info.reason.as_str()));
    ensure!(
        status.code() == Code::ResourceExhausted && said == Some(("cakes.v1", reason)),
        "{reason}: {status:?}"
    );
    Ok(details.retry_info().and_then(|info| info.retry_delay))
}

/// The metrics of a coordinator.
pub struct Metrics {
    address: String,
    /// With TLS: of whoever asks for them.
    files: Option<ClientFiles>,
}

impl Metrics {
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let (mark, files) = match cluster.url().starts_with("https") {
            true => ("has metrics on https://", Some(cluster.user_files())),
            false => ("has metrics on http://", None),
        };
        Ok(Metrics { address: said_address(&cluster.coordinator_log()?, mark)?, files })
    }

    /// The sum of a metric's series with these labels; 0 where there is none.
    pub async fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let scrape = match &self.files {
            None => Scrape::read(&self.address).await?,
            Some(files) => {
                let (status, text) = get_over_tls(&self.address, files, "").await?;
                ensure!(status == 200, "{status}: {text}");
                Scrape::parse(&text)?
            }
        };
        Ok(scrape.sum(name, labels).unwrap_or(0.0))
    }

    pub async fn calls_refused(&self, reason: &str) -> Result<f64> {
        self.sum("cakes_calls_refused_total", &[("reason", reason)]).await
    }

    /// Of the API's port.
    pub async fn connections_refused(&self, reason: &str) -> Result<f64> {
        self.sum("cakes_connections_refused_total", &[("port", "api"), ("reason", reason)]).await
    }
}
