//! Which checkpoints of a job are kept, and which objects of the store are nobody's.
//!
//! | kept | because |
//! |---|---|
//! | the current one | the next attempt goes on from it |
//! | the result's | it is what the job was run for |
//! | the one that the live attempt went on from | its worker may still be loading it |
//! | pinned ones | a person said so |
//! | that of the best validation | the last one is not always the best |
//! | the newest ones, while the job has not succeeded and the disk has room | to look back |

use std::time::Duration;

use super::text::named;

/// A reason to keep a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The next attempt goes on from it.
    Current,
    /// The job's result was measured with it.
    Result,
    /// The live attempt went on from it.
    Resumed,
    /// A person wants it kept.
    Pinned,
    /// Its validation is the best among those kept.
    Best,
    /// One of the newest of a job that has not succeeded.
    Newest,
}

named!(Reason, "reason to keep a checkpoint", {
    Current => "current",
    Result => "result",
    Resumed => "resumed",
    Pinned => "pinned",
    Best => "best",
    Newest => "newest",
});

/// What is known of a job and of its checkpoints that are not condemned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub has_succeeded: bool,
    pub checkpoints: Vec<Checkpoint>,
}

/// A checkpoint that is not condemned.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Number of its attempt.
    pub epoch: i64,
    /// Optimizer steps done in it.
    pub step: i64,
    pub is_current: bool,
    pub is_result: bool,
    pub is_resumed: bool,
    pub is_pinned: bool,
    /// Of the validation at its step, higher is better; none without one.
    pub quality: Option<f64>,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Newest checkpoints of a job that has not succeeded.
    pub newest: usize,
    /// The disk is nearly full: the newest ones are not kept as such.
    pub is_pressed: bool,
}

/// What becomes of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// At least one reason, in the order of [`Reason`].
    Kept(Vec<Reason>),
    /// Why nothing keeps it.
    Condemned(String),
}

impl Fate {
    pub fn is_kept(&self) -> bool {
        matches!(self, Fate::Kept(_))
    }
}

/// The fate of each checkpoint, in their order.
pub fn fates(facts: &Facts, policy: Policy) -> Vec<Fate> {
    let best = best(&facts.checkpoints);
    let newest = newest(&facts.checkpoints, policy.newest);
    let fate = |(place, checkpoint): (usize, &Checkpoint)| {
        let among_newest = newest.contains(&place);
        let reasons: Vec<Reason> = [
            (checkpoint.is_current, Reason::Current),
            (checkpoint.is_result, Reason::Result),
            (checkpoint.is_resumed, Reason::Resumed),
            (checkpoint.is_pinned, Reason::Pinned),
            (best == Some(place), Reason::Best),
            (among_newest && !facts.has_succeeded && !policy.is_pressed, Reason::Newest),
        ]
        .into_iter()
        .filter_map(|(holds, reason)| holds.then_some(reason))
        .collect();
        match (reasons.is_empty(), facts.has_succeeded, among_newest) {
            (false, ..) => Fate::Kept(reasons),
            (true, true, _) => Fate::Condemned("the job has succeeded".to_owned()),
            (true, false, true) => Fate::Condemned("the artifact disk was nearly full".to_owned()),
            (true, false, false) => Fate::Condemned(format!("not among the newest {}", policy.newest)),
        }
    };
    facts.checkpoints.iter().enumerate().map(fate).collect()
}

/// Place of the checkpoint with the best validation; of equal ones the farthest.
fn best(checkpoints: &[Checkpoint]) -> Option<usize> {
    let rated = checkpoints.iter().enumerate().filter_map(|(place, checkpoint)| {
        let quality = checkpoint.quality.filter(|quality| quality.is_finite())?;
        Some((quality, checkpoint.step, checkpoint.epoch, place))
    });
    let better = |a: &(f64, i64, i64, usize), b: &(f64, i64, i64, usize)| {
        a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2)))
    };
    rated.max_by(better).map(|(.., place)| place)
}

