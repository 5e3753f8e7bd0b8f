//! Accepting connections, with a limit and without spinning, in plain text or with TLS.
//!
//! tonic's own loop takes every connection and repeats a failing `accept` at
//! once; out of file descriptors it would burn a core and tell nobody. Handshakes go on
//! beside the loop, so that a slow one keeps nobody waiting.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::core::identity::Certified;
use crate::metrics::{OpenConnection, metrics};
use crate::tls::{Purpose, Tls};

/// Pause after a failed `accept`.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Time for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that is refused is listened to for so long and so many bytes, so that it reads why.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
const FAREWELL_BYTES_MAX: u64 = 64 << 10;

/// All connections of a listener.
pub struct Accepting {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    port: &'static str,
    tls: Option<(Tls, Purpose)>,
    handshakes: JoinSet<Option<Connection>>,
}

/// A connection that counts against the limit while it lives.
pub struct Connection {
    stream: Stream,
    pub address: SocketAddr,
    /// None in plain text, and where no certificate was shown.
    pub certified: Option<Certified>,
    _permit: Permit,
}

/// A place among the connections.
type Permit = (OwnedSemaphorePermit, OpenConnection);

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Accepting {
    /// At most so many connections at a time; more wait in the system's backlog. `port`: what
    /// it is called in metrics.
    pub fn new(
        listener: TcpListener,
        port: &'static str,
        connections_max: usize,
        tls: Option<(Tls, Purpose)>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max));
        Accepting { listener, permits, port, tls, handshakes: JoinSet::new() }
    }

    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection, ready to be served. None never comes: the semaphore is never
    /// closed.
    pub async fn next(&mut self) -> Option<Connection> {
        loop {
            let (stream, address, permit) = tokio::select! {
                Some(shaken) = self.handshakes.join_next() => match shaken {
                    Ok(Some(connection)) => return Some(connection),
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::error!(%error, "a handshake ended by a defect");
                        continue;
                    }
                },
                accepted = accept(&self.listener, &self.permits, self.port) => accepted?,
            };
            let Some((tls, purpose)) = self.tls.clone() else {
                return Some(Connection {
                    stream: Stream::Plain(stream),
                    address,
                    certified: None,
                    _permit: permit,
                });
            };
            self.handshakes.spawn(shake_hands(tls, purpose, self.port, stream, address, permit));
        }
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    port: &'static str,
) -> Option<(TcpStream, SocketAddr, Permit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection keeps Nagle's delay");
                }
                return Some((stream, address, (permit, OpenConnection::of(port))));
            }
            Err(error) => {
                metrics().connections_refused.add([port, "accept"], 1);
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn shake_hands(
    tls: Tls,
    purpose: Purpose,
    port: &'static str,
    stream: TcpStream,
    address: SocketAddr,
    permit: Permit,
) -> Option<Connection> {
    let accepting = TlsAcceptor::from(tls.config(purpose)).accept(stream).into_fallible();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
        Ok(Ok(stream)) => {
            let certified = tls.certified(stream.get_ref().1);
            Some(Connection { stream: Stream::Tls(Box::new(stream)), address, certified, _permit: permit })
        }
        Ok(Err((error, stream))) => {
            metrics().connections_refused.add([port, "handshake"], 1);
            tls.failed(address, &error);
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, say_farewell(stream)).await;
            None
        }
        Err(_) => {
            metrics().connections_refused.add([port, "slow_handshake"], 1);
            tls.failed(address, &io::Error::new(io::ErrorKind::TimedOut, "it took longer than 5 s"));
            None
        }
    }
}

/// Closing over bytes that were not read would reset the connection, and the peer might
/// never read why it is refused.
async fn say_farewell(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await.map(drop)
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
