//! Orders of events that a real attempt may see.

use std::time::{Duration, SystemTime};

use cakes::derive::LatencyTable;
use cakes::frame::{
    FailureClass as TrainerClass, Phase, Quality, SegmentationQuality, Summary, TRAINER_PROTOCOL,
    TrainerEvent,
};
use cakes_proto::v1::{DesiredState, FailureClass};

use super::*;

mod gangs;
mod orders;
mod stuck;

const TTL: Duration = Duration::from_secs(60);

fn patience() -> Patience {
    let limit = Duration::from_secs(30);
    Patience {
        limits: SectionLimits {
            loading: limit,
            building: limit,
            step: limit,
            validation: limit,
            checkpoint: limit,
            latency: limit,
        },
        memory_mib_max: 1000,
        stop_grace: Duration::from_secs(20),
        cancel_grace: Duration::from_secs(5),
        exit_grace: Duration::from_secs(5),
        fence_share: 0.75,
        hold: Duration::from_secs(600),
    }
}

/// An attempt with a clock that the test moves.
struct Bench {
    attempt: Attempt,
    at: Duration,
}

impl Bench {
    fn new() -> Self {
        let at = Duration::from_secs(1000);
        let terms = Terms {
            epoch: 2,
            offered_at: at,
            offer_ttl: Duration::from_secs(15),
            report_interval: Duration::from_secs(2),
            checkpoints: "/w/out/checkpoints".into(),
            store: "file:///store".into(),
            resume: None,
            training: None,
        };
        Bench { attempt: Attempt::new(terms, patience(), now(at)), at }
    }

    /// With its trainer in training and the lease held.
    fn training() -> Self {
        let mut bench = Bench::new();
        bench.says(Event::Prepared);
        bench.says(Event::Started { sent_at: bench.at, ttl: TTL });
        bench.trainer(ready(TRAINER_PROTOCOL));
        bench.trainer(TrainerEvent::Phase(Phase::Training));
        bench
    }

    fn says(&mut self, event: Event) -> Vec<Effect> {
        self.attempt.handle(event, now(self.at))
    }

    fn trainer(&mut self, event: TrainerEvent) -> Vec<Effect> {
        self.says(Event::Trainer(event))
    }

    fn later(&mut self, seconds: u64) -> Vec<Effect> {
        self.at += Duration::from_secs(seconds);
        self.says(Event::Tick)
    }

    /// The coordinator stores everything that was reported.
    fn acknowledged(&mut self, desired: DesiredState) -> Vec<Effect> {
        let ack_seq = self.attempt.outbox.last_seq();
        self.says(Event::Acknowledged { sent_at: self.at, ttl: TTL, ack_seq, desired })
    }

    /// Acknowledges until the last call is asked for.
    fn conclusion(&mut self) -> Conclusion {
        for _ in 0..5 {
            let effects = self.acknowledged(DesiredState::Run);
            if let Some(conclusion) = concluded(&effects) {
                return conclusion;
            }
        }
        panic!("no conclusion in {:?}", self.attempt.state);
    }
}

fn now(since_boot: Duration) -> Now {
    Now { since_boot, wall: SystemTime::UNIX_EPOCH + since_boot }
}

fn ready(protocol: u32) -> TrainerEvent {
    TrainerEvent::Ready {
        protocol,
        device: "cpu".into(),
        libtorch: "2".into(),
        param_count: 1,
        steps_total: 100,
        epochs_total: 10,
        resumed_step: 0,
    }
}

fn step(step: u64) -> TrainerEvent {
    TrainerEvent::Step { step, loss: 0.5, learning_rate: 0.1, samples_per_s: 4.0, data_wait_share: 0.0 }
}

fn checkpoint(step: u64) -> TrainerEvent {
    TrainerEvent::Checkpoint {
        step,
        directory: format!("/w/out/checkpoints/step-{step:09}"),
        manifest_sha256: "aa".into(),
        bytes: 10,
        stall_s: 0.01,
        save_s: 0.5,
    }
}

fn stored(step: u64) -> Event {
    Event::Stored(StoredCheckpoint { step, key: format!("k/{step}"), manifest_sha256: "aa".into() })
}