/// Places of the farthest checkpoints.
fn newest(checkpoints: &[Checkpoint], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..checkpoints.len()).collect();
    places.sort_by_key(|place| (checkpoints[*place].step, checkpoints[*place].epoch));
    places.split_off(places.len().saturating_sub(count))
}

/// Shares of the artifact disk in use, in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Above it the disk is nearly full.
    pub high_percent: u8,
    /// Below it there is room again.
    pub low_percent: u8,
}

/// Whether the disk is nearly full: from above the high mark until below the low one.
pub fn is_pressed(was_pressed: bool, used_percent: f64, marks: Watermarks) -> bool {
    match was_pressed {
        true => used_percent >= f64::from(marks.low_percent),
        false => used_percent > f64::from(marks.high_percent),
    }
}

/// A checkpoint's folder in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Whether the attempt under whose prefix it lies has ended; none for no attempt
    /// that the database knows.
    pub attempt_ended: Option<bool>,
    /// A row that is not condemned names it.
    pub is_named: bool,
    /// Time since its last file was written.
    pub age: Duration,
}

/// What becomes of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderFate {
    Kept,
    /// Nothing is known of it, so nothing is done to it.
    Unknown,
    /// No row can come to name it any more.
    Orphaned,
}

/// The fate of a folder. An attempt that has ended can commit nothing any more, so what
/// it has not committed never will be; `least_age` is only for people who look.
pub fn folder_fate(folder: Folder, least_age: Duration) -> FolderFate {
    match folder {
        Folder { is_named: true, .. } => FolderFate::Kept,
        Folder { attempt_ended: None, .. } => FolderFate::Unknown,
        Folder { attempt_ended: Some(true), age, .. } if age >= least_age => FolderFate::Orphaned,
        Folder { .. } => FolderFate::Kept,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOMY: Policy = Policy { newest: 2, is_pressed: false };

    fn at(step: i64) -> Checkpoint {
        Checkpoint { epoch: 1, step, ..Checkpoint::default() }
    }

    fn five() -> Facts {
        let checkpoints = vec![
            Checkpoint { is_pinned: true, ..at(1) },
            Checkpoint { quality: Some(0.8), ..at(2) },
            Checkpoint { quality: Some(f64::NAN), ..at(3) },
            at(4),
            Checkpoint { is_current: true, quality: Some(0.7), ..at(5) },
        ];
        Facts { has_succeeded: false, checkpoints }
    }

    fn kept(facts: &Facts, policy: Policy) -> Vec<i64> {
        let fates = fates(facts, policy);
        let kept = facts.checkpoints.iter().zip(fates).filter(|(_, fate)| fate.is_kept());
        kept.map(|(checkpoint, _)| checkpoint.step).collect()
    }

    #[test]
    fn what_is_kept_and_why_the_rest_is_not() {
        let facts = five();
        assert_eq!(kept(&facts, ROOMY), [1, 2, 4, 5]);
        let roomy = fates(&facts, ROOMY);
        assert_eq!(roomy[2], Fate::Condemned("not among the newest 2".to_owned()));
        assert_eq!(roomy[4], Fate::Kept(vec![Reason::Current, Reason::Newest]));
        let pressed = Policy { is_pressed: true, ..ROOMY };
        assert_eq!(kept(&facts, pressed), [1, 2, 5]);
        assert_eq!(
            fates(&facts, pressed)[3],
            Fate::Condemned("the artifact disk was nearly full".to_owned())
        );
        let done = Facts { has_succeeded: true, ..facts };
        assert_eq!(kept(&done, ROOMY), [1, 2, 5]);
        assert_eq!(fates(&done, ROOMY)[3], Fate::Condemned("the job has succeeded".to_owned()));
    }

    #[test]
    fn a_folder_goes_only_when_its_attempt_is_known_and_has_ended() {
        let day = Duration::from_secs(86_400);
        let orphan = Folder { attempt_ended: Some(true), is_named: false, age: day };
        assert_eq!(folder_fate(orphan, day), FolderFate::Orphaned);
        assert_eq!(folder_fate(Folder { is_named: true, ..orphan }, day), FolderFate::Kept);
        assert_eq!(folder_fate(Folder { age: day / 2, ..orphan }, day), FolderFate::Kept);
        assert_eq!(folder_fate(Folder { attempt_ended: Some(false), ..orphan }, day), FolderFate::Kept);
        assert_eq!(folder_fate(Folder { attempt_ended: None, ..orphan }, day), FolderFate::Unknown);
    }

    fn any_checkpoint() -> impl Strategy<Value = Checkpoint> {
        let rare = || proptest::bool::weighted(0.2);
        let quality = proptest::option::of(prop_oneof![5 => 0.0..1.0_f64, 1 => Just(f64::NAN)]);
        (1_i64..4, 1_i64..20, rare(), rare(), rare(), rare(), quality).prop_map(
            |(epoch, step, is_current, is_result, is_resumed, is_pinned, quality)| Checkpoint {
                epoch,
                step,
                is_current,
                is_result,
                is_resumed,
                is_pinned,
                quality,
            },
        )
    }

    fn any_facts() -> impl Strategy<Value = Facts> {
        (any::<bool>(), proptest::collection::vec(any_checkpoint(), 0..12))
            .prop_map(|(has_succeeded, checkpoints)| Facts { has_succeeded, checkpoints })
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        (0_usize..6, any::<bool>()).prop_map(|(newest, is_pressed)| Policy { newest, is_pressed })
    }

    proptest! {
        #[test]
        fn what_is_referred_to_stays(facts in any_facts(), policy in any_policy()) {
            for (checkpoint, fate) in facts.checkpoints.iter().zip(fates(&facts, policy)) {
                let wanted = checkpoint.is_current || checkpoint.is_result || checkpoint.is_resumed
                    || checkpoint.is_pinned;
                prop_assert!(fate.is_kept() || !wanted, "{checkpoint:?}");
            }
        }

        #[test]
        fn the_best_that_is_there_stays(facts in any_facts(), policy in any_policy()) {
            let finite = |checkpoint: &Checkpoint| checkpoint.quality.filter(|quality| quality.is_finite());
            let all = facts.checkpoints.iter().filter_map(finite).fold(f64::MIN, f64::max);
            let fates = fates(&facts, policy);
            let kept = facts.checkpoints.iter().zip(&fates).filter(|(_, fate)| fate.is_kept());
            let left = kept.filter_map(|(checkpoint, _)| finite(checkpoint)).fold(f64::MIN, f64::max);
            prop_assert_eq!(all, left);
        }

        #[test]
        fn the_newest_of_an_unfinished_job_stay(facts in any_facts(), newest in 0_usize..6) {
            let facts = Facts { has_succeeded: false, ..facts };
            let count = kept(&facts, Policy { newest, is_pressed: false }).len();
            prop_assert!(count >= newest.min(facts.checkpoints.len()));
        }

        #[test]
        fn looking_again_condemns_nothing_more(facts in any_facts(), policy in any_policy()) {
            let judged = fates(&facts, policy);
            let left = facts.checkpoints.iter().zip(judged).filter(|(_, fate)| fate.is_kept());
            let left = Facts { checkpoints: left.map(|(checkpoint, _)| *checkpoint).collect(), ..facts };
            prop_assert!(fates(&left, policy).iter().all(Fate::is_kept));
        }

        #[test]
        fn less_room_or_less_patience_never_keeps_more(facts in any_facts(), policy in any_policy()) {
            let more = Policy { newest: policy.newest + 1, is_pressed: false };
            for (less, more) in fates(&facts, policy).iter().zip(fates(&facts, more)) {
                prop_assert!(!less.is_kept() || more.is_kept());
            }
        }

        #[test]
        fn pressure_stays_between_the_marks(was in any::<bool>(), used in 0.0..100.0_f64, low in 0_u8..99) {
            let marks = Watermarks { high_percent: low + 1, low_percent: low };
            let is = is_pressed(was, used, marks);
            if used > f64::from(marks.high_percent) {
                prop_assert!(is);
            } else if used < f64::from(low) {
                prop_assert!(!is);
            } else {
                prop_assert_eq!(is, was);
            }
        }
    }
}
