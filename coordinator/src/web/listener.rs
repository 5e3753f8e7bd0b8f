//! Connections of browsers, as many as are worth having.

use std::future;
use std::io;
use std::net::SocketAddr;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::accept::Connection;
use crate::accept::activity::Activity;

/// Connections at a time; more wait in the system's backlog. A browser has six.
pub const CONNECTIONS_MAX: usize = 512;

/// What a server of the page asks for.
pub(super) struct Browsers {
    pub arriving: UnboundedReceiver<Connection>,
    pub local: SocketAddr,
}

impl Listener for Browsers {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.arriving.recv().await {
            Some(connection) => {
                let address = connection.address;
                (connection, address)
            }
            // Whoever accepts has stopped, and so will this.
            None => future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// Who connected: a proxy, where there is one.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// Hears of each request.
    pub activity: Activity,
}

impl Connected<IncomingStream<'_, Browsers>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Browsers>) -> Self {
        Peer { address: *stream.remote_addr(), activity: stream.io().activity.clone() }
    }
}
