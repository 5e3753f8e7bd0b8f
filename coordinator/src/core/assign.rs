//! Which of several workers that ask at once gets which waiting job.

use cakes::labels::Labels;
use uuid::Uuid;

/// A worker with a free device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish<'a> {
    pub worker: &'a str,
    pub memory_mib: i64,
    /// Devices that are free together.
    pub device_count: i32,
    pub labels: &'a Labels,
}

/// A job at the front of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: Uuid,
    /// Of its last grant.
    pub epoch: i64,
    pub memory_mib: i64,
    pub device_count: i32,
    /// What its worker must be labelled with.
    pub worker_labels: Labels,
    pub project: String,
    /// Whether its project has a quota.
    pub has_quota: bool,
    /// The worker that it keeps away from at present.
    pub avoids: Option<String>,
    /// Optimizer steps of the checkpoint that it goes on from.
    pub resume_step: Option<i64>,
}

impl Candidate {
    fn fits(&self, wish: &Wish<'_>) -> bool {
        self.memory_mib <= wish.memory_mib
            && self.device_count <= wish.device_count
            && wish.labels.include(&self.worker_labels)
            && self.avoids.as_deref() != Some(wish.worker)
    }
}

/// For each wish, in their order, the first job that fits it and that no earlier
/// wish has: what they would get one after the other.
pub fn assign(wishes: &[Wish<'_>], front: &[Candidate]) -> Vec<Option<usize>> {
    let mut is_taken = vec![false; front.len()];
    let mut choose = |wish: &Wish<'_>| {
        let index = (0..front.len()).find(|index| !is_taken[*index] && front[*index].fits(wish))?;
        is_taken[index] = true;
        Some(index)
    };
    wishes.iter().map(&mut choose).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// None, one, and both of two.
    static LABELS: LazyLock<[Labels; 3]> = LazyLock::new(|| {
        let of = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), "yes".to_owned())).collect();
        [&[][..], &["gpu"], &["gpu", "near"]].map(|keys| Labels::new(of(keys)).unwrap())
    });

    fn wishes() -> impl Strategy<Value = Vec<Wish<'static>>> {
        let wish = (proptest::sample::select(vec!["a", "b", "c"]), 0_i64..4, 1..3, 0_usize..3).prop_map(
            |(worker, memory_mib, device_count, labels)| Wish {
                worker,
                memory_mib,
                device_count,
                labels: &LABELS[labels],
            },
        );
        proptest::collection::vec(wish, 0..6)
    }

    fn front() -> impl Strategy<Value = Vec<Candidate>> {
        let avoids = proptest::option::of(proptest::sample::select(vec!["a", "b"]));
        let job =
            (0_i64..4, 1..3, avoids, 0_usize..3).prop_map(|(memory_mib, device_count, avoids, labels)| {
                Candidate {
                    id: Uuid::nil(),
                    epoch: 0,
                    memory_mib,
                    device_count,
                    worker_labels: LABELS[labels].clone(),
                    project: "default".to_owned(),
                    has_quota: false,
                    avoids: avoids.map(str::to_owned),
                    resume_step: None,
                }
            });
        proptest::collection::vec(job, 0..6)
    }

    proptest! {
        #[test]
        fn each_gets_the_first_job_that_fits_and_is_left(wishes in wishes(), front in front()) {
            let chosen = assign(&wishes, &front);
            prop_assert_eq!(chosen.len(), wishes.len());
            let mut taken = BTreeSet::new();
            for (wish, chosen) in wishes.iter().zip(chosen) {
                let fitting = (0..front.len()).filter(|index| !taken.contains(index) && front[*index].fits(wish));
                prop_assert_eq!(chosen, fitting.min());
                taken.extend(chosen);
            }
        }
    }
}
