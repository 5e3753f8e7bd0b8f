//! Applies the plan of every open search that has changed.

use std::collections::BTreeMap;
use std::time::Duration;

use cakes_proto::ids::SearchId;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::ticks::Ticks;
use super::{Bell, PERIOD};
use crate::store::{Error, PgPool, limited, searches};

/// Least time between two looks: a fleet that rings all the time is heard together.
const REST: Duration = Duration::from_millis(50);

/// Looks at all open searches at every tick and ring until stopped.
pub(super) async fn run(pool: PgPool, bell: Bell, stop: CancellationToken) {
    let mut planned = BTreeMap::new();
    let mut ticks = Ticks::every("advance_searches", PERIOD, stop);
    while let Some(()) = ticks.next_or(bell.heard()).await {
        if let Err(error) = pass(&pool, &mut planned, &ticks).await {
            ticks.failed();
            tracing::warn!(error = &error as &dyn std::error::Error, "could not look for open searches");
        }
        ticks.unless_stopped(sleep(REST)).await;
    }
}

/// One look. What has not changed since it was planned last has nothing to plan. A
/// search that cannot be advanced does not keep the others.
async fn pass(pool: &PgPool, planned: &mut BTreeMap<SearchId, i64>, ticks: &Ticks) -> Result<(), Error> {
    let open = limited(searches::open(pool)).await?;
    let mut before = std::mem::take(planned);
    for search in open {
        let is_planned = before.remove(&search.id) == Some(search.revision);
        let advanced = match is_planned {
            true => Ok(0),
            false => limited(searches::advance(pool, search.id)).await,
        };
        match advanced {
            Ok(_) => drop(planned.insert(search.id, search.revision)),
            Err(error) => {
                ticks.failed();
                tracing::error!(search = %search.id, error = &error as &dyn std::error::Error, "could not advance a search");
            }
        }
    }
    Ok(())
}
