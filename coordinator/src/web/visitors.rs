//! How often one address may ask for something of the page.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::Failure;
use crate::core::address::counted;
use crate::core::throttle::{Limits, Refused, Throttle, Who};
use crate::refusals;

/// Who asked how often. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Visitors {
    began: Instant,
    throttle: Arc<Mutex<Throttle>>,
}

impl Visitors {
    pub(super) fn new(limits: Limits) -> Self {
        Visitors { began: Instant::now(), throttle: Arc::new(Mutex::new(Throttle::new(limits))) }
    }

    /// The answer to whoever asks too often. What is under way does not count: questions to
    /// the database wait for each other, and whoever listens for changes costs nothing.
    pub(super) fn refuse(&self, address: SocketAddr) -> Option<Response> {
        let who = Who::Stranger(counted(address.ip()));
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        let entered = throttle.enter(&who, self.began.elapsed());
        if entered.is_ok() {
            throttle.leave(&who);
        }
        drop(throttle);
        let Err(Refused::TooFast { retry_after }) = entered else { return None };
        refusals::call("page", &who);
        let message = "your address asks for more than one may; try again in a moment".to_owned();
        let failure = Failure::new(StatusCode::TOO_MANY_REQUESTS, "TOO_FAST", message);
        let mut response = failure.into_response();
        let seconds = HeaderValue::from(retry_after.as_secs() + 1);
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
        Some(response)
    }
}
