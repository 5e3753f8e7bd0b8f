//! Gangs of the rig: searches whose jobs train on slots of two workers, and fakes that do so.
//!
//! ```text
//!  leader: Start ─► tells where ranks meet ─► steps while all are there ─► Complete
//!  member: Start ─► renews until it knows where ─► is there, renews ─► learns that it is over
//! ```
//!
//! Fakes meet in the memory of this process, as real ranks do over a network that is not that
//! of the coordinators: whoever dies is missed by the others, whoever is only cut off is not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cakes_proto::v1::LeaseToken;
use serde_json::{Value, json};

use super::work::BIG_BATCH;
use crate::search::{Length, tiny};

/// Who has the jobs of a search whose jobs are spread; workers and searches are labelled so, for
/// ranks of a trainer and a fake would wait for each other for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crew {
    Real,
    Fakes,
}

/// Of workers, and of searches for them.
pub const LABEL: &str = "kind";
pub const REAL: &str = "real";
pub const FAKE: &str = "fake";

/// Before all others, so that there is a gang soon.
const PRIORITY: i32 = 10;
/// Some seconds of a trainer, with many checkpoints.
const REAL_LENGTH: Length = Length { epochs: 20, steps_per_epoch: 10, checkpoint_every_epochs: 1 };
/// Of fakes, who save as they like.
const FAKE_LENGTH: Length = Length { epochs: 1, steps_per_epoch: 80, checkpoint_every_epochs: 1 };
/// What follows is to see the whole path.
const RETRAIN_LENGTH: Length = Length { epochs: 2, steps_per_epoch: 10, checkpoint_every_epochs: 1 };

impl Crew {
    pub const ALL: [Crew; 2] = [Crew::Real, Crew::Fakes];

    pub fn label(self) -> &'static str {
        match self {
            Crew::Real => REAL,
            Crew::Fakes => FAKE,
        }
    }

    /// A search whose supernet and retraining take two slots, which only this crew gets.
    pub fn search(self, number: u64, request_id: &str) -> Value {
        let (length, batch_size) = match self {
            Crew::Real => (REAL_LENGTH, 2),
            Crew::Fakes => (FAKE_LENGTH, BIG_BATCH),
        };
        let mut file = tiny(&format!("gang-{}-{number}", self.label()), length, RETRAIN_LENGTH);
        file["request_id"] = json!(request_id);
        file["priority"] = json!(PRIORITY);
        file["worker_labels"] = json!({ LABEL: self.label() });
        file["search"]["budgets"] = json!([0.5]);
        file["search"]["baselines"] = json!([]);
        for stage in ["supernet", "retrain"] {
            let training = &mut file["search"][stage]["training"];
            training["batch_size"] = json!(batch_size);
            training["devices"] = json!(2);
            training["spread"] = json!(true);
        }
        file
    }
}

/// Who is where ranks of fakes meet, by its address.
#[derive(Debug, Default)]
pub struct Meetings(Mutex<BTreeMap<String, BTreeSet<u32>>>);

impl Meetings {
    fn inner(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<u32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes to a meeting of so many members.
    pub fn join(self: &Arc<Self>, address: &str, member: u32, member_count: u32) -> Presence {
        self.inner().entry(address.to_owned()).or_default().insert(member);
        Presence { meetings: self.clone(), address: address.to_owned(), member, member_count }
    }
}

/// Where the ranks of an attempt meet: at a place of its own.
pub fn address_of(token: &LeaseToken) -> String {
    format!("{}-{}:1", token.job_id, token.epoch)
}

/// A member at its meeting. When it is dropped it is gone, as the connections of a process are that
/// has died.
#[derive(Debug)]
pub struct Presence {
    meetings: Arc<Meetings>,
    address: String,
    member: u32,
    member_count: u32,
}

impl Presence {
    /// Whether all are there, without whom nobody does a step.
    pub fn is_whole(&self) -> bool {
        let meetings = self.meetings.inner();
        let there = meetings.get(&self.address).map_or(0, BTreeSet::len);
        there == self.member_count as usize
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut meetings = self.meetings.inner();
        let is_over = meetings.get_mut(&self.address).is_some_and(|there| {
            there.remove(&self.member);
            there.is_empty()
        });
        if is_over {
            meetings.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use cakes::address::host_and_port;
    use cakes_proto::v1::SubmitSearchRequest;

    use super::*;

    #[test]
    fn a_meeting_is_whole_while_all_are_there() {
        let token =
            LeaseToken { job_id: uuid::Uuid::new_v4().to_string(), epoch: 3, ..LeaseToken::default() };
        let (meetings, address) = (Arc::<Meetings>::default(), address_of(&token));
        assert!(host_and_port(&address).is_some(), "{address}");
        let leader = meetings.join(&address, 0, 2);
        assert!(!leader.is_whole());
        let other = meetings.join(&address, 1, 2);
        assert!(leader.is_whole() && other.is_whole());
        drop(other);
        assert!(!leader.is_whole());
        drop(leader);
        assert!(meetings.inner().is_empty());
    }

    #[test]
    fn searches_of_both_crews_can_be_sent() {
        for crew in Crew::ALL {
            let request: SubmitSearchRequest = serde_json::from_value(crew.search(7, "r")).unwrap();
            assert_eq!(request.priority, PRIORITY);
            assert_eq!(request.worker_labels[LABEL], crew.label());
            let training = request.search.unwrap().supernet.unwrap().training.unwrap();
            assert!(training.spread && training.devices == Some(2));
        }
    }
}
