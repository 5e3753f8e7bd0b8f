//! A private authority in a folder: three authorities, one for each kind of caller, and
//! what they issue.
//!
//! ```text
//!  DIR/  cert.pem key.pem                          the coordinator's own: --pki-dir DIR
//!        users-ca.pem workers-ca.pem coordinators-ca.pem
//!        authority/  users.key workers.key coordinators.key
//!        users/NAME/         ca.pem cert.pem key.pem     to hand over
//!        workers/NAME/       ca.pem cert.pem key.pem
//!        coordinators/NAME/  as DIR, without authority/: --pki-dir of another coordinator
//! ```
//!
//! Keys are made here and never leave the folder of their holder.

mod files;
mod make;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use cakes_tls::facts::{Facts, NoCertificate};
use cakes_tls::files::{FileError, certificates};
use cakes_tls::rustls::pki_types::ServerName;
use rcgen::{Issuer, KeyPair};

use crate::core::spiffe::{Authority, Holder, Name, NamesNobody};
use files::{Rights, write_all};

/// How long an authority lasts. Nobody renews it by a timer: it has to be handed to all.
const AUTHORITY_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The clocks of two machines may differ by so much.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Longest time of a holder's certificate.
pub const VALID_MAX: Duration = Duration::from_secs(398 * 24 * 3600);

/// Certificate, key and authority in a holder's folder.
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
const AUTHORITY: &str = "ca.pem";

/// Under what a coordinator is also reached: from its own machine, and through a tunnel.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A name or an address of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Name(String),
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match ServerName::try_from(text) {
            Ok(ServerName::IpAddress(address)) => Ok(Host::Address(address.into())),
            Ok(ServerName::DnsName(name)) => Ok(Host::Name(name.as_ref().to_lowercase())),
            _ => {
                Err("is neither a host's name nor an address; write cakes.example.org or 10.0.0.5, without \
                      scheme and port"
                    .to_owned())
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => name.fmt(f),
            Host::Address(address) => address.fmt(f),
        }
    }
}

/// Why the authority does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{} is there already, and nothing was overwritten; {remedy}", path.display())]
    Exists { path: PathBuf, remedy: &'static str },
    #[error("there is no authority in {}; `cakes-coordinator pki init --host NAME` makes one, --dir names another folder", folder.display())]
    NoAuthority { folder: PathBuf, source: FileError },
    #[error("the key of the authority is not at {}; issue where it is kept", path.display())]
    NoKey { path: PathBuf, source: std::io::Error },
    #[error("{} is not the key of {}, so nobody would be let in with what it signs; copy both from one authority", path.display(), certificate.display())]
    OtherKey { path: PathBuf, certificate: PathBuf },
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{}: {source}", path.display())]
    Certificate { path: PathBuf, source: NoCertificate },
    #[error("{}: {source}", path.display())]
    NamesNobody { path: PathBuf, source: NamesNobody },
    #[error("the certificate cannot be made")]
    Make(#[from] rcgen::Error),
}

/// An authority that exists.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    domain: Name,
}

/// A certificate that was found.
#[derive(Debug)]
pub struct Found {
    pub path: PathBuf,
    pub facts: Facts,
}

fn ca_file(authority: Authority) -> String {
    format!("{authority}-ca.pem")
}

impl Pki {
    /// Makes the three authorities, and the certificate of the coordinator `name`.
    ///
    /// # Errors
    /// One of the files is there already, or none can be written.
    pub fn init(
        folder: &Path,
        domain: Name,
        name: Name,
        hosts: &[Host],
        valid: Duration,
    ) -> Result<Self, PkiError> {
        let pki = Pki { folder: folder.to_owned(), domain };
        let mut written = Vec::new();
        let now = SystemTime::now();
        for authority in Authority::ALL {
            let (certificate, key) = make::authority(*authority, &pki.domain, now, now + AUTHORITY_VALID)?;
            written.push((folder.join(ca_file(*authority)), certificate));
            written.push((pki.key_file(*authority), key));
        }
        let own = [folder.join(CERTIFICATE), folder.join(KEY)];
        let remedy = "use the authority that is there, or name another folder with --dir";
        if let Some(path) = written.iter().map(|(path, _)| path).chain(&own).find(|path| path.exists()) {
            return Err(PkiError::Exists { path: path.clone(), remedy });
        }
        write_all(&written, Rights::New)?;
        let holder = Holder::Coordinator { name };
        let (certificate, key) = pki.make(&holder, hosts, valid)?;
        let [certificate_path, key_path] = own;
        write_all(&[(key_path, key), (certificate_path, certificate)], Rights::New)?;
        Ok(pki)
    }

    /// The authority in a folder.
    ///
    /// # Errors
    /// There is none.
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        let path = folder.join(ca_file(Authority::Coordinators));
        let found = read(&path).map_err(|error| match error {
            PkiError::File(source) => PkiError::NoAuthority { folder: folder.to_owned(), source },
            other => other,
        })?;
        let domain = found.facts.uris.iter().find_map(|uri| uri.strip_prefix("spiffe://")?.parse().ok());
        let domain = domain
            .ok_or(PkiError::NamesNobody { path, source: NamesNobody::Count(found.facts.uris.len()) })?;
        Ok(Pki { folder: folder.to_owned(), domain })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn key_file(&self, authority: Authority) -> PathBuf {
        self.folder.join("authority").join(format!("{authority}.key"))
    }

