//! Removes what lies in the store and can never become a checkpoint: uploads of attempts
//! that ended before they could commit them, and what came back behind a deletion.

use std::time::Duration;

use cakes_artifacts::{ArtifactError, Artifacts, StoredFolder};
use cakes_proto::ids::JobId;
use tokio_util::sync::CancellationToken;

use super::ticks::Ticks;
use crate::core::retention::{Folder, FolderFate, folder_fate};
use crate::store::checkpoints::{Prefixes, prefixes};
use crate::store::{Error, PgPool, limited};

/// Longest and shortest time between two looks at the whole store.
const PERIODS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

pub(super) struct Sweeper {
    pub pool: PgPool,
    pub artifacts: Artifacts,
    pub least_age: Duration,
}

/// What a look at the store found.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    removed: usize,
    removed_bytes: u64,
    unknown: usize,
}

#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Database(#[from] Error),
    #[error(transparent)]
    Store(#[from] ArtifactError),
}

/// Looks at the whole store, a few times within the least age, until stopped.
pub(super) async fn run(sweeper: Sweeper, stop: CancellationToken) {
    let mut ticks =
        Ticks::every("remove_orphans", (sweeper.least_age / 24).clamp(PERIODS.0, PERIODS.1), stop);
    let mut unknown = 0;
    while let Some(()) = ticks.next().await {
        let Some(swept) = ticks.unless_stopped(sweeper.sweep()).await else { return };
        match swept {
            Ok(found) => {
                if found.removed > 0 {
                    let Found { removed, removed_bytes, .. } = found;
                    tracing::info!(removed, removed_bytes, "removed uploads that no checkpoint is of");
                }
                if found.unknown > 0 && found.unknown != unknown {
                    tracing::warn!(
                        unknown = found.unknown,
                        "the artifact store holds folders of attempts that the database does not know; they are kept"
                    );
                }
                unknown = found.unknown;
            }
            Err(error) => {
                ticks.failed();
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "could not look through the artifact store"
                );
            }
        }
    }
}

impl Sweeper {
    async fn sweep(&self) -> Result<Found, SweepError> {
        let mut found = Found::default();
        for name in self.artifacts.jobs().await? {
            let folders = self.artifacts.folders(&name).await?;
            let known = match name.parse::<JobId>() {
                // What is in the store by now is judged by what the database says later.
                Ok(job) => limited(prefixes(&self.pool, job)).await?,
                Err(_) => Prefixes::default(),
            };
            for folder in folders {
                match folder_fate(facts(&folder, &known), self.least_age) {
                    FolderFate::Kept => {}
                    FolderFate::Unknown => found.unknown += 1,
                    FolderFate::Orphaned => {
                        self.artifacts.delete(&folder.key).await?;
                        found.removed += 1;
                        found.removed_bytes += folder.bytes;
                    }
                }
            }
        }
        Ok(found)
    }
}

fn facts(folder: &StoredFolder, known: &Prefixes) -> Folder {
    let prefix = folder.key.rsplit_once('/').map_or("", |(prefix, _)| prefix);
    Folder {
        attempt_ended: known.ended.get(prefix).copied(),
        is_named: known.kept.contains(&folder.key),
        // Of a file that is younger than now, by another clock, nothing is known.
        age: folder.write_time.elapsed().unwrap_or_default(),
    }
}
