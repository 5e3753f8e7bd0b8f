//! The file that a search travels in: a zip of JSON lines that ordinary tools open.
//!
//! Its lines are what the database says of each row. Whoever reads one checks it
//! ([`check`]) and hands the line itself on, so that no number is rounded on its way.
//! `docs/exchange.md` describes the format for people.
//!
//! Nothing here waits or talks to a database.

pub mod check;
mod read;
#[allow(dead_code, reason = "many a field is only there to be checked as it is read")]
mod rows;
mod write;

pub use read::Archive;
pub use write::Writer;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What the manifest says the file is.
pub const FORMAT: &str = "cakes-search";
/// The newest version. Raised when an older reader would misunderstand the file, or refuse it
/// without saying why. A file has the oldest version that can hold it.
pub const FORMAT_VERSION: u32 = 2;
/// Version of a file without labels and notes.
pub const PLAIN_VERSION: u32 = 1;
/// Name of the member that describes the others.
pub const MANIFEST: &str = "manifest.json";

/// Largest file that is taken, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 30;
/// Largest member, unpacked, in bytes.
const MEMBER_BYTES_MAX: u64 = 32 << 30;
/// Largest manifest, unpacked, in bytes.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Longest line, in bytes: the scores of a large supernet take some megabytes.
const LINE_BYTES_MAX: usize = 64 << 20;
/// A member that unpacks to more times its size was made to do so.
const RATIO_MAX: u64 = 300;

/// A member of the file, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// What was asked for, and how it ended: one line.
    Search,
    /// The same as `cakes search submit` takes it: one line.
    Request,
    Architectures,
    /// With attempts, checkpoints, progress and results.
    Jobs,
    Scores,
    Events,
    Metrics,
}

impl Member {
    pub const ALL: [Member; 7] = [
        Member::Search,
        Member::Request,
        Member::Architectures,
        Member::Jobs,
        Member::Scores,
        Member::Events,
        Member::Metrics,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Member::Search => "search.json",
            Member::Request => "request.json",
            Member::Architectures => "architectures.jsonl",
            Member::Jobs => "jobs.jsonl",
            Member::Scores => "scores.jsonl",
            Member::Events => "events.jsonl",
            Member::Metrics => "metrics.jsonl",
        }
    }

    /// Most lines that are taken.
    fn lines_max(self) -> u64 {
        match self {
            Member::Search | Member::Request => 1,
            Member::Architectures | Member::Jobs | Member::Scores => 100_000,
            Member::Events => 10_000_000,
            Member::Metrics => 1_000_000_000,
        }
    }
}

/// Whose file it is, and when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exporter {
    pub cakes_version: String,
    /// The machine whose coordinator wrote it.
    pub source: String,
    pub export_time: DateTime<Utc>,
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: String,
    pub format_version: u32,
    pub search_id: Uuid,
    /// Whether the search had not ended.
    pub is_snapshot: bool,
    /// SHA-256 over a line `SHA256 NAME` of each member, in their order: equal for equal
    /// content, whoever exported it.
    pub content_sha256: String,
    pub cakes_version: String,
    pub source: String,
    pub export_time: DateTime<Utc>,
    pub members: Vec<MemberFacts>,
}

/// A member as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberFacts {
    pub name: String,
    /// Of its unpacked bytes.
    pub sha256: String,
    /// Unpacked.
    pub bytes: u64,
    pub lines: u64,
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ExchangeError {
    /// A member, maybe with a line of it.
    pub place: String,
    pub problem: String,
}

impl ExchangeError {
    fn file(problem: impl Into<String>) -> Self {
        ExchangeError { place: "the file".to_owned(), problem: problem.into() }
    }

    fn member(name: &str, problem: impl Into<String>) -> Self {
        ExchangeError { place: name.to_owned(), problem: problem.into() }
    }

    fn line(member: Member, number: u64, problem: impl std::fmt::Display) -> Self {
        ExchangeError { place: format!("{} line {number}", member.name()), problem: problem.to_string() }
    }
}

/// The digest of all members together.
fn content_sha256(members: &[MemberFacts]) -> String {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    for MemberFacts { name, sha256, .. } in members {
        hash.update(format!("{sha256} {name}\n"));
    }
    hex::encode(hash.finalize())
}
