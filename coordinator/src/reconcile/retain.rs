//! Gives up checkpoints that nothing keeps, and deletes what was given up.
//!
//! ```text
//! how full is the disk? ─► condemn rows, job by job ─► delete objects ─► note that they are gone
//! ```
//!
//! Each step may be repeated, by another coordinator too.

use std::path::PathBuf;

use cakes_artifacts::Artifacts;
use tokio_util::sync::CancellationToken;

use super::PERIOD;
use super::ticks::Ticks;
use crate::core::retention::{Policy, Watermarks, is_pressed};
use crate::store::checkpoints::{condemned, mark_deleted, review};
use crate::store::{Error, PgPool, limited};

/// Pages of jobs that one tick looks at.
const PAGES_MAX: usize = 20;
/// Condemned checkpoints that are read at once.
const DELETIONS: i64 = 100;
/// Deletions in a row that fail before the store is left alone until the next tick.
const FAILURES_MAX: usize = 3;

pub(super) struct Keeper {
    pub pool: PgPool,
    pub artifacts: Artifacts,
    /// Where the store is a folder.
    pub disk: Option<PathBuf>,
    pub newest: usize,
    pub marks: Watermarks,
}

/// Looks at every tick until stopped.
pub(super) async fn run(keeper: Keeper, stop: CancellationToken) {
    let (mut was_pressed, mut after) = (false, None);
    let mut ticks = Ticks::every("retain", PERIOD, stop.clone());
    while let Some(()) = ticks.next().await {
        was_pressed = keeper.look_at_disk(was_pressed);
        let policy = Policy { newest: keeper.newest, is_pressed: was_pressed };
        for _ in 0..PAGES_MAX {
            match limited(review(&keeper.pool, policy, after)).await {
                Ok(reviewed) => after = reviewed.next,
                Err(error) => {
                    ticks.failed();
                    tracing::warn!(error = &error as &dyn std::error::Error, "could not look at checkpoints");
                    break;
                }
            }
            if after.is_none() || stop.is_cancelled() {
                break;
            }
        }
        let deleted = keeper.delete_condemned(&stop).await;
        if let Err(error) = deleted {
            ticks.failed();
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not look for condemned checkpoints"
            );
        }
    }
}

impl Keeper {
    /// Whether the disk is nearly full. Where that cannot be told it stays as it was.
    fn look_at_disk(&self, was_pressed: bool) -> bool {
        let Some(disk) = &self.disk else { return false };
        let used = match used_percent(disk) {
            Ok(used) => used,
            Err(error) => {
                tracing::warn!(%error, disk = %disk.display(), "could not ask how full the artifact disk is");
                return was_pressed;
            }
        };
        let pressed = is_pressed(was_pressed, used, self.marks);
        let used = format!("{used:.1}");
        match (was_pressed, pressed) {
            (false, true) => tracing::warn!(
                used_percent = used,
                "the artifact disk is nearly full: only checkpoints that are needed, pinned or best are kept"
            ),
            (true, false) => tracing::info!(used_percent = used, "the artifact disk has room again"),
            _ => {}
        }
        pressed
    }

    async fn delete_condemned(&self, stop: &CancellationToken) -> Result<(), Error> {
        let (mut after, mut failures): (Option<String>, _) = (None, 0);
        loop {
            let page = limited(condemned(&self.pool, after.as_deref(), DELETIONS)).await?;
            let is_last = i64::try_from(page.len()).is_ok_and(|count| count < DELETIONS);
            for checkpoint in page {
                if stop.is_cancelled() || failures >= FAILURES_MAX {
                    return Ok(());
                }
                match self.artifacts.delete(&checkpoint.key).await {
                    Ok(objects) => {
                        limited(mark_deleted(&self.pool, &checkpoint.key)).await?;
                        tracing::info!(job = %checkpoint.job, step = checkpoint.step, objects, "deleted a checkpoint");
                        failures = 0;
                    }
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            key = checkpoint.key,
                            "could not delete a checkpoint; it is tried again. In a bucket the coordinator needs \
                             AWS_… variables with the right to list and delete"
                        );
                    }
                }
                after = Some(checkpoint.key);
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

/// Share in use of what this process may use, as `df` says it.
fn used_percent(folder: &std::path::Path) -> nix::Result<f64> {
    let disk = nix::sys::statvfs::statvfs(folder)?;
    let used = disk.blocks().saturating_sub(disk.blocks_free()) as f64;
    let all = used + disk.blocks_available() as f64;
    Ok(if all > 0.0 { 100.0 * used / all } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_between_empty_and_full() {
        let used = used_percent(&std::env::temp_dir()).unwrap();
        assert!((0.0..=100.0).contains(&used), "{used}");
        assert!(used_percent(std::path::Path::new("/no/such/folder")).is_err());
    }
}