fn uploaded(step: u64) -> Event {
    let checkpoint = StoredCheckpoint { step, key: format!("k/{step}"), manifest_sha256: "aa".into() };
    Event::Uploaded { checkpoint, bytes: 10 }
}

fn completed(step: u64) -> TrainerEvent {
    TrainerEvent::Completed(Summary {
        step,
        quality: Quality::Segmentation(SegmentationQuality {
            mean_dice: 0.8,
            dice_per_class: vec![0.8],
            case_count: 2,
        }),
        param_count: 1,
        mac_count: 1,
        latency_ms: Some(1.0),
        peak_memory_mib: 10.0,
        train_duration_s: 5.0,
    })
}

fn exit(code: i32) -> Event {
    Event::Exited(Exit { code: Some(code), signal: None, memory_exhausted: false, last_lines: vec![] })
}

fn concluded(effects: &[Effect]) -> Option<Conclusion> {
    effects.iter().find_map(|effect| match effect {
        Effect::Conclude(conclusion) => Some(conclusion.clone()),
        _ => None,
    })
}

fn failure(conclusion: Conclusion) -> Failure {
    match conclusion {
        Conclusion::Fail(failure) => failure,
        Conclusion::Complete(completion) => panic!("completed: {completion:?}"),
    }
}

#[test]
fn a_job_completes_when_its_entries_are_acknowledged_and_its_checkpoint_is_committed() {
    let mut bench = Bench::training();
    bench.trainer(step(100));
    let effects = bench.trainer(checkpoint(100));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Store(local) if local.step == 100)));
    let table = LatencyTable { fixed_ns: 1, reference_ns: 2, layers: Vec::new() };
    bench.trainer(TrainerEvent::Latency(Box::new(table.clone())));
    bench.trainer(completed(100));
    bench.says(exit(0));
    assert_eq!(concluded(&bench.acknowledged(DesiredState::Run)), None, "the checkpoint is not committed");
    bench.says(stored(100));
    let Conclusion::Complete(completion) = bench.conclusion() else { panic!("failed") };
    assert_eq!(completion.checkpoint.step, 100);
    assert_eq!(completion.latency, Some(table));
    assert_eq!(completion.last_seq, bench.attempt.acked_seq());
    bench.says(Event::Concluded);
    assert_eq!(bench.attempt.outcome(), Some(&Outcome::Completed));
}

#[test]
fn the_last_checkpoint_is_committed_with_the_completion_and_others_at_once() {
    let mut bench = Bench::training();
    bench.trainer(step(50));
    bench.trainer(checkpoint(50));
    let early = uploaded(50);
    assert!(bench.says(early).iter().any(|effect| matches!(effect, Effect::Commit { bytes: 10, .. })));
    bench.says(stored(50));
    bench.trainer(step(100));
    bench.trainer(checkpoint(100));
    bench.trainer(completed(100));
    let commits = |effect: &Effect| matches!(effect, Effect::Commit { .. });
    assert!(!bench.says(uploaded(100)).iter().any(commits));
    bench.says(exit(0));
    let Conclusion::Complete(completion) = bench.conclusion() else { panic!("failed") };
    assert_eq!((completion.checkpoint.step, completion.checkpoint_bytes), (100, Some(10)));
}

#[test]
fn a_checkpoint_that_is_uploaded_before_the_trainer_s_last_word_is_committed_by_itself() {
    let mut bench = Bench::training();
    bench.trainer(step(100));
    bench.trainer(checkpoint(100));
    let effects = bench.says(uploaded(100));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Commit { .. })));
    bench.trainer(completed(100));
    bench.says(exit(0));
    assert_eq!(concluded(&bench.acknowledged(DesiredState::Run)), None, "its commit is under way");
    bench.says(stored(100));
    let Conclusion::Complete(completion) = bench.conclusion() else { panic!("failed") };
    assert_eq!((completion.checkpoint.step, completion.checkpoint_bytes), (100, None));
}

