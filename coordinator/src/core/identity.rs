//! Who calls: what a certificate, a token or a connection of this machine says of its holder.

use std::time::SystemTime;

use super::access::{Role, TokenRole};

/// Who is at the other end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A person, or a program that acts for one.
    User { name: String, role: Role },
    /// A daemon that runs jobs.
    Worker { name: String },
    /// Another coordinator of the same service.
    Coordinator { name: String },
}

impl Identity {
    pub fn name(&self) -> &str {
        match self {
            Identity::User { name, .. } | Identity::Worker { name } | Identity::Coordinator { name } => name,
        }
    }

    /// The name of its role.
    pub fn role(&self) -> &'static str {
        match self {
            Identity::User { role, .. } => role.as_str(),
            Identity::Worker { .. } => TokenRole::Worker.as_str(),
            Identity::Coordinator { .. } => "coordinator",
        }
    }
}

/// What a certificate proved when its connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    pub identity: Identity,
    /// A connection may outlive its certificate: what is called from then on is refused.
    pub expires_at: SystemTime,
}
