//! Slots that train together: the one that leads, and one that follows.

use cakes::frame::RANKS_GONE;

use super::*;

/// A part with a clock that the test moves.
struct Slot {
    follower: Follower,
    at: Duration,
}

impl Slot {
    fn new() -> Self {
        let at = Duration::from_secs(1000);
        let part = Part {
            offered_at: at,
            offer_ttl: Duration::from_secs(15),
            report_interval: Duration::from_secs(2),
            store: "file:///store".into(),
        };
        Slot { follower: Follower::new(part, patience(), now(at)), at }
    }

    /// With its ranks at work.
    fn running() -> Self {
        let mut part = Slot::new();
        part.says(Event::Fetched);
        part.says(Event::Joined { sent_at: part.at, ttl: TTL, address: None });
        part.renewed(DesiredState::Run, Some("gpu-1:7000"));
        part.says(Event::Prepared);
        part
    }

    fn says(&mut self, event: Event) -> Vec<Effect> {
        self.follower.handle(event, now(self.at))
    }

    fn renewed(&mut self, desired: DesiredState, address: Option<&str>) -> Vec<Effect> {
        let address = address.map(str::to_owned);
        self.says(Event::Renewed { sent_at: self.at, ttl: TTL, desired, address })
    }

    fn later(&mut self, seconds: u64) -> Vec<Effect> {
        self.at += Duration::from_secs(seconds);
        self.says(Event::Tick)
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.follower.outcome()
    }
}

fn exited(code: i32) -> Event {
    Event::Exited(Exit { code: Some(code), signal: None, memory_exhausted: false, last_lines: Vec::new() })
}

fn launches(effects: &[Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        Effect::Launch(address) => Some(address.as_str()),
        _ => None,
    })
}

#[test]
fn a_part_starts_at_once_and_its_ranks_when_it_is_known_where_they_meet() {
    let mut part = Slot::new();
    assert_eq!(part.says(Event::Tick), [Effect::Join], "its offer must not run out");
    assert_eq!(part.says(Event::Joined { sent_at: part.at, ttl: TTL, address: None }), [Effect::Renew]);
    assert_eq!(launches(&part.renewed(DesiredState::Run, Some("gpu-1:7000"))), None, "still fetching");
    assert_eq!(launches(&part.says(Event::Fetched)), Some("gpu-1:7000"));

    let mut part = Slot::new();
    part.says(Event::Fetched);
    part.says(Event::Joined { sent_at: part.at, ttl: TTL, address: None });
    part.renewed(DesiredState::Run, None);
    assert_eq!(part.later(1), [Effect::Renew], "it asks often until it knows");
    assert_eq!(launches(&part.renewed(DesiredState::Run, Some("gpu-1:7000"))), Some("gpu-1:7000"));
    assert!(
        launches(&part.renewed(DesiredState::Run, Some("gpu-1:7000"))).is_none(),
        "they are on their way"
    );
    part.says(Event::Prepared);
    assert!(part.later(1).is_empty());
    assert_eq!(part.later(1), [Effect::Renew]);
    assert!(launches(&part.renewed(DesiredState::Run, Some("gpu-1:7000"))).is_none(), "once");
}

#[test]
fn ranks_that_are_done_leave_the_end_to_the_leader() {
    let mut part = Slot::running();
    assert!(part.says(exited(0)).is_empty());
    for _ in 0..100 {
        assert_eq!(part.later(2), [Effect::Renew]);
        assert!(part.renewed(DesiredState::Run, None).is_empty());
    }
    part.says(Event::LeaseLost("the job has ended".into()));
    assert_eq!(part.outcome(), Some(&Outcome::Left));
}

#[test]
fn a_lost_lease_ends_the_ranks_at_once_and_is_no_failure() {
    let mut part = Slot::running();
    assert_eq!(part.says(Event::LeaseLost("epoch 3".into())), [Effect::Kill]);
    assert_eq!(part.outcome(), None, "its process is still there");
    part.says(exited(1));
    assert_eq!(part.outcome(), Some(&Outcome::Left));
}

#[test]
fn a_part_that_is_asked_to_stop_lets_the_leader_save() {
    let mut part = Slot::running();
    assert!(part.renewed(DesiredState::Yield, None).contains(&Effect::SendStop));
    assert!(concluded(&part.says(exited(0))).is_none());
    assert!(concluded(&part.later(600)).is_none(), "the leader ends it");

    let mut part = Slot::running();
    let deadline = part.at + Duration::from_secs(30);
    assert!(part.says(Event::Drain { deadline }).contains(&Effect::SendStop));
    part.says(exited(0));
    assert!(concluded(&part.later(20)).is_none());
    let told = failure(concluded(&part.later(8)).expect("the daemon ends"));
    assert_eq!(told.class, FailureClass::Lost);
}

