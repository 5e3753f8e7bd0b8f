//! Tokens, the sessions of browsers, and the record of what was done with them.

mod audit;
mod sessions;
mod tokens;

pub use audit::{Asker, AuditEntry, AuditRecord, BEGUN, Via, failures, page, record};
pub use sessions::{close, find_session, open};
pub use tokens::{Found, Holder, TokenRecord, find_token, issue, list, revoke};

use super::error::Error;
use crate::core::access::SecretHash;

/// 256 random bits.
///
/// # Errors
/// The system gives none.
pub fn random_bytes() -> Result<SecretHash, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(bytes)
}
