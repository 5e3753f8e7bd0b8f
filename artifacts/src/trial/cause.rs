//! What a store's refusal comes from.

use std::error::Error;

use object_store::client::HttpError;

use super::Refusal;

/// Most that is told of an answer that is none of S3, in characters.
const TOLD_MAX: usize = 400;

/// What keeps a store from doing what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody speaks HTTP at the endpoint.
    Unreachable,
    /// The endpoint is http, which nobody has allowed.
    PlainHttp,
    /// Nobody whom this machine trusts has signed the endpoint's certificate.
    Certificate,
    /// There are no keys, neither in variables nor from the machine.
    NoKeys,
    /// The store does not know the id of the key.
    KeyId,
    /// The secret is not that of the key.
    SecretKey,
    /// The session's token does not hold, or no longer.
    SessionToken,
    /// A signature is too old or too young.
    Clock,
    /// The bucket is in another region.
    Region,
    /// There is no such bucket.
    Bucket,
    /// The keys are good, but not for this.
    Right,
    /// The store cannot refuse to replace an object.
    Replaces,
    /// The store does not give back what it was given.
    Inconsistent,
    /// There was no answer in time.
    Silence,
    /// Something else, which its text says.
    Other,
}

impl Refusal {
    /// What it comes from, as far as that is known.
    pub fn cause(&self) -> Cause {
        match self {
            Refusal::Store(error) => Cause::of(error),
            Refusal::Silence(_) => Cause::Silence,
            Refusal::Replaced => Cause::Replaces,
            Refusal::Changed | Refusal::Unlisted => Cause::Inconsistent,
        }
    }
}

impl Cause {
    /// What an error of a store comes from. Its kind says too little: of S3 it is the code in the
    /// answer, of the network and of the keys it is what lies below the error.
    pub fn of(error: &object_store::Error) -> Self {
        let chain = chain(error);
        let text = chain.iter().map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        // Without keys in its variables it asks the machine that it runs on for some.
        if says(&[
            "/latest/api/token",
            "/latest/meta-data/",
            "Missing AccessKeyId",
            "Missing SecretAccessKey",
        ]) {
            return Cause::NoKeys;
        }
        let is_of_network = chain.iter().any(|error| error.is::<HttpError>());
        if is_of_network && says(&["URL scheme is not allowed"]) {
            return Cause::PlainHttp;
        }
        if is_of_network {
            return if says(&["certificate"]) { Cause::Certificate } else { Cause::Unreachable };
        }
        if let Some(cause) = code(&text).and_then(by_code) {
            return cause;
        }
        match error {
            object_store::Error::PermissionDenied { .. } => Cause::Right,
            object_store::Error::Unauthenticated { .. } => Cause::KeyId,
            object_store::Error::NotFound { .. } => Cause::Bucket,
            object_store::Error::NotImplemented { .. } => Cause::Replaces,
            // S3 sends whoever asks in another region elsewhere.
            _ if says(&["redirect without LOCATION", "status code: 301", "status code: 307"]) => {
                Cause::Region
            }
            _ => Cause::Other,
        }
    }
}

/// By the codes of S3, which others who speak like it use as well.
fn by_code(code: &str) -> Option<Cause> {
    Some(match code {
        "InvalidAccessKeyId" => Cause::KeyId,
        "SignatureDoesNotMatch" => Cause::SecretKey,
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => Cause::SessionToken,
        "RequestTimeTooSkewed" | "RequestExpired" => Cause::Clock,
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "TemporaryRedirect"
        | "IllegalLocationConstraintException" => Cause::Region,
        "NoSuchBucket" | "InvalidBucketName" => Cause::Bucket,
        "AccessDenied" | "AllAccessDisabled" => Cause::Right,
        "NotImplemented" => Cause::Replaces,
        "NoSuchKey" => Cause::Inconsistent,
        _ => return None,
    })
}

/// An error in a line: the code and the words of S3, else the error and what lies below it.
pub fn told(error: &object_store::Error) -> String {
    let text = error.to_string();
    let told = match (code(&text), between(&text, "<Message>", "<")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => with_innermost(error),
    };
    let line = told.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(TOLD_MAX).collect()
}

/// Most errors tell of what lies below them, those of the network do not.
fn with_innermost(error: &object_store::Error) -> String {
    let text = error.to_string();
    match chain(error).last().map(ToString::to_string) {
        Some(innermost) if !text.contains(&innermost) => format!("{text}: {innermost}"),
        _ => text,
    }
}

/// The code in an answer of S3, or in what was made of its list of deletions.
fn code(text: &str) -> Option<&str> {
    between(text, "<Code>", "<").or_else(|| between(text, "(code: ", ")"))
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0)
}

/// The error, what it comes from, what that comes from, and so on.
fn chain(error: &object_store::Error) -> Vec<&(dyn Error + 'static)> {
    let mut chain = Vec::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        chain.push(error);
        next = error.source();
    }
    chain
}
