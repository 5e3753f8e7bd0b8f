//! How fast one caller may call and how much it may have under way, over all its
//! connections: nobody takes the places of all others.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tonic::Status;

use super::{PeerInfo, status};
use crate::core::address::counted;
use crate::core::rights::Caller;
use crate::core::throttle::{Limits, Refused, Throttle, Who};
use crate::refusals;

/// What is under way, by caller. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Load {
    began: Instant,
    throttle: Arc<Mutex<Throttle>>,
}

/// One call that counts while this lives.
#[derive(Debug)]
pub(super) struct Place {
    load: Load,
    pub(super) who: Who,
}

impl Load {
    pub(super) fn new(limits: Limits) -> Self {
        Load { began: Instant::now(), throttle: Arc::new(Mutex::new(Throttle::new(limits))) }
    }

    /// A place for a call.
    ///
    /// # Errors
    /// The caller calls too often or has too many under way already, or all together have.
    pub(super) fn take(&self, caller: &Caller, peer: &PeerInfo) -> Result<Place, Status> {
        let who = who(caller, peer);
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        let entered = throttle.enter(&who, self.began.elapsed());
        drop(throttle);
        let Err(refused) = entered else { return Ok(Place { load: self.clone(), who }) };
        let (reason, status) = match refused {
            Refused::TooFast { retry_after } => ("rate", status::too_fast(retry_after)),
            Refused::TooMany { limit } => ("concurrency", status::too_many_calls(limit)),
            Refused::Busy { limit } => ("busy", status::too_many_in_all(limit)),
        };
        refusals::call(reason, &who);
        Err(status)
    }
}

fn who(caller: &Caller, peer: &PeerInfo) -> Who {
    // A connection whose address the system does not say is none from elsewhere.
    let address = peer.address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| counted(address.ip()));
    match caller {
        Caller::Known(identity) => Who::Named { role: identity.role(), name: identity.name().to_owned() },
        Caller::Trusted => Who::Trusted(address),
        Caller::Nobody => Who::Stranger(address),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.load.throttle.lock().unwrap_or_else(PoisonError::into_inner).leave(&self.who);
    }
}
