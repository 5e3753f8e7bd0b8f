//! What may be done to the job of a list, at random and on a tour.

use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::worker::Schedule;
use proptest::prelude::*;

/// One thing that somebody does. Grants count from the newest, 0.
#[derive(Clone, Debug)]
pub enum Deed {
    Acquire {
        worker: u8,
        again: bool,
    },
    Start {
        grant: u8,
    },
    Report {
        grant: u8,
        first_seq: u8,
        count: u8,
        step: u8,
    },
    Commit {
        grant: u8,
        step: u8,
    },
    /// `beyond`: more entries than were stored.
    Complete {
        grant: u8,
        beyond: u8,
        saved: bool,
    },
    /// The completion commits its checkpoint.
    Finish {
        grant: u8,
        beyond: u8,
        step: u8,
    },
    Fail {
        grant: u8,
        class: FailureClass,
    },
    Cancel,
    Pause,
    Resume,
    Retry,
    RunOut,
    Sweep,
    Extend,
    Condemn,
    /// `again`: the daemon's last registration comes once more.
    Register {
        worker: u8,
        again: bool,
    },
    /// `named`: the grant is in the journal. `late`: from before a restart.
    Reconcile {
        worker: u8,
        grant: u8,
        named: bool,
        late: bool,
    },
    Schedule {
        worker: u8,
        schedule: Schedule,
    },
}

pub fn any_deed() -> impl Strategy<Value = Deed> {
    // Mostly the newest grant, sometimes a zombie's.
    let grant = || prop_oneof![4 => Just(0_u8), 1 => 0_u8..4];
    let worker = || 0_u8..2;
    let class = proptest::sample::select(FailureClass::ALL);
    let schedules = vec![Schedule::Ready, Schedule::Ready, Schedule::Cordoned, Schedule::Draining];
    prop_oneof![
        4 => (worker(), proptest::bool::weighted(0.2)).prop_map(|(worker, again)| Deed::Acquire { worker, again }),
        3 => grant().prop_map(|grant| Deed::Start { grant }),
        // Mostly of the same steps when entries come again, as who keeps to the protocol sends them.
        4 => (grant(), 1_u8..6, 0_u8..4, proptest::option::weighted(0.3, 1_u8..10)).prop_map(
            |(grant, first_seq, count, other)| Deed::Report {
                grant,
                first_seq,
                count,
                step: other.unwrap_or(first_seq)
            }
        ),
        3 => (grant(), 1_u8..11).prop_map(|(grant, step)| Deed::Commit { grant, step }),
        3 => (grant(), prop_oneof![4 => Just(0_u8), 1 => Just(1)], proptest::bool::weighted(0.9))
            .prop_map(|(grant, beyond, saved)| Deed::Complete { grant, beyond, saved }),
        2 => (grant(), prop_oneof![4 => Just(0_u8), 1 => Just(1)], 1_u8..11)
            .prop_map(|(grant, beyond, step)| Deed::Finish { grant, beyond, step }),
        2 => (grant(), class).prop_map(|(grant, class)| Deed::Fail { grant, class }),
        1 => Just(Deed::Cancel),
        1 => Just(Deed::Pause),
        1 => Just(Deed::Resume),
        2 => Just(Deed::Retry),
        3 => Just(Deed::RunOut),
        4 => Just(Deed::Sweep),
        1 => Just(Deed::Extend),
        3 => Just(Deed::Condemn),
        2 => (worker(), proptest::bool::weighted(0.3)).prop_map(|(worker, again)| Deed::Register { worker, again }),
        4 => (worker(), grant(), any::<bool>(), proptest::bool::weighted(0.2))
            .prop_map(|(worker, grant, named, late)| Deed::Reconcile { worker, grant, named, late }),
        1 => (worker(), proptest::sample::select(schedules))
            .prop_map(|(worker, schedule)| Deed::Schedule { worker, schedule }),
    ]
}

/// Every way in which an attempt can end, one deed after the other.
pub fn tour() -> Vec<Deed> {
    let acquire = |worker| Deed::Acquire { worker, again: false };
    let begin = |worker| [acquire(worker), Deed::Start { grant: 0 }];
    let report = Deed::Report { grant: 0, first_seq: 1, count: 3, step: 2 };
    let restart = |worker, named| {
        let reconcile = Deed::Reconcile { worker, grant: 0, named, late: false };
        [Deed::Register { worker, again: false }, reconcile]
    };
    let complete = Deed::Complete { grant: 0, beyond: 0, saved: true };
    let lost = || Deed::Fail { grant: 0, class: FailureClass::Lost };
    let mut deeds = vec![acquire(0), Deed::RunOut, Deed::Sweep];
    deeds.extend(begin(1));
    deeds.extend([
        report.clone(),
        Deed::Commit { grant: 0, step: 5 },
        Deed::RunOut,
        report.clone(),
        Deed::Sweep,
    ]);
    deeds.extend([Deed::RunOut, Deed::Sweep, report.clone()]);
    deeds.extend(begin(0));
    deeds.extend(restart(0, false));
    deeds.push(Deed::Retry);
    deeds.extend(begin(1));
    deeds.extend([Deed::Schedule { worker: 1, schedule: Schedule::Draining }, lost()]);
    deeds.extend(begin(0));
    deeds.extend([Deed::Cancel, complete.clone(), Deed::Retry]);
    deeds.extend(begin(0));
    deeds.extend([lost(), Deed::Schedule { worker: 1, schedule: Schedule::Ready }]);
    deeds.extend(begin(1));
    let commit = |step| Deed::Commit { grant: 0, step };
    // The first is given up, and its commit comes late once more.
    deeds.extend([commit(6), commit(8), Deed::Condemn, commit(6), Deed::Condemn]);
    deeds.extend(restart(1, true));
    deeds.extend([report, commit(10), Deed::Condemn, complete.clone(), complete, Deed::Condemn]);
    deeds
}
