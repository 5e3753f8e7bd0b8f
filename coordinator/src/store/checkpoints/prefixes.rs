//! Whose a folder of the store is.

use std::collections::{BTreeMap, BTreeSet};

use cakes_proto::ids::{JobId, LeaseToken};
use sqlx::PgPool;

use crate::store::attempts::{artifact_prefix, nonce_from};
use crate::store::error::{Error, failed};

/// What the database knows of a job's part of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// Whether the attempt that writes below a prefix has ended.
    pub ended: BTreeMap<String, bool>,
    /// Keys of checkpoints that are not condemned.
    pub kept: BTreeSet<String>,
}

/// Prefixes and keys of a job; both are empty for one that is not known. Attempts are
/// read first: what one commits before it ends is then among the keys.
///
/// # Errors
/// The database fails.
pub async fn prefixes(pool: &PgPool, job: JobId) -> Result<Prefixes, Error> {
    let attempts = sqlx::query!(
        r#"select epoch, nonce, state = 'ended' as "ended!" from attempt where job_id = $1"#,
        job.0
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read whose a folder is"))?;
    let mut ended = BTreeMap::new();
    for row in attempts {
        let token = LeaseToken { job, epoch: row.epoch, nonce: nonce_from(&row.nonce)?, member: 0 };
        ended.insert(artifact_prefix(token), row.ended);
    }
    // S11: what is committed now, read behind the ends of attempts.
    let kept = sqlx::query_scalar!(
        "select key from checkpoint
         where job_id = $1 and condemn_time is null",
        job.0
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read which folders are kept"))?;
    Ok(Prefixes { ended, kept: kept.into_iter().collect() })
}
