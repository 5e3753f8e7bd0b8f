//! Every state of a gang of two slots, as the protocol is and with each fault in it.

use std::collections::BTreeSet;

use cakes_model::gang::{DONE, Fault, Gang};
use stateright::{Checker, HasDiscoveries, Model};

#[test]
fn a_gang_is_whole_ends_together_and_in_time() {
    let checker = Gang::default().checker().threads(2).spawn_bfs().join();
    println!("gang: {} states, {} steps", checker.unique_state_count(), checker.state_count());
    let found: BTreeSet<&str> = checker.discoveries().keys().copied().collect();
    assert_eq!(found, BTreeSet::from([DONE]), "what should be possible, and no breach");
}

#[test]
fn each_fault_breaks_what_it_should() {
    for fault in Fault::ALL {
        let gang = Gang { fault: Some(fault), ..Gang::default() };
        let finish = HasDiscoveries::AllOf(BTreeSet::from([fault.breaks()]));
        let checker = gang.checker().threads(2).finish_when(finish).spawn_bfs().join();
        let found: BTreeSet<&str> = checker.discoveries().keys().copied().collect();
        assert!(found.contains(fault.breaks()), "{fault:?} breaks only {found:?}");
    }
}
