//! Browsers that are signed in.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::tokens::{Holder, note_use};
use crate::core::access::SecretHash;
use crate::store::error::{Error, corrupt, failed};

/// Opens a session of a token for at most `hours`, not beyond the token's own end;
/// when it ends.
///
/// # Errors
/// The database fails.
pub async fn open(pool: &PgPool, hash: SecretHash, token: i64, hours: i32) -> Result<DateTime<Utc>, Error> {
    sqlx::query!("delete from web_session where expire_time < clock_timestamp()")
        .execute(pool)
        .await
        .map_err(failed("remove ended sessions"))?;
    sqlx::query_scalar!(
        "insert into web_session (hash, token_id, expire_time)
         select $1, id, least(clock_timestamp() + make_interval(hours => $3), expire_time)
         from access_token where id = $2
         returning expire_time",
        &hash[..],
        token,
        hours
    )
    .fetch_one(pool)
    .await
    .map_err(failed("open a session"))
}

/// Whose session it is, if it and its token still hold; with the session's end.
///
/// # Errors
/// The database fails.
pub async fn find_session(pool: &PgPool, hash: SecretHash) -> Result<Option<Holder>, Error> {
    let row = sqlx::query!(
        r#"select token.id, token.name, token.role, session.expire_time,
               coalesce(token.use_time < clock_timestamp() - interval '1 minute', true) as "is_news!"
           from web_session session join access_token token on token.id = session.token_id
           where session.hash = $1 and session.expire_time > clock_timestamp()
               and token.revoke_time is null
               and (token.expire_time is null or token.expire_time > clock_timestamp())"#,
        &hash[..]
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("look for a session"))?;
    let Some(row) = row else { return Ok(None) };
    if row.is_news {
        note_use(pool, row.id).await?;
    }
    let role = row.role.parse().map_err(|error| corrupt("a role", &error))?;
    Ok(Some(Holder { token_id: row.id, name: row.name, role, expire_time: Some(row.expire_time) }))
}

/// Ends a session.
///
/// # Errors
/// The database fails.
pub async fn close(pool: &PgPool, hash: SecretHash) -> Result<(), Error> {
    sqlx::query!("delete from web_session where hash = $1", &hash[..])
        .execute(pool)
        .await
        .map(drop)
        .map_err(failed("close a session"))
}
