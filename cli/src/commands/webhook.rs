//! `cakes webhook`: who is told when something has happened.

use std::path::PathBuf;

use cakes_proto::v1;
use chrono::Utc;
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::remark::LabelFilter;
use crate::args::GlobalArguments;
use crate::client::{Client, rpc};
use crate::error::{CommandError, Outcome};
use crate::{output, tables};

#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Post events to an address from now on, signed as Standard Webhooks says.
    ///
    /// The address is https, except on the coordinator's own machine. The secret is 24 to
    /// 64 bytes as base64; the receiver needs it too, and nothing ever shows it again.
    #[command(
        after_help = "Examples:\n  cakes webhook add https://hooks.example/cakes --event search-failed --secret-file secret.txt\n  cakes webhook add https://hooks.example --event front-point --label a=b --secret-file secret.txt"
    )]
    Add(AddArguments),
    /// List webhooks, oldest first.
    #[command(after_help = "Example:\n  cakes webhook list")]
    List,
    /// Send nothing more to a webhook, and forget its secret.
    #[command(after_help = "Example:\n  cakes webhook remove 0198f3a2-7c1e")]
    Remove(WebhookId),
    /// Send a ping; `cakes webhook deliveries` shows whether it arrived.
    #[command(after_help = "Example:\n  cakes webhook test 0198f3a2-7c1e")]
    Test(WebhookId),
    /// List the last deliveries, newest first; with -o json with their content.
    #[command(after_help = "Example:\n  cakes webhook deliveries 0198f3a2-7c1e --limit 5")]
    Deliveries {
        #[command(flatten)]
        webhook: WebhookId,
        /// Most deliveries to list, 200 at the most.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=200))]
        limit: i32,
    },
}

#[derive(Debug, Args)]
pub struct WebhookId {
    /// Id of the webhook, or a prefix that only one has.
    id: String,
}

#[derive(Debug, Args)]
pub struct AddArguments {
    /// Where to post.
    url: String,
    /// What to tell of.
    #[arg(long = "event", value_enum, value_delimiter = ',', required = true)]
    events: Vec<EventName>,
    /// File with the secret: `openssl rand -base64 32 > secret.txt` makes one.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    #[command(flatten)]
    filter: LabelFilter,
    /// The same id returns the first webhook instead of a second one.
    #[arg(long, value_name = "ID", default_value = "")]
    request_id: String,
}

/// Events as people type them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EventName {
    /// All jobs of a search have succeeded.
    SearchFinished,
    /// A search has ended with a job that failed for good.
    SearchFailed,
    /// A job has failed for good.
    JobFailed,
    /// An architecture is on the front of its search for the first time.
    FrontPoint,
}

impl From<EventName> for v1::WebhookEvent {
    fn from(name: EventName) -> Self {
        match name {
            EventName::SearchFinished => v1::WebhookEvent::SearchFinished,
            EventName::SearchFailed => v1::WebhookEvent::SearchFailed,
            EventName::JobFailed => v1::WebhookEvent::JobFailed,
            EventName::FrontPoint => v1::WebhookEvent::FrontPoint,
        }
    }
}

/// # Errors
/// The coordinator is away or refuses.
pub async fn run(global: &GlobalArguments, command: WebhookCommand) -> Result<Outcome, CommandError> {
    let client = Client::connect(global).await?;
    let width = output::terminal_width();
    match command {
        WebhookCommand::Add(arguments) => {
            let webhook = add(&client, arguments).await?;
            output::print(global.output, &webhook, |webhook| {
                tables::webhooks(std::slice::from_ref(webhook), Utc::now()).render(width)
            })?;
        }
        WebhookCommand::List => {
            let request = v1::ListWebhooksRequest {};
            let all = rpc!(client, webhooks.list_webhooks, "WebhookService/ListWebhooks", request)?;
            output::print(global.output, &all, |all| match all.webhooks.as_slice() {
                [] => "no webhooks; add one with `cakes webhook add URL`".to_owned(),
                webhooks => tables::webhooks(webhooks, Utc::now()).render(width),
            })?;
        }
        WebhookCommand::Remove(WebhookId { id }) => {
            let request = v1::RemoveWebhookRequest { id };
            let gone = rpc!(client, webhooks.remove_webhook, "WebhookService/RemoveWebhook", request)?;
            output::print(global.output, &gone, |gone| format!("webhook {} removed", gone.id))?;
        }
        WebhookCommand::Test(WebhookId { id }) => {
            let request = v1::TestWebhookRequest { id: id.clone() };
            let response = rpc!(client, webhooks.test_webhook, "WebhookService/TestWebhook", request)?;
            output::print(global.output, &response, |response| {
                let ping = response.delivery.as_ref().map(|ping| ping.id.as_str()).unwrap_or_default();
                format!("ping {ping} queued; see how it went with\n  cakes webhook deliveries {id}")
            })?;
        }
        WebhookCommand::Deliveries { webhook: WebhookId { id }, limit } => {
            let request = v1::ListDeliveriesRequest { id, limit };
            let found = rpc!(client, webhooks.list_deliveries, "WebhookService/ListDeliveries", request)?;
            output::print(global.output, &found, |found| match found.deliveries.as_slice() {
                [] => "nothing was sent yet".to_owned(),
                deliveries => tables::deliveries(deliveries, Utc::now()).render(width),
            })?;
        }
    }
    Ok(Outcome::Done)
}

async fn add(client: &Client, arguments: AddArguments) -> Result<v1::Webhook, CommandError> {
    let AddArguments { url, events, secret_file, filter, request_id } = arguments;
    let secret =
        std::fs::read_to_string(&secret_file).map_err(|error| CommandError::file(&secret_file, error))?;
    let request_id = if request_id.is_empty() { Uuid::new_v4().to_string() } else { request_id };
    let request = v1::AddWebhookRequest {
        request_id,
        url,
        events: events.into_iter().map(|name| v1::WebhookEvent::from(name).into()).collect(),
        secret: secret.trim().to_owned(),
        labels: filter.labels(),
    };
    let shown = v1::AddWebhookRequest { secret: "SECRET".to_owned(), ..request.clone() };
    client.show_equivalent("WebhookService/AddWebhook", &shown);
    let added = client.webhooks().add_webhook(request).await;
    added.map(tonic::Response::into_inner).map_err(|status| CommandError::Server(Box::new(status)))
}
