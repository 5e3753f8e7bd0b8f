//! Identities in requests: whole, or as a beginning that only one thing has.

use std::fmt::Display;
use std::str::FromStr;

use crate::store::PgPool;
use cakes::architecture::ArchitectureDigest;
use cakes_proto::ids::{JobId, SearchId, WebhookId, WorkerId};
use tonic::Status;

use super::status::{invalid_field, not_found};
use crate::store::read::lookup;

const PREFIX_CHARS_MIN: usize = 6;

/// The search that `text` names. A whole id is not looked up here.
pub(crate) async fn search(pool: &PgPool, field: &str, text: &str) -> Result<SearchId, Status> {
    if let Ok(id) = SearchId::from_str(text) {
        return Ok(id);
    }
    let prefix = prefix("search id", field, text)?;
    only("search", field, &prefix, lookup::searches(pool, &prefix).await?)
}

/// The job that `text` names. A whole id is not looked up here.
pub(crate) async fn job(pool: &PgPool, field: &str, text: &str) -> Result<JobId, Status> {
    if let Ok(id) = JobId::from_str(text) {
        return Ok(id);
    }
    let prefix = prefix("job id", field, text)?;
    only("job", field, &prefix, lookup::jobs(pool, &prefix).await?)
}

/// The architecture that `text` names. A whole digest is not looked up here.
pub(crate) async fn architecture(
    pool: &PgPool,
    field: &str,
    text: &str,
) -> Result<ArchitectureDigest, Status> {
    if let Ok(digest) = ArchitectureDigest::from_str(text) {
        return Ok(digest);
    }
    let prefix = prefix("digest", field, text)?;
    only("architecture", field, &prefix, lookup::architectures(pool, &prefix).await?)
}

/// The webhook that `text` names. A whole id is not looked up here.
pub(super) async fn webhook(pool: &PgPool, field: &str, text: &str) -> Result<WebhookId, Status> {
    if let Ok(id) = WebhookId::from_str(text) {
        return Ok(id);
    }
    let prefix = prefix("webhook id", field, text)?;
    only("webhook", field, &prefix, lookup::webhooks(pool, &prefix).await?)
}

/// The name of a worker.
pub(super) fn worker(field: &str, text: &str) -> Result<WorkerId, Status> {
    text.parse().map_err(|error| invalid_field(field, error))
}

/// An optional search: empty means none.
pub(crate) async fn search_if_given(
    pool: &PgPool,
    field: &str,
    text: &str,
) -> Result<Option<SearchId>, Status> {
    if text.is_empty() { Ok(None) } else { search(pool, field, text).await.map(Some) }
}

/// Checks a beginning; what passes holds no pattern of `like`.
fn prefix(kind: &str, field: &str, text: &str) -> Result<String, Status> {
    if text.is_empty() {
        return Err(invalid_field(
            field,
            format!("give a {kind}, or its first {PREFIX_CHARS_MIN} characters"),
        ));
    }
    let lower = text.to_ascii_lowercase();
    let is_hexadecimal = lower.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if !is_hexadecimal || lower.len() > 64 {
        return Err(invalid_field(field, format!("'{text}' is no {kind}")));
    }
    if lower.len() < PREFIX_CHARS_MIN {
        return Err(invalid_field(
            field,
            format!("'{text}' is too short; give at least {PREFIX_CHARS_MIN} characters"),
        ));
    }
    Ok(lower)
}

fn only<T: Display>(kind: &str, field: &str, prefix: &str, mut found: Vec<T>) -> Result<T, Status> {
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(not_found(kind, prefix)),
        (Some(one), true) => Ok(one),
        (Some(last), false) => {
            found.push(last);
            let names: Vec<String> = found.iter().map(T::to_string).collect();
            Err(invalid_field(field, format!("'{prefix}' is the beginning of several: {}", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_long_enough_and_hold_no_pattern() {
        assert_eq!(prefix("job id", "id", "0191AB").unwrap(), "0191ab");
        for text in ["", "0191a", "0191a%", "______", "../../etc", &"a".repeat(65)] {
            assert!(prefix("job id", "id", text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_ambiguous_beginning_lists_what_it_may_mean() {
        assert_eq!(only("job", "id", "abcdef", vec!["abcdef1"]).unwrap(), "abcdef1");
        let status = only("job", "id", "abcdef", vec!["abcdef1", "abcdef2"]).unwrap_err();
        assert!(status.message().contains("abcdef1, abcdef2"), "{}", status.message());
        let status = only::<String>("job", "id", "abcdef", vec![]).unwrap_err();
        assert_eq!(status.code(), tonic::Code::NotFound);
    }
}
