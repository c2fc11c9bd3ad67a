//! Statements about sessions of browsers, and about browsers that were sent elsewhere.

use sqlx::sqlite::SqliteConnection;

use crate::domain::{Subscriber, SubscriberId, Timestamp};
use crate::storage::NewSession;
use crate::storage::sqlite::record::Failure;
use crate::storage::sqlite::subscribers;

pub(super) const INSERT: &str =
    "INSERT INTO sessions (hash, subscriber_id, created_at, ends_at) VALUES (?1, ?2, ?3, ?4)";
pub(super) const HOLDER: &str = "
    SELECT subscribers.*
    FROM sessions JOIN subscribers ON subscribers.id = sessions.subscriber_id
    WHERE sessions.hash = ?1 AND sessions.ends_at > ?2 AND subscribers.number >= '+'";
pub(super) const END: &str = "DELETE FROM sessions WHERE hash = ?1";
pub(super) const END_ALL: &str = "DELETE FROM sessions WHERE subscriber_id = ?1";
pub(super) const AWAIT_RETURN: &str = "INSERT INTO awaited_returns (hash, ends_at) VALUES (?1, ?2)";
pub(super) const TAKE_RETURN: &str =
    "DELETE FROM awaited_returns WHERE hash = ?1 RETURNING ends_at";

pub(super) async fn add(db: &mut SqliteConnection, session: &NewSession) -> Result<(), Failure> {
    sqlx::query(INSERT)
        .bind(session.hash.as_slice())
        .bind(session.subscriber.as_bytes().as_slice())
        .bind(session.created_at.as_millis())
        .bind(session.ends_at.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn holder(
    db: &mut SqliteConnection,
    hash: &[u8; 32],
    now: Timestamp,
) -> Result<Option<Subscriber>, Failure> {
    let row = sqlx::query(HOLDER)
        .bind(hash.as_slice())
        .bind(now.as_millis())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(subscribers::subscriber_of).transpose()
}

pub(super) async fn end(db: &mut SqliteConnection, hash: &[u8; 32]) -> Result<(), Failure> {
    sqlx::query(END).bind(hash.as_slice()).execute(db).await?;
    Ok(())
}

pub(super) async fn end_all(db: &mut SqliteConnection, of: SubscriberId) -> Result<(), Failure> {
    sqlx::query(END_ALL)
        .bind(of.as_bytes().as_slice())
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn add_return(
    db: &mut SqliteConnection,
    hash: &[u8; 32],
    ends_at: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(AWAIT_RETURN)
        .bind(hash.as_slice())
        .bind(ends_at.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn take_return(
    db: &mut SqliteConnection,
    hash: &[u8; 32],
    now: Timestamp,
) -> Result<bool, Failure> {
    let ends_at: Option<i64> = sqlx::query_scalar(TAKE_RETURN)
        .bind(hash.as_slice())
        .fetch_optional(db)
        .await?;
    Ok(ends_at.is_some_and(|ends_at| now.as_millis() < ends_at))
}