#[test]
fn a_completion_without_its_final_checkpoint_is_no_completion() {
    let mut bench = Bench::training();
    bench.trainer(step(100));
    bench.trainer(completed(100));
    bench.says(exit(0));
    assert_eq!(failure(bench.conclusion()).class, FailureClass::Infrastructure);
}

#[test]
fn a_lost_lease_kills_the_trainer_and_nothing_more_is_told() {
    let mut bench = Bench::training();
    let effects = bench.says(Event::LeaseLost("epoch 3".into()));
    assert_eq!(effects, [Effect::Kill]);
    assert!(bench.attempt.outcome().is_none(), "the child is still there");
    assert_eq!(bench.later(29), []);
    bench.says(exit(1));
    assert!(matches!(bench.attempt.outcome(), Some(Outcome::Dropped { .. })));
}

#[test]
fn a_cancelled_trainer_is_asked_to_stop_and_killed_when_it_does_not() {
    let mut bench = Bench::training();
    bench.trainer(step(3));
    let effects = bench.acknowledged(DesiredState::Cancel);
    assert!(effects.contains(&Effect::SendStop) && !effects.contains(&Effect::Kill));
    assert!(!bench.later(4).contains(&Effect::Kill));
    assert!(bench.later(2).contains(&Effect::Kill));
    bench.says(exit(1));
    assert_eq!(failure(bench.conclusion()).class, FailureClass::Cancelled);
}

#[test]
fn a_job_that_is_handed_back_is_saved_and_committed_first() {
    let mut bench = Bench::training();
    bench.trainer(step(7));
    assert!(bench.acknowledged(DesiredState::Yield).contains(&Effect::SendStop));
    bench.trainer(checkpoint(7));
    bench.says(exit(0));
    assert_eq!(concluded(&bench.acknowledged(DesiredState::Yield)), None);
    bench.says(stored(7));
    assert_eq!(failure(bench.conclusion()).class, FailureClass::Lost);
}

#[test]
fn nothing_is_saved_where_nothing_was_done() {
    let mut bench = Bench::training();
    assert!(bench.acknowledged(DesiredState::Yield).contains(&Effect::Kill));
}

#[test]
fn a_trainer_that_stands_still_is_killed_for_its_machine() {
    let mut bench = Bench::training();
    bench.trainer(step(1));
    bench.later(29);
    bench.trainer(step(2));
    bench.acknowledged(DesiredState::Run);
    assert!(!bench.later(29).contains(&Effect::Kill));
    bench.acknowledged(DesiredState::Run);
    assert!(bench.later(1).contains(&Effect::Kill));
    bench.says(Event::Exited(Exit {
        code: None,
        signal: Some(9),
        memory_exhausted: false,
        last_lines: vec![],
    }));
    let failure = failure(bench.conclusion());
    assert_eq!(failure.class, FailureClass::Infrastructure);
    assert!(failure.message.contains("--step-limit"), "{}", failure.message);
}

#[test]
fn a_trainer_that_leaks_is_killed_and_its_job_needs_too_much() {
    let mut bench = Bench::training();
    bench.trainer(step(1));
    assert!(!bench.says(Event::Memory { mib: 1000 }).contains(&Effect::Kill));
    assert!(bench.says(Event::Memory { mib: 1001 }).contains(&Effect::Kill));
    bench.says(exit(9));
    let failure = failure(bench.conclusion());
    assert_eq!(failure.class, FailureClass::Resource);
    assert!(failure.message.contains("1001 MiB"), "{}", failure.message);
}

#[test]
fn without_contact_training_stops_at_three_quarters_of_the_lease() {
    let mut bench = Bench::training();
    bench.trainer(step(1));
    bench.acknowledged(DesiredState::Run);
    for _ in 0..4 {
        bench.at += Duration::from_secs(10);
        let next = bench.attempt.progress.step() + 1;
        assert!(!bench.trainer(step(next)).contains(&Effect::SendStop));
    }
    assert!(bench.later(5).contains(&Effect::SendStop));
    bench.trainer(checkpoint(5));
    bench.says(exit(0));
    // Contact again: the lease is still this attempt's, so the job is handed back.
    bench.later(200);
    bench.says(stored(5));
    assert_eq!(failure(bench.conclusion()).class, FailureClass::Lost);
}

