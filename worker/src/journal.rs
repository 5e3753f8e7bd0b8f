//! What must survive a `kill -9` of the daemon: one folder per attempt.
//!
//! ```text
//! WORK_DIR/
//!   lock                          held by the daemon that uses the folder
//!   attempts/{job}-{epoch}/       and {job}-{epoch}-{member} for a part that another slot leads
//!     journal.json                the record below, replaced atomically
//!     spec.json                   the trainer's job
//!     resume/                     the checkpoint to go on from
//!     out/checkpoints/step-…/     what the trainer saved and nobody needs longer than stored
//! ```
//!
//! The folder goes when the attempt has ended and the coordinator knows it. One whose journal
//! cannot be read stays: a result may stand in it, which a later start can tell.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cakes_proto::ids::LeaseToken;
use cakes_proto::v1;
use serde::{Deserialize, Serialize};

const FILE: &str = "journal.json";

/// Why the work folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Content { path: PathBuf, source: serde_json::Error },
    #[error("{path}: another cakes-worker uses this work folder; give each its own --work-dir")]
    InUse { path: PathBuf },
}

/// The state of one attempt. Holds the lease's secret, so only its owner reads it. Fields
/// of other versions are left aside: what was decided must be told, whoever wrote it down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub token: v1::LeaseToken,
    /// Of the daemon that was granted the lease.
    pub incarnation: u64,
    /// The last call, once it was decided.
    pub conclusion: Option<Concluding>,
}

/// A last call that must reach the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concluding {
    Complete(Box<v1::CompleteRequest>),
    Fail(v1::FailRequest),
}

/// The work folder of this daemon.
#[derive(Debug)]
pub struct WorkDir {
    root: PathBuf,
    /// Locked while the daemon lives.
    _lock: File,
}

impl WorkDir {
    /// Makes the folder if it is missing and locks it.
    ///
    /// # Errors
    /// It cannot be made, or another daemon uses it.
    pub fn open(root: &Path) -> Result<Self, JournalError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        let attempts = root.join("attempts");
        private_folder(&attempts).map_err(io(&attempts))?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(JournalError::InUse { path: root.to_owned() }),
            Err(fs::TryLockError::Error(source)) => return Err(JournalError::Io { path, source }),
        }
        let root = fs::canonicalize(root).map_err(io(root))?;
        Ok(WorkDir { root, _lock: lock })
    }

    /// Where the folders of attempts lie.
    pub fn attempts(&self) -> PathBuf {
        self.root.join("attempts")
    }

    /// The folder of an attempt, made anew.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn create(&self, token: &LeaseToken, incarnation: u64) -> Result<Journal, JournalError> {
        let name = match token.member {
            0 => format!("{}-{}", token.job, token.epoch),
            member => format!("{}-{}-{member}", token.job, token.epoch),
        };
        let folder = self.attempts().join(name);
        let io = |source| JournalError::Io { path: folder.clone(), source };
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(io)?;
        }
        private_folder(&folder).map_err(io)?;
        let record = Record { token: (*token).into(), incarnation, conclusion: None };
        let journal = Journal { folder, record };
        journal.write()?;
        Ok(journal)
    }

    /// What earlier daemons left. A folder without a journal belongs to an attempt that
    /// never began; it is removed. One whose journal cannot be read, or is of another
    /// version, is left out and stays where it is.
    ///
    /// # Errors
    /// The work folder cannot be read.
    pub fn left_behind(&self) -> Result<Vec<Journal>, JournalError> {
        let attempts = self.attempts();
        let io = |source| JournalError::Io { path: attempts.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&attempts).map_err(io)? {
            let folder = entry.map_err(io)?.path();
            match read(&folder) {
                Ok(record) => found.push(Journal { folder, record }),
                Err(JournalError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    fs::remove_dir_all(&folder).map_err(io)?;
                }
                Err(error) => tracing::warn!(
                    "the journal of an earlier attempt cannot be read: {error}; {} is kept and tried again at the \
                     next start, remove it if its job is not to be told of",
                    folder.display()
                ),
            }
        }
        Ok(found)
    }
}

/// The record of one attempt and its folder.
#[derive(Clone, Debug)]
pub struct Journal {
    folder: PathBuf,
    record: Record,
}

