//! Which checkpoint goes to the artifact store next.
//!
//! One upload runs at a time, beside training. Of the checkpoints that come
//! meanwhile only the latest is kept, so a slow store makes commits rarer
//! instead of filling the disk; the final one is always the latest.

use std::path::PathBuf;
use std::time::Duration;

pub use cakes_artifacts::{LocalCheckpoint, StoredCheckpoint};

/// Pause before a failed upload is tried again; doubled up to the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Checkpoints between the trainer and the coordinator.
#[derive(Debug, Default)]
pub struct Uploads {
    /// Being stored, or waiting to be tried again.
    current: Option<(LocalCheckpoint, Attempt)>,
    pending: Option<LocalCheckpoint>,
    stored: Option<StoredCheckpoint>,
    /// Uploaded; it is committed with the completion, and its size.
    last: Option<(StoredCheckpoint, u64)>,
    stored_folder: Option<PathBuf>,
    last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Waiting { due: Duration, pause: Duration },
    Running { pause: Duration },
}

impl Uploads {
    /// `stored`: the checkpoint that the job goes on from.
    pub fn new(stored: Option<StoredCheckpoint>) -> Self {
        Uploads { stored, ..Uploads::default() }
    }

    pub fn is_idle(&self) -> bool {
        self.current.is_none() && self.pending.is_none()
    }

    pub fn stored(&self) -> Option<&StoredCheckpoint> {
        self.stored.as_ref()
    }

    /// The checkpoint that is committed with the completion, and the size of its files.
    pub fn last(&self) -> Option<&(StoredCheckpoint, u64)> {
        self.last.as_ref()
    }

    pub fn stored_step(&self) -> u64 {
        self.stored.as_ref().map_or(0, |stored| stored.step)
    }

    /// Step of the newest checkpoint that exists at all.
    pub fn saved_step(&self) -> u64 {
        let local = [self.pending.as_ref(), self.current.as_ref().map(|(checkpoint, _)| checkpoint)];
        local.into_iter().flatten().map(|checkpoint| checkpoint.step).fold(self.stored_step(), u64::max)
    }

    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// A new checkpoint; returns the folder of one that nobody needs any more.
    pub fn add(&mut self, checkpoint: LocalCheckpoint, now: Duration) -> Option<PathBuf> {
        match &self.current {
            Some((_, Attempt::Running { .. })) => self.pending.replace(checkpoint).map(|old| old.directory),
            _ => {
                let waiting = Attempt::Waiting { due: now, pause: RETRY_FIRST };
                self.current.replace((checkpoint, waiting)).map(|(old, _)| old.directory)
            }
        }
    }

    /// The checkpoint to store now, if there is one.
    pub fn start(&mut self, now: Duration) -> Option<LocalCheckpoint> {
        let (checkpoint, attempt) = self.current.as_mut()?;
        match *attempt {
            Attempt::Waiting { due, pause } if now >= due => {
                *attempt = Attempt::Running { pause };
                Some(checkpoint.clone())
            }
            _ => None,
        }
    }

    /// The current one is stored and committed; returns the folder of the one
    /// committed before.
    pub fn finish(&mut self, stored: StoredCheckpoint, now: Duration) -> Option<PathBuf> {
        self.last_error = None;
        self.stored = Some(stored);
        let folder = self.current.take().map(|(checkpoint, _)| checkpoint.directory);
        self.promote(now);
        std::mem::replace(&mut self.stored_folder, folder)
    }

    /// The current one is uploaded, and is committed with the completion.
    pub fn keep_last(&mut self, uploaded: StoredCheckpoint, bytes: u64) {
        self.current = None;
        self.last = Some((uploaded, bytes));
    }

    /// The current one could not be stored. It is tried again unless a newer one
    /// waits or `permanent` says that it never will be; returns the folder of a
    /// checkpoint that is given up.
    pub fn fail(&mut self, error: String, permanent: bool, now: Duration) -> Option<PathBuf> {
        self.last_error = Some(error);
        let (checkpoint, attempt) = self.current.take()?;
        if permanent || self.pending.is_some() {
            self.promote(now);
            return Some(checkpoint.directory);
        }
        let pause = match attempt {
            Attempt::Waiting { pause, .. } | Attempt::Running { pause } => pause,
        };
        let waiting = Attempt::Waiting { due: now + pause, pause: (pause * 2).min(RETRY_LONGEST) };
        self.current = Some((checkpoint, waiting));
        None
    }

    fn promote(&mut self, now: Duration) {
        let next = self.pending.take();
        self.current = next.map(|next| (next, Attempt::Waiting { due: now, pause: RETRY_FIRST }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(step: u64) -> LocalCheckpoint {
        LocalCheckpoint {
            step,
            directory: format!("/c/{step}").into(),
            manifest_sha256: String::new(),
            bytes: 1,
        }
    }

    fn stored(step: u64) -> StoredCheckpoint {
        StoredCheckpoint { step, key: format!("k/{step}"), manifest_sha256: String::new() }
    }

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn a_slow_store_gets_the_latest_checkpoint_and_the_overtaken_folder_goes() {
        let mut uploads = Uploads::default();
        assert_eq!(uploads.add(local(1), NOW), None);
        assert_eq!(uploads.start(NOW), Some(local(1)));
        assert_eq!(uploads.add(local(2), NOW), None);
        assert_eq!(uploads.add(local(3), NOW), Some("/c/2".into()));
        assert_eq!(uploads.start(NOW), None);
        assert_eq!(uploads.finish(stored(1), NOW), None);
        assert_eq!(uploads.start(NOW), Some(local(3)));
        assert_eq!(uploads.finish(stored(3), NOW), Some("/c/1".into()));
        assert!(uploads.is_idle());
        assert_eq!(uploads.stored_step(), 3);
    }

    #[test]
    fn a_failed_upload_is_tried_again_later_or_gives_way_to_a_newer_one() {
        let mut uploads = Uploads::default();
        uploads.add(local(1), NOW);
        uploads.start(NOW);
        assert_eq!(uploads.fail("disk full".into(), false, NOW), None);
        assert_eq!(uploads.start(NOW), None);
        assert_eq!(uploads.start(NOW + RETRY_FIRST), Some(local(1)));
        uploads.add(local(2), NOW);
        assert_eq!(uploads.fail("disk full".into(), false, NOW), Some("/c/1".into()));
        assert_eq!(uploads.start(NOW), Some(local(2)));
        assert_eq!(uploads.fail("refused".into(), true, NOW), Some("/c/2".into()));
        assert!(uploads.is_idle());
    }
}
