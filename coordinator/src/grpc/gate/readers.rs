//! Who may read metrics.

use std::net::SocketAddr;

use axum::http::HeaderMap;
use cakes_proto::method::Method;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::{Gate, PeerInfo, status};
use crate::accept::activity::Activity;
use crate::core::identity::Certified;
use crate::core::throttle::Limits;
use crate::store::Pools;

/// Lets in whoever may list workers.
#[derive(Clone)]
pub(crate) struct Readers(Gate);

impl std::fmt::Debug for Readers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Readers")
    }
}

impl Readers {
    pub(crate) fn new(pools: &Pools, requires_identity: bool, tasks: TaskTracker) -> Self {
        Readers(Gate::new(pools, requires_identity, Limits::default(), tasks))
    }

    /// # Errors
    /// What is shown does not hold, or is nothing, or gives no right.
    pub(crate) async fn admit(
        &self,
        certified: Option<Certified>,
        address: SocketAddr,
        headers: &HeaderMap,
    ) -> Result<(), Status> {
        let peer =
            PeerInfo { address: Some(address), certified, activity: Activity::default(), gives_way: false };
        let (caller, _) = self.0.identify(Method::ListWorkers, &peer, headers).await?;
        caller.may(Method::ListWorkers).map_err(|refusal| status::not_permitted(&refusal))
    }
}
