//! Connections of clients, and who is at their other end.

use std::io;
use std::net::SocketAddr;

use futures::StreamExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::Connected;

use crate::accept::Connection;
use crate::accept::activity::Activity;
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
    /// Whether this is read by threads that give way.
    pub gives_way: bool,
}

/// What a server asks for.
pub(super) fn connections(
    arriving: UnboundedReceiver<Connection>,
) -> impl Stream<Item = io::Result<Connection>> {
    UnboundedReceiverStream::new(arriving).map(Ok)
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        PeerInfo {
            address: Some(self.address),
            certified: self.certified.clone(),
            activity: self.activity.clone(),
            gives_way: self.is_one_of_many,
        }
    }
}
