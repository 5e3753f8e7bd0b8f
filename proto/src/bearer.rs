//! Tokens on the wire: `authorization: Bearer cakes_…`, on every call of a client.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Metadata that a token travels in.
pub const METADATA: &str = "authorization";

/// What stands before the token.
pub const SCHEME: &str = "Bearer ";

/// How every token begins, so that one that leaked is known for what it is.
pub const PREFIX: &str = "cakes_";

/// Length of a token, its beginning included.
pub const TOKEN_CHARS: usize = PREFIX.len() + 64;

/// A text that is no token, without the text.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    #[error("{} cannot be read: {source}; name a file that holds a token", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{place} holds no token: one begins with {PREFIX} and has {TOKEN_CHARS} characters")]
    NoToken { place: String },
    #[error(
        "{url}: the token would travel unencrypted to another machine; use https, or `ssh -L` and 127.0.0.1, \
         or no token"
    )]
    Unencrypted { url: String },
}

/// Gives every call of a client its token, if there is one.
#[derive(Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// A token, blanks around it left out.
    ///
    /// # Errors
    /// It is none; the error names `place` instead of it.
    pub fn new(token: &str, place: &str) -> Result<Self, BearerError> {
        let token = token.trim();
        let digits = token.strip_prefix(PREFIX).filter(|_| token.len() == TOKEN_CHARS);
        let is_token = digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let value = MetadataValue::try_from(format!("{SCHEME}{token}")).ok().filter(|_| is_token);
        let mut value = value.ok_or_else(|| BearerError::NoToken { place: place.to_owned() })?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }

    /// The token that a file holds.
    ///
    /// # Errors
    /// It cannot be read or holds something else.
    pub fn from_file(path: &Path) -> Result<Self, BearerError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| BearerError::Unreadable { path: path.to_owned(), source })?;
        Bearer::new(&text, &path.display().to_string())
    }

    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Whether both hold the same.
    pub fn is_same(&self, other: &Bearer) -> bool {
        self.0 == other.0
    }

    /// # Errors
    /// A token would be readable on its way to `url`.
    pub fn check_way(&self, url: &str) -> Result<(), BearerError> {
        if self.is_some() && is_readable_on_the_way(url) {
            return Err(BearerError::Unencrypted { url: url.to_owned() });
        }
        Ok(())
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_some() { "Bearer(…)" } else { "Bearer(none)" })
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert(METADATA, value.clone());
        }
        Ok(request)
    }
}

/// Whether what is sent to `url` leaves this machine without encryption.
fn is_readable_on_the_way(url: &str) -> bool {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    if scheme.eq_ignore_ascii_case("https") {
        return false;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_here = host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    !is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> String {
        format!("{PREFIX}{}", "ab".repeat(32))
    }

    #[test]
    fn a_token_goes_into_the_metadata_of_every_call_and_nowhere_else() {
        let mut bearer = Bearer::new(&format!(" {}\n", token()), "a test").unwrap();
        let request = bearer.call(Request::new(())).unwrap();
        let sent = request.metadata().get(METADATA).unwrap();
        assert_eq!(sent.to_str().unwrap(), format!("Bearer {}", token()));
        for shown in [format!("{bearer:?}"), format!("{request:?}")] {
            assert!(!shown.contains("abab"), "{shown}");
        }
        assert!(Bearer::default().call(Request::new(())).unwrap().metadata().is_empty());
    }

    #[test]
    fn what_is_no_token_is_named_by_its_place_alone() {
        let mut almost = token();
        almost.pop();
        for wrong in [almost.as_str(), "", "hunter2", &format!("{}0", token()), &token().replace('a', "g")] {
            let error = Bearer::new(wrong, "--token-file x").unwrap_err().to_string();
            assert!(error.starts_with("--token-file x holds no token"), "{error}");
            assert!(wrong.is_empty() || !error.contains(wrong), "{error}");
        }
        let missing = Bearer::from_file(Path::new("/nowhere/token")).unwrap_err().to_string();
        assert!(missing.starts_with("/nowhere/token cannot be read"), "{missing}");
    }

    #[test]
    fn no_token_leaves_this_machine_in_plain_text() {
        let bearer = Bearer::new(&token(), "a test").unwrap();
        for here in [
            "http://127.0.0.1:7550",
            "http://127.8.0.1",
            "localhost:7550",
            "http://[::1]:7550/",
            "https://gpu-01:7550",
            "http://LOCALHOST",
        ] {
            assert!(bearer.check_way(here).is_ok(), "{here}");
        }
        for away in [
            "http://gpu-01:7550",
            "gpu-01:7550",
            "http://10.0.0.1",
            "http://[2001:db8::1]:7550",
            "http://localhost.example.org",
            "http://127.0.0.1@gpu-01:7550",
            "http://gpu-01/127.0.0.1",
            "",
        ] {
            let error = bearer.check_way(away).unwrap_err().to_string();
            assert!(error.contains("unencrypted") && error.contains("ssh -L"), "{error}");
            assert!(Bearer::default().check_way(away).is_ok());
        }
    }
}
