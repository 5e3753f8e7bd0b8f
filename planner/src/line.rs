//! Who would start next, if devices that fit became free one after the other.

use std::collections::BTreeSet;

use crate::facts::{CheckedFacts, JobId};
use crate::order::classes;
use crate::standing::Standing;

/// The first `count` waiting jobs in that order. Every start counts as use, so projects
/// take turns by their shares. What a limit, a quota or the size of devices keeps back is
/// not left out: [`crate::plan`] says who that is.
pub fn line(facts: &CheckedFacts<'_>, count: usize) -> Vec<JobId> {
    let facts = facts.get();
    let mut standings = Standing::of_all(facts);
    let mut seen = BTreeSet::new();
    let mut line = Vec::new();
    for mut class in classes(facts) {
        let elders = std::mem::take(&mut class.elders);
        let first = std::mem::take(&mut class.holders).into_iter();
        let mut first = first.chain(elders.into_iter().filter_map(|elders| elders.into_iter().next()));
        while line.len() < count {
            let place = match first.next() {
                Some(place) => place,
                None => {
                    match class.next(&standings, facts.policy.lookahead_s).and_then(|mut turn| turn.next()) {
                        Some(place) => place,
                        None => break,
                    }
                }
            };
            if seen.insert(place) {
                let job = &facts.waiting[place];
                standings[job.project.0].start(job);
                line.push(job.id);
            }
        }
    }
    line
}
