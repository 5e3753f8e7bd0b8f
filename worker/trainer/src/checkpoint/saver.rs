//! Checkpoints are written beside the training: it waits for a copy in host memory,
//! see [`super::snapshot`]; a thread of this file's writes, hashes and publishes it.
//!
//! One save is under way at most. Who begins another one waits for it first.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::snapshot::Snapshot;
use super::write::Place;
use super::{Progress, Saved};
use crate::TrainerError;
use crate::nets::Net;
use crate::optim::Optimizer;

/// Writes the checkpoints of a job. Dropping it waits for the one under way.
#[derive(Debug)]
pub struct Saver {
    place: Place,
    /// How many of its own checkpoints it leaves; all without it.
    keep: Option<NonZeroUsize>,
    /// That it wrote and left, oldest first.
    left: VecDeque<PathBuf>,
    under_way: Option<UnderWay>,
    /// Of the last save, for the memory of the next.
    old: Option<Snapshot>,
}

#[derive(Debug)]
struct UnderWay {
    step: u64,
    /// For which the training was held so far.
    stall: Duration,
    thread: JoinHandle<Written>,
}

#[derive(Debug)]
struct Written {
    outcome: Result<Saved, TrainerError>,
    /// From the first copied tensor on.
    save: Duration,
    snapshot: Snapshot,
}

/// A save that has ended well.
#[derive(Clone, Debug)]
pub struct Finished {
    pub step: u64,
    pub saved: Saved,
    /// For which it held the training.
    pub stall: Duration,
    /// From the first copied tensor until it stood on disk.
    pub save: Duration,
}

impl Saver {
    /// Leaves the newest `keep` of the checkpoints that it writes, or all of them.
    pub fn new(place: Place, keep: Option<NonZeroUsize>) -> Self {
        place.clear();
        Saver { place, keep, left: VecDeque::new(), under_way: None, old: None }
    }

    /// Whether a save is under way, or has ended and was not taken.
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Copies network and optimizer and begins to write them. A save under way is
    /// waited for, and what it did is returned.
    ///
    /// # Errors
    /// The save before failed, or the copy cannot be made.
    pub fn begin(
        &mut self,
        progress: Progress,
        net: &Net,
        optimizer: &Optimizer,
    ) -> Result<Option<Finished>, TrainerError> {
        let before = self.wait()?;
        let start = Instant::now();
        let snapshot = Snapshot::take(progress, net, optimizer, self.old.take())?;
        let (step, place) = (snapshot.step(), self.place.clone());
        let surplus = self.keep.map_or(0, |keep| (self.left.len() + 1).saturating_sub(keep.get()));
        let surplus: Vec<PathBuf> = self.left.drain(..surplus).collect();
        let write = move || {
            let outcome = place.write(&snapshot);
            if outcome.is_ok() {
                surplus.iter().for_each(|directory| place.remove(directory));
            }
            Written { outcome, save: start.elapsed(), snapshot }
        };
        let thread = std::thread::Builder::new().name("save-checkpoint".to_owned());
        let thread = thread
            .spawn(write)
            .map_err(|error| TrainerError::io("cannot start a thread that saves", error))?;
        self.under_way = Some(UnderWay { step, stall: start.elapsed(), thread });
        Ok(before)
    }

    /// A save that has ended since the last call, without waiting for one.
    ///
    /// # Errors
    /// It failed.
    pub fn take_finished(&mut self) -> Result<Option<Finished>, TrainerError> {
        match &self.under_way {
            Some(under_way) if under_way.thread.is_finished() => self.wait(),
            _ => Ok(None),
        }
    }

    /// Waits for the save under way, if there is one.
    ///
    /// # Errors
    /// It failed.
    pub fn wait(&mut self) -> Result<Option<Finished>, TrainerError> {
        let Some(UnderWay { step, stall, thread }) = self.under_way.take() else { return Ok(None) };
        let start = Instant::now();
        let Written { outcome, save, snapshot } = thread.join().map_err(|_| {
            TrainerError::io("cannot write a checkpoint", io::Error::other("the thread that saves panicked"))
        })?;
        self.old = Some(snapshot);
        let saved = outcome?;
        self.left.push_back(saved.directory.clone());
        Ok(Some(Finished { step, saved, stall: stall + start.elapsed(), save }))
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        if let Some(under_way) = self.under_way.take() {
            // Nobody is left to be told how it ended.
            let _ = under_way.thread.join();
        }
    }
}
