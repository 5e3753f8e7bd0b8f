//! Every state of the model within its bounds, as the protocol is and with each
//! fault in it. The decisions are the coordinator's own code.

use std::collections::BTreeSet;
use std::time::Instant;

use cakes_model::bounds;
use cakes_model::mutant::Mutant;
use cakes_model::property::{Safety, Witness};
use cakes_model::system::System;
use stateright::{Checker, HasDiscoveries, Model};

#[test]
fn every_property_holds_in_every_state() {
    for bounds in bounds::all() {
        println!("{}", bounds.check().unwrap_or_else(|breach| panic!("{breach}")));
    }
}

#[test]
fn each_fault_breaks_its_property() {
    for mutant in Mutant::ALL {
        let wanted = mutant.breaks().name();
        let begin = Instant::now();
        let finish = HasDiscoveries::AllOf(BTreeSet::from([wanted]));
        let checker = bounds::of_mutant(mutant).checker().threads(2).finish_when(finish).spawn_bfs().join();
        let found: BTreeSet<&str> = checker.discoveries().keys().copied().collect();
        println!(
            "{mutant:?}: {} states, {:.1} s: {found:?}",
            checker.unique_state_count(),
            begin.elapsed().as_secs_f64()
        );
        assert!(found.contains(wanted), "{mutant:?} breaks only {found:?}");
    }
}

#[test]
fn each_property_is_broken_by_a_fault() {
    let broken: BTreeSet<Safety> = Mutant::ALL.into_iter().map(Mutant::breaks).collect();
    assert_eq!(broken, Safety::ALL.into_iter().collect());
}

/// Without these the properties would hold because nothing happens.
#[test]
fn what_should_be_possible_is() {
    use Witness as W;
    let seen_in = [
        (bounds::crash(), vec![W::ZombieRefused, W::LostReplyRepeated, W::LateReportRevives, W::Readopted]),
        (bounds::cancelled(), vec![W::CancelWins, W::CompletionWins]),
        (bounds::three_grants(), vec![W::FinishedAfterTwoReassignments]),
    ];
    let mut left: BTreeSet<&str> = Witness::ALL.into_iter().map(Witness::name).collect();
    for (system, witnesses) in seen_in {
        let wanted: BTreeSet<&'static str> = witnesses.into_iter().map(Witness::name).collect();
        let finish = HasDiscoveries::AllOf(wanted.clone());
        let checker =
            System { witness: true, ..system }.checker().threads(2).finish_when(finish).spawn_bfs().join();
        let found: BTreeSet<&str> = checker.discoveries().keys().copied().collect();
        assert!(found.is_superset(&wanted), "seen only {found:?} of {wanted:?}");
        left.retain(|name| !wanted.contains(name));
    }
    assert!(left.is_empty(), "looked for nowhere: {left:?}");
}
