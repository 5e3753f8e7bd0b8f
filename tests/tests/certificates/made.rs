//! Certificates that `cakes-coordinator pki` would not make.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use cakes_tests::Cluster;
use cakes_tls::client::ClientFiles;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// What a certificate says, and who says it.
pub struct Made<'a> {
    pub uris: &'a [&'a str],
    pub hosts: &'a [&'a str],
    /// `users`, `workers`, `coordinators`, a holder's folder, or none: itself.
    pub signer: Option<&'a str>,
    /// Hours from now.
    pub from: i32,
    pub to: i32,
    pub purpose: ExtendedKeyUsagePurpose,
}

impl Default for Made<'_> {
    fn default() -> Self {
        let purpose = ExtendedKeyUsagePurpose::ClientAuth;
        Made { uris: &[], hosts: &[], signer: Some("users"), from: -1, to: 24, purpose }
    }
}

fn hours(count: i32) -> SystemTime {
    let by = Duration::from_secs(u64::from(count.unsigned_abs()) * 3600);
    if count < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
}

impl Made<'_> {
    /// Certificate and key as PEM, signed in the authority of `pki`.
    pub fn pem(&self, pki: &Path) -> Result<(String, String)> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "made for a test");
        (params.not_before, params.not_after) = (hours(self.from).into(), hours(self.to).into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![self.purpose.clone()];
        for uri in self.uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        for host in self.hosts {
            params.subject_alt_names.push(SanType::DnsName((*host).try_into()?));
        }
        let key = KeyPair::generate()?;
        let certificate = match self.signer {
            None => params.self_signed(&key)?,
            Some(signer) => {
                let (certificate, signing) = signer_files(pki, signer);
                let signing = KeyPair::from_pem(&std::fs::read_to_string(signing)?)?;
                let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(certificate)?, signing)?;
                params.signed_by(&key, &issuer)?
            }
        };
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// The same as files of a client, called after the case.
    pub fn files(&self, cluster: &Cluster, name: &str) -> Result<ClientFiles> {
        let (mut certificate, key) = self.pem(&cluster.pki())?;
        if let Some(folder) = self.signer.filter(|signer| signer.contains('/')) {
            // The chain up to the authority.
            certificate += &std::fs::read_to_string(cluster.pki().join(folder).join("cert.pem"))?;
        }
        let path =
            |kind: &str| cluster.folder().join(format!("{}-{kind}.pem", name.replace([' ', '/'], "-")));
        let files = ClientFiles {
            ca: cluster.user_files().ca,
            certificate: Some(path("cert")),
            key: Some(path("key")),
        };
        std::fs::write(path("cert"), certificate)?;
        std::fs::write(path("key"), key)?;
        Ok(files)
    }
}

fn signer_files(pki: &Path, signer: &str) -> (PathBuf, PathBuf) {
    if signer.contains('/') {
        return (pki.join(signer).join("cert.pem"), pki.join(signer).join("key.pem"));
    }
    (pki.join(format!("{signer}-ca.pem")), pki.join("authority").join(format!("{signer}.key")))
}
