//! What stands in a certificate.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// What a certificate says. Whether it says the truth, its signature decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// All URIs among its alternative names, also malformed ones.
    pub uris: Vec<String>,
    /// DNS names and addresses under which a server is reached.
    pub hosts: Vec<String>,
    /// Common name of the holder.
    pub subject: String,
    /// Common name of the authority.
    pub issuer: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub is_authority: bool,
    /// The holder's public key: the bits of its `subjectPublicKey`.
    pub public_key: Vec<u8>,
}

/// What was given is no certificate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no X.509 certificate: {0}")]
pub struct NoCertificate(String);

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// It is malformed, or has two lists of alternative names.
    pub fn of(der: &[u8]) -> Result<Self, NoCertificate> {
        let wrong = |error: &dyn std::fmt::Display| NoCertificate(error.to_string());
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| wrong(&error))?;
        if !rest.is_empty() {
            return Err(NoCertificate("there is more behind it".to_owned()));
        }
        let (mut uris, mut hosts) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name().map_err(|error| wrong(&error))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::Invalid(tag, bytes) if tag.0 == URI_TAG => {
                    uris.push(String::from_utf8_lossy(bytes).into_owned());
                }
                GeneralName::DNSName(name) => hosts.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => hosts.extend(address(bytes)),
                _ => {}
            }
        }
        let time = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
        };
        Ok(Facts {
            uris,
            hosts,
            subject: common_name(certificate.subject()),
            issuer: common_name(certificate.issuer()),
            not_before: time(certificate.validity().not_before.timestamp()),
            not_after: time(certificate.validity().not_after.timestamp()),
            is_authority: certificate.is_ca(),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        })
    }
}

/// Of RFC 5280's GeneralName.
const URI_TAG: u32 = 6;

fn address(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).to_string()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).to_string()),
        _ => None,
    }
}

fn common_name(name: &X509Name<'_>) -> String {
    name.iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default().to_owned()
}
