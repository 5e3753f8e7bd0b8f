//! Who a certificate says its holder is: one URI, and an authority that may say it.
//!
//! ```text
//!  spiffe://DOMAIN/user/ROLE/NAME       the users' authority
//!  spiffe://DOMAIN/worker/NAME          the workers' authority
//!  spiffe://DOMAIN/coordinator/NAME     the coordinators' authority
//! ```

use std::fmt;
use std::str::FromStr;

use super::access::Role;
use super::identity::Identity;
use super::text::named;

/// Longest name, in characters.
const NAME_MAX: usize = 64;

const SCHEME: &str = "spiffe://";

/// A name as it may stand in a certificate: `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no name: 1 to {NAME_MAX} characters of a-z, 0-9, '.', '_', '-', the first a letter or digit"
)]
pub struct NotAName(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let is_first = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_other = |byte: &u8| is_first(byte) || b"._-".contains(byte);
        let bytes = text.as_bytes();
        if bytes.first().is_some_and(is_first) && bytes.len() <= NAME_MAX && bytes.iter().all(is_other) {
            return Ok(Name(text.to_owned()));
        }
        Err(NotAName(text.chars().take(NAME_MAX + 1).collect()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Which of the three authorities signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Authority {
    Users,
    Workers,
    Coordinators,
}

named!(Authority, "authority", {
    Users => "users",
    Workers => "workers",
    Coordinators => "coordinators",
});

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    User { role: Role, name: Name },
    Worker { name: Name },
    Coordinator { name: Name },
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamesNobody {
    #[error("it has {0} URI names; exactly one says who its holder is")]
    Count(usize),
    #[error("'{uri}' is not of this service: it begins with {SCHEME}{domain}/")]
    Domain { uri: String, domain: Name },
    #[error("'{0}' is no identity; it ends in user/ROLE/NAME, worker/NAME or coordinator/NAME")]
    Form(String),
    #[error("'{0}' is no role; it is {roles}", roles = roles())]
    Role(String),
    #[error("{0}")]
    Name(#[from] NotAName),
    #[error("the authority of {signer} signed it, which may not vouch for {claimed}")]
    Authority { signer: Authority, claimed: Authority },
}

fn roles() -> String {
    Role::ALL.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}

impl Holder {
    /// Which authority may vouch for such a holder.
    pub fn authority(&self) -> Authority {
        match self {
            Holder::User { .. } => Authority::Users,
            Holder::Worker { .. } => Authority::Workers,
            Holder::Coordinator { .. } => Authority::Coordinators,
        }
    }

    pub fn name(&self) -> &Name {
        match self {
            Holder::User { name, .. } | Holder::Worker { name } | Holder::Coordinator { name } => name,
        }
    }

    /// What stands in the holder's certificate.
    pub fn uri(&self, domain: &Name) -> String {
        match self {
            Holder::User { role, name } => format!("{SCHEME}{domain}/user/{role}/{name}"),
            Holder::Worker { name } => format!("{SCHEME}{domain}/worker/{name}"),
            Holder::Coordinator { name } => format!("{SCHEME}{domain}/coordinator/{name}"),
        }
    }

    /// Reads the URI of a certificate.
    ///
    /// # Errors
    /// It is of another domain, or names nobody.
    pub fn from_uri(uri: &str, domain: &Name) -> Result<Self, NamesNobody> {
        let path = uri.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix(domain.as_str()));
        let path = path
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| NamesNobody::Domain { uri: short(uri), domain: domain.clone() })?;
        match path.split('/').collect::<Vec<_>>()[..] {
            ["user", role, name] => {
                let role = role.parse().map_err(|_| NamesNobody::Role(short(role)))?;
                Ok(Holder::User { role, name: name.parse()? })
            }
            ["worker", name] => Ok(Holder::Worker { name: name.parse()? }),
            ["coordinator", name] => Ok(Holder::Coordinator { name: name.parse()? }),
            _ => Err(NamesNobody::Form(short(uri))),
        }
    }

    /// Whom a certificate with these URIs is for, that `signer` signed.
    ///
    /// # Errors
    /// There is not exactly one URI, it names nobody, or somebody whom the signer may not
    /// vouch for.
    pub fn certified<S: AsRef<str>>(
        uris: &[S],
        domain: &Name,
        signer: Authority,
    ) -> Result<Self, NamesNobody> {
        let [uri] = uris else { return Err(NamesNobody::Count(uris.len())) };
        let holder = Holder::from_uri(uri.as_ref(), domain)?;
        let claimed = holder.authority();
        if claimed != signer {
            return Err(NamesNobody::Authority { signer, claimed });
        }
        Ok(holder)
    }
}

/// What a stranger wrote goes into logs: not all of it.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

impl From<Holder> for Identity {
    fn from(holder: Holder) -> Self {
        match holder {
            Holder::User { role, name } => Identity::User { name: name.0, role },
            Holder::Worker { name } => Identity::Worker { name: name.0 },
            Holder::Coordinator { name } => Identity::Coordinator { name: name.0 },
        }
    }
}
