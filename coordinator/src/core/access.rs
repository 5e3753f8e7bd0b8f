//! What tokens are good for, what the web page's actions are, and how long a wrong token
//! waits for its answer.

use std::time::Duration;

use cakes_proto::bearer::PREFIX;
use cakes_proto::method::Method;
use sha2::{Digest, Sha256};

use super::identity::Identity;
use super::rights::{self, Caller};
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

/// What a token says of its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenRole {
    Viewer,
    Submitter,
    Operator,
    /// The worker that the token is named after.
    Worker,
}

named!(TokenRole, "role", {
    Viewer => "viewer",
    Submitter => "submitter",
    Operator => "operator",
    Worker => "worker",
});

impl TokenRole {
    /// The role of a user; None for a worker.
    pub fn of_user(self) -> Option<Role> {
        match self {
            TokenRole::Viewer => Some(Role::Viewer),
            TokenRole::Submitter => Some(Role::Submitter),
            TokenRole::Operator => Some(Role::Operator),
            TokenRole::Worker => None,
        }
    }

    /// Whoever holds a token of this name and role.
    pub fn identity(self, name: &str) -> Identity {
        let name = name.to_owned();
        match self.of_user() {
            Some(role) => Identity::User { name, role },
            None => Identity::Worker { name },
        }
    }
}

impl From<Role> for TokenRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => TokenRole::Viewer,
            Role::Submitter => TokenRole::Submitter,
            Role::Operator => TokenRole::Operator,
        }
    }
}

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

impl Action {
    /// The methods of the API that it calls, or whose answers it shows.
    pub fn methods(self) -> &'static [Method] {
        match self {
            Action::Read => &[Method::ListSearches, Method::ListJobs, Method::ListWorkers],
            Action::PreviewDerivation => &[Method::DeriveArchitectures],
            Action::QueueRetrainings => &[Method::DeriveArchitectures, Method::SubmitRetrain],
            Action::RetryJob => &[Method::RetryJob],
            Action::ResumeJob => &[Method::ResumeJob],
            Action::PauseJob => &[Method::PauseJob],
            Action::CancelJob => &[Method::CancelJob],
            Action::CancelSearch => &[Method::CancelSearch],
        }
    }
}

/// Whether the table of rights lets a role call everything that an action is.
pub fn permits(role: Role, action: Action) -> bool {
    let user = Caller::Known(Identity::User { name: String::new(), role });
    action.methods().iter().all(|method| user.may(*method).is_ok())
}

/// Whether it may change something, so that it is recorded before it is done.
pub fn changes(action: Action) -> bool {
    // A preview calls what could write, and asks it not to.
    action != Action::PreviewDerivation && action.methods().iter().any(|method| rights::changes(*method))
}

/// The least role that may do it, for a refusal that says what is needed.
pub fn least_role(action: Action) -> Option<Role> {
    Role::ALL.iter().copied().find(|role| permits(*role, action))
}

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
            // The record calls it the same, whichever way it was asked for.
            if changes(*action)
                && let [method] = action.methods()
            {
                assert_eq!(action.as_str(), method.name());
            }
        }
        assert_eq!(least_role(Action::QueueRetrainings), Some(Role::Submitter));
        assert_eq!(least_role(Action::CancelJob), Some(Role::Submitter), "of their own");
    }

    #[test]
    fn a_token_of_a_worker_is_of_no_user() {
        for role in Role::ALL.iter().copied() {
            assert_eq!(TokenRole::from(role).of_user(), Some(role));
            assert_eq!(TokenRole::from(role).as_str(), role.as_str());
        }
        assert_eq!(TokenRole::Worker.identity("a"), Identity::Worker { name: "a".to_owned() });
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
