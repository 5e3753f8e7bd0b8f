//! Bearer tokens, by the hash of their secret.

use std::time::Duration;

use cakes_proto::ids::WorkerId;
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use tracing::instrument;

use super::random_bytes;
use crate::core::access::{SecretHash, TokenRole, token_hash, token_of};
use crate::store::error::{Error, corrupt, failed};

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub token_id: i64,
    pub name: String,
    pub role: TokenRole,
    pub expire_time: Option<DateTime<Utc>>,
}

/// What a secret is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Valid(Holder),
    Expired { name: String },
    Revoked { name: String },
    Unknown,
}

/// A token as lists show it: without anything of its secret.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    pub name: String,
    pub role: String,
    pub create_time: DateTime<Utc>,
    pub expire_time: Option<DateTime<Utc>>,
    pub revoke_time: Option<DateTime<Utc>>,
    pub use_time: Option<DateTime<Utc>>,
    pub is_expired: bool,
}

/// Makes a token; the secret is told now and never again.
///
/// # Errors
/// A valid token has this name, or it is no name, or no worker can be called so.
#[instrument(skip_all, fields(name), err(level = "debug"))]
pub async fn issue(
    pool: &PgPool,
    name: &str,
    role: impl Into<TokenRole>,
    expires: Option<Duration>,
) -> Result<String, Error> {
    check_name(name)?;
    let role = role.into();
    if role == TokenRole::Worker {
        let named = name.parse::<WorkerId>();
        named.map_err(|error| Error::InvalidArgument { field: "name", problem: error.to_string() })?;
    }
    let token = token_of(random_bytes()?);
    let hash = token_hash(&token).ok_or_else(|| corrupt("a new token", &"it has no hash"))?;
    let expires = expires.map(interval).transpose()?;
    let inserted = sqlx::query!(
        "insert into access_token (name, hash, role, expire_time)
         values ($1, $2, $3, clock_timestamp() + $4::interval)
         on conflict (name) where revoke_time is null do nothing",
        name,
        &hash[..],
        role.as_str(),
        expires
    )
    .execute(pool)
    .await
    .map_err(failed("record a token"))?;
    if inserted.rows_affected() == 0 {
        return Err(Error::Refused(format!(
            "there is a token '{name}'; revoke it first, or choose another name"
        )));
    }
    Ok(token)
}

fn interval(duration: Duration) -> Result<PgInterval, Error> {
    PgInterval::try_from(Duration::from_secs(duration.as_secs()))
        .map_err(|error| Error::InvalidArgument { field: "expires", problem: error.to_string() })
}

fn check_name(name: &str) -> Result<(), Error> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(is_known)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if fits {
        return Ok(());
    }
    let problem = format!("'{name}' must be 1 to 63 of the letters A-Z a-z, digits and . _ @ -");
    Err(Error::InvalidArgument { field: "name", problem })
}

/// All tokens, also those that hold no more, newest first.
///
/// # Errors
/// The database fails.
pub async fn list(pool: &PgPool) -> Result<Vec<TokenRecord>, Error> {
    sqlx::query_as!(
        TokenRecord,
        r#"select name, role, create_time, expire_time, revoke_time, use_time,
               coalesce(expire_time <= clock_timestamp(), false) as "is_expired!"
           from access_token order by id desc"#
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list tokens"))
}

/// Ends a token with all its sessions.
///
/// # Errors
/// No valid token has this name.
#[instrument(skip_all, fields(name), err(level = "debug"))]
pub async fn revoke(pool: &PgPool, name: &str) -> Result<(), Error> {
    let revoked = sqlx::query!(
        "with revoked as (
             update access_token set revoke_time = clock_timestamp()
             where name = $1 and revoke_time is null returning id
         ), closed as (
             delete from web_session using revoked where web_session.token_id = revoked.id
         )
         select id from revoked",
        name
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("revoke a token"))?;
    match revoked {
        Some(_) => Ok(()),
        None => Err(Error::NotFound { kind: "valid token", id: name.to_owned() }),
    }
}

/// What the secret with this hash is good for.
///
/// # Errors
/// The database fails.
pub async fn find_token(pool: &PgPool, hash: SecretHash) -> Result<Found, Error> {
    let row = sqlx::query!(
        r#"select id, name, role, expire_time, revoke_time is not null as "is_revoked!",
               coalesce(expire_time <= clock_timestamp(), false) as "is_expired!",
               coalesce(use_time < clock_timestamp() - interval '1 minute', true) as "is_news!"
           from access_token where hash = $1"#,
        &hash[..]
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("look for a token"))?;
    let Some(row) = row else { return Ok(Found::Unknown) };
    if row.is_revoked {
        return Ok(Found::Revoked { name: row.name });
    }
    if row.is_expired {
        return Ok(Found::Expired { name: row.name });
    }
    if row.is_news {
        note_use(pool, row.id).await?;
    }
    let role = row.role.parse().map_err(|error| corrupt("a role", &error))?;
    Ok(Found::Valid(Holder { token_id: row.id, name: row.name, role, expire_time: row.expire_time }))
}

/// Writes down that a token is used, once a minute.
pub(super) async fn note_use(pool: &PgPool, token: i64) -> Result<(), Error> {
    sqlx::query!("update access_token set use_time = clock_timestamp() where id = $1", token)
        .execute(pool)
        .await
        .map(drop)
        .map_err(failed("note the use of a token"))
}
