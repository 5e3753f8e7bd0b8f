//! Which of several workers that ask at once gets which waiting job.

use cakes::labels::Labels;
use uuid::Uuid;

/// How many jobs later than another one a job may have been submitted that goes before it
/// because a worker has its data at hand. So a job is passed over by so many at most.
pub const OVERTAKE_MAX: i64 = 32;

/// A worker with a free device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish<'a> {
    pub worker: &'a str,
    pub memory_mib: i64,
    /// Devices that are free together.
    pub device_count: i32,
    pub labels: &'a Labels,
    /// Paths of data sets that lie ready on its machine, as they stand in jobs.
    pub data_at_hand: &'a [String],
}

impl Wish<'_> {
    fn has_data_of(&self, job: &Candidate) -> bool {
        job.data.as_ref().is_some_and(|data| self.data_at_hand.contains(data))
    }
}

/// A job at the front of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: Uuid,
    /// Of its last grant.
    pub epoch: i64,
    /// Order of submission.
    pub position: i64,
    pub memory_mib: i64,
    pub device_count: i32,
    /// What its worker must be labelled with.
    pub worker_labels: Labels,
    pub project: String,
    /// Whether its project has a quota.
    pub has_quota: bool,
    pub priority: i32,
    pub is_supernet: bool,
    /// When it is wanted to be done, in seconds since 1970.
    pub deadline_s: Option<i64>,
    /// The worker that it keeps away from at present.
    pub avoids: Option<String>,
    /// Optimizer steps of the checkpoint that it goes on from.
    pub resume_step: Option<i64>,
    /// Path of its data set; `None` for generated data, and where no wish has any at hand.
    pub data: Option<String>,
}

impl Candidate {
    fn fits(&self, wish: &Wish<'_>) -> bool {
        self.memory_mib <= wish.memory_mib
            && self.device_count <= wish.device_count
            && wish.labels.include(&self.worker_labels)
            && self.avoids.as_deref() != Some(wish.worker)
    }

    /// Whether no share, quota, priority or deadline depends on which of the two goes first.
    fn is_like(&self, other: &Candidate) -> bool {
        self.project == other.project
            && self.priority == other.priority
            && self.is_supernet == other.is_supernet
            && self.deadline_s == other.deadline_s
            && self.device_count == other.device_count
    }
}

/// For each wish, in their order, the first job that fits it and that no earlier
/// wish has, or one like it whose data are at hand: what they would get one after the other.
pub fn assign(wishes: &[Wish<'_>], front: &[Candidate]) -> Vec<Option<usize>> {
    let mut is_taken = vec![false; front.len()];
    let mut choose = |wish: &Wish<'_>| {
        let first = (0..front.len()).find(|index| !is_taken[*index] && front[*index].fits(wish))?;
        let index = with_data_at_hand(wish, front, &is_taken, first).unwrap_or(first);
        is_taken[index] = true;
        Some(index)
    };
    wishes.iter().map(&mut choose).collect()
}

