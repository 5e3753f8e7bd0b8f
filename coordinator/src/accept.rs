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
//!
//! A loop that is [apart](Accepting::apart) runs on threads that give way to those that serve,
//! and so does, from the handshake on, what an address has beyond a few connections.

pub mod activity;
mod connection;
mod places;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

pub use connection::Connection;

use crate::metrics::{OpenConnection, metrics};
use crate::refusals;
use crate::runtimes::Runtimes;
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
    runtimes: Runtimes,
}

/// Connections as they come, ready to be served: where this one says, and where what gives way does.
/// There are never more than there are places.
pub struct Arrivals {
    pub ordinary: UnboundedReceiver<Connection>,
    pub crowded: UnboundedReceiver<Connection>,
}

/// A connection that was accepted, with its places.
type Accepted = (TcpStream, SocketAddr, Held);

impl Accepting {
    /// Everything about it is done where this is called. `port`: what it is called in metrics.
    pub fn new(
        listener: TcpListener,
        port: &'static str,
        limits: Limits,
        tls: Option<(Tls, Purpose)>,
    ) -> Self {
        let (places, handshakes) = (Places::new(&limits), JoinSet::new());
        Accepting { listener, places, port, limits, tls, handshakes, runtimes: Runtimes::one() }
    }

    /// Accepts where `runtimes` says, until nobody takes what comes any more.
    ///
    /// # Errors
    /// The system does not let the listener move.
    pub fn apart(mut self, runtimes: &Runtimes, tasks: &TaskTracker) -> io::Result<Arrivals> {
        let listener = self.listener.into_std()?;
        self.listener = {
            let _entered = runtimes.accepting.enter();
            TcpListener::from_std(listener)?
        };
        self.runtimes = runtimes.clone();
        let ((ordinary, to_ordinary), (crowded, to_crowded)) = (channel(), channel());
        tasks.spawn_on(self.hand_out(to_ordinary, to_crowded), &runtimes.accepting);
        Ok(Arrivals { ordinary, crowded })
    }

    async fn hand_out(mut self, ordinary: UnboundedSender<Connection>, crowded: UnboundedSender<Connection>) {
        loop {
            let connection = tokio::select! {
                () = ordinary.closed() => return,
                () = crowded.closed() => return,
                connection = self.next() => connection,
            };
            let Some(connection) = connection else { return };
            let to = if connection.is_one_of_many { &crowded } else { &ordinary };
            // Whoever served has stopped: the connection is closed.
            let _ = to.send(connection);
        }
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
            let runtime = match held.1.is_one_of_many() {
                true => &self.runtimes.crowded,
                false => &self.runtimes.serving,
            };
            let stream = match moved(stream, runtime) {
                Ok(stream) => stream,
                Err(error) => {
                    metrics().connections_refused.add([self.port, "accept"], 1);
                    tracing::warn!(%error, "a connection was accepted and cannot be served");
                    continue;
                }
            };
            let Some((tls, purpose)) = self.tls.clone() else {
                // For its timers.
                let _entered = runtime.enter();
                let stream = Stream::Plain(stream);
                return Some(Connection::new(stream, self.port, address, None, held, self.limits));
            };
            let handshake =
                Handshake { tls, purpose, port: self.port, places: self.places.clone(), limits: self.limits };
            self.handshakes.spawn_on(handshake.run(stream, address, held), runtime);
        }
    }
}

fn channel() -> (UnboundedReceiver<Connection>, UnboundedSender<Connection>) {
    let (sender, receiver) = unbounded_channel();
    (receiver, sender)
}

/// The stream, woken by the threads of `runtime`.
fn moved(stream: TcpStream, runtime: &Handle) -> io::Result<TcpStream> {
    let stream = stream.into_std()?;
    let _entered = runtime.enter();
    TcpStream::from_std(stream)
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
