//! Webhooks: where they may point, how a delivery is signed, and when it is tried again.
//!
//! ```text
//!  pending ── answered 2xx ──────────────► delivered
//!     └── anything else, tries left ─► pending, later
//!     └── anything else, the last try ───► failed
//! ```
//!
//! Signatures are those of [Standard Webhooks](https://www.standardwebhooks.com/).

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use url::{Host, Url};
use uuid::Uuid;

use super::text::named;

/// What somebody may be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WebhookEvent {
    SearchFinished,
    SearchFailed,
    JobFailed,
    /// An architecture has entered the front of its search.
    FrontPoint,
    /// Somebody wants to see whether deliveries arrive.
    Ping,
}

named!(WebhookEvent, "event of webhooks", {
    SearchFinished => "search-finished",
    SearchFailed => "search-failed",
    JobFailed => "job-failed",
    FrontPoint => "front-point",
    Ping => "ping",
});

impl WebhookEvent {
    /// The `type` of a payload: `search.finished`.
    fn kind(self) -> String {
        self.as_str().replace('-', ".")
    }
}

/// Where a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// To be tried, for the first time or again.
    Pending,
    /// The receiver has taken it.
    Delivered,
    /// Given up.
    Failed,
}

named!(DeliveryState, "state of a delivery", {
    Pending => "pending",
    Delivered => "delivered",
    Failed => "failed",
});

/// Requests of one delivery at the most: over a day.
pub const TRIES_MAX: u32 = 12;

const URL_CHARS_MAX: usize = 2000;
const SECRET_PREFIX: &str = "whsec_";
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const BACK_OFF_FIRST: Duration = Duration::from_secs(2);
const BACK_OFF_LONGEST: Duration = Duration::from_secs(6 * 3600);

/// The key of signatures. Shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// Reads base64, with or without `whsec_` before it.
    ///
    /// # Errors
    /// What is wrong, without the secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits = text.trim();
        let bytes = STANDARD
            .decode(digits.strip_prefix(SECRET_PREFIX).unwrap_or(digits))
            .map_err(|_| "is no base64; make one with `openssl rand -base64 32`".to_owned())?;
        Self::from_bytes(bytes)
    }

    /// # Errors
    /// Too short or too long.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, String> {
        if SECRET_BYTES.contains(&bytes.len()) {
            return Ok(Secret(bytes));
        }
        Err(format!(
            "has {} bytes and must have 24 to 64; make one with `openssl rand -base64 32`",
            bytes.len()
        ))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The header `webhook-signature` of a delivery.
    ///
    /// # Errors
    /// None in practice: any length of key will do.
    pub fn sign(&self, id: &str, timestamp_s: u64, payload: &str) -> Result<String, String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).map_err(|error| error.to_string())?;
        mac.update(format!("{id}.{timestamp_s}.{payload}").as_bytes());
        Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    }
}

/// An address that deliveries may be posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(Url);

