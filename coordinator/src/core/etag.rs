//! Whether something is still as its reader saw it: the etags of AIP-154.
//!
//! An etag covers what people decide from, state and labels, and not what moves by itself:
//! otherwise nobody could cancel a job that trains.

use std::fmt;
use std::str::FromStr;

use cakes::labels::Labels;
use sha2::{Digest, Sha256};

use super::job::JobState;
use super::search::SearchState;

/// Eight bytes of a digest, in hexadecimal on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Etag([u8; 8]);

/// A text that no etag is written as.
#[derive(Debug, thiserror::Error)]
#[error("is no etag; send what the etag of the resource said, or none")]
pub struct InvalidEtag;

impl Etag {
    /// Of a job in this state, with so many grants.
    pub fn of_job(state: JobState, epoch: i64, labels: &Labels) -> Self {
        Self::of(&format!("job {} {epoch}", state.as_str()), labels)
    }

    /// Of a search in this state.
    pub fn of_search(state: SearchState, labels: &Labels) -> Self {
        Self::of(&format!("search {}", state.as_str()), labels)
    }

    fn of(what: &str, labels: &Labels) -> Self {
        let mut digest = Sha256::new();
        digest.update(what);
        // Neither has a line end in it.
        for (key, value) in labels.iter() {
            digest.update(format!("\n{key}={value}"));
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest.finalize()[..8]);
        Etag(bytes)
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Etag {
    type Err = InvalidEtag;

    fn from_str(text: &str) -> Result<Self, InvalidEtag> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidEtag)?;
        Ok(Etag(bytes))
    }
}

/// What to change, if it is still as somebody saw it; without an etag whatever it is now.
#[derive(Clone, Copy, Debug)]
pub struct AsSeen<Id> {
    pub id: Id,
    pub etag: Option<Etag>,
}

impl<Id> From<Id> for AsSeen<Id> {
    fn from(id: Id) -> Self {
        AsSeen { id, etag: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
            .unwrap()
    }

    #[test]
    fn each_thing_that_people_decide_from_changes_it() {
        let seen = Etag::of_job(JobState::Failed, 1, &labels(&[("a", "b")]));
        assert_eq!(seen, Etag::of_job(JobState::Failed, 1, &labels(&[("a", "b")])));
        for other in [
            Etag::of_job(JobState::Queued, 1, &labels(&[("a", "b")])),
            Etag::of_job(JobState::Failed, 2, &labels(&[("a", "b")])),
            Etag::of_job(JobState::Failed, 1, &labels(&[("a", "c")])),
            Etag::of_job(JobState::Failed, 1, &labels(&[("a", "b"), ("c", "")])),
            Etag::of_job(JobState::Failed, 1, &labels(&[])),
            Etag::of_search(SearchState::Failed, &labels(&[("a", "b")])),
        ] {
            assert_ne!(seen, other);
        }
    }

    #[test]
    fn it_is_read_as_it_is_written_and_nothing_else_is() {
        let etag = Etag::of_search(SearchState::Searching, &Labels::default());
        assert_eq!(etag.to_string().parse::<Etag>().unwrap(), etag);
        for text in ["", "7", "zz", "0123456789abcde", "0123456789abcdef0", "W/\"1\""] {
            assert!(text.parse::<Etag>().is_err(), "{text}");
        }
    }
}
