//! What can go wrong, in words for people, and the exit codes.
//!
//! | exit code | means | gRPC codes |
//! |---|---|---|
//! | 0 | done | OK |
//! | 1 | failed | all that stand nowhere else |
//! | 2 | wrong usage or input | INVALID_ARGUMENT, OUT_OF_RANGE, NOT_FOUND |
//! | 3 | the search or job that was watched was cancelled | |
//! | 4 | refused | FAILED_PRECONDITION, ALREADY_EXISTS, PERMISSION_DENIED, UNAUTHENTICATED, RESOURCE_EXHAUSTED |
//! | 130 | interrupted; what was watched goes on | |

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cakes_tls::client::ConnectError;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How a command ended; its number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done = 0,
    Failed = 1,
    Invalid = 2,
    Cancelled = 3,
    Refused = 4,
    Interrupted = 130,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(outcome as u8)
    }
}

impl From<Code> for Outcome {
    fn from(code: Code) -> Self {
        match code {
            Code::Ok => Outcome::Done,
            Code::InvalidArgument | Code::OutOfRange | Code::NotFound => Outcome::Invalid,
            Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted => Outcome::Refused,
            // Of a call it says that its time was up, nothing of a search or job.
            Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Outcome::Failed,
        }
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The input is wrong; one line for each mistake.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
    #[error("{path}: {source}", path = .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("no coordinator at {server}; start one with `cakes-coordinator`, or pass --server ({cause})")]
    Unreachable { server: String, cause: String },
    /// Somebody is there, but one of the two does not want the other.
    #[error("no connection to {server}: {cause}")]
    Distrust { server: String, cause: String, is_refused: bool },
    #[error("{}", explain(.0).join("\n"))]
    Server(Box<Status>),
    #[error(transparent)]
    Token(#[from] cakes_proto::bearer::BearerError),
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    pub fn invalid(line: impl Into<String>) -> Self {
        CommandError::Invalid(vec![line.into()])
    }

    pub fn file(path: &Path, source: std::io::Error) -> Self {
        CommandError::File { path: path.to_owned(), source }
    }

    /// One line for each thing that is wrong.
    pub fn lines(&self) -> Vec<String> {
        self.to_string().lines().map(str::to_owned).collect()
    }

    /// Whether the reader of the output went away, which is no news to it.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, CommandError::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

impl From<&CommandError> for Outcome {
    fn from(error: &CommandError) -> Self {
        match error {
            CommandError::Invalid(_) | CommandError::Token(_) => Outcome::Invalid,
            CommandError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Outcome::Invalid
            }
            CommandError::Server(status) => match ConnectError::within(&**status) {
                Some(ConnectError::Refused(_)) => Outcome::Refused,
                _ => status.code().into(),
            },
            CommandError::Distrust { is_refused: true, .. } => Outcome::Refused,
            CommandError::File { .. }
            | CommandError::Unreachable { .. }
            | CommandError::Distrust { .. }
            | CommandError::Output(_)
            | CommandError::Failed(_) => Outcome::Failed,
        }
    }
}

/// What a status says: each violated field, else its message, and the
/// machine-readable reason where there is one.
fn explain(status: &Status) -> Vec<String> {
    if let Some(known) = ConnectError::within(status) {
        return vec![format!("no connection to the coordinator: {known}")];
    }
    let violations = status.get_details_bad_request().map(|details| details.field_violations);
    let fields: Vec<String> = violations
        .into_iter()
        .flatten()
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect();
    if !fields.is_empty() {
        return fields;
    }
    let message = match (status.message().trim(), status.code()) {
        ("", code) => code.description().to_owned(),
        (message, Code::Unimplemented) => format!("{message}; the coordinator is of another version"),
        (message, _) => message.to_owned(),
    };
    let reason = status.get_details_error_info().map(|info| info.reason).filter(|reason| !reason.is_empty());
    vec![reason.map_or(message.clone(), |reason| format!("{message} ({reason})"))]
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn every_violated_field_of_a_status_gets_its_line_and_exit_code_2() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("search.patch", "must be a multiple of 4");
        details.add_bad_request_violation("search.budgets[0]", "must be above 0");
        let status = Status::with_error_details(Code::InvalidArgument, "invalid search", details);
        let error = CommandError::Server(Box::new(status));
        assert_eq!(
            error.lines(),
            ["search.patch: must be a multiple of 4", "search.budgets[0]: must be above 0"]
        );
        assert_eq!(Outcome::from(&error), Outcome::Invalid);
    }

    #[test]
    fn a_status_without_details_shows_its_message_and_reason() {
        let plain = CommandError::Server(Box::new(Status::failed_precondition("the search has ended")));
        assert_eq!(plain.lines(), ["the search has ended"]);
        assert_eq!(Outcome::from(&plain), Outcome::Refused);
        let details = ErrorDetails::with_error_info("JOB_ENDED", "cakes", std::collections::HashMap::new());
        let status = Status::with_error_details(Code::FailedPrecondition, "has ended", details);
        assert_eq!(explain(&status), ["has ended (JOB_ENDED)"]);
    }

    #[test]
    fn a_call_whose_time_was_up_is_no_search_that_was_cancelled() {
        let late = CommandError::Server(Box::new(Status::cancelled("the call took longer than 15s")));
        assert_eq!(Outcome::from(&late), Outcome::Failed);
    }
}
