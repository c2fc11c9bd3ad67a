//! Statements about API tokens.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::{ApiToken, Subscriber, SubscriberId, Timestamp, TokenId};
use crate::storage::NewToken;
use crate::storage::sqlite::record::{Failure, Record};
use crate::storage::sqlite::subscribers;

/// The use of a token is written down at most this often.
const NOTE_EVERY_MS: i64 = 60 * 60 * 1000;

pub(super) const INSERT: &str = "
    INSERT INTO api_tokens (id, subscriber_id, name, hash, created_at, expires_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
pub(super) const OF: &str = "
    SELECT id, subscriber_id, name, created_at, expires_at, last_used_at
    FROM api_tokens WHERE subscriber_id = ?1 ORDER BY id";
pub(super) const REVOKE: &str =
    "DELETE FROM api_tokens WHERE id = ?1 AND (?2 IS NULL OR subscriber_id = ?2)";
pub(super) const REVOKE_ALL: &str = "DELETE FROM api_tokens WHERE subscriber_id = ?1";
pub(super) const HOLDER: &str = "
    SELECT subscribers.*, api_tokens.last_used_at
    FROM api_tokens JOIN subscribers ON subscribers.id = api_tokens.subscriber_id
    WHERE api_tokens.hash = ?1 AND subscribers.number >= '+'
      AND (api_tokens.expires_at IS NULL OR api_tokens.expires_at > ?2)";
pub(super) const NOTE_USE: &str = "UPDATE api_tokens SET last_used_at = ?2 WHERE hash = ?1";

/// Who holds a token.
pub(super) struct Holder {
    pub(super) subscriber: Subscriber,
    pub(super) use_to_be_noted: bool,
}

pub(super) async fn add(db: &mut SqliteConnection, token: &NewToken) -> Result<(), Failure> {
    sqlx::query(INSERT)
        .bind(token.id.as_bytes().as_slice())
        .bind(token.subscriber.as_bytes().as_slice())
        .bind(token.name.as_str())
        .bind(token.hash.as_slice())
        .bind(token.created_at.as_millis())
        .bind(token.expires_at.map(Timestamp::as_millis))
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn of(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
) -> Result<Vec<ApiToken>, Failure> {
    let rows = sqlx::query(OF)
        .bind(subscriber.as_bytes().as_slice())
        .fetch_all(db)
        .await?;
    rows.iter().map(token_of).collect()
}

pub(super) async fn revoke(
    db: &mut SqliteConnection,
    id: TokenId,
    of: Option<SubscriberId>,
) -> Result<bool, Failure> {
    let done = sqlx::query(REVOKE)
        .bind(id.as_bytes().as_slice())
        .bind(of.as_ref().map(|of| of.as_bytes().as_slice()))
        .execute(db)
        .await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn revoke_all(db: &mut SqliteConnection, of: SubscriberId) -> Result<(), Failure> {
    sqlx::query(REVOKE_ALL)
        .bind(of.as_bytes().as_slice())
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn holder(
    db: &mut SqliteConnection,
    hash: &[u8; 32],
    now: Timestamp,
) -> Result<Option<Holder>, Failure> {
    let row = sqlx::query(HOLDER)
        .bind(hash.as_slice())
        .bind(now.as_millis())
        .fetch_optional(db)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let last_used_at = Record::new("token of subscriber", &row).optional_time("last_used_at")?;
    Ok(Some(Holder {
        subscriber: subscribers::subscriber_of(&row)?,
        use_to_be_noted: last_used_at.is_none_or(|last| last.plus_millis(NOTE_EVERY_MS) <= now),
    }))
}

pub(super) async fn note_use(
    db: &mut SqliteConnection,
    hash: &[u8; 32],
    now: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(NOTE_USE)
        .bind(hash.as_slice())
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

fn token_of(row: &SqliteRow) -> Result<ApiToken, Failure> {
    let row = Record::new("token", row);
    Ok(ApiToken {
        id: TokenId::from_bytes(row.bytes("id")?),
        subscriber: SubscriberId::from_bytes(row.bytes("subscriber_id")?),
        name: row.text("name")?,
        created_at: row.time("created_at")?,
        expires_at: row.optional_time("expires_at")?,
        last_used_at: row.optional_time("last_used_at")?,
    })
}
