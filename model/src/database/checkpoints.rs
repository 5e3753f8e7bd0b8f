//! What retention writes (`store/checkpoints/`).

use cakes_coordinator::core::job::JobState;
use cakes_coordinator::core::retention::{Checkpoint, Facts, Policy, fates};

use super::rows::{CheckpointRow, JobRow, Rows};
use super::{Answer, World};
use crate::mutant::Mutant;

/// The coordinator keeps what it must, and nothing to look back.
pub const STRICT: Policy = Policy { newest: 0, is_pressed: true };

/// `store/checkpoints/condemn.rs`: what nothing needs, under the lock of the job.
pub(super) fn condemn(rows: &mut Rows, world: &World<'_>, job: u8) -> Answer {
    let Some(row) = rows.jobs.get_mut(usize::from(job)) else { return Answer::NotFound };
    let without_current = world.rules.breaks(Mutant::CondemnCurrent);
    for place in unneeded(row, without_current) {
        row.checkpoints[place].condemned = true;
    }
    Answer::Done
}

/// Places of checkpoints that nothing needs and that are not condemned.
pub fn unneeded(row: &JobRow, without_current: bool) -> Vec<usize> {
    let left: Vec<(usize, &CheckpointRow)> =
        row.checkpoints.iter().enumerate().filter(|(_, checkpoint)| !checkpoint.condemned).collect();
    let fact = |(_, checkpoint): &(usize, &CheckpointRow)| {
        let resumed = row.live().and_then(|live| live.resume);
        Checkpoint {
            epoch: i64::from(checkpoint.epoch),
            step: i64::from(checkpoint.step),
            is_current: row.checkpoint.is_some_and(|current| checkpoint.is(current)) && !without_current,
            is_result: row.results.iter().any(|result| checkpoint.is(result.checkpoint)),
            is_resumed: resumed.is_some_and(|resumed| checkpoint.is(resumed)),
            is_pinned: false,
            quality: None,
        }
    };
    let facts = Facts {
        has_succeeded: row.state == JobState::Succeeded,
        checkpoints: left.iter().map(fact).collect(),
    };
    let judged = left.iter().zip(fates(&facts, STRICT));
    judged.filter(|(_, fate)| !fate.is_kept()).map(|((place, _), _)| *place).collect()
}
