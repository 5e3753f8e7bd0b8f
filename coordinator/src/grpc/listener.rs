//! Connections of clients, and who is at their other end.

use std::io;
use std::net::SocketAddr;

use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::accept::activity::Activity;
use crate::accept::{Accepting, Connection};
use crate::core::identity::Certified;

/// Who is at the other end of a connection; an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// None where the system does not say.
    pub address: Option<SocketAddr>,
    /// None on a connection without a certificate.
    pub certified: Option<Certified>,
    /// Hears of each request.
    pub activity: Activity,
}

/// All connections of a listener.
pub(super) fn connections(accepting: Accepting) -> impl Stream<Item = io::Result<Connection>> {
    futures::stream::unfold(accepting, |mut accepting| async move {
        let connection = accepting.next().await?;
        Some((Ok(connection), accepting))
    })
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        PeerInfo {
            address: Some(self.address),
            certified: self.certified.clone(),
            activity: self.activity.clone(),
        }
    }
}
