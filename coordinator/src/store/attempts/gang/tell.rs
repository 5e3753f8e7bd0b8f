//! Where the ranks of a gang meet.

use cakes_proto::ids::LeaseToken;
use sqlx::PgPool;
use tracing::instrument;

use crate::store::error::{Error, failed};
use crate::store::fence::{self, Life};

/// Notes the address that the leader's trainer listens on; the other members learn it with their
/// next calls. A repetition changes nothing; of an attempt of one slot it means nothing.
///
/// # Errors
/// The token is not the current one.
#[instrument(skip_all, fields(job = %token.job, epoch = token.epoch), err(level = "debug"))]
pub async fn tell(pool: &PgPool, token: LeaseToken, address: &str) -> Result<(), Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to note an address"))?;
    let attempt = fence::attempt(&mut transaction, token).await?;
    if matches!(attempt.life, Life::Ended(_)) {
        return Err(fence::lost(&mut transaction, token).await?);
    }
    sqlx::query!(
        "update attempt_member set address = $3
         where job_id = $1 and epoch = $2 and member = 0 and address is distinct from $3",
        token.job.0,
        token.epoch,
        address
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("note where ranks meet"))?;
    transaction.commit().await.map_err(failed("commit an address"))
}
