//! Streams that follow something until it has ended.
//!
//! A stream looks at a number that grows with every change, and reads the whole
//! only when it has grown. Nothing is remembered between two looks but that
//! number, so a watcher may reconnect to any coordinator. The stream belongs to
//! its connection: when the client goes away it is dropped, with all it holds.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status::{shutting_down, too_many_streams};
use crate::refusals;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// A stream of messages, as tonic wants it.
pub(super) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Something that changes until it has ended.
pub(super) trait Watched: Send + 'static {
    /// What is sent.
    type Message: Send;

    /// What is new behind the last call: nothing, some messages, the end.
    fn look(&mut self) -> impl Future<Output = Result<News<Self::Message>, Status>> + Send;
}

/// What a look found.
#[derive(Debug)]
pub(super) struct News<T> {
    pub messages: Vec<T>,
    pub then: Then,
}

/// What follows a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// There is more already.
    LookAgain,
    /// Everything is sent for now.
    Wait,
    /// Nothing will come any more.
    End,
}

/// Opens streams, as many as the limit allows, until the daemon stops.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    permits: Arc<Semaphore>,
    most: usize,
    stop: CancellationToken,
}

impl Streams {
    /// At most so many at a time, over all clients: each costs a query per look.
    pub(super) fn new(stop: CancellationToken, most: usize) -> Self {
        Streams { permits: Arc::new(Semaphore::new(most)), most, stop }
    }

    /// Asks everybody to end.
    pub(super) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// A stream of everything that `watched` finds.
    ///
    /// # Errors
    /// Too many streams are open.
    pub(super) fn open<W: Watched>(&self, watched: W) -> Result<Messages<W::Message>, Status> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| {
            refusals::call("watches", &"a stream");
            too_many_streams(self.most)
        })?;
        let follower = Follower { watched, stop: self.stop.clone(), next: Next::Look, _permit: permit };
        let batches = futures::stream::unfold(follower, |mut follower| async move {
            let batch = follower.next_batch().await?;
            Some((futures::stream::iter(batch), follower))
        });
        Ok(Box::pin(futures::StreamExt::flatten(batches)))
    }
}

struct Follower<W> {
    watched: W,
    stop: CancellationToken,
    next: Next,
    _permit: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Look,
    WaitAndLook,
    Nothing,
}

impl<W: Watched> Follower<W> {
    /// Messages to send next; none at the end.
    async fn next_batch(&mut self) -> Option<Vec<Result<W::Message, Status>>> {
        loop {
            match self.next {
                Next::Nothing => return None,
                Next::WaitAndLook => {
                    let pause = tokio::time::sleep(LOOK_INTERVAL);
                    self.stop.run_until_cancelled(pause).await;
                }
                Next::Look => {}
            }
            let news = tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(shutting_down()),
                news = self.watched.look() => news,
            };
            match news {
                Ok(News { messages, then }) => {
                    self.next = match then {
                        Then::LookAgain => Next::Look,
                        Then::Wait => Next::WaitAndLook,
                        Then::End => Next::Nothing,
                    };
                    if !messages.is_empty() {
                        return Some(messages.into_iter().map(Ok).collect());
                    }
                }
                Err(status) => {
                    self.next = Next::Nothing;
                    return Some(vec![Err(status)]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    const MOST: usize = 7;

    /// Counts up to a number, then ends.
    struct Counter {
        now: u32,
        last: u32,
    }

    impl Watched for Counter {
        type Message = u32;

        async fn look(&mut self) -> Result<News<u32>, Status> {
            self.now += 1;
            let then = if self.now >= self.last { Then::End } else { Then::Wait };
            Ok(News { messages: vec![self.now], then })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_what_it_follows() {
        let streams = Streams::new(CancellationToken::new(), MOST);
        let stream = streams.open(Counter { now: 0, last: 3 }).unwrap();
        let sent: Vec<u32> = stream.map(Result::unwrap).collect().await;
        assert_eq!(sent, [1, 2, 3]);
        assert_eq!(streams.permits.available_permits(), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_every_stream_with_unavailable() {
        let stop = CancellationToken::new();
        let mut stream = Streams::new(stop.clone(), MOST).open(Counter { now: 0, last: u32::MAX }).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        stop.cancel();
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn streams_beyond_the_limit_are_refused_and_closed_ones_make_room() {
        let streams = Streams::new(CancellationToken::new(), MOST);
        let open: Vec<_> = (0..MOST).map(|_| streams.open(Counter { now: 0, last: 1 })).collect();
        let refused = streams.open(Counter { now: 0, last: 1 }).err().unwrap();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(open);
        assert!(streams.open(Counter { now: 0, last: 1 }).is_ok());
    }
}
