//! The bounds within which everything is tried. Each looks at one side of the
//! protocol as closely as a test can afford; together they cover all actions.

use std::time::Instant;

use cakes_coordinator::core::retry::{Budgets, FailureClass};
use stateright::{Checker, Model};

use crate::database::Call;
use crate::mutant::{Mutant, Rules};
use crate::system::System;

const SUBMIT: Call = Call::Submit { key: 1, body: 1 };

/// A named model with its bounds.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub name: &'static str,
    pub system: System,
}

/// One job, two workers, two steps, the second one saved, two grants.
pub fn one_job() -> System {
    System {
        workers: 2,
        epochs: 2,
        steps: 2,
        saves: vec![2],
        crashes: 0,
        registrations: 1,
        intents: vec![SUBMIT],
        fresh: false,
        ghosts: false,
        fences: true,
        drops: false,
        failures: Vec::new(),
        budgets: budgets(1),
        amnesty: false,
        collect: false,
        failover: false,
        witness: false,
        rules: Rules::default(),
    }
}

fn budgets(lost: u32) -> Budgets {
    Budgets { lost, infrastructure: 1, resource: 0, numeric: 0, no_progress: 3 }
}

fn with_intents(system: System, intents: &[Call]) -> System {
    System { intents: [&[SUBMIT], intents].concat(), ..system }
}

/// A daemon or a coordinator crashes anywhere.
pub fn crash() -> System {
    System { crashes: 1, registrations: 3, ..one_job() }
}

/// A daemon crashes, and crashes again while it recovers or with its next job.
pub fn two_crashes() -> System {
    System { workers: 1, crashes: 2, registrations: 3, ..one_job() }
}

/// The job is lost twice.
pub fn three_grants() -> System {
    System { epochs: 3, budgets: budgets(2), fences: false, ..one_job() }
}

/// The same with two checkpoints on one worker, and sweeps that extend leases.
pub fn saved_between() -> System {
    System { workers: 1, saves: vec![1, 2], amnesty: true, ..three_grants() }
}

/// A person cancels at any moment; two checkpoints.
pub fn cancelled() -> System {
    System { saves: vec![1, 2], ..with_intents(one_job(), &[Call::Cancel { job: 0 }]) }
}

/// A person pauses and resumes.
pub fn paused() -> System {
    let intents = [Call::Pause { job: 0 }, Call::Resume { job: 0 }];
    System { fences: false, ..with_intents(one_job(), &intents) }
}

/// A person cancels and retries; trainers fail.
pub fn retried() -> System {
    let intents = [Call::Cancel { job: 0 }, Call::Retry { job: 0 }];
    System {
        steps: 1,
        saves: vec![1],
        fences: false,
        failures: vec![FailureClass::Infrastructure],
        ..with_intents(one_job(), &intents)
    }
}

/// Daemons fall silent for long; what nothing needs is condemned, and the collector
/// deletes that and what nobody names.
pub fn collected() -> System {
    System { saves: vec![1, 2], drops: true, fences: false, collect: true, ..one_job() }
}

/// Questions for a job that come late find nobody who expects the job.
pub fn ghosts() -> System {
    System { ghosts: true, fences: false, drops: true, ..one_job() }
}

/// From the first registration, with a submission that comes again, once with
/// other content.
pub fn submitted() -> System {
    let other = Call::Submit { key: 1, body: 2 };
    System {
        fresh: true,
        steps: 1,
        saves: vec![1],
        crashes: 1,
        fences: false,
        ..with_intents(one_job(), &[other])
    }
}

/// Two jobs for two workers.
pub fn two_jobs() -> System {
    let second = Call::Submit { key: 2, body: 1 };
    let single = System { epochs: 1, budgets: budgets(0), ..one_job() };
    System { steps: 1, saves: vec![1], fences: false, ..with_intents(single, &[second]) }
}

/// The database fails over once and loses its last commit.
pub fn failover() -> System {
    System { steps: 1, saves: vec![1], failover: true, ..one_job() }
}

/// Everything that tests try, without a fault in it.
pub fn all() -> Vec<Bounds> {
    let named: [(&'static str, System); 15] = [
        ("crash", crash()),
        ("two crashes", two_crashes()),
        ("three grants", three_grants()),
        ("saved between", saved_between()),
        ("cancelled", cancelled()),
        ("paused", paused()),
        ("retried", retried()),
        ("collected", collected()),
        ("ghosts", ghosts()),
        ("submitted", submitted()),
        ("two jobs", two_jobs()),
        ("failover", failover()),
        ("crash, two checkpoints", System { saves: vec![1, 2], ..crash() }),
        (
            "two crashes of two workers, one step",
            System { steps: 1, saves: vec![1], fences: false, ..crashes_of_two_workers() },
        ),
        ("three grants of two workers, two checkpoints", System { workers: 2, ..saved_between() }),
    ];
    named.into_iter().map(|(name, system)| Bounds { name, system }).collect()
}

/// What takes minutes to hours: for `cargo run --package cakes-model --example larger_bounds`.
pub fn large() -> Vec<Bounds> {
    let everything =
        System { crashes: 1, registrations: 2, drops: true, collect: true, amnesty: true, ..cancelled() };
    let retried_more = System { epochs: 3, budgets: budgets(1), ..retried() };
    let jobs_again = System { epochs: 2, budgets: budgets(1), ..two_jobs() };
    let named: [(&'static str, System); 4] = [
        ("two crashes of two workers", crashes_of_two_workers()),
        ("retried, three grants", retried_more),
        ("two jobs, two grants each", jobs_again),
        ("crash, cancel, collector, amnesty", everything),
    ];
    named.into_iter().map(|(name, system)| Bounds { name, system }).collect()
}

fn crashes_of_two_workers() -> System {
    System { crashes: 2, registrations: 3, ..one_job() }
}

impl Bounds {
    /// Tries every state. Says how many there are, and of the first property that
    /// does not hold how it came to that.
    ///
    /// # Errors
    /// A property does not hold.
    pub fn check(self) -> Result<String, String> {
        let begin = Instant::now();
        let checker = self.system.checker().threads(2).spawn_bfs().join();
        if let Some((property, path)) = checker.discoveries().into_iter().next() {
            return Err(format!("{}: not so: {property}; after {:#?}", self.name, path.into_actions()));
        }
        Ok(format!(
            "{}: {} states, {} steps, depth {}, {:.1} s",
            self.name,
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            begin.elapsed().as_secs_f64()
        ))
    }
}

/// The bounds in which a fault shows itself.
pub fn of_mutant(mutant: Mutant) -> System {
    let system = match mutant {
        Mutant::CollectByAge | Mutant::CondemnCurrent | Mutant::DeleteFirst | Mutant::ForgetCondemned => {
            collected()
        }
        Mutant::LossNotCounted => more_than_paid(),
        Mutant::CancelFinished | Mutant::CompleteAfterCancel => cancelled(),
        Mutant::SubmitTwice => submitted(),
        Mutant::EpochWithoutNonce => failover(),
        Mutant::AckBeforeCommit | Mutant::ForgetWhenStale | Mutant::GiveUpOnComplete => crash(),
        Mutant::RaiseAlways | Mutant::KeyByStep | Mutant::ShowSuperseded | Mutant::ResumeFromStore => {
            saved_between()
        }
        _ => one_job(),
    };
    System { rules: Rules { broken: Some(mutant) }, ..system }
}

/// More grants than the budget pays for.
fn more_than_paid() -> System {
    System { budgets: budgets(1), ..three_grants() }
}
