//! A connection that is closed when its peer says nothing, asks nothing or takes nothing.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::Limits;
use super::activity::Activity;
use super::places::{Holder, Place};
use crate::core::identity::Certified;
use crate::metrics::OpenConnection;
use crate::refusals;

/// A connection that counts against the limits while it lives.
pub struct Connection {
    stream: Stream,
    pub address: SocketAddr,
    /// None in plain text, and where no certificate was shown.
    pub certified: Option<Certified>,
    pub activity: Activity,
    /// Whether its address had many, so that it gives way to others.
    pub is_one_of_many: bool,
    watch: Watch,
    _held: Held,
}

/// What a connection gives back when it ends: its places, and its count.
pub(super) type Held = (OwnedSemaphorePermit, Place<IpAddr>, Option<Place<Holder>>, OpenConnection);

pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is known of the peer's patience with us, and ours with it.
struct Watch {
    port: &'static str,
    limits: Limits,
    accepted: Instant,
    has_spoken: bool,
    next_look: Pin<Box<Sleep>>,
    /// While the peer takes nothing: when we stop waiting.
    gives_up: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub(super) fn new(
        stream: Stream,
        port: &'static str,
        address: SocketAddr,
        certified: Option<Certified>,
        held: Held,
        limits: Limits,
    ) -> Self {
        let accepted = Instant::now();
        let watch = Watch {
            port,
            limits,
            accepted,
            has_spoken: false,
            next_look: Box::pin(sleep_until(accepted + limits.first_byte_timeout)),
            gives_up: None,
        };
        let (activity, is_one_of_many) = (Activity::default(), held.1.is_one_of_many());
        Connection { stream, address, certified, activity, is_one_of_many, watch, _held: held }
    }

    /// Notes how a write went, and ends waiting for a peer that takes nothing.
    fn wrote<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.watch.gives_up = None;
            return polled;
        }
        let stall = self.watch.limits.stall_timeout;
        let gives_up = self.watch.gives_up.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(gives_up.as_mut().poll(context));
        Poll::Ready(Err(self.close("stalled")))
    }

    fn close(&self, reason: &'static str) -> io::Error {
        refusals::connection(self.watch.port, reason, self.address.ip());
        io::Error::new(io::ErrorKind::TimedOut, reason)
    }
}

impl Watch {
    /// Ready with a reason to close the connection.
    fn poll_over(&mut self, activity: &Activity, context: &mut Context<'_>) -> Poll<&'static str> {
        loop {
            ready!(self.next_look.as_mut().poll(context));
            let now = Instant::now();
            if !self.has_spoken {
                return Poll::Ready("silent");
            }
            if let Some(reason) = activity.over(self.accepted, now, &self.limits) {
                return Poll::Ready(reason);
            }
            let next = now.max(self.accepted + self.limits.first_request_timeout);
            // Often enough that neither lasts half as long again as it should.
            let interval = self.limits.idle_timeout.min(self.limits.stall_timeout) / 2;
            let next = if next > now { next } else { now + interval };
            self.next_look.as_mut().reset(next);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buffer.filled().len();
        let polled = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        this.watch.has_spoken |= buffer.filled().len() > filled;
        if let Poll::Ready(reason) = this.watch.poll_over(&this.activity, context) {
            return Poll::Ready(Err(this.close(reason)));
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        this.wrote(context, polled)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.stream {
            // Nothing is held back, so this says nothing of the peer.
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => {
                let polled = Pin::new(stream).poll_flush(context);
                this.wrote(context, polled)
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        };
        this.wrote(context, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        };
        this.wrote(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
