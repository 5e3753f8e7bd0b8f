//! What a status means to a worker.

use std::str::FromStr;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// An answer that is no consent.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The token is not the current one: stop the attempt.
    #[error("the lease is lost; the job is at epoch {current_epoch:?}")]
    LeaseLost { current_epoch: Option<u64> },
    /// A later start of the daemon has registered.
    #[error("the incarnation is stale; the current one is {current:?}")]
    StaleIncarnation { current: Option<u64> },
    #[error("the job was cancelled before it was completed")]
    JobCancelled,
    /// Entries are missing: send again from behind `ack_seq`.
    #[error("entries are missing behind {ack_seq:?}")]
    Gap { ack_seq: Option<u64> },
    /// Whether the coordinator acted is open: repeat the call.
    #[error("the outcome is unknown ({code:?}): {message}")]
    Unknown { code: Code, message: String },
    /// Repeating the call would not change it.
    #[error("refused ({code:?}): {message}")]
    Other { code: Code, message: String },
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let number = |key: &str| u64::from_str(info?.metadata.get(key)?).ok();
        let (code, message) = (status.code(), status.message().to_owned());
        match (code, info.map_or("", |info| info.reason.as_str())) {
            (Code::FailedPrecondition, "LEASE_LOST") => {
                Refusal::LeaseLost { current_epoch: number("current_epoch") }
            }
            (Code::FailedPrecondition, "STALE_INCARNATION") => {
                Refusal::StaleIncarnation { current: number("current") }
            }
            (Code::FailedPrecondition, "JOB_CANCELLED") => Refusal::JobCancelled,
            (Code::OutOfRange, _) => Refusal::Gap { ack_seq: number("ack_seq") },
            // What a connection that broke, a deadline or a busy server look like.
            (
                Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Unknown
                | Code::ResourceExhausted
                | Code::Aborted,
                _,
            ) => Refusal::Unknown { code, message },
            _ => Refusal::Other { code, message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    fn status(code: Code, reason: &str, key: &str, value: &str) -> Status {
        let metadata = HashMap::from([(key.to_owned(), value.to_owned())]);
        Status::with_error_details(code, "", ErrorDetails::with_error_info(reason, "cakes.v1", metadata))
    }

    #[test]
    fn a_refusal_is_told_by_its_reason_and_an_unknown_outcome_by_its_code() {
        let lost = status(Code::FailedPrecondition, "LEASE_LOST", "current_epoch", "7");
        assert_eq!(Refusal::from(lost), Refusal::LeaseLost { current_epoch: Some(7) });
        let gap = status(Code::OutOfRange, "SEQUENCE_GAP", "ack_seq", "12");
        assert_eq!(Refusal::from(gap), Refusal::Gap { ack_seq: Some(12) });
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::ResourceExhausted] {
            let refusal = Refusal::from(Status::new(code, "away"));
            assert_eq!(refusal, Refusal::Unknown { code, message: "away".to_owned() });
        }
        let wrong = status(Code::FailedPrecondition, "WRONG_STATE", "", "");
        assert!(matches!(Refusal::from(wrong), Refusal::Other { code: Code::FailedPrecondition, .. }));
    }
}
