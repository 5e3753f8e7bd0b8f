//! The web page and the JSON behind it.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;

use crate::served::{request, with_served};

/// A request of a browser.
pub fn page(bytes: &[u8]) {
    let Some(request) = request(bytes) else { return };
    let asked = request.uri().clone();
    with_served(|served| {
        let response = served.ask(&served.page, request);
        let status = response.status();
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{asked}");
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind == "application/json" {
            let body = served.body(response);
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
            assert!(
                is_json || body.is_empty(),
                "{asked} is answered with {}",
                String::from_utf8_lossy(&body)
            );
        }
    });
}