#[test]
fn without_contact_for_the_whole_hold_the_attempt_is_dropped() {
    let mut bench = Bench::training();
    bench.trainer(step(1));
    bench.later(45);
    bench.says(exit(0));
    bench.later(599);
    assert_eq!(bench.attempt.outcome(), None);
    bench.later(2);
    assert!(matches!(bench.attempt.outcome(), Some(Outcome::Dropped { .. })));
}

#[test]
fn a_trainer_that_breaks_the_protocol_is_killed() {
    let strange = |event: TrainerEvent| {
        let mut bench = Bench::training();
        bench.trainer(step(5));
        let effects = bench.trainer(event);
        bench.says(exit(0));
        (effects.contains(&Effect::Kill), failure(bench.conclusion()))
    };
    let outside = TrainerEvent::Checkpoint {
        step: 5,
        directory: "/etc".into(),
        manifest_sha256: String::new(),
        bytes: 0,
        stall_s: 0.01,
        save_s: 0.5,
    };
    let repeated = checkpoint(0);
    for event in [step(5), outside, repeated] {
        let (killed, failure) = strange(event);
        assert!(killed);
        assert_eq!(failure.class, FailureClass::Infrastructure);
    }
}

#[test]
fn another_version_of_the_trainer_is_refused() {
    let mut bench = Bench::new();
    bench.says(Event::Prepared);
    bench.says(Event::Started { sent_at: bench.at, ttl: TTL });
    bench.trainer(ready(TRAINER_PROTOCOL + 1));
    bench.says(exit(0));
    assert!(failure(bench.conclusion()).message.contains("protocol"));
}

#[test]
fn the_trainer_s_own_word_decides_the_class() {
    let mut bench = Bench::training();
    bench.trainer(TrainerEvent::Failed { class: TrainerClass::Numeric, message: "loss is NaN".into() });
    bench.says(exit(1));
    assert_eq!(failure(bench.conclusion()), Failure::new(FailureClass::Numeric, "loss is NaN"));
}

#[test]
fn a_store_that_never_comes_back_ends_the_attempt_after_the_hold() {
    let mut bench = Bench::training();
    bench.trainer(step(100));
    bench.trainer(checkpoint(100));
    bench.trainer(completed(100));
    bench.says(exit(0));
    let mut conclusion = None;
    bench.says(Event::StoreFailed { message: "no space left".into(), permanent: false });
    for _ in 0..30 {
        let effects = bench.later(30);
        conclusion = conclusion.or_else(|| concluded(&effects));
        if effects.iter().any(|effect| matches!(effect, Effect::Store(_))) {
            bench.says(Event::StoreFailed { message: "no space left".into(), permanent: false });
        }
        conclusion = conclusion.or_else(|| concluded(&bench.acknowledged(DesiredState::Run)));
    }
    let failure = failure(conclusion.expect("an end"));
    assert_eq!(failure.class, FailureClass::Infrastructure);
    assert!(failure.message.contains("no space left"), "{}", failure.message);
}

#[test]
fn a_refused_report_ends_the_attempt_and_its_job_learns_why() {
    let mut bench = Bench::training();
    bench.trainer(step(1));
    let effects = bench.says(Event::Refused { call: "Report", message: "an entry changed".into() });
    assert!(effects.contains(&Effect::Kill));
    let effects = bench.says(exit(1));
    let failure = failure(concluded(&effects).expect("told at once"));
    assert_eq!(failure.class, FailureClass::Infrastructure);
    assert!(failure.message.contains("an entry changed"));
}

#[test]
fn a_preparation_is_given_up_with_its_lease() {
    let mut bench = Bench::new();
    assert_eq!(bench.later(8), [Effect::Start]);
    assert_eq!(bench.says(Event::LeaseLost("too late".into())), [Effect::AbandonPreparation]);
    assert!(matches!(bench.attempt.outcome(), Some(Outcome::Dropped { .. })));
}

#[test]
fn a_slow_preparation_keeps_its_offer() {
    let mut bench = Bench::new();
    assert_eq!(bench.later(7), []);
    assert_eq!(bench.later(1), [Effect::Start]);
}
