//! Accepting connections, with limits and without spinning, in plain text or with TLS.
//!
//! tonic's own loop takes every connection and repeats a failing `accept` at
//! once; out of file descriptors it would burn a core and tell nobody. Handshakes go on
//! beside the loop, so that a slow one keeps nobody waiting.
//!
//! ```text
//!  accept ─► place of the port ─► place of the address ─► (TLS) first byte ─► handshake
//!              └ waits              └ closed, also if too often  └ closed         │
//!  served ◄─ place of the identity ◄────────────────────────────────────────────┘
//!    └ closed: silent, no request in time, idle, takes no answer
//! ```

pub mod activity;
mod connection;
mod places;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

pub use connection::Connection;

use crate::metrics::{OpenConnection, metrics};
use crate::refusals;
use crate::tls::{Purpose, Tls};
use connection::{Held, Stream};
use places::Places;

/// Pause after a failed `accept`.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A peer that is refused is listened to for so long and so many bytes, so that it reads why.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
const FAREWELL_BYTES_MAX: u64 = 64 << 10;

/// How many connections there may be, and how long each may do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the port; more wait in the system's backlog.
    pub connections: usize,
    /// Of one address, and never more than half of all.
    pub connections_per_address: usize,
    /// New ones of one address per second, once as many as it may have came at once.
    pub connection_rate_per_address: u32,
    /// Of whoever a certificate names.
    pub connections_per_identity: usize,
    /// TLS handshakes at a time, of one address a quarter of them; more wait.
    pub handshakes: usize,
    /// For a handshake, and for the wait for it.
    pub handshake_timeout: Duration,
    /// Until a peer says anything.
    pub first_byte_timeout: Duration,
    /// Until its first request has begun.
    pub first_request_timeout: Duration,
    /// Without any request.
    pub idle_timeout: Duration,
    /// Without taking what it asked for.
    pub stall_timeout: Duration,
}

impl Limits {
    /// Room for 5,000 workers, a fifth of them behind one address.
    pub const DEFAULT: Limits = Limits {
        connections: 8192,
        connections_per_address: 1024,
        connection_rate_per_address: 100,
        connections_per_identity: 256,
        handshakes: 256,
        handshake_timeout: Duration::from_secs(5),
        first_byte_timeout: Duration::from_secs(5),
        first_request_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(300),
        stall_timeout: Duration::from_secs(120),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

/// All connections of a listener.
pub struct Accepting {
    listener: TcpListener,
    places: Places,
    port: &'static str,
    limits: Limits,
    tls: Option<(Tls, Purpose)>,
    handshakes: JoinSet<Option<Connection>>,
}

/// A connection that was accepted, with its places.
type Accepted = (TcpStream, SocketAddr, Held);

impl Accepting {
    /// `port`: what it is called in metrics.
    pub fn new(
        listener: TcpListener,
        port: &'static str,
        limits: Limits,
        tls: Option<(Tls, Purpose)>,
    ) -> Self {
        Accepting { listener, places: Places::new(&limits), port, limits, tls, handshakes: JoinSet::new() }
    }

    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection, ready to be served. None never comes: places do not end.
    pub async fn next(&mut self) -> Option<Connection> {
        loop {
            let (stream, address, held) = tokio::select! {
                Some(shaken) = self.handshakes.join_next() => match shaken {
                    Ok(Some(connection)) => return Some(connection),
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::error!(%error, "a handshake ended by a defect");
                        continue;
                    }
                },
                accepted = accept(&self.listener, &self.places, self.port) => accepted?,
            };
            let Some((tls, purpose)) = self.tls.clone() else {
                let stream = Stream::Plain(stream);
                return Some(Connection::new(stream, self.port, address, None, held, self.limits));
            };
            let handshake =
                Handshake { tls, purpose, port: self.port, places: self.places.clone(), limits: self.limits };
            self.handshakes.spawn(handshake.run(stream, address, held));
        }
    }
}

async fn accept(listener: &TcpListener, places: &Places, port: &'static str) -> Option<Accepted> {
    let place = places.one().await?;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let of_address = match places.of_address(address.ip()) {
                    Ok(of_address) => of_address,
                    Err(reason) => {
                        refusals::connection(port, reason, address.ip());
                        continue;
                    }
                };
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection keeps Nagle's delay");
                }
                return Some((stream, address, (place, of_address, None, OpenConnection::of(port))));
            }
            Err(error) => {
                metrics().connections_refused.add([port, "accept"], 1);
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// What a handshake needs.
struct Handshake {
    tls: Tls,
    purpose: Purpose,
    port: &'static str,
    places: Places,
    limits: Limits,
}

impl Handshake {
    async fn run(self, stream: TcpStream, address: SocketAddr, mut held: Held) -> Option<Connection> {
        let Handshake { tls, purpose, port, places, limits } = self;
        // Whoever says nothing takes no place of a handshake. A new stream may be called
        // readable without being so; only a byte is one.
        if timeout(limits.first_byte_timeout, stream.peek(&mut [0])).await.is_err() {
            refusals::connection(port, "silent", address.ip());
            return None;
        }
        let place = timeout(limits.handshake_timeout, places.handshake(address.ip())).await;
        let Ok(Some(place)) = place else {
            refusals::connection(port, "handshakes", address.ip());
            return None;
        };
        let accepting = TlsAcceptor::from(tls.config(purpose)).accept(stream).into_fallible();
        let shaken = timeout(limits.handshake_timeout, accepting).await;
        drop(place);
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, stream))) => {
                metrics().connections_refused.add([port, "handshake"], 1);
                tls.failed(address, &error);
                let _ = timeout(FAREWELL_TIMEOUT, say_farewell(stream)).await;
                return None;
            }
            Err(_) => {
                metrics().connections_refused.add([port, "slow_handshake"], 1);
                tls.failed(address, &io::Error::new(io::ErrorKind::TimedOut, "it took too long"));
                return None;
            }
        };
        let certified = tls.certified(stream.get_ref().1);
        if let Some(certified) = &certified {
            held.2 = places.of_identity(certified);
            if held.2.is_none() {
                refusals::connection(port, "identity", address.ip());
                return None;
            }
        }
        Some(Connection::new(Stream::Tls(Box::new(stream)), port, address, certified, held, limits))
    }
}

/// Closing over bytes that were not read would reset the connection, and the peer might
/// never read why it is refused.
async fn say_farewell(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await.map(drop)
}
