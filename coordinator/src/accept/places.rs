//! Places for connections: of one port, of one address, of one identity; and for handshakes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use crate::core::address::counted;
use crate::core::crowd::Crowd;
use crate::core::identity::{Certified, Identity};
use crate::core::throttle::{self, Rate, Throttle, Who};

/// Places of one port. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    addresses: Arc<Mutex<Crowd<IpAddr>>>,
    arrivals: Arc<Mutex<Throttle>>,
    began: Instant,
    identities: Arc<Mutex<Crowd<Holder>>>,
    handshakes: Arc<Semaphore>,
    handshakes_of: Arc<Mutex<HashMap<IpAddr, Arc<Semaphore>>>>,
    handshakes_of_one: usize,
}

/// A worker and a person of one name are two.
pub(super) type Holder = (&'static str, String);

/// A place that is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place<K: Eq + std::hash::Hash + Clone> {
    crowd: Arc<Mutex<Crowd<K>>>,
    key: K,
    /// With this one, when it was taken.
    taken: usize,
}

/// Connections of an address before those that it has many of.
const FEW: usize = 4;

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        // Nobody fills a small port alone.
        let per_address = limits.connections_per_address.min(limits.connections.div_ceil(2));
        let (per_s, burst) = (f64::from(limits.connection_rate_per_address), per_address as f64);
        let arrivals = throttle::Limits {
            rate_of_identity: Rate { per_s, burst },
            calls: usize::MAX,
            ..throttle::Limits::default()
        };
        Places {
            all: Arc::new(Semaphore::new(limits.connections)),
            addresses: crowd(per_address),
            arrivals: Arc::new(Mutex::new(Throttle::new(arrivals))),
            began: Instant::now(),
            identities: crowd(limits.connections_per_identity),
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            handshakes_of: Arc::default(),
            handshakes_of_one: limits.handshakes.div_ceil(4),
        }
    }

    /// A place among all; waited for. None never comes: the semaphore is not closed.
    pub(super) async fn one(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// A place among those of an address.
    ///
    /// # Errors
    /// Why there is none: it has as many as it may, or comes too often.
    pub(super) fn of_address(&self, address: IpAddr) -> Result<Place<IpAddr>, &'static str> {
        let address = counted(address);
        let place = Place::take(&self.addresses, address).ok_or("address")?;
        let who = Who::Stranger(address);
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.enter(&who, self.began.elapsed()).map_err(|_| "address_rate")?;
        arrivals.leave(&who);
        Ok(place)
    }

    /// A place among those of whoever a certificate names, if one is free.
    pub(super) fn of_identity(&self, certified: &Certified) -> Option<Place<Holder>> {
        let kind = match &certified.identity {
            Identity::User { .. } => "user",
            Identity::Worker { .. } => "worker",
            Identity::Coordinator { .. } => "coordinator",
        };
        Place::take(&self.identities, (kind, certified.identity.name().to_owned()))
    }

    /// A place for a handshake, waited for: first among those of its address, so that whoever
    /// waits in many of them keeps nobody else waiting.
    pub(super) async fn handshake(&self, address: IpAddr) -> Option<[OwnedSemaphorePermit; 2]> {
        let own = {
            let mut places = self.handshakes_of.lock().unwrap_or_else(PoisonError::into_inner);
            // What only this map holds has no place taken.
            places.retain(|_, places| Arc::strong_count(places) > 1);
            let new = || Arc::new(Semaphore::new(self.handshakes_of_one));
            Arc::clone(places.entry(counted(address)).or_insert_with(new))
        };
        let own = own.acquire_owned().await.ok()?;
        Some([own, Arc::clone(&self.handshakes).acquire_owned().await.ok()?])
    }
}

fn crowd<K: Eq + std::hash::Hash + Clone>(most: usize) -> Arc<Mutex<Crowd<K>>> {
    Arc::new(Mutex::new(Crowd::new(most)))
}

impl<K: Eq + std::hash::Hash + Clone> Place<K> {
    fn take(crowd: &Arc<Mutex<Crowd<K>>>, key: K) -> Option<Self> {
        let taken = crowd.lock().unwrap_or_else(PoisonError::into_inner).enter(&key)?;
        Some(Place { crowd: Arc::clone(crowd), key, taken })
    }

    /// Whether its holder had many of them already.
    pub(super) fn is_one_of_many(&self) -> bool {
        self.taken > FEW
    }
}

impl<K: Eq + std::hash::Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner).leave(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn nobody_fills_a_small_port_alone() {
        let places = Places::new(&Limits { connections: 4, ..Limits::DEFAULT });
        let taken: Vec<_> = (0..4).filter_map(|_| places.of_address(address(1)).ok()).collect();
        assert_eq!(taken.len(), 2);
        assert_eq!(places.of_address(address(1)).err(), Some("address"));
        assert!(places.of_address(address(2)).is_ok());
        drop(taken);
        assert_ne!(places.of_address(address(1)).err(), Some("address"));
    }

    #[test]
    fn an_address_gives_way_from_its_fifth_connection_on() {
        let places = Places::new(&Limits::DEFAULT);
        let taken: Vec<_> = (0..5).filter_map(|_| places.of_address(address(1)).ok()).collect();
        let gives_way: Vec<bool> = taken.iter().map(Place::is_one_of_many).collect();
        assert_eq!(gives_way, [false, false, false, false, true]);
        assert!(!places.of_address(address(2)).unwrap().is_one_of_many());
        drop(taken);
        assert!(!places.of_address(address(1)).unwrap().is_one_of_many());
    }

    #[test]
    fn whoever_comes_again_and_again_is_sent_away() {
        let few = Limits { connections_per_address: 10, connection_rate_per_address: 1, ..Limits::DEFAULT };
        let places = Places::new(&few);
        let came = (0..1000).filter(|_| places.of_address(address(1)).is_ok()).count();
        assert!((10..100).contains(&came), "{came}");
        assert_eq!(places.of_address(address(1)).err(), Some("address_rate"));
        assert!(places.of_address(address(2)).is_ok());
    }

    #[tokio::test]
    async fn handshakes_of_one_address_keep_no_other_waiting() {
        let places = Places::new(&Limits { handshakes: 8, ..Limits::DEFAULT });
        let taken = [places.handshake(address(1)).await, places.handshake(address(1)).await];
        assert!(futures::poll!(Box::pin(places.handshake(address(1)))).is_pending());
        for last in 2..5 {
            assert!(futures::poll!(Box::pin(places.handshake(address(last)))).is_ready());
        }
        drop(taken);
        assert!(futures::poll!(Box::pin(places.handshake(address(1)))).is_ready());
        let _ = places.handshake(address(9)).await;
        assert_eq!(places.handshakes_of.lock().unwrap().len(), 1, "what nobody uses is forgotten");
    }
}
