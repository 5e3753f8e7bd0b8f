//! Typed identities: a text from outside becomes one of these or an error.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is no identity of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no {kind}")]
pub struct InvalidId {
    pub kind: &'static str,
    pub text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new identity. Random from its first digit, so that its beginning
            /// names it: identities that begin with the time share their
            /// beginnings for hours.
            pub fn generate() -> Self {
                $name(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text)
                    .map($name)
                    .map_err(|_| InvalidId { kind: $kind, text: text.to_owned() })
            }
        }
    };
}

uuid_id!(
    /// A search.
    SearchId,
    "search id"
);
uuid_id!(
    /// A job.
    JobId,
    "job id"
);
uuid_id!(
    /// A webhook.
    WebhookId,
    "webhook id"
);

/// The name of a worker: `[a-z0-9][a-z0-9._-]*`, at most 64 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

impl WorkerId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for WorkerId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if cakes::spec::is_valid_name(text) {
            return Ok(WorkerId(text.to_owned()));
        }
        Err(InvalidId {
            kind: "worker name (1 to 64 characters of a-z, 0-9, '.', '_', '-')",
            text: text.to_owned(),
        })
    }
}

impl TryFrom<String> for WorkerId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WorkerId> for String {
    fn from(id: WorkerId) -> Self {
        id.0
    }
}

/// The 128 random bits of one grant. Shown nowhere: a log that holds one would
/// let its reader write in the attempt's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// 32 hexadecimal digits, for the wire.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first 8 digits, which make an attempt's folder unique and prove nothing.
    pub fn tag(self) -> String {
        self.to_hex()[..8].to_owned()
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

impl FromStr for Nonce {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidId { kind: "lease nonce", text: format!("{} characters", text.len()) };
        // Numbers may also begin with a sign.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let value = u128::from_str_radix(text, 16).map_err(|_| invalid())?;
        Ok(Nonce(value.to_be_bytes()))
    }
}

/// Proof of being the current attempt of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseToken {
    pub job: JobId,
    /// Number of the grant, from 1.
    pub epoch: i64,
    pub nonce: Nonce,
    /// Which of the attempt's slots its holder is; 0 for the one that leads, or is alone.
    pub member: i16,
}

impl LeaseToken {
    /// Whether its holder reports, saves and completes.
    pub fn leads(self) -> bool {
        self.member == 0
    }
}

impl TryFrom<Option<crate::v1::LeaseToken>> for LeaseToken {
    type Error = InvalidId;

    fn try_from(wire: Option<crate::v1::LeaseToken>) -> Result<Self, Self::Error> {
        let missing = || InvalidId { kind: "lease token", text: "(missing)".to_owned() };
        let wire = wire.ok_or_else(missing)?;
        let epoch = i64::try_from(wire.epoch).map_err(|_| missing())?;
        let member = i16::try_from(wire.member)
            .map_err(|_| InvalidId { kind: "member of a gang", text: wire.member.to_string() })?;
        Ok(LeaseToken { job: wire.job_id.parse()?, epoch, nonce: wire.nonce.parse()?, member })
    }
}

impl From<LeaseToken> for crate::v1::LeaseToken {
    fn from(token: LeaseToken) -> Self {
        crate::v1::LeaseToken {
            job_id: token.job.to_string(),
            epoch: token.epoch.unsigned_abs(),
            nonce: token.nonce.to_hex(),
            member: u32::from(token.member.unsigned_abs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_names_cannot_be_paths() {
        assert!("gpu-01.rack3".parse::<WorkerId>().is_ok());
        for name in ["", "../x", "a/b", "A", "-x", "a b"] {
            assert!(name.parse::<WorkerId>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_token_names_a_member_and_without_one_it_is_the_leader_s() {
        let job_id = "0190f3a0-0000-7000-8000-000000000001".to_owned();
        let wire = crate::v1::LeaseToken { job_id, epoch: 3, nonce: "ab".repeat(16), member: 0 };
        let token = LeaseToken::try_from(Some(wire.clone())).unwrap();
        assert!(token.leads());
        let follower = crate::v1::LeaseToken { member: 2, ..wire.clone() };
        let read = LeaseToken::try_from(Some(follower.clone())).unwrap();
        assert!(!read.leads() && read == LeaseToken { member: 2, ..token });
        assert_eq!(crate::v1::LeaseToken::from(read), follower);
        let wrong = crate::v1::LeaseToken { member: 40_000, ..wire };
        assert!(LeaseToken::try_from(Some(wrong)).is_err());
    }

    #[test]
    fn a_nonce_survives_the_wire_and_stays_out_of_logs() {
        let nonce = Nonce([0xab; 16]);
        assert_eq!(nonce.to_hex().parse(), Ok(nonce));
        assert!(!format!("{nonce:?}").contains("ab"));
        for wrong in ["zz", &format!("+{}", "0".repeat(31))] {
            assert!(wrong.parse::<Nonce>().is_err(), "{wrong}");
        }
    }
}
