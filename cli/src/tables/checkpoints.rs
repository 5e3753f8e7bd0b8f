//! Checkpoints of a job.

use cakes_proto::v1;
use chrono::{DateTime, Utc};

use super::ago;
use crate::format;
use crate::output::Align::{Left, Right};
use crate::output::Rows;

/// Checkpoints, one a row, and what those that are kept come to.
pub fn checkpoints(found: &v1::ListCheckpointsResponse, now: DateTime<Utc>) -> String {
    if found.checkpoints.is_empty() {
        return "no checkpoints".to_owned();
    }
    let mut rows = Rows::new([
        ("STEP", Right),
        ("ATTEMPT", Right),
        ("SIZE", Right),
        ("COMMITTED", Left),
        ("KEPT", Left),
    ]);
    for checkpoint in &found.checkpoints {
        rows.push(vec![
            checkpoint.step.to_string(),
            checkpoint.epoch.to_string(),
            format::si(checkpoint.bytes, "B"),
            ago(checkpoint.commit_time.as_ref(), now),
            fate(checkpoint, now),
        ]);
    }
    // What is given up takes room until it is deleted.
    let stored = found.checkpoints.iter().filter(|checkpoint| checkpoint.delete_time.is_none());
    let (count, bytes) =
        stored.fold((0, 0), |(count, bytes), checkpoint| (count + 1, bytes + checkpoint.bytes));
    format!(
        "{}\n\n{count} in the store, {}",
        rows.render(crate::output::terminal_width()),
        format::si(bytes, "B")
    )
}

/// `current, best`, or `no, not among the newest 3; deleted 5 min ago`.
fn fate(checkpoint: &v1::StoredCheckpoint, now: DateTime<Utc>) -> String {
    match (checkpoint.condemn_time.is_some(), checkpoint.delete_time.as_ref()) {
        (false, _) if checkpoint.kept_because.is_empty() => "not for long".to_owned(),
        (false, _) => checkpoint.kept_because.join(", "),
        (true, None) => format!("no, {}; to be deleted", checkpoint.condemn_reason),
        (true, deleted) => format!("no, {}; deleted {}", checkpoint.condemn_reason, ago(deleted, now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_checkpoint_says_why_it_is_kept_or_not() {
        let kept = v1::StoredCheckpoint {
            step: 300,
            epoch: 2,
            bytes: 1_310_000,
            kept_because: vec!["current".into(), "best".into()],
            commit_time: Some(at(90).into()),
            ..v1::StoredCheckpoint::default()
        };
        let gone = v1::StoredCheckpoint {
            step: 100,
            kept_because: Vec::new(),
            condemn_reason: "not among the newest 3".into(),
            condemn_time: Some(at(40).into()),
            delete_time: Some(at(50).into()),
            ..kept.clone()
        };
        let found = v1::ListCheckpointsResponse { job_id: "j".into(), checkpoints: vec![kept, gone] };
        let text = checkpoints(&found, at(100));
        for part in [
            "current, best",
            "10 s ago",
            "no, not among the newest 3; deleted 50 s ago",
            "1 in the store, 1.31 MB",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
