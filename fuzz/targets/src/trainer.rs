//! What a trainer says to its daemon, whatever the trainer is.

use std::path::Path;
use std::time::{Duration, SystemTime};

use cakes::frame::{TrainerCommand, TrainerEvent, decode, encode};
use cakes_proto::ids::{JobId, LeaseToken, Nonce};
use cakes_proto::v1::DesiredState;
use cakes_worker::attempt::{
    Attempt, Conclusion, Effect, Event, Exit, Patience, SectionLimits, StoredCheckpoint, Terms,
};
use cakes_worker::clock::Now;
use cakes_worker::spans::TrainerSpans;
use cakes_worker::supervisor::{LINE_BYTES_MAX, LineBuffer};
use cakes_worker::wire::{complete_request, fail_request};
use prost::Message;

use crate::choice;
use crate::place::lies_below;

const FOLDER: &str = "/node/attempts/a/out/checkpoints";
const MINUTE: Duration = Duration::from_secs(60);

/// A byte for the size of the pieces in which they come, and frames.
pub fn trainer_frames(bytes: &[u8]) {
    let Some((piece, stream)) = choice(bytes) else { return };
    let (whole, whole_problem) = read(stream, stream.len().max(1));
    let (heard, problem) = read(stream, usize::from(piece).max(1));
    assert_eq!((&heard, &problem), (&whole, &whole_problem), "pieces change what is heard");
    for event in &heard {
        // A frame that holds a number that JSON has no word for cannot have come.
        let frame = encode(event).expect("what was read can be written");
        let again = decode::<TrainerEvent>(&mut frame.clone()).expect("what is written is read");
        assert_eq!(again.as_ref(), Some(event));
    }
    let _ = decode::<TrainerCommand>(&mut stream.to_vec());
    live(heard, problem);
}

/// All frames of a stream that comes in pieces, and why it ended early.
fn read(stream: &[u8], piece: usize) -> (Vec<TrainerEvent>, Option<String>) {
    let (mut buffer, mut heard) = (Vec::new(), Vec::new());
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match decode(&mut buffer) {
                Ok(Some(event)) => heard.push(event),
                Ok(None) => break,
                Err(error) => return (heard, Some(error.to_string())),
            }
        }
    }
    (heard, None)
}

fn token() -> LeaseToken {
    LeaseToken {
        job: JobId("00000000-0000-4000-8000-000000000007".parse().expect("a UUID")),
        epoch: 1,
        nonce: Nonce([7; 16]),
        member: 0,
    }
}

/// Lets an attempt hear all of it, with a coordinator and a store that take everything.
fn live(heard: Vec<TrainerEvent>, problem: Option<String>) {
    let limits = SectionLimits {
        loading: MINUTE,
        building: MINUTE,
        step: MINUTE,
        validation: MINUTE,
        checkpoint: MINUTE,
        latency: MINUTE,
    };
    let patience = Patience {
        limits,
        memory_mib_max: 1 << 20,
        stop_grace: MINUTE,
        cancel_grace: MINUTE,
        exit_grace: MINUTE,
        fence_share: 0.5,
        hold: MINUTE,
    };
    let terms = Terms {
        epoch: 1,
        offered_at: Duration::ZERO,
        offer_ttl: MINUTE,
        report_interval: Duration::from_millis(1),
        checkpoints: FOLDER.into(),
        store: "file:///store".into(),
        resume: None,
        training: None,
    };
    let mut now = Now { since_boot: Duration::ZERO, wall: SystemTime::UNIX_EPOCH };
    let mut attempt = Attempt::new(terms, patience, now);
    let exit = Exit { code: Some(1), signal: None, memory_exhausted: false, last_lines: Vec::new() };
    let mut spans = TrainerSpans::new(None);
    spans.begin();
    let events = [Event::Prepared].into_iter().chain(heard.into_iter().map(Event::Trainer));
    let ends = problem.map(Event::BadFrame).into_iter().chain([Event::Exited(exit)]);
    for event in events.chain(ends) {
        let mut waiting: Vec<Event> = spans.hear(event).into_iter().collect();
        while let Some(event) = waiting.pop() {
            now.since_boot += Duration::from_millis(1);
            let effects = attempt.handle(event, now);
            waiting.extend(effects.into_iter().filter_map(|effect| answer(effect, now)));
        }
    }
    // Whatever it said, it is over in the end.
    for _ in 0..4 {
        now.since_boot += 10 * MINUTE;
        let mut waiting = vec![Event::Tick];
        while let Some(event) = waiting.pop() {
            let effects = attempt.handle(event, now);
            waiting.extend(effects.into_iter().filter_map(|effect| answer(effect, now)));
        }
    }
    assert!(attempt.outcome().is_some(), "an attempt without a trainer goes on: {attempt:?}");
}

/// What comes of what an attempt asks for.
fn answer(effect: Effect, now: Now) -> Option<Event> {
    let sent_at = now.since_boot;
    match effect {
        Effect::Start => Some(Event::Started { sent_at, ttl: MINUTE }),
        Effect::Report { batch, .. } => {
            let ack_seq = batch.first_seq + batch.entries.len() as u64 - 1;
            Some(Event::Acknowledged { sent_at, ttl: MINUTE, ack_seq, desired: DesiredState::Run })
        }
        Effect::Store(local) => {
            lies_below(Path::new(FOLDER), &local.directory);
            let checkpoint = StoredCheckpoint {
                step: local.step,
                key: format!("job/1-07070707/step-{:09}", local.step),
                manifest_sha256: local.manifest_sha256,
            };
            Some(Event::Uploaded { checkpoint, bytes: local.bytes })
        }
        Effect::Commit { checkpoint, .. } => Some(Event::Stored(checkpoint)),
        Effect::RemoveLocal(folder) => {
            lies_below(Path::new(FOLDER), &folder);
            None
        }
        Effect::Conclude(conclusion) => {
            let length = match conclusion {
                Conclusion::Complete(completion) => {
                    complete_request(token(), *completion).expect("scores came as JSON").encoded_len()
                }
                Conclusion::Fail(failure) => fail_request(token(), &failure).encoded_len(),
            };
            assert!(length > 0);
            Some(Event::Concluded)
        }
        Effect::AbandonPreparation | Effect::AbandonTrainer | Effect::SendStop | Effect::Kill => None,
        Effect::Join | Effect::Renew | Effect::Launch(_) | Effect::Tell(_) => {
            panic!("an attempt of one slot is no gang's")
        }
    }
}

/// The log of a trainer: lines of bounded length that hold all that was written.
pub fn log_lines(bytes: &[u8]) {
    let mut log = LineBuffer::default();
    let mut lines = Vec::new();
    for piece in bytes.chunks(100) {
        log.bytes.extend_from_slice(piece);
        lines.extend(std::iter::from_fn(|| log.take()));
    }
    log.end();
    lines.extend(std::iter::from_fn(|| log.take()));
    // A byte that is no text becomes a sign of three.
    assert!(lines.iter().all(|line| !line.is_empty() && line.len() <= 3 * LINE_BYTES_MAX));
    assert!(lines.iter().all(|line| !line.contains(['\n', '\r'])));
    if bytes.is_ascii() {
        let written: Vec<u8> = bytes.iter().copied().filter(|byte| !b"\n\r".contains(byte)).collect();
        assert_eq!(lines.concat().as_bytes(), written);
    }
}