    /// Makes a certificate and its key, in a folder of their own.
    ///
    /// # Errors
    /// The holder has one, or it cannot be made.
    pub fn issue(&self, holder: &Holder, hosts: &[Host], valid: Duration) -> Result<PathBuf, PkiError> {
        let folder = self.folder.join(holder.authority().as_str()).join(holder.name().as_str());
        if folder.exists() {
            let remedy = "`cakes-coordinator pki renew` with this folder gives a new certificate to its holder; for \
                          another role or other hosts, remove it first";
            return Err(PkiError::Exists { path: folder, remedy });
        }
        self.write(&folder, holder, hosts, valid, Rights::New)?;
        Ok(folder)
    }

    /// Gives the holder of a folder a new key and a new certificate, with the same names and
    /// for as long as the one before.
    ///
    /// # Errors
    /// There is no certificate in it, or it cannot be made.
    pub fn renew(&self, folder: &Path) -> Result<Found, PkiError> {
        let path = folder.join(CERTIFICATE);
        let Found { facts, .. } = read(&path)?;
        let [uri] = &facts.uris[..] else {
            return Err(PkiError::NamesNobody { path, source: NamesNobody::Count(facts.uris.len()) });
        };
        let holder = Holder::from_uri(uri, &self.domain)
            .map_err(|source| PkiError::NamesNobody { path: path.clone(), source })?;
        let hosts: Vec<Host> = facts.hosts.iter().filter_map(|host| host.parse().ok()).collect();
        let lasted = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
        let valid = lasted.saturating_sub(CLOCK_SKEW);
        self.write(folder, &holder, &hosts, valid, Rights::Replace)?;
        read(&path)
    }

    /// All certificates of the folder, authorities first.
    ///
    /// # Errors
    /// A folder cannot be read. A file that holds no certificate is left out.
    pub fn list(&self) -> Result<Vec<Found>, PkiError> {
        let mut paths: Vec<PathBuf> =
            Authority::ALL.iter().map(|authority| self.folder.join(ca_file(*authority))).collect();
        paths.push(self.folder.join(CERTIFICATE));
        for authority in Authority::ALL {
            paths.extend(
                files::folders(&self.folder.join(authority.as_str()))?
                    .into_iter()
                    .map(|folder| folder.join(CERTIFICATE)),
            );
        }
        Ok(paths.iter().filter_map(|path| read(path).ok()).collect())
    }

    fn write(
        &self,
        folder: &Path,
        holder: &Holder,
        hosts: &[Host],
        valid: Duration,
        rights: Rights,
    ) -> Result<(), PkiError> {
        let (certificate, key) = self.make(holder, hosts, valid)?;
        let mut written = match holder {
            Holder::Coordinator { .. } if folder == self.folder => Vec::new(),
            Holder::Coordinator { .. } => Authority::ALL
                .iter()
                .map(|authority| Ok((folder.join(ca_file(*authority)), self.ca(*authority)?)))
                .collect::<Result<Vec<_>, PkiError>>()?,
            _ => vec![(folder.join(AUTHORITY), self.ca(Authority::Coordinators)?)],
        };
        written.extend([(folder.join(KEY), key), (folder.join(CERTIFICATE), certificate)]);
        write_all(&written, rights)
    }

    fn make(&self, holder: &Holder, hosts: &[Host], valid: Duration) -> Result<(String, String), PkiError> {
        let authority = holder.authority();
        let path = self.key_file(authority);
        let key = std::fs::read_to_string(&path)
            .map_err(|source| PkiError::NoKey { path: path.clone(), source })?;
        let key = KeyPair::from_pem(&key)?;
        let Found { path: certificate, facts } = read(&self.folder.join(ca_file(authority)))?;
        if facts.public_key != key.public_key_raw() {
            return Err(PkiError::OtherKey { path, certificate });
        }
        let issuer = Issuer::from_ca_cert_pem(&self.ca(authority)?, key)?;
        let mut hosts = hosts.to_vec();
        if authority == Authority::Coordinators {
            hosts.extend(LOCAL_HOSTS.iter().filter_map(|host| host.parse().ok()));
        }
        hosts.sort();
        hosts.dedup();
        let now = SystemTime::now();
        Ok(make::certificate(&issuer, holder, &self.domain, &hosts, now - CLOCK_SKEW, now + valid)?)
    }

    fn ca(&self, authority: Authority) -> Result<String, PkiError> {
        let path = self.folder.join(ca_file(authority));
        std::fs::read_to_string(&path).map_err(|cause| FileError::Unreadable { path, cause }.into())
    }
}

/// What stands in the first certificate of a file.
///
/// # Errors
/// There is none.
pub fn read(path: &Path) -> Result<Found, PkiError> {
    let found = certificates(path)?;
    let facts = Facts::of(found.first().map_or(&[], |first| first))
        .map_err(|source| PkiError::Certificate { path: path.to_owned(), source })?;
    Ok(Found { path: path.to_owned(), facts })
}
