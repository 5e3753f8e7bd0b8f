//! Secrets, where they may go, and certificates.

use std::net::IpAddr;

use cakes_coordinator::core::access::token_hash;
use cakes_coordinator::core::spiffe::{Authority, Holder, Name};
use cakes_coordinator::core::webhook::{Secret, Target};
use cakes_proto::bearer::{Bearer, PREFIX};
use cakes_tls::facts::Facts;
use cakes_tls::files;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Uri;

use crate::place::with_file;
use crate::{choice, text};

/// Whether a connection to this host stays on this machine.
fn is_here(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A text as a token, and as the address of a coordinator that gets one.
pub fn bearer(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if token_hash(text).is_some() {
        assert!(Bearer::new(text, "a test").is_ok(), "coordinators take what no client sends");
    }
    if let Ok(bearer) = Bearer::new(text, "a test") {
        assert_eq!(format!("{bearer:?}"), "Bearer(…)");
    }
    let token = Bearer::new(&format!("{PREFIX}{}", "ab".repeat(32)), "a test").expect("this is a token");
    // Whoever connects parses the address for itself, and must come to the same.
    // One without a host leads nowhere.
    if let Ok(uri) = text.parse::<Uri>()
        && uri.host().is_some()
        && token.check_way(text).is_ok()
    {
        assert!(
            uri.scheme_str() == Some("https") || is_here(&uri),
            "a token would go to {uri} in plain text"
        );
    }
}

/// A byte, whose lowest bit allows plain addresses, and the address or secret of a webhook.
pub fn webhook(bytes: &[u8]) {
    let Some((flags, rest)) = choice(bytes) else { return };
    let Some(text) = text(rest) else { return };
    let allows_plain = flags & 1 == 1;
    if let Ok(target) = Target::parse(text, allows_plain) {
        // It is stored as it is printed.
        assert_eq!(Target::parse(target.as_str(), allows_plain).as_ref(), Ok(&target));
        if let Ok(uri) = target.as_str().parse::<Uri>() {
            assert!(uri.scheme_str() == Some("https") || allows_plain || is_here(&uri), "{uri}");
        }
    }
    if let Ok(secret) = Secret::parse(text) {
        assert_eq!(Secret::from_bytes(secret.bytes().to_vec()).as_ref(), Ok(&secret));
        let signature = secret.sign("msg_1", 7, text).expect("any length of key will do");
        assert!(MetadataValue::<Ascii>::try_from(signature).is_ok());
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}

/// A certificate in DER: at most one authority may vouch for what it says.
pub fn certificate(bytes: &[u8]) {
    let Ok(facts) = Facts::of(bytes) else { return };
    let domain: Name = "cakes".parse().expect("this is a name");
    let vouches = |signer: &Authority| Holder::certified(&facts.uris, &domain, *signer).is_ok();
    let count = Authority::ALL.iter().filter(|signer| vouches(signer)).count();
    assert!(count <= 1 && (count == 0 || facts.uris.len() == 1), "{facts:?}");
}

/// A file of certificates or a key.
pub fn pem(bytes: &[u8]) {
    with_file("input.pem", bytes, |path| {
        if let Ok(certificates) = files::certificates(path) {
            assert!(!certificates.is_empty(), "a file without certificates proves nothing");
        }
        let _ = files::key(path);
        let _ = files::roots(path);
    });
}
