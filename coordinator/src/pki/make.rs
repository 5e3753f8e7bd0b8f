//! Certificates and keys, as PEM.

use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, Error, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::Host;
use crate::core::spiffe::{Authority, Holder, Name};

/// An authority and its key. Its URI is that of the domain, as SPIFFE has it.
pub(super) fn authority(
    authority: Authority,
    domain: &Name,
    from: SystemTime,
    to: SystemTime,
) -> Result<(String, String), Error> {
    let mut params = named(&format!("{domain} {authority}"), from, to);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// A holder's certificate and its key.
pub(super) fn certificate(
    issuer: &Issuer<'_, KeyPair>,
    holder: &Holder,
    domain: &Name,
    hosts: &[Host],
    from: SystemTime,
    to: SystemTime,
) -> Result<(String, String), Error> {
    let mut params = named(holder.name().as_str(), from, to);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if let Holder::Coordinator { .. } = holder {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.subject_alt_names = vec![SanType::URI(holder.uri(domain).try_into()?)];
    for host in hosts {
        params.subject_alt_names.push(match host {
            Host::Name(name) => SanType::DnsName(name.as_str().try_into()?),
            Host::Address(address) => SanType::IpAddress(*address),
        });
    }
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

fn named(name: &str, from: SystemTime, to: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = from.into();
    params.not_after = to.into();
    params
}
