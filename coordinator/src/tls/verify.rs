//! Which certificates of clients are taken.
//!
//! One is taken if one of three authorities signed it, it is within its time and for
//! clients, and has exactly one URI name, of a kind that this authority may vouch for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cakes_tls::facts::Facts;
use cakes_tls::files;
use cakes_tls::rustls::client::danger::HandshakeSignatureValid;
use cakes_tls::rustls::pki_types::{CertificateDer, UnixTime};
use cakes_tls::rustls::server::WebPkiClientVerifier;
use cakes_tls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use cakes_tls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::TlsError;
use crate::core::spiffe::{Authority, Holder, Name};

/// Checks certificates of clients, which need not show one.
#[derive(Debug)]
pub(super) struct Verifier {
    domain: Name,
    authorities: Vec<(Authority, Arc<dyn ClientCertVerifier>)>,
    subjects: Vec<DistinguishedName>,
}

impl Verifier {
    /// # Errors
    /// A file cannot be used, or two authorities are one.
    pub(super) fn new<'a>(
        domain: Name,
        files: impl Iterator<Item = (Authority, &'a Path)>,
    ) -> Result<Self, TlsError> {
        let mut known: Vec<(PathBuf, RootCertStore)> = Vec::new();
        let (mut authorities, mut subjects) = (Vec::new(), Vec::new());
        for (authority, path) in files {
            check_domain(path, &domain)?;
            let roots = files::roots(path)?;
            if let Some((other, _)) = known.iter().find(|(_, other)| have_one_in_common(other, &roots)) {
                return Err(TlsError::SharedAuthority { first: other.clone(), second: path.to_owned() });
            }
            subjects.extend(roots.subjects());
            let shared = Arc::new(roots.clone());
            let verifier = WebPkiClientVerifier::builder_with_provider(shared, cakes_tls::provider());
            authorities.push((authority, verifier.build()?));
            known.push((path.to_owned(), roots));
        }
        Ok(Verifier { domain, authorities, subjects })
    }

    fn check_names(&self, certificate: &CertificateDer<'_>, signer: Authority) -> Result<(), Error> {
        let wrong = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::from(error))))
        };
        let facts = Facts::of(certificate).map_err(|error| wrong(error.into()))?;
        let holder = Holder::certified(&facts.uris, &self.domain, signer);
        holder.map(drop).map_err(|error| wrong(error.into()))
    }
}

/// An authority that says of which domain it is must be of the coordinator's.
fn check_domain(path: &Path, domain: &Name) -> Result<(), TlsError> {
    for certificate in files::certificates(path)? {
        let facts = Facts::of(&certificate)
            .map_err(|source| TlsError::Certificate { path: path.to_owned(), source })?;
        let named = facts.uris.iter().find_map(|uri| uri.strip_prefix("spiffe://"));
        if let Some(theirs) = named.filter(|theirs| *theirs != domain.as_str()) {
            return Err(TlsError::Domain {
                path: path.to_owned(),
                theirs: theirs.to_owned(),
                domain: domain.clone(),
            });
        }
    }
    Ok(())
}

fn have_one_in_common(first: &RootCertStore, second: &RootCertStore) -> bool {
    let mut keys = first.roots.iter().map(|root| &root.subject_public_key_info);
    keys.any(|key| second.roots.iter().any(|root| root.subject_public_key_info == *key))
}

impl ClientCertVerifier for Verifier {
    /// The rights of a caller are those of a certificate or of a token.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn offer_client_auth(&self) -> bool {
        !self.authorities.is_empty()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let mut reason = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for (authority, verifier) in &self.authorities {
            match verifier.verify_client_cert(end_entity, intermediates, now) {
                Ok(verified) => {
                    self.check_names(end_entity, *authority)?;
                    return Ok(verified);
                }
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                // It is of this authority; the others have nothing to say of it.
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = cakes_tls::provider().signature_verification_algorithms;
        cakes_tls::rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        cakes_tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
