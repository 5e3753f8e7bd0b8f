//! Pages of a list: how many entries, and where the last page ended.
//!
//! A token is the position of the last entry that was sent, beside a digest of
//! the request's other arguments. It says nothing that its holder did not see,
//! needs no memory of the server, and entries that appear meanwhile shift nothing.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tonic::Status;

use super::status::invalid_field;
use crate::core::filter::{Field, Filter};
use crate::store::read::Order;

const SIZE_DEFAULT: i32 = 100;
/// Entries of the longest page of most lists.
pub(super) const SIZE_MAX: i32 = 1000;
const VERSION: u8 = 1;

/// Reads `order_by` (AIP-132) of a list that is sorted by creation.
///
/// # Errors
/// It names another field, or more than one.
pub(super) fn order_by(text: &str) -> Result<Order, Status> {
    match text.split_whitespace().collect::<Vec<_>>().as_slice() {
        [] | ["create_time", "desc"] => Ok(Order::NewestFirst),
        ["create_time"] | ["create_time", "asc"] => Ok(Order::OldestFirst),
        _ => Err(invalid_field("order_by", "must be 'create_time desc' or 'create_time'")),
    }
}

/// Reads `filter` (AIP-160) of a list.
///
/// # Errors
/// It is no filter over these fields.
pub(super) fn filter(text: &str, fields: &[Field]) -> Result<Option<Filter>, Status> {
    Filter::parse(text, fields).map_err(|error| invalid_field("filter", error))
}

/// The checked page of a list request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Entries to return, at least 1.
    pub size: i64,
    /// The last entry of the page before.
    pub after: Option<Position>,
    arguments: [u8; 8],
}

/// Where an entry stands in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// What the list is sorted by first: microseconds since 1970, or a number of
    /// its own.
    pub order: i64,
    /// The entry's identity.
    pub key: Vec<u8>,
}

impl Position {
    /// The time, where lists are sorted by it.
    pub(super) fn time(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.order)
    }
}

impl Page {
    /// Reads `page_size`, where larger ones than `size_max` count as that, and
    /// `page_token`; `arguments` is every other argument
    /// of the request in some fixed text form.
    ///
    /// # Errors
    /// A negative size, or a token that does not belong to these arguments.
    pub(super) fn new(size: i32, size_max: i32, token: &str, arguments: &str) -> Result<Self, Status> {
        if size < 0 {
            return Err(invalid_field(
                "page_size",
                format!("must be 0 (for {SIZE_DEFAULT}) or more, got {size}"),
            ));
        }
        let size = if size == 0 { SIZE_DEFAULT } else { size }.min(size_max);
        let mut digest = [0; 8];
        digest.copy_from_slice(&Sha256::digest(arguments)[..8]);
        let after = if token.is_empty() { None } else { Some(read_token(token, digest)?) };
        Ok(Page { size: size.into(), after, arguments: digest })
    }

    /// The token of the page behind `entries`; empty at the end of the list.
    ///
    /// `entries` holds one more than the page if there is another page; that one
    /// is taken off.
    pub(super) fn cut<T>(&self, entries: &mut Vec<T>, position: impl Fn(&T) -> Position) -> String {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        if entries.len() <= size {
            return String::new();
        }
        entries.truncate(size);
        entries.last().map(|last| self.token(&position(last))).unwrap_or_default()
    }

    fn token(&self, position: &Position) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.arguments);
        bytes.extend(position.order.to_be_bytes());
        bytes.extend(&position.key);
        hex::encode(bytes)
    }
}

fn read_token(token: &str, arguments: [u8; 8]) -> Result<Position, Status> {
    let malformed =
        || invalid_field("page_token", "is not one that this server gave; begin at the first page");
    let bytes = hex::decode(token).map_err(|_| malformed())?;
    let (head, rest) = bytes.split_first_chunk::<9>().ok_or_else(malformed)?;
    let (time, key) = rest.split_first_chunk::<8>().ok_or_else(malformed)?;
    if head[0] != VERSION {
        return Err(malformed());
    }
    if head[1..] != arguments {
        return Err(invalid_field(
            "page_token",
            "belongs to a request with other arguments; repeat those, or begin at the first page",
        ));
    }
    Ok(Position { order: i64::from_be_bytes(*time), key: key.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(key: &u8) -> Position {
        Position { order: -5, key: vec![*key] }
    }

    #[test]
    fn a_token_leads_to_the_position_behind_the_page() {
        let first = Page::new(2, SIZE_MAX, "", "search=a").unwrap();
        let mut entries = vec![1_u8, 2, 3];
        let token = first.cut(&mut entries, position);
        assert_eq!(entries, [1, 2]);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let second = Page::new(2, SIZE_MAX, &token, "search=a").unwrap();
        assert_eq!(second.after, Some(position(&2)));
        assert_eq!(second.cut(&mut vec![3_u8], position), "");
    }

    #[test]
    fn lists_are_sorted_by_creation_alone() {
        assert_eq!(order_by("").unwrap(), Order::NewestFirst);
        assert_eq!(order_by("create_time  desc").unwrap(), Order::NewestFirst);
        assert_eq!(order_by("create_time").unwrap(), Order::OldestFirst);
        for other in ["name", "create_time, name", "create_time down", "desc"] {
            assert_eq!(order_by(other).unwrap_err().code(), tonic::Code::InvalidArgument, "{other}");
        }
    }

    #[test]
    fn sizes_are_coerced_and_negative_ones_refused() {
        assert_eq!(Page::new(0, SIZE_MAX, "", "").unwrap().size, 100);
        assert_eq!(Page::new(5000, SIZE_MAX, "", "").unwrap().size, 1000);
        assert_eq!(Page::new(-1, SIZE_MAX, "", "").unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn tokens_of_other_requests_and_garbage_are_refused() {
        let token = Page::new(1, SIZE_MAX, "", "search=a").unwrap().cut(&mut vec![1_u8, 2], position);
        for (token, arguments) in [(token.as_str(), "search=b"), ("zz", ""), ("01", ""), ("", "x")] {
            let page = Page::new(1, SIZE_MAX, token, arguments);
            assert_eq!(page.is_err(), !token.is_empty(), "{token}");
        }
    }
}
