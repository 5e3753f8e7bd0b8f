//! Webhooks, and what they were told.

use cakes_proto::v1;
use cakes_proto::v1::webhook_service_server::WebhookService;
use tonic::{Request, Response, Status};

use super::search_service::request_id_if_given;
use super::status::invalid_field;
use super::{Api, labels, lookup, wire};
use crate::core::webhook::{DeliveryState, Secret, Target, WebhookEvent, message_id};
use crate::store::read::webhooks::{self, DeliveryRecord, WebhookRecord};
use crate::store::webhooks as writes;

const DELIVERIES_DEFAULT: i32 = 20;
const DELIVERIES_MAX: i32 = 200;

#[tonic::async_trait]
impl WebhookService for Api {
    async fn add_webhook(
        &self,
        request: Request<v1::AddWebhookRequest>,
    ) -> Result<Response<v1::Webhook>, Status> {
        let v1::AddWebhookRequest { request_id, url, events, secret, labels } = request.into_inner();
        let webhook = writes::NewWebhook {
            target: Target::parse(&url, self.allows_plain_webhooks)
                .map_err(|problem| invalid_field("url", problem))?,
            events: events_from_wire(&events)?,
            labels: labels::checked("labels", labels)?,
            secret: Secret::parse(&secret).map_err(|problem| invalid_field("secret", problem))?,
            request_id: request_id_if_given(request_id)?,
        };
        let id = self.write(move |pool| async move { writes::add(&pool, &webhook).await }).await?;
        let found = webhooks::list(self.reader()).await?.into_iter().find(|webhook| webhook.id == id);
        let found = found.ok_or_else(|| super::status::not_found("webhook", &id.to_string()))?;
        Ok(Response::new(webhook_to_wire(found)))
    }

    async fn list_webhooks(
        &self,
        _: Request<v1::ListWebhooksRequest>,
    ) -> Result<Response<v1::ListWebhooksResponse>, Status> {
        let found = webhooks::list(self.reader()).await?;
        let webhooks = found.into_iter().map(webhook_to_wire).collect();
        Ok(Response::new(v1::ListWebhooksResponse { webhooks }))
    }

    async fn remove_webhook(
        &self,
        request: Request<v1::RemoveWebhookRequest>,
    ) -> Result<Response<v1::RemoveWebhookResponse>, Status> {
        let id = lookup::webhook(self.reader(), "id", &request.into_inner().id).await?;
        self.write(move |pool| async move { writes::remove(&pool, id).await }).await?;
        Ok(Response::new(v1::RemoveWebhookResponse { id: id.to_string() }))
    }

    async fn test_webhook(
        &self,
        request: Request<v1::TestWebhookRequest>,
    ) -> Result<Response<v1::TestWebhookResponse>, Status> {
        let id = lookup::webhook(self.reader(), "id", &request.into_inner().id).await?;
        let ping = self.write(move |pool| async move { writes::ping(&pool, id).await }).await?;
        let found = webhooks::deliveries(self.reader(), id, DELIVERIES_MAX.into()).await?;
        let delivery = found.into_iter().find(|delivery| delivery.id == ping).map(delivery_to_wire);
        Ok(Response::new(v1::TestWebhookResponse { delivery }))
    }

    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        let v1::ListDeliveriesRequest { id, limit } = request.into_inner();
        let limit = match limit {
            ..0 => return Err(invalid_field("limit", format!("must be 0 or more, got {limit}"))),
            0 => DELIVERIES_DEFAULT,
            more => more.min(DELIVERIES_MAX),
        };
        let id = lookup::webhook(self.reader(), "id", &id).await?;
        let found = webhooks::deliveries(self.reader(), id, limit.into()).await?;
        let deliveries = found.into_iter().map(delivery_to_wire).collect();
        Ok(Response::new(v1::ListDeliveriesResponse { deliveries }))
    }
}

fn event_to_wire(event: WebhookEvent) -> v1::WebhookEvent {
    match event {
        WebhookEvent::SearchFinished => v1::WebhookEvent::SearchFinished,
        WebhookEvent::SearchFailed => v1::WebhookEvent::SearchFailed,
        WebhookEvent::JobFailed => v1::WebhookEvent::JobFailed,
        WebhookEvent::FrontPoint => v1::WebhookEvent::FrontPoint,
        WebhookEvent::Ping => v1::WebhookEvent::Ping,
    }
}

/// Events that can be asked for, each once.
fn events_from_wire(events: &[i32]) -> Result<Vec<WebhookEvent>, Status> {
    let known = |(index, event): (usize, &i32)| {
        let wanted = WebhookEvent::ALL.iter().copied().filter(|event| *event != WebhookEvent::Ping);
        wanted.into_iter().find(|candidate| i32::from(event_to_wire(*candidate)) == *event).ok_or_else(|| {
            invalid_field(format!("events[{index}]"), format!("{event} is no event that can be asked for"))
        })
    };
    let mut events = events.iter().enumerate().map(known).collect::<Result<Vec<_>, _>>()?;
    events.sort_unstable();
    events.dedup();
    if events.is_empty() {
        return Err(invalid_field("events", "is missing; give at least one"));
    }
    Ok(events)
}

fn webhook_to_wire(record: WebhookRecord) -> v1::Webhook {
    v1::Webhook {
        id: record.id.to_string(),
        url: record.url,
        events: record.events.into_iter().map(|event| event_to_wire(event).into()).collect(),
        labels: record.labels.into(),
        create_time: wire::time(record.create_time),
    }
}

fn delivery_to_wire(record: DeliveryRecord) -> v1::WebhookDelivery {
    let state = match record.state {
        DeliveryState::Pending => v1::DeliveryState::Pending,
        DeliveryState::Delivered => v1::DeliveryState::Delivered,
        DeliveryState::Failed => v1::DeliveryState::Failed,
    };
    let is_pending = record.state == DeliveryState::Pending;
    v1::WebhookDelivery {
        id: message_id(record.id),
        event: event_to_wire(record.event).into(),
        state: state.into(),
        attempt_count: u32::try_from(record.attempt_count).unwrap_or(0),
        last_status: record.last_status,
        last_error: record.last_error,
        create_time: wire::time(record.create_time),
        end_time: record.end_time.and_then(wire::time),
        next_attempt_time: wire::time(record.next_attempt_time).filter(|_| is_pending),
        payload: record.payload,
    }
}
