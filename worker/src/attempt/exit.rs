//! What the end of a trainer process means when the trainer itself said nothing.

use std::time::Duration;

use cakes_proto::v1::FailureClass;

use super::{Exit, Failure};

/// From the kill of a trainer until it counts as one that cannot be killed. The kernel takes
/// seconds to give back the memory of a large one.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(30);
pub(super) const CANNOT_BE_KILLED: &str =
    "the trainer cannot be killed, and its device is not free until the worker's machine restarts";

/// Why an attempt failed whose trainer is gone without a word.
pub fn classify(exit: &Exit) -> Failure {
    let (class, what) = match (exit.code, exit.signal) {
        (_, Some(9)) if exit.memory_exhausted => (
            FailureClass::Resource,
            "the trainer was killed because the machine ran out of memory; use a smaller patch or batch, or a larger machine"
                .to_owned(),
        ),
        (_, Some(signal)) => (
            FailureClass::Infrastructure,
            format!("the trainer was ended by signal {signal} ({})", signal_name(signal)),
        ),
        // What is wrong with a job it says in a frame; 2 alone is a command line that it refused.
        (Some(2), None) => (
            FailureClass::Infrastructure,
            "the trainer did not understand the daemon: cakes-worker and cakes-trainer are of different versions; \
             install the two of one version"
                .to_owned(),
        ),
        (Some(0), None) => {
            (FailureClass::Infrastructure, "the trainer ended without a result".to_owned())
        }
        (code, None) => (
            FailureClass::Infrastructure,
            format!("the trainer ended with exit code {}", code.unwrap_or(-1)),
        ),
    };
    Failure { class, message: with_last_lines(&what, &exit.last_lines) }
}

/// A message followed by the last lines of the trainer's log.
fn with_last_lines(what: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return what.to_owned();
    }
    format!("{what}; its last lines:\n{}", lines.join("\n"))
}

fn signal_name(signal: i32) -> &'static str {
    nix::sys::signal::Signal::try_from(signal).map_or("unknown", |signal| signal.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: Option<i32>, signal: Option<i32>, memory_exhausted: bool) -> Exit {
        Exit { code, signal, memory_exhausted, last_lines: vec!["error: unexpected argument".into()] }
    }

    #[test]
    fn a_silent_end_is_classified_by_code_signal_and_memory() {
        assert_eq!(classify(&exit(None, Some(9), true)).class, FailureClass::Resource);
        assert_eq!(classify(&exit(None, Some(9), false)).class, FailureClass::Infrastructure);
        let abort = classify(&exit(None, Some(6), false));
        assert_eq!(abort.class, FailureClass::Infrastructure);
        assert!(abort.message.contains("SIGABRT"), "{}", abort.message);
        let refused = classify(&exit(Some(2), None, false));
        assert_eq!(refused.class, FailureClass::Infrastructure, "the job is not at fault");
        assert!(refused.message.contains("different versions"), "{}", refused.message);
        assert!(refused.message.contains("unexpected argument"), "{}", refused.message);
        assert_eq!(classify(&exit(Some(0), None, false)).class, FailureClass::Infrastructure);
    }
}
