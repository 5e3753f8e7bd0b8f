//! What the requests of a connection tell the connection: that there are some, and that
//! their answers are taken. A connection that has none, or takes none, is closed.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::Limits;

/// Requests of one connection. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// The end of the last request; None before the first one.
    last_end: Option<Instant>,
    has_begun: bool,
    /// Since when each request's answer waits to be taken; None while it does not.
    under_way: HashMap<u64, Option<Instant>>,
    next: u64,
}

/// A request that is under way while this lives.
#[derive(Debug)]
pub struct UnderWay {
    activity: Activity,
    id: u64,
}

impl Activity {
    /// The head of a request has come.
    pub fn begin(&self) -> UnderWay {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        inner.has_begun = true;
        inner.under_way.insert(id, None);
        UnderWay { activity: self.clone(), id }
    }

    /// Why the connection is to be closed, if it is.
    pub(super) fn over(&self, accepted: Instant, now: Instant, limits: &Limits) -> Option<&'static str> {
        let inner = self.lock();
        if !inner.has_begun {
            return (now - accepted >= limits.first_request_timeout).then_some("no_request");
        }
        if inner.under_way.is_empty() {
            let since = inner.last_end.unwrap_or(accepted);
            return (now - since >= limits.idle_timeout).then_some("idle");
        }
        let waits = |since: &Option<Instant>| since.is_some_and(|since| now - since >= limits.stall_timeout);
        inner.under_way.values().any(waits).then_some("stalled")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// The answer, which is under way until it is taken or given up.
    pub fn answer(self, response: Response) -> Response {
        // With a window of nothing its body is never asked for.
        self.waits(true);
        response.map(|inner| Body::new(Answer { inner, request: self }))
    }

    fn waits(&self, is_waiting: bool) {
        let since = is_waiting.then(Instant::now);
        self.activity.lock().under_way.insert(self.id, since);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut inner = self.activity.lock();
        inner.under_way.remove(&self.id);
        inner.last_end = Some(Instant::now());
    }
}

/// A body that says whether somebody takes it.
struct Answer {
    inner: Body,
    request: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        // Whoever asks has taken what was before; whoever was given something asks again
        // when it has room for more.
        self.request.waits(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;

    use super::*;

    const LIMITS: Limits = Limits {
        first_request_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(300),
        stall_timeout: Duration::from_secs(120),
        ..Limits::DEFAULT
    };

    async fn over(activity: &Activity, accepted: Instant, seconds: u64) -> Option<&'static str> {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        activity.over(accepted, Instant::now(), &LIMITS)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_over_without_a_request_and_long_after_the_last_one() {
        let (activity, accepted) = (Activity::default(), Instant::now());
        assert_eq!(over(&activity, accepted, 9).await, None);
        assert_eq!(over(&activity, accepted, 1).await, Some("no_request"));
        let request = activity.begin();
        assert_eq!(over(&activity, accepted, 1000).await, None, "a request that takes long");
        drop(request);
        assert_eq!(over(&activity, accepted, 299).await, None);
        assert_eq!(over(&activity, accepted, 1).await, Some("idle"));
        drop(activity.begin());
        assert_eq!(over(&activity, accepted, 0).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_ends_the_connection() {
        let (activity, accepted) = (Activity::default(), Instant::now());
        let (sender, pieces) = futures::channel::mpsc::unbounded::<Result<Bytes, std::io::Error>>();
        let answer = activity.begin().answer(Response::new(Body::from_stream(pieces)));
        assert_eq!(over(&activity, accepted, 119).await, None);
        let mut body = answer.into_body().into_data_stream();
        sender.unbounded_send(Ok(Bytes::from_static(b"news"))).unwrap();
        assert!(body.next().await.unwrap().is_ok());
        assert_eq!(over(&activity, accepted, 119).await, None);
        // Nothing comes for hours: whoever listens waits, and not the answer.
        assert!(futures::poll!(body.next()).is_pending());
        assert_eq!(over(&activity, accepted, 100_000).await, None);
        sender.unbounded_send(Ok(Bytes::from_static(b"more"))).unwrap();
        assert!(body.next().await.unwrap().is_ok());
        assert_eq!(over(&activity, accepted, 120).await, Some("stalled"));
        drop(body);
        assert_eq!(over(&activity, accepted, 0).await, None);
    }
}
