//! TLS of everything that connects: certificates and keys from files, which are read anew
//! for each connection, and what can go wrong in words for people.
//!
//! ```text
//!  files ──► RootCertStore, chain, key      facts ──► names and times of a certificate
//!    └─────► client::Connector ──► TCP, TLS 1.3, ALPN h2 ──► tonic
//! ```
//!
//! What a coordinator asks of those who call it is its own affair.

pub mod client;
pub mod facts;
pub mod files;

use std::sync::Arc;

pub use tokio_rustls::{self, rustls};

use rustls::crypto::CryptoProvider;
use rustls::{SupportedProtocolVersion, version};

/// Nothing older than TLS 1.3.
pub const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// The cryptography: that of AWS-LC, which the artifact store's client has anyway.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