impl Journal {
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Changes the record and forces it to disk.
    ///
    /// # Errors
    /// The disk is full or fails; the file then still holds the record before.
    pub fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), JournalError> {
        change(&mut self.record);
        self.write()
    }

    fn write(&self) -> Result<(), JournalError> {
        let path = self.folder.join(FILE);
        let text = serde_json::to_vec_pretty(&self.record)
            .map_err(|source| JournalError::Content { path: path.clone(), source })?;
        replace(&self.folder, &path, &text).map_err(|source| JournalError::Io { path, source })
    }

    /// Removes the attempt's folder with everything in it.
    ///
    /// # Errors
    /// The disk fails.
    pub fn remove(&self) -> Result<(), JournalError> {
        fs::remove_dir_all(&self.folder)
            .map_err(|source| JournalError::Io { path: self.folder.clone(), source })
    }
}

fn read(folder: &Path) -> Result<Record, JournalError> {
    let path = folder.join(FILE);
    let text = fs::read(&path).map_err(|source| JournalError::Io { path: path.clone(), source })?;
    serde_json::from_slice(&text).map_err(|source| JournalError::Content { path, source })
}

fn replace(folder: &Path, path: &Path, text: &[u8]) -> std::io::Result<()> {
    let temporary = folder.join(".journal.json.new");
    let mut file =
        fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

fn private_folder(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> LeaseToken {
        let wire = v1::LeaseToken {
            job_id: "0190f3a0-0000-7000-8000-000000000001".into(),
            epoch: 3,
            nonce: "ab".repeat(16),
            member: 0,
        };
        Some(wire).try_into().unwrap()
    }

    #[test]
    fn a_conclusion_survives_the_daemon() {
        let root = tempfile::tempdir().unwrap();
        let conclusion = Concluding::Complete(Box::new(v1::CompleteRequest {
            token: Some(token().into()),
            last_seq: 41,
            result: Some(v1::JobResult { mean_dice: Some(0.8), latency_ms: Some(1.5), ..Default::default() }),
            scores_json: "{}".into(),
            latency_json: "{}".into(),
            checkpoint: None,
            checkpoint_bytes: Some(7),
        }));
        {
            let work = WorkDir::open(root.path()).unwrap();
            let mut journal = work.create(&token(), 7).unwrap();
            journal.update(|record| record.conclusion = Some(conclusion.clone())).unwrap();
        }
        let work = WorkDir::open(root.path()).unwrap();
        let mut found = work.left_behind().unwrap();
        let journal = found.pop().unwrap();
        assert_eq!(journal.record().conclusion, Some(conclusion));
        assert_eq!(journal.record().incarnation, 7);
        journal.remove().unwrap();
        assert!(work.left_behind().unwrap().is_empty());
    }

    #[test]
    fn a_journal_of_the_version_before_is_read() {
        let root = tempfile::tempdir().unwrap();
        let work = WorkDir::open(root.path()).unwrap();
        let folder = work.attempts().join("x-1");
        fs::create_dir(&folder).unwrap();
        let record = serde_json::json!({
            "token": v1::LeaseToken::from(token()),
            "incarnation": 7,
            "last_acked_seq": 41,
            "checkpoints": [{ "key": "k", "step": "4", "manifest_sha256": "ab" }],
            "conclusion": null,
        });
        fs::write(folder.join(FILE), record.to_string()).unwrap();
        let found = work.left_behind().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].record().incarnation, 7);
    }

    #[test]
    fn two_daemons_cannot_share_a_work_folder() {
        let root = tempfile::tempdir().unwrap();
        let _first = WorkDir::open(root.path()).unwrap();
        let error = WorkDir::open(root.path()).unwrap_err();
        assert!(matches!(error, JournalError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_folder_without_a_journal_is_cleared_away_and_one_with_another_journal_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let work = WorkDir::open(root.path()).unwrap();
        let [begun, other] = ["x-1", "x-2"].map(|name| work.attempts().join(name));
        for folder in [&begun, &other] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(begun.join("spec.json"), "{}").unwrap();
        // As of a version that knows a member more.
        fs::write(other.join(FILE), "{\"token\": {}, \"newer\": 1}").unwrap();
        assert!(work.left_behind().unwrap().is_empty());
        assert!(!begun.exists());
        assert!(other.join(FILE).exists(), "a result may stand in it");
    }
}
