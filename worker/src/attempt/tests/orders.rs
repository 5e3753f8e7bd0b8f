//! Every order of events, in a world that answers only what was asked.

use proptest::prelude::*;

use super::*;

/// What may happen next, whether it fits or not.
fn any_event() -> impl Strategy<Value = (u64, Happening)> {
    let kinds = prop_oneof![
        Just(Happening::Prepared),
        Just(Happening::PreparationFailed),
        Just(Happening::Started),
        Just(Happening::Ready),
        Just(Happening::Step),
        Just(Happening::Checkpoint),
        Just(Happening::Completed),
        Just(Happening::Failed),
        Just(Happening::BadFrame),
        Just(Happening::Leak),
        Just(Happening::Log),
        Just(Happening::Exit),
        Just(Happening::ReportAnswered),
        Just(Happening::Cancel),
        Just(Happening::Yield),
        Just(Happening::LeaseLost),
        Just(Happening::OutOfRange),
        Just(Happening::Uploaded),
        Just(Happening::Stored),
        Just(Happening::StoreFailed),
        Just(Happening::Drain),
        Just(Happening::ConclusionRefused),
        Just(Happening::ReportRefused),
        Just(Happening::Nothing),
    ];
    // Mostly so fast that limits play no part.
    (prop_oneof![9 => 0_u64..2, 1 => 0_u64..40], kinds)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happening {
    Prepared,
    PreparationFailed,
    Started,
    Ready,
    Step,
    Checkpoint,
    Completed,
    Failed,
    BadFrame,
    Leak,
    Log,
    Exit,
    ReportAnswered,
    Cancel,
    Yield,
    LeaseLost,
    OutOfRange,
    Uploaded,
    Stored,
    StoreFailed,
    Drain,
    ConclusionRefused,
    ReportRefused,
    Nothing,
}

/// The world around an attempt: it answers only what was asked and checks that
/// what is asked makes sense.
#[derive(Default)]
struct World {
    prepared: bool,
    abandoned: bool,
    child: bool,
    killed: bool,
    start_asked: bool,
    started: bool,
    report: Option<(u64, u64)>,
    stored_seq: u64,
    storing: Option<LocalCheckpoint>,
    /// Neither committed nor asked to be.
    uploaded: Option<LocalCheckpoint>,
    committing: Option<LocalCheckpoint>,
    concluding: Option<Conclusion>,
}

impl World {
    fn check(&mut self, effects: &[Effect]) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Start => {
                    prop_assert!(!self.start_asked, "Start twice");
                    self.start_asked = true;
                }
                Effect::Report { batch, .. } => {
                    prop_assert!(self.started && self.report.is_none(), "reports overlap");
                    prop_assert_eq!(batch.first_seq, self.stored_seq + 1);
                    self.report = Some((batch.first_seq, batch.entries.len() as u64));
                }
                Effect::Join | Effect::Renew | Effect::Launch(_) | Effect::Tell(_) => {
                    prop_assert!(false, "an attempt of one slot has no others: {effect:?}");
                }
                Effect::AbandonPreparation => self.abandoned = true,
                Effect::SendStop => prop_assert!(self.child),
                Effect::Kill => {
                    prop_assert!(self.child, "nobody to kill");
                    self.killed = true;
                }
                Effect::AbandonTrainer => {
                    prop_assert!(self.killed && self.child, "nobody to abandon");
                    self.child = false;
                }
                Effect::Store(local) => {
                    prop_assert!(self.storing.is_none() && self.committing.is_none(), "uploads overlap");
                    self.storing = Some(local.clone());
                }
                Effect::Commit { checkpoint, bytes } => {
                    let local = self.uploaded.take();
                    let found = local.as_ref().map(|local| (local.step, local.bytes));
                    prop_assert_eq!(found, Some((checkpoint.step, *bytes)));
                    self.committing = local;
                }
                Effect::RemoveLocal(folder) => {
                    let busy = self.storing.iter().chain(&self.committing);
                    let used = busy.into_iter().any(|local| local.directory == *folder);
                    prop_assert!(!used, "a folder is removed under an upload");
                }
                Effect::Conclude(conclusion) => {
                    prop_assert!(!self.child, "concluded while the trainer runs");
                    prop_assert!(self.started);
                    if let Conclusion::Complete(completion) = conclusion {
                        prop_assert_eq!(completion.last_seq, self.stored_seq);
                        let kept = self.uploaded.as_ref().map(|local| local.bytes);
                        prop_assert_eq!(completion.checkpoint_bytes, kept);
                    }
                    self.concluding = Some(conclusion.clone());
                }
            }
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), TestCaseError> {
        prop_assert!(!self.child, "ended with a running trainer");
        prop_assert!(self.prepared || self.abandoned, "a trainer may still be started");
        Ok(())
    }

    /// The event, where the world can bring it about.
    fn event(&mut self, happening: Happening, bench: &Bench) -> Option<Event> {
        let at = bench.at;
        let next = bench.attempt.progress.step() + 1;
        let trainer = |event| self.child.then_some(Event::Trainer(event));
        let answer = |world: &mut World, desired| {
            let (first, count) = world.report.take()?;
            world.stored_seq = first + count - 1;
            Some(Event::Acknowledged { sent_at: at, ttl: TTL, ack_seq: world.stored_seq, desired })
        };
        match happening {
            Happening::Prepared if !self.prepared && !self.abandoned => {
                (self.prepared, self.child) = (true, true);
                Some(Event::Prepared)
            }
            Happening::PreparationFailed if !self.prepared && !self.abandoned => {
                self.prepared = true;
                Some(Event::PreparationFailed(Failure::infrastructure("no disk")))
            }
            Happening::Started if self.start_asked && !self.started => {
                self.started = true;
                Some(Event::Started { sent_at: at, ttl: TTL })
            }
            Happening::Ready => trainer(ready(TRAINER_PROTOCOL)),
            Happening::Step => trainer(step(next)),
            Happening::Checkpoint => trainer(checkpoint(next - 1)),
            Happening::Completed => trainer(completed(next - 1)),
            Happening::Failed => {
                trainer(TrainerEvent::Failed { class: TrainerClass::User, message: "no data".into() })
            }
            Happening::Leak if self.child => Some(Event::Memory { mib: 1001 }),
            Happening::BadFrame if self.child => Some(Event::BadFrame("garbage".into())),
            Happening::Log if self.child => Some(Event::Log("line".into())),
            Happening::Exit if self.child => {
                self.child = false;
                Some(exit(1))
            }
            Happening::ReportAnswered => answer(self, DesiredState::Run),
            Happening::Cancel => answer(self, DesiredState::Cancel),
            Happening::Yield => answer(self, DesiredState::Yield),
            Happening::OutOfRange => {
                self.report.take()?;
                Some(Event::OutOfRange { ack_seq: Some(self.stored_seq) })
            }
            Happening::LeaseLost if self.start_asked => Some(Event::LeaseLost("taken".into())),
            Happening::Uploaded => {
                let local = self.storing.take()?;
                let step = local.step;
                self.uploaded = Some(local);
                Some(uploaded(step))
            }
            Happening::Stored => {
                let local = self.committing.take()?;
                Some(stored(local.step))
            }
            Happening::StoreFailed => {
                self.storing.take().or_else(|| self.committing.take())?;
                Some(Event::StoreFailed { message: "full".into(), permanent: false })
            }
            Happening::Drain => Some(Event::Drain { deadline: at + Duration::from_secs(30) }),
            Happening::ConclusionRefused => {
                self.concluding.take()?;
                Some(Event::Refused { call: "Complete", message: "no".into() })
            }
            Happening::ReportRefused => {
                self.report.take()?;
                Some(Event::Refused { call: "Report", message: "no".into() })
            }
            Happening::Nothing => Some(Event::Tick),
            _ => None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens in whatever order, no trainer is left without somebody
    /// who will end it, calls do not overlap, entries go out in order, and with
    /// an answering world every attempt ends.
    #[test]
    fn no_order_of_events_leaves_a_trainer_or_an_attempt_behind(
        trains in any::<bool>(),
        unkillable in any::<bool>(),
        store_is_silent in any::<bool>(),
        happenings in proptest::collection::vec(any_event(), 0..60)
    ) {
        let (mut bench, mut world) = (Bench::new(), World::default());
        // Half of the cases begin where most of an attempt's life is spent.
        let begun = [Happening::Prepared, Happening::Started, Happening::Ready];
        let begun = begun.into_iter().filter(|_| trains).map(|happening| (0, happening));
        for (seconds, happening) in begun.chain(happenings) {
            bench.at += Duration::from_secs(seconds);
            if let Some(event) = world.event(happening, &bench) {
                let effects = bench.says(event);
                world.check(&effects)?;
            }
            if bench.attempt.outcome().is_some() {
                return world.check_end();
            }
        }
        // Now nothing more fails, but for what the case is about: a killed trainer goes, the
        // store gives its checkpoint, every call is answered.
        for _ in 0..2000 {
            bench.at += Duration::from_secs(1);
            let exit = (world.killed && !unkillable).then_some(Happening::Exit);
            let prepared = (!store_is_silent).then_some(Happening::Prepared);
            let answers = [
                Happening::Started,
                Happening::ReportAnswered,
                Happening::Uploaded,
                Happening::Stored,
                Happening::Nothing,
            ];
            for happening in exit.into_iter().chain(prepared).chain(answers) {
                if let Some(event) = world.event(happening, &bench) {
                    let effects = bench.says(event);
                    world.check(&effects)?;
                }
            }
            if world.concluding.take().is_some() {
                let effects = bench.says(Event::Concluded);
                world.check(&effects)?;
            }
            if bench.attempt.outcome().is_some() {
                return world.check_end();
            }
        }
        prop_assert!(false, "never ended: {:?}", bench.attempt.state);
    }
}
