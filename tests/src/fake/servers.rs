//! The coordinators that a worker or a client may call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// As of a real worker.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection for one worker or for several, made at the first call.
///
/// # Errors
/// The address is no URL.
pub fn connect(url: &str) -> Result<Channel, tonic::transport::Error> {
    Ok(endpoint(url)?.connect_lazy())
}

fn endpoint(url: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())?;
    Ok(endpoint.timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true))
}

/// Coordinators, one of them in use. Clones use the same one.
#[derive(Clone, Debug)]
pub struct Servers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoints: Vec<Endpoint>,
    current: Mutex<(usize, Channel)>,
}

impl Servers {
    /// Begins with the one numbered `first`, counted around.
    ///
    /// # Errors
    /// An address is no URL.
    ///
    /// # Panics
    /// There is no address.
    pub fn new(urls: &[String], first: usize) -> Result<Self, tonic::transport::Error> {
        let endpoints: Vec<Endpoint> = urls.iter().map(|url| endpoint(url)).collect::<Result<_, _>>()?;
        let first = first % endpoints.len();
        let channel = endpoints[first].connect_lazy();
        Ok(Servers(Arc::new(Inner { endpoints, current: Mutex::new((first, channel)) })))
    }

    /// Number of the coordinator in use, and a connection to it.
    pub fn current(&self) -> (usize, Channel) {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Turns from a coordinator that does not answer to the next one, over a new
    /// connection, unless another call already did.
    pub fn leave(&self, index: usize) {
        let count = self.0.endpoints.len();
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if count > 0 && current.0 == index {
            let next = (index + 1) % count;
            *current = (next, self.0.endpoints[next].connect_lazy());
        }
    }
}

impl From<Channel> for Servers {
    /// A connection that is kept, whatever happens to it.
    fn from(channel: Channel) -> Self {
        Servers(Arc::new(Inner { endpoints: Vec::new(), current: Mutex::new((0, channel)) }))
    }
}
