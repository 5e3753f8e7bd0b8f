//! Who may do what on the web page, and how long a wrong token waits for its answer.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::text::named;

/// What a token lets its holder do. Each role may do what the one before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Adds work.
    Submitter,
    /// Stops work, also that of others.
    Operator,
}

named!(Role, "role", {
    Viewer => "viewer",
    Submitter => "submitter",
    Operator => "operator",
});

/// What can be asked of the web page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Read,
    PreviewDerivation,
    QueueRetrainings,
    RetryJob,
    ResumeJob,
    PauseJob,
    CancelJob,
    CancelSearch,
}

named!(Action, "action", {
    Read => "read",
    PreviewDerivation => "preview_derivation",
    QueueRetrainings => "queue_retrainings",
    RetryJob => "retry_job",
    ResumeJob => "resume_job",
    PauseJob => "pause_job",
    CancelJob => "cancel_job",
    CancelSearch => "cancel_search",
});

/// The table: a role that does not stand in the row of an action may not do it.
pub fn permits(role: Role, action: Action) -> bool {
    use Role::{Operator, Submitter, Viewer};
    let roles: &[Role] = match action {
        Action::Read => &[Viewer, Submitter, Operator],
        Action::PreviewDerivation => &[Submitter, Operator],
        Action::QueueRetrainings => &[Submitter, Operator],
        Action::RetryJob => &[Submitter, Operator],
        Action::ResumeJob => &[Operator],
        Action::PauseJob => &[Operator],
        Action::CancelJob => &[Operator],
        Action::CancelSearch => &[Operator],
    };
    roles.contains(&role)
}

/// Whether it may change something, so that it is recorded before it is done.
pub fn changes(action: Action) -> bool {
    !matches!(action, Action::Read | Action::PreviewDerivation)
}

/// The least role that may do it, for a refusal that says what is needed.
pub fn least_role(action: Action) -> Option<Role> {
    Role::ALL.iter().copied().find(|role| permits(*role, action))
}

/// How every token begins, so that one that leaked is known for what it is.
const PREFIX: &str = "cakes_";
const SECRET_BYTES: usize = 32;

/// What is stored of a token, and looked up: no comparison takes longer for a guess
/// that is nearly right.
pub type SecretHash = [u8; 32];

/// The token that is made of random bytes.
pub fn token_of(random: [u8; SECRET_BYTES]) -> String {
    format!("{PREFIX}{}", hex::encode(random))
}

/// The hash of a token; None if it is none.
pub fn token_hash(token: &str) -> Option<SecretHash> {
    let digits = token.strip_prefix(PREFIX)?;
    let is_secret = digits.len() == 2 * SECRET_BYTES
        && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_secret.then(|| Sha256::digest(token).into())
}

/// Seconds over which [`Failures`] are counted.
pub const FAILURES_WINDOW_S: f64 = 60.0;
const FAILURES_OF_PEER_MAX: i64 = 10;
const FAILURES_MAX: i64 = 100;
const WRONG_TOKEN_DELAY: Duration = Duration::from_secs(1);

/// Refusals of callers that nobody knows, in the last [`FAILURES_WINDOW_S`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// From the address that asks.
    pub of_peer: i64,
    /// From all addresses.
    pub of_all: i64,
}

/// Whether one more refusal of somebody whom nobody knows gets a row of the record.
pub fn is_recorded(failures: Failures) -> bool {
    failures.of_peer < FAILURES_OF_PEER_MAX && failures.of_all < FAILURES_MAX
}

/// How long one more wrong token waits for its answer, behind those before it. It only keeps
/// the noise down: tokens are 256 random bits, which nobody finds by trying.
pub fn delay(failures: Failures) -> Duration {
    if is_recorded(failures) { Duration::ZERO } else { WRONG_TOKEN_DELAY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_the_one_before_it_may() {
        for action in Action::ALL {
            for pair in Role::ALL.windows(2) {
                assert!(pair[0] < pair[1]);
                assert!(!permits(pair[0], *action) || permits(pair[1], *action), "{action}");
            }
            assert!(permits(Role::Operator, *action), "{action}");
            assert_eq!(permits(Role::Viewer, *action), *action == Action::Read, "{action}");
        }
        assert_eq!(least_role(Action::QueueRetrainings), Some(Role::Submitter));
        assert_eq!(least_role(Action::CancelJob), Some(Role::Operator));
    }

    #[test]
    fn a_token_has_one_spelling_and_one_hash() {
        let token = token_of([0xab; 32]);
        assert_eq!(token.len(), 70);
        assert_ne!(token_hash(&token), token_hash(&token_of([0xac; 32])));
        assert!(token_hash(&token).is_some());
        for wrong in [&token[..69], &token[6..], "", "cakes_", &token.to_uppercase(), &format!("{token}0")] {
            assert_eq!(token_hash(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn guesses_wait_when_there_are_too_many() {
        let few = Failures { of_peer: 9, of_all: 99 };
        assert!(is_recorded(few) && delay(few).is_zero());
        for many in [Failures { of_peer: 10, of_all: 10 }, Failures { of_peer: 0, of_all: 100 }] {
            assert!(!is_recorded(many) && !delay(many).is_zero());
        }
    }
}
