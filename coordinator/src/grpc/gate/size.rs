//! Requests are as long as their method has to say: a longer one is refused by its first
//! five bytes, before memory is kept for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use cakes_proto::method::Method;
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::status;
use crate::core::size::{MESSAGE_BYTES_MAX, message_bytes_max};
use crate::core::throttle::Who;
use crate::refusals;

/// Before a message stand a byte for compression and four for its length.
pub(super) const FRAME_BYTES: usize = 5;

/// Long messages that are read at a time: they are few, and each takes up to 4 MiB.
const LONG_MAX: usize = 64;

/// Places for long messages. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Sizes(Arc<Semaphore>);

impl Default for Sizes {
    fn default() -> Self {
        Sizes(Arc::new(Semaphore::new(LONG_MAX)))
    }
}

impl Sizes {
    /// The body of a request that is one message.
    pub(super) fn limited(&self, body: Body, method: Method, who: Who) -> Body {
        let (most, places) = (message_bytes_max(method), Arc::clone(&self.0));
        Body::new(Limited { inner: body, who, most, head: [0; FRAME_BYTES], seen: 0, places, long: None })
    }
}

/// Why a body was refused, if it was because of a limit.
pub(super) fn refusal(error: &axum::Error) -> Option<Status> {
    let first = error as &(dyn std::error::Error + 'static);
    let mut causes = std::iter::successors(Some(first), |error| error.source());
    causes.find_map(|error| error.downcast_ref::<Status>()).cloned()
}

struct Limited {
    inner: Body,
    who: Who,
    most: usize,
    head: [u8; FRAME_BYTES],
    seen: usize,
    places: Arc<Semaphore>,
    /// A place among those of long messages.
    long: Option<OwnedSemaphorePermit>,
}

impl Limited {
    /// Looks at the next bytes.
    fn check(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let before = self.seen;
        for (place, byte) in self.head[before.min(FRAME_BYTES)..].iter_mut().zip(bytes) {
            *place = *byte;
        }
        self.seen += bytes.len();
        let [_, length @ ..] = self.head;
        let length = u32::from_be_bytes(length) as usize;
        let is_known = self.seen >= FRAME_BYTES;
        if (is_known && length > self.most) || self.seen > self.most + FRAME_BYTES {
            refusals::call("size", &self.who);
            return Err(status::too_long(self.most));
        }
        if is_known && length > MESSAGE_BYTES_MAX && self.long.is_none() {
            let place = Arc::clone(&self.places).try_acquire_owned();
            self.long = Some(place.map_err(|_| {
                refusals::call("busy", &self.who);
                status::busy(&"many long messages are read now; try again in a moment")
            })?);
        }
        Ok(())
    }
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
            && let Err(refused) = self.check(bytes)
        {
            return Poll::Ready(Some(Err(axum::Error::new(refused))));
        }
        Poll::Ready(frame)
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
    use std::net::{IpAddr, Ipv4Addr};

    use futures::StreamExt;
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;

    /// The code with which a body ends that comes in pieces.
    async fn end(method: Method, length: u32, sent: usize, piece: usize) -> Option<Code> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.resize(FRAME_BYTES + sent, 7);
        let pieces: Vec<_> = bytes.chunks(piece).map(|piece| Ok::<_, axum::Error>(piece.to_vec())).collect();
        let who = Who::Stranger(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let body = Body::from_stream(futures::stream::iter(pieces));
        let body = Sizes::default().limited(body, method, who);
        let mut pieces = body.into_data_stream();
        while let Some(piece) = pieces.next().await {
            if let Err(error) = piece {
                return Some(refusal(&error).unwrap_or_else(|| panic!("no status: {error:?}")).code());
            }
        }
        None
    }

    #[tokio::test]
    async fn a_length_is_refused_before_the_message_comes() {
        for piece in [1, 3, 5, 4096] {
            assert_eq!(end(Method::GetJob, 100, 100, piece).await, None);
            assert_eq!(end(Method::GetJob, 1 << 30, 0, piece).await, Some(Code::OutOfRange));
            assert_eq!(end(Method::GetJob, (256 << 10) + 1, 0, piece).await, Some(Code::OutOfRange));
            assert_eq!(end(Method::Complete, 4 << 20, 10, piece).await, None);
            assert_eq!(end(Method::Complete, (4 << 20) + 1, 10, piece).await, Some(Code::OutOfRange));
        }
        // Nor does more come than was said.
        assert_eq!(end(Method::GetJob, 10, (256 << 10) + 1, 4096).await, Some(Code::OutOfRange));
        assert_eq!(end(Method::GetJob, 256 << 10, 256 << 10, 4096).await, None);
    }

    #[tokio::test]
    async fn few_long_messages_are_read_at_a_time() {
        let sizes = Sizes::default();
        // Each says how long it is, and no more for now.
        let begin = |length: u32| {
            let head = [&[0_u8][..], &length.to_be_bytes()].concat();
            let pieces = futures::stream::iter([Ok::<_, axum::Error>(head)]);
            let body = Body::from_stream(pieces.chain(futures::stream::pending()));
            let who = Who::Stranger(IpAddr::V4(Ipv4Addr::LOCALHOST));
            sizes.limited(body, Method::Complete, who).into_data_stream()
        };
        let mut open = Vec::new();
        for _ in 0..LONG_MAX {
            let mut body = begin(1 << 20);
            assert!(body.next().await.unwrap().is_ok());
            open.push(body);
        }
        let error = begin(1 << 20).next().await.unwrap().unwrap_err();
        let refused = refusal(&error).unwrap();
        let details = refused.get_error_details();
        assert_eq!(
            (refused.code(), details.error_info().unwrap().reason.as_str()),
            (Code::ResourceExhausted, "BUSY")
        );
        assert!(details.retry_info().is_some(), "nobody says when to try again");
        assert!(begin(256 << 10).next().await.unwrap().is_ok(), "a short one is refused too");
        drop(open.pop());
        assert!(begin(1 << 20).next().await.unwrap().is_ok());
    }
}
