//! Webhooks and what they were told.

use cakes_proto::v1;
use chrono::{DateTime, Utc};

use super::{ID_LENGTH, ago, dash, labels};
use crate::format;
use crate::output::Align::{Left, Right};
use crate::output::Rows;

fn event(event: v1::WebhookEvent) -> String {
    event.as_str_name().trim_start_matches("WEBHOOK_EVENT_").to_lowercase().replace('_', "-")
}

/// Webhooks, one a row.
pub fn webhooks(webhooks: &[v1::Webhook], now: DateTime<Utc>) -> Rows {
    let length = format::id_length(webhooks.iter().map(|webhook| webhook.id.as_str()), ID_LENGTH);
    let mut rows =
        Rows::new([("ID", Left), ("URL", Left), ("EVENTS", Left), ("LABELS", Left), ("ADDED", Left)]);
    for webhook in webhooks {
        rows.push(vec![
            format::short_id(&webhook.id, length).to_owned(),
            webhook.url.clone(),
            webhook.events().map(event).collect::<Vec<_>>().join(","),
            dash(&labels(&webhook.labels)),
            ago(webhook.create_time.as_ref(), now),
        ]);
    }
    rows
}

/// Deliveries, one a row.
pub fn deliveries(deliveries: &[v1::WebhookDelivery], now: DateTime<Utc>) -> Rows {
    let mut rows = Rows::new([
        ("ID", Left),
        ("EVENT", Left),
        ("STATE", Left),
        ("TRIES", Right),
        ("STATUS", Right),
        ("HAPPENED", Left),
        ("WHY", Left),
    ]);
    for delivery in deliveries {
        rows.push(vec![
            delivery.id.clone(),
            event(delivery.event()),
            delivery.state().as_str_name().trim_start_matches("DELIVERY_STATE_").to_lowercase(),
            delivery.attempt_count.to_string(),
            delivery.last_status.map_or("-".to_owned(), |status| status.to_string()),
            ago(delivery.create_time.as_ref(), now),
            delivery.last_error.clone(),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_shows_how_its_last_request_went() {
        let delivery = v1::WebhookDelivery {
            id: "msg_1".into(),
            event: v1::WebhookEvent::FrontPoint.into(),
            state: v1::DeliveryState::Pending.into(),
            attempt_count: 2,
            last_status: Some(500),
            last_error: "answered 500".into(),
            ..v1::WebhookDelivery::default()
        };
        let rows = deliveries(&[delivery], DateTime::UNIX_EPOCH);
        assert_eq!(rows.rows()[0], ["msg_1", "front-point", "pending", "2", "500", "-", "answered 500"]);
    }
}