impl Target {
    /// With `allows_plain` also http to other machines.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(text: &str, allows_plain: bool) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("is no URL: {error}; write https://HOST/PATH"))?;
        // As it is stored, which takes three characters for each byte of some.
        if url.as_str().len() > URL_CHARS_MAX {
            return Err(format!("has more than {URL_CHARS_MAX} characters"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds a user or password, which lists would show; leave it out".to_owned());
        }
        match url.scheme() {
            "https" => Ok(Target(url)),
            "http" if allows_plain || is_loopback(&url) => Ok(Target(url)),
            "http" => Err("must be https, except to this machine; the operator may allow http with \
                           --insecure-webhooks"
                .to_owned()),
            scheme => Err(format!("has the scheme {scheme}; write https://HOST/PATH")),
        }
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// What becomes of a delivery after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub state: DeliveryState,
    /// HTTP status; none where there was no answer.
    pub status: Option<u16>,
    /// Empty for a success.
    pub error: String,
    /// Time to the next request, for one that is pending.
    pub delay: Duration,
}

/// Judges the `attempt`th request, counted from 1; `jitter` spreads those of several
/// deliveries.
pub fn judge(outcome: Result<u16, String>, attempt: u32, jitter: u64) -> Verdict {
    let (status, error) = match outcome {
        Ok(status @ 200..=299) => {
            return Verdict {
                state: DeliveryState::Delivered,
                status: Some(status),
                error: String::new(),
                delay: Duration::ZERO,
            };
        }
        Ok(status) => (Some(status), format!("answered {status}")),
        Err(error) => (None, bounded(&error, 300)),
    };
    if attempt >= TRIES_MAX {
        return Verdict { state: DeliveryState::Failed, status, error, delay: Duration::ZERO };
    }
    Verdict { state: DeliveryState::Pending, status, error, delay: back_off(attempt, jitter) }
}

/// Four times as long after each request, to six hours; between half and all of that.
fn back_off(attempt: u32, jitter: u64) -> Duration {
    let factor = 4_u32.saturating_pow(attempt.saturating_sub(1).min(12));
    let longest = BACK_OFF_FIRST.saturating_mul(factor).min(BACK_OFF_LONGEST);
    let share = (jitter >> 11) as f64 / (1_u64 << 53) as f64;
    longest.mul_f64(0.5 + 0.5 * share)
}

/// The header `webhook-id` of a delivery.
pub fn message_id(delivery: Uuid) -> String {
    format!("msg_{}", delivery.simple())
}

/// The body of a delivery; `time` as RFC 3339 says it.
pub fn payload(event: WebhookEvent, time: &str, data: &Value) -> String {
    json!({ "type": event.kind(), "timestamp": time, "data": data }).to_string()
}

/// At most so many characters, so that a payload stays small.
pub fn bounded(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The test vector that the libraries of Standard Webhooks have in common.
    #[test]
    fn a_signature_is_the_published_one() {
        for text in ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"] {
            let secret = Secret::parse(text).unwrap();
            let signature = secret
                .sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#)
                .unwrap();
            assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
            assert!(!format!("{secret:?}").contains("Mf"));
        }
        for wrong in ["", "whsec_", "whsec_c2hvcnQ=", "not base64 at all!", &"A".repeat(400)] {
            let error = Secret::parse(wrong).unwrap_err();
            assert!(
                error.contains("openssl rand") && (wrong.is_empty() || !error.contains(wrong)),
                "{error}"
            );
        }
    }

    #[test]
    fn addresses_are_encrypted_or_on_this_machine() {
        let good =
            ["https://hooks.example/x?y=1", "http://127.0.0.1:9/x", "http://localhost/", "http://[::1]:80/"];
        for text in good {
            assert!(Target::parse(text, false).is_ok(), "{text}");
        }
        let plain = "http://hooks.example/x";
        assert!(Target::parse(plain, false).unwrap_err().contains("--insecure-webhooks"));
        assert!(Target::parse(plain, true).is_ok());
        for text in [
            "hooks.example",
            "ftp://hooks.example/",
            "file:///etc/passwd",
            "https://user:word@hooks.example/",
        ] {
            assert!(Target::parse(text, true).is_err(), "{text}");
        }
        assert!(Target::parse("http://127.0.0.1.hooks.example/", false).is_err());
        assert!(Target::parse("http://localhost.hooks.example/", false).is_err());
    }

    #[test]
    fn only_success_is_success_and_tries_end() {
        assert_eq!(judge(Ok(204), 1, 0).state, DeliveryState::Delivered);
        for status in [199, 301, 404, 410, 500] {
            let verdict = judge(Ok(status), 1, 0);
            assert_eq!((verdict.state, verdict.status), (DeliveryState::Pending, Some(status)));
            assert_eq!(verdict.error, format!("answered {status}"));
        }
        let lost = judge(Err("connection refused".into()), TRIES_MAX - 1, 0);
        assert_eq!((lost.state, lost.status), (DeliveryState::Pending, None));
        assert_eq!(judge(Err("connection refused".into()), TRIES_MAX, 0).state, DeliveryState::Failed);
        let all: Duration = (1..TRIES_MAX).map(|attempt| back_off(attempt, u64::MAX)).sum();
        assert!(all > Duration::from_secs(24 * 3600) && all < Duration::from_secs(48 * 3600), "{all:?}");
    }

    proptest! {
        #[test]
        fn back_off_stays_in_its_bounds(attempt in 1_u32..1000, jitter: u64) {
            let wait = back_off(attempt, jitter);
            prop_assert!(wait >= BACK_OFF_FIRST / 2 && wait <= BACK_OFF_LONGEST);
            prop_assert!(back_off(attempt + 1, 0) * 2 >= back_off(attempt, 0));
        }
    }
}