/// The job that goes before `first` because its data are at hand. Only jobs that are like it
/// stand between them, and all that the wish could have had instead were submitted earlier,
/// by [`OVERTAKE_MAX`] at most.
fn with_data_at_hand(wish: &Wish<'_>, front: &[Candidate], is_taken: &[bool], first: usize) -> Option<usize> {
    let lead = &front[first];
    if wish.data_at_hand.is_empty() || wish.has_data_of(lead) {
        return None;
    }
    // Of those that are passed over. The planner's order need not be that of submission.
    let (mut earliest, mut latest) = (lead.position, lead.position);
    let behind = front.iter().enumerate().skip(first + 1).filter(|(index, _)| !is_taken[*index]);
    for (index, job) in behind {
        if !job.is_like(lead) {
            return None;
        }
        if !job.fits(wish) {
            continue;
        }
        let is_near = latest < job.position && job.position - earliest <= OVERTAKE_MAX;
        if is_near && wish.has_data_of(job) {
            return Some(index);
        }
        (earliest, latest) = (earliest.min(job.position), latest.max(job.position));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::LazyLock;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// None, one, and both of two.
    static LABELS: LazyLock<[Labels; 3]> = LazyLock::new(|| {
        let of = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), "yes".to_owned())).collect();
        [&[][..], &["gpu"], &["gpu", "near"]].map(|keys| Labels::new(of(keys)).unwrap())
    });

    /// None, one, and both of two.
    static DATA: LazyLock<[Vec<String>; 3]> = LazyLock::new(|| {
        [&[][..], &["brains"], &["hearts", "brains"]]
            .map(|paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect())
    });

    fn wish() -> impl Strategy<Value = Wish<'static>> {
        (select(vec!["a", "b", "c"]), 0_i64..4, 1..3, 0_usize..3, 0_usize..3).prop_map(
            |(worker, memory_mib, device_count, labels, data)| Wish {
                worker,
                memory_mib,
                device_count,
                labels: &LABELS[labels],
                data_at_hand: &DATA[data],
            },
        )
    }

    fn without_data<'a>(wish: &Wish<'a>) -> Wish<'a> {
        Wish { data_at_hand: &[], ..*wish }
    }

    /// Mostly on the same terms as others. Its position is not said yet.
    fn job() -> impl Strategy<Value = Candidate> {
        let avoids = option::of(select(vec!["a", "b"]));
        let terms = prop_oneof![
            9 => Just(("lung", 0_i32, false, None::<i64>, 1_i32)),
            1 => (select(vec!["lung", "heart"]), 0_i32..2, any::<bool>(), option::of(0_i64..2), 1_i32..3),
        ];
        let data = option::of(select(vec!["brains", "hearts"]));
        (0_i64..4, avoids, 0_usize..3, terms, data).prop_map(|(memory_mib, avoids, labels, terms, data)| {
            let (project, priority, is_supernet, deadline_s, device_count) = terms;
            Candidate {
                id: Uuid::nil(),
                epoch: 0,
                position: 0,
                memory_mib,
                device_count,
                worker_labels: LABELS[labels].clone(),
                project: project.to_owned(),
                has_quota: false,
                priority,
                is_supernet,
                deadline_s,
                avoids: avoids.map(str::to_owned),
                resume_step: None,
                data: data.map(str::to_owned),
            }
        })
    }

    /// In the order of submission, up to what a planner has moved.
    fn front() -> impl Strategy<Value = Vec<Candidate>> {
        let moved = vec((0_usize..80, 0_usize..80), 0..4);
        (vec(job(), 0..80), moved).prop_map(|(mut jobs, moved)| {
            for (position, job) in (0..).zip(&mut jobs) {
                job.position = position;
            }
            for (left, right) in moved {
                if left.max(right) < jobs.len() {
                    jobs.swap(left, right);
                }
            }
            jobs
        })
    }

    /// Jobs that differ in their data alone, in the order of submission.
    fn alike(data: &[&str]) -> Vec<Candidate> {
        let job = |(position, data): (i64, &&str)| Candidate {
            id: Uuid::nil(),
            epoch: 0,
            position,
            memory_mib: 0,
            device_count: 1,
            worker_labels: Labels::default(),
            project: "lung".to_owned(),
            has_quota: false,
            priority: 0,
            is_supernet: false,
            deadline_s: None,
            avoids: None,
            resume_step: None,
            data: Some((*data).to_owned()),
        };
        (0..).zip(data).map(job).collect()
    }

    /// Positions of jobs as a worker with brains at hand gets them one after the other.
    fn served(mut queue: Vec<Candidate>) -> Vec<i64> {
        let wish =
            Wish { worker: "a", memory_mib: 0, device_count: 1, labels: &LABELS[0], data_at_hand: &DATA[1] };
        let mut order = Vec::new();
        while let Some(index) = assign(&[wish], &queue)[0] {
            order.push(queue.remove(index).position);
        }
        order
    }

    #[test]
    fn a_job_whose_data_are_at_hand_goes_first_and_the_first_one_is_not_forgotten() {
        assert_eq!(served(alike(&["hearts", "lungs", "brains", "brains", "hearts"])), [2, 3, 0, 1, 4]);
        let data: Vec<&str> = std::iter::once("hearts").chain(std::iter::repeat_n("brains", 40)).collect();
        let expected: Vec<i64> = (1..=OVERTAKE_MAX).chain([0]).chain(OVERTAKE_MAX + 1..=40).collect();
        assert_eq!(served(alike(&data)), expected);
    }

    #[test]
    fn who_is_not_like_the_first_does_not_go_before_it_and_neither_does_who_is_behind() {
        let changes: [fn(&mut Candidate); 5] = [
            |job| job.project = "heart".to_owned(),
            |job| job.priority = 1,
            |job| job.is_supernet = true,
            |job| job.deadline_s = Some(7),
            |job| job.device_count = 0,
        ];
        for change in changes {
            let mut queue = alike(&["hearts", "brains", "brains"]);
            change(&mut queue[1]);
            assert_eq!(served(queue), [0, 1, 2]);
        }
    }

    proptest! {
        #[test]
        fn without_data_at_hand_each_gets_the_first_job_that_fits_and_is_left(
            wishes in vec(wish(), 0..6),
            front in front(),
        ) {
            let wishes: Vec<Wish<'_>> = wishes.iter().map(without_data).collect();
            let chosen = assign(&wishes, &front);
            prop_assert_eq!(chosen.len(), wishes.len());
            let mut taken = BTreeSet::new();
            for (wish, chosen) in wishes.iter().zip(chosen) {
                let fitting = (0..front.len()).filter(|index| !taken.contains(index) && front[*index].fits(wish));
                prop_assert_eq!(chosen, fitting.min());
                taken.extend(chosen);
            }
        }

        #[test]
        fn data_at_hand_change_the_order_of_jobs_that_are_alike_and_of_no_others(
            wishes in vec(wish(), 0..20),
            front in front(),
        ) {
            let mut left: Vec<usize> = (0..front.len()).collect();
            for (wish, chosen) in wishes.iter().zip(assign(&wishes, &front)) {
                let queue: Vec<Candidate> = left.iter().map(|index| front[*index].clone()).collect();
                let alone = |wish: Wish<'_>| assign(&[wish], &queue)[0].map(|index| left[index]);
                prop_assert_eq!(chosen, alone(*wish), "as if each asked for itself");
                let plain = alone(without_data(wish));
                prop_assert_eq!(chosen.is_some(), plain.is_some());
                let (Some(chosen), Some(plain)) = (chosen, plain) else { continue };
                if chosen != plain {
                    prop_assert!(front[chosen].fits(wish));
                    prop_assert!(wish.has_data_of(&front[chosen]) && !wish.has_data_of(&front[plain]));
                }
                let terms = |index: usize| {
                    let job = &front[index];
                    (&job.project, job.priority, job.is_supernet, job.deadline_s, job.device_count)
                };
                for index in left.iter().filter(|index| (plain..=chosen).contains(*index)) {
                    prop_assert_eq!(terms(*index), terms(plain));
                }
                left.retain(|index| *index != chosen);
            }
        }

        #[test]
        fn whoever_asks_a_job_is_passed_over_by_few_that_came_after_it(
            wishes in vec(wish(), 0..120),
            front in front(),
        ) {
            let mut queue = front;
            let mut passed: BTreeMap<i64, i64> = BTreeMap::new();
            for wish in &wishes {
                let Some(chosen) = assign(&[*wish], &queue)[0] else { continue };
                let taken = queue.remove(chosen);
                for job in queue[..chosen].iter().filter(|job| job.fits(wish)) {
                    let later = taken.position - job.position;
                    prop_assert!((1..=OVERTAKE_MAX).contains(&later), "{} jobs later", later);
                    *passed.entry(job.position).or_default() += 1;
                }
            }
            prop_assert!(passed.values().all(|count| *count <= OVERTAKE_MAX), "{:?}", passed);
        }

        #[test]
        fn every_job_is_granted_in_the_end(
            data in vec(prop_oneof![3 => Just("brains"), 1 => Just("hearts")], 0..120),
        ) {
            let order = served(alike(&data));
            for (place, position) in order.iter().enumerate() {
                let before = order[..place].iter().filter(|other| *other > position).count();
                prop_assert!(before as i64 <= OVERTAKE_MAX, "{} jobs went before {}", before, position);
            }
            let all: BTreeSet<i64> = order.iter().copied().collect();
            prop_assert_eq!(all.len(), data.len());
        }
    }
}
