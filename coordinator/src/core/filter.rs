//! The `filter` of lists ([AIP-160](https://google.aip.dev/160)), checked against the fields
//! that there are and written as the condition that the database tests.
//!
//! ```text
//! state = FAILED AND (labels.team = vision OR NOT labels:keep) AND create_time > 2026-11-01
//!     text ──► words ([`words`]) ──► checked tree ([`parse`]) ──► SQL/JSON path ([`path`])
//! ```
//!
//! As in AIP-160 `OR` binds more tightly than `AND`, a `*` at the end of a value stands for
//! anything, and `field:*` asks whether there is any. What it leaves to implementations is
//! refused here rather than guessed: words that stand side by side without `AND`, a value
//! without a field. A field that is not there fulfils no comparison but `!=`.

mod fields;
mod parse;
mod path;
mod words;

pub use fields::{Field, JOB_FIELDS, SEARCH_FIELDS};

/// Longest filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 4096;

/// A checked filter, as a predicate of the SQL/JSON path language over one row's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// Reads a filter over these fields; none if the text is empty.
    ///
    /// # Errors
    /// The text is no filter, or says of a field what cannot be said of it.
    pub fn parse(text: &str, fields: &[Field]) -> Result<Option<Self>, FilterError> {
        if text.len() > FILTER_BYTES_MAX {
            let problem = format!("it has {} bytes, and at most {FILTER_BYTES_MAX} are read", text.len());
            return Err(FilterError { at: 1, problem });
        }
        let tree = parse::parse(text, fields)?;
        Ok(tree.map(|tree| Filter(path::write(&tree))))
    }

    /// For `jsonb @@ jsonpath` of Postgres.
    pub fn as_json_path(&self) -> &str {
        &self.0
    }
}

/// What is wrong with a filter, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {problem}")]
pub struct FilterError {
    /// Counted from 1.
    pub at: usize,
    pub problem: String,
}

#[cfg(test)]
mod tests;
