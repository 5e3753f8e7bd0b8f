//! Whether a worker's machine is at fault, so that it gets no jobs for a while.
//!
//! One bad end says little: the job may be wrong, or a node was restarted. Several in a
//! row, of several jobs, while other workers get on, say that the machine is not fit: a
//! full disk, a broken GPU, a folder that is not mounted. Such a worker fails in seconds
//! and asks again at once, so that it would go through the whole queue.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

/// Bad ends in a row that make a worker suspect.
pub const BAD_ENDS: usize = 3;
/// Different jobs among them: one job that fails everywhere is its own fault.
pub const BAD_JOBS: usize = 2;

const BACK_OFF_FIRST: Duration = Duration::from_secs(5 * 60);
const BACK_OFF_LONGEST: Duration = Duration::from_secs(2 * 3600);

/// How an attempt speaks of the worker that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It left a checkpoint or a result behind.
    Good,
    /// The machine was at fault, or went away, before anything was left behind.
    Bad,
    /// It ended for other reasons.
    Neither,
}

/// An attempt that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub job: Uuid,
    pub verdict: Verdict,
}

/// What is known of a worker since it was last judged or trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The newest first, at least [`BAD_ENDS`] if there are so many.
    pub ends: Vec<End>,
    /// Whether another worker has had a good end since the earliest of these.
    pub others_get_on: bool,
    /// Times in a row that it was suspect, without a good end between.
    pub times: u32,
}

/// What becomes of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing new.
    Same,
    /// It has shown that it is fit: earlier suspicions are forgotten.
    Trusted,
    /// It gets no jobs for so long.
    Suspect { rest: Duration },
}

/// Judges a worker. After a rest one bad end is enough for a longer one.
pub fn judge(facts: &Facts) -> Judgement {
    let telling = facts.ends.iter().filter(|end| end.verdict != Verdict::Neither);
    let bad: Vec<&End> = telling.clone().take_while(|end| end.verdict == Verdict::Bad).collect();
    if bad.is_empty() {
        let good = telling.clone().next().is_some();
        return if good && facts.times > 0 { Judgement::Trusted } else { Judgement::Same };
    }
    let is_on_probation = facts.times > 0;
    let jobs: BTreeSet<Uuid> = bad.iter().map(|end| end.job).collect();
    let enough = is_on_probation || (bad.len() >= BAD_ENDS && jobs.len() >= BAD_JOBS);
    if enough && facts.others_get_on {
        Judgement::Suspect { rest: rest(facts.times) }
    } else {
        Judgement::Same
    }
}

/// Doubles from five minutes to two hours.
fn rest(times: u32) -> Duration {
    BACK_OFF_FIRST.saturating_mul(1 << times.min(16)).min(BACK_OFF_LONGEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(verdicts: &[(u128, Verdict)]) -> Vec<End> {
        verdicts.iter().map(|(job, verdict)| End { job: Uuid::from_u128(*job), verdict: *verdict }).collect()
    }

    fn facts(verdicts: &[(u128, Verdict)]) -> Facts {
        Facts { ends: ends(verdicts), others_get_on: true, times: 0 }
    }

    use Verdict::{Bad, Good, Neither};

    #[test]
    fn three_bad_ends_of_two_jobs_while_others_get_on() {
        let bad = facts(&[(1, Bad), (2, Neither), (2, Bad), (1, Bad)]);
        assert_eq!(judge(&bad), Judgement::Suspect { rest: BACK_OFF_FIRST });
        assert_eq!(judge(&Facts { others_get_on: false, ..bad }), Judgement::Same);
        assert_eq!(judge(&facts(&[(1, Bad), (1, Bad), (1, Bad)])), Judgement::Same, "one job's fault");
        assert_eq!(judge(&facts(&[(1, Bad), (2, Bad), (3, Good), (4, Bad)])), Judgement::Same);
        assert_eq!(judge(&facts(&[(1, Bad), (2, Bad)])), Judgement::Same);
    }

    #[test]
    fn behind_a_rest_one_bad_end_is_enough_and_a_good_one_ends_the_suspicion() {
        let again = Facts { times: 1, ..facts(&[(1, Bad)]) };
        assert_eq!(judge(&again), Judgement::Suspect { rest: BACK_OFF_FIRST * 2 });
        assert_eq!(judge(&Facts { times: 1, ..facts(&[(1, Good)]) }), Judgement::Trusted);
        assert_eq!(judge(&Facts { times: 1, ..facts(&[(1, Neither)]) }), Judgement::Same);
        assert_eq!(judge(&facts(&[(1, Good)])), Judgement::Same, "it was trusted before");
    }

    proptest! {
        #[test]
        fn nobody_is_suspect_alone_and_rests_stay_in_their_bounds(
            verdicts in proptest::collection::vec((0_u128..4, prop_oneof![Just(Bad), Just(Good), Just(Neither)]), 0..6),
            times in 0_u32..40,
            others_get_on: bool,
        ) {
            let facts = Facts { ends: ends(&verdicts), others_get_on, times };
            if let Judgement::Suspect { rest } = judge(&facts) {
                prop_assert!(others_get_on);
                prop_assert!((BACK_OFF_FIRST..=BACK_OFF_LONGEST).contains(&rest));
                let longer = judge(&Facts { times: times + 1, ..facts });
                let is_longer = matches!(longer, Judgement::Suspect { rest: next } if next >= rest);
                prop_assert!(is_longer);
            }
        }

        #[test]
        fn the_last_telling_end_decides(verdicts in proptest::collection::vec((0_u128..4, prop_oneof![Just(Bad), Just(Neither)]), 0..6)) {
            let mut with_good = vec![(0, Good)];
            with_good.extend(verdicts);
            let facts = Facts { ends: ends(&with_good), others_get_on: true, times: 0 };
            prop_assert_eq!(judge(&facts), Judgement::Same);
        }
    }
}
