//! Tells browsers what to fetch again.
//!
//! One task looks for all of them, and only while somebody listens. A browser that
//! lost the connection connects again by itself and fetches everything anew, so
//! nothing need be remembered for it, and any coordinator will do.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::Stream;
use serde_json::json;
use tokio::sync::broadcast;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;

use super::Web;
use super::access::may_still_read;
use crate::shutdown::Shutdown;
use crate::store::PgPool;
use crate::store::read::events::{self, Mark};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(700);

/// Messages that a slow browser may be behind; then it fetches everything.
const BACKLOG: usize = 16;

/// After so long a browser should try to connect again.
const RECONNECT: Duration = Duration::from_secs(1);

/// What every listener hears.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    sender: Arc<broadcast::Sender<String>>,
    stop: CancellationToken,
}

impl Changes {
    /// Starts the task that looks, among those of `shutdown`.
    pub(super) fn new(pool: PgPool, shutdown: &Shutdown) -> Self {
        let sender = Arc::new(broadcast::Sender::new(BACKLOG));
        let changes = Changes { sender, stop: shutdown.stop.clone() };
        shutdown.tasks.spawn(changes.clone().look(pool));
        changes
    }

    async fn look(self, pool: PgPool) {
        let mut mark: Option<Mark> = None;
        while self.stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            if self.sender.receiver_count() == 0 {
                mark = None;
                continue;
            }
            match events::changes(&pool, mark).await {
                Ok(found) => {
                    // What happened before the first look is in no list.
                    let more = found.more || mark.is_none();
                    let is_news = mark != Some(found.mark);
                    mark = Some(found.mark);
                    if is_news {
                        let message = json!({
                            "more": more, "searches": found.searches, "jobs": found.jobs,
                            "workers": found.workers,
                        });
                        // Whoever listened may have gone.
                        let _ = self.sender.send(message.to_string());
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot look for changes"),
            }
        }
    }
}

/// One message at once, and one after every change.
pub(super) async fn stream(
    State(web): State<Web>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let Changes { sender, stop } = web.changes.clone();
    let receiver = BroadcastStream::new(sender.subscribe());
    let everything = || json!({ "more": true }).to_string();
    let first = tokio_stream::once(Event::default().retry(RECONNECT).data(everything()));
    let later = receiver.map(move |message| {
        // A browser that has missed messages fetches everything.
        Event::default().data(message.unwrap_or_else(|_| everything()))
    });
    // Whoever may no longer read is told nothing more.
    let allowed = futures::StreamExt::take_while(first.chain(later), move |_| {
        let (web, headers) = (web.clone(), headers.clone());
        async move { may_still_read(&web, &headers).await }
    });
    let until_stopped = futures::StreamExt::take_until(allowed, stop.cancelled_owned());
    Sse::new(until_stopped.map(Ok)).keep_alive(KeepAlive::default())
}