#[test]
fn its_own_failure_is_told_and_that_of_others_is_left_to_them() {
    let fails =
        |message: &str| TrainerEvent::Failed { class: TrainerClass::Resource, message: message.to_owned() };
    let mut part = Slot::running();
    part.says(Event::Trainer(fails("CUDA out of memory")));
    let told = failure(concluded(&part.says(exited(1))).expect("at once"));
    assert_eq!((told.class, told.message.as_str()), (FailureClass::Resource, "CUDA out of memory"));
    part.says(Event::Concluded);
    assert_eq!(part.outcome(), Some(&Outcome::Failed));

    let mut part = Slot::running();
    part.says(Event::Trainer(fails(&format!("{RANKS_GONE}: connection closed by peer"))));
    assert!(concluded(&part.says(exited(1))).is_none());
    // The leader may be storing its last checkpoint for as long as it holds it.
    for _ in 0..669 {
        assert!(concluded(&part.renewed(DesiredState::Run, None)).is_none());
        assert!(concluded(&part.later(1)).is_none());
    }
    let told = failure(concluded(&part.later(1)).expect("nobody else said anything, nor lost its lease"));
    assert_eq!(told.class, FailureClass::Lost, "its machine is at no fault");

    let mut part = Slot::running();
    part.says(Event::Trainer(fails(&format!("{RANKS_GONE}: connection closed by peer"))));
    part.says(exited(1));
    let told = failure(concluded(&part.renewed(DesiredState::Cancel, None)).expect("nobody is to blame"));
    assert_eq!(told.class, FailureClass::Cancelled);

    let mut part = Slot::running();
    let line = "[Rank 2] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)".to_owned();
    let aborted = Exit { code: None, signal: Some(6), memory_exhausted: false, last_lines: vec![line] };
    assert!(concluded(&part.says(Event::Exited(aborted))).is_none(), "NCCL ends whoever lost the others");

    let mut part = Slot::running();
    let killed = Exit { code: None, signal: Some(9), memory_exhausted: false, last_lines: Vec::new() };
    let told = failure(concluded(&part.says(Event::Exited(killed))).expect("a signal is its own"));
    assert_eq!(told.class, FailureClass::Infrastructure);
}

#[test]
fn without_contact_a_part_stops_and_is_dropped_in_the_end() {
    let mut part = Slot::running();
    assert!(part.later(45).contains(&Effect::SendStop));
    part.says(exited(0));
    part.later(600);
    assert!(matches!(part.outcome(), Some(Outcome::Dropped { .. })), "{:?}", part.outcome());
}

#[test]
fn the_leader_tells_where_the_ranks_meet_once_it_holds_its_lease() {
    let mut bench = Bench::new();
    bench.attempt = bench.attempt.leading("gpu-1".into());
    bench.says(Event::Prepared);
    let early = bench.trainer(TrainerEvent::Meets { port: 7000 });
    let tell = Effect::Tell("gpu-1:7000".into());
    assert!(!early.contains(&tell));
    assert!(bench.says(Event::Started { sent_at: bench.at, ttl: TTL }).contains(&tell));
    assert!(!bench.later(1).contains(&tell), "once");
}

#[test]
fn a_leader_whose_ranks_were_stopped_elsewhere_hands_back() {
    let mut bench = Bench::training();
    bench.attempt = bench.attempt.leading("gpu-1".into());
    bench.trainer(step(3));
    bench.says(exited(0));
    let told = failure(bench.conclusion());
    assert_eq!(told.class, FailureClass::Lost);
    assert!(told.message.contains("another member stopped"), "{}", told.message);
}

#[test]
fn a_leader_that_lost_the_others_waits_for_the_one_that_was_the_cause() {
    let waiting = || {
        let mut bench = Bench::training();
        bench.attempt = bench.attempt.leading("gpu-1".into());
        let message = format!("{RANKS_GONE}: connection closed by peer");
        bench.trainer(TrainerEvent::Failed { class: TrainerClass::Infrastructure, message });
        bench.says(exited(1));
        for _ in 0..69 {
            assert!(concluded(&bench.acknowledged(DesiredState::Run)).is_none());
            assert!(concluded(&bench.later(1)).is_none());
        }
        bench.acknowledged(DesiredState::Run);
        bench
    };
    let mut bench = waiting();
    bench.says(Event::LeaseLost("worker gpu-2 was not heard of for too long".into()));
    assert!(matches!(bench.attempt.outcome(), Some(Outcome::Dropped { .. })));

    let mut bench = waiting();
    let told = failure(concluded(&bench.later(1)).expect("nobody else said anything, nor lost its lease"));
    assert_eq!(told.class, FailureClass::Lost, "its machine is at no fault");

    let mut bench = waiting();
    let told = failure(concluded(&bench.acknowledged(DesiredState::Cancel)).expect("nobody is to blame"));
    assert_eq!(told.class, FailureClass::Cancelled);
}
