//! Trainers that the kernel does not end, and a store that does not answer.

use super::*;

/// Once it was killed: what is asked for when the kernel has had its time.
fn abandoned(bench: &mut Bench) -> Vec<Effect> {
    bench.acknowledged(DesiredState::Run);
    assert!(!bench.later(29).contains(&Effect::AbandonTrainer), "the kernel has its time");
    bench.later(1)
}

#[test]
fn a_trainer_that_cannot_be_killed_does_not_keep_its_job_running() {
    let mut bench = Bench::training();
    assert!(bench.acknowledged(DesiredState::Yield).contains(&Effect::Kill));
    assert!(abandoned(&mut bench).contains(&Effect::AbandonTrainer));
    let failure = failure(bench.conclusion());
    assert_eq!(failure.class, FailureClass::Infrastructure);
    assert!(failure.message.contains("cannot be killed"), "{}", failure.message);
}

#[test]
fn what_was_decided_before_the_kill_is_what_is_told() {
    let mut completed_first = Bench::training();
    completed_first.trainer(step(100));
    completed_first.trainer(checkpoint(100));
    completed_first.says(stored(100));
    completed_first.trainer(completed(100));
    assert!(completed_first.later(5).contains(&Effect::Kill));
    assert!(abandoned(&mut completed_first).contains(&Effect::AbandonTrainer));
    assert!(matches!(completed_first.conclusion(), Conclusion::Complete(_)));

    let mut cancelled = Bench::training();
    cancelled.trainer(step(3));
    cancelled.acknowledged(DesiredState::Cancel);
    assert!(cancelled.later(5).contains(&Effect::Kill));
    assert!(abandoned(&mut cancelled).contains(&Effect::AbandonTrainer));
    assert_eq!(failure(cancelled.conclusion()).class, FailureClass::Cancelled);

    let mut leaked = Bench::training();
    assert!(leaked.says(Event::Memory { mib: 1001 }).contains(&Effect::Kill));
    assert!(abandoned(&mut leaked).contains(&Effect::AbandonTrainer));
    let failure = failure(leaked.conclusion());
    assert_eq!(failure.class, FailureClass::Resource);
    for part in ["1001 MiB", "cannot be killed"] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[test]
fn an_unwanted_attempt_ends_although_its_trainer_cannot_be_killed() {
    let mut bench = Bench::training();
    bench.says(Event::LeaseLost("epoch 3".into()));
    assert_eq!(bench.later(30), [Effect::AbandonTrainer]);
    let why = "lease lost: epoch 3".to_owned();
    assert_eq!(bench.attempt.outcome(), Some(&Outcome::Dropped { why }));
}

#[test]
fn a_store_that_does_not_answer_ends_the_attempt_although_reports_renew_its_lease() {
    let mut bench = Bench::new();
    assert!(bench.later(8).contains(&Effect::Start));
    bench.says(Event::Started { sent_at: bench.at, ttl: TTL });
    bench.acknowledged(DesiredState::Run);
    assert!(!bench.later(21).contains(&Effect::AbandonPreparation));
    bench.acknowledged(DesiredState::Run);
    assert!(bench.later(1).contains(&Effect::AbandonPreparation));
    let failure = failure(bench.conclusion());
    assert_eq!(failure.class, FailureClass::Infrastructure);
    for part in ["file:///store", "--loading-limit"] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}
