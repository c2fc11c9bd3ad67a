//! Statements about what is still to be done: notifications to send, files to delete, rows to expire.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::{MessageId, SubscriberId, Timestamp};
use crate::storage::Notification;
use crate::storage::sqlite::mailbox;
use crate::storage::sqlite::record::{Failure, Record};

pub(super) const QUEUE_NOTIFICATION: &str =
    "INSERT INTO outbox (message_id, kind, created_at) VALUES (?1, 'message.stored', ?2)";
pub(super) const DUE: &str = "
    SELECT outbox.id, outbox.message_id, messages.subscriber_id, outbox.kind, outbox.created_at
    FROM outbox JOIN messages ON messages.id = outbox.message_id
    ORDER BY outbox.id LIMIT ?1";
pub(super) const DONE: &str = "DELETE FROM outbox WHERE id = ?1";
pub(super) const QUEUE_BLOB: &str = "
    INSERT INTO blob_deletions (key, due_at) VALUES (?1, ?2)
    ON CONFLICT (key) DO UPDATE SET due_at = min(due_at, excluded.due_at)";
pub(super) const BLOBS: &str =
    "SELECT key FROM blob_deletions WHERE due_at <= ?1 ORDER BY id LIMIT ?2";
pub(super) const BLOB_DELETED: &str = "DELETE FROM blob_deletions WHERE key = ?1";
pub(super) const OLD_MESSAGES: &str = "
    SELECT id, subscriber_id, format FROM messages
    WHERE received_at < ?1 ORDER BY received_at LIMIT ?2";
pub(super) const EXPIRE_MISSED_CALLS: &str = "
    DELETE FROM missed_calls WHERE id IN
        (SELECT id FROM missed_calls WHERE received_at < ?1 ORDER BY received_at LIMIT ?2)";
pub(super) const EXPIRE_TOKENS: &str = "
    DELETE FROM api_tokens WHERE id IN
        (SELECT id FROM api_tokens WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)";
pub(super) const EXPIRE_SESSIONS: &str = "
    DELETE FROM sessions WHERE hash IN
        (SELECT hash FROM sessions WHERE ends_at <= ?1 ORDER BY ends_at LIMIT ?2)";
pub(super) const EXPIRE_RETURNS: &str = "
    DELETE FROM awaited_returns WHERE hash IN
        (SELECT hash FROM awaited_returns WHERE ends_at <= ?1 ORDER BY ends_at LIMIT ?2)";
pub(super) const EXPIRE_DELETED: &str = "
    DELETE FROM deleted_messages WHERE id IN
        (SELECT id FROM deleted_messages WHERE deleted_at < ?1 ORDER BY deleted_at LIMIT ?2)";
const PROBE_WRITE: &str = "UPDATE probe SET writes = writes + 1 WHERE id = 1";
const PROBE_READ: &str = "SELECT writes FROM probe WHERE id = 1";

pub(super) async fn queue_notification(
    db: &mut SqliteConnection,
    message: MessageId,
    at: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(QUEUE_NOTIFICATION)
        .bind(message.as_bytes().as_slice())
        .bind(at.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn due(
    db: &mut SqliteConnection,
    limit: u32,
) -> Result<Vec<Notification>, Failure> {
    let rows = sqlx::query(DUE).bind(limit).fetch_all(db).await?;
    rows.iter().map(notification_of).collect()
}

pub(super) async fn done(db: &mut SqliteConnection, id: i64) -> Result<(), Failure> {
    sqlx::query(DONE).bind(id).execute(db).await?;
    Ok(())
}

pub(super) async fn queue_blob_deletion(
    db: &mut SqliteConnection,
    key: &str,
    due_at: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(QUEUE_BLOB)
        .bind(key)
        .bind(due_at.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn blobs_to_delete(
    db: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<String>, Failure> {
    let due = sqlx::query_scalar(BLOBS).bind(now.as_millis()).bind(limit);
    Ok(due.fetch_all(db).await?)
}

pub(super) async fn blob_deleted(db: &mut SqliteConnection, key: &str) -> Result<(), Failure> {
    sqlx::query(BLOB_DELETED).bind(key).execute(db).await?;
    Ok(())
}

/// What was too old.
pub(super) struct Expired {
    /// How many rows went, the messages among them.
    pub(super) rows: u64,
    /// The messages that went, and whose they were.
    pub(super) messages: Vec<(SubscriberId, MessageId)>,
}

/// Deletes what is too old, messages first, up to `limit` rows in all.
pub(super) async fn expire(
    db: &mut SqliteConnection,
    before: Timestamp,
    now: Timestamp,
    limit: u32,
) -> Result<Expired, Failure> {
    let limit = i64::from(limit);
    let old = sqlx::query(OLD_MESSAGES)
        .bind(before.as_millis())
        .bind(limit)
        .fetch_all(&mut *db)
        .await?;
    let mut messages = Vec::with_capacity(old.len());
    for row in &old {
        let id = mailbox::message_id_of(row)?;
        mailbox::bury(db, row, now).await?;
        let subscriber = Record::new("message", row).bytes("subscriber_id")?;
        messages.push((SubscriberId::from_bytes(subscriber), id));
    }
    let mut rows = messages.len() as u64;
    for (statement, before) in [
        (EXPIRE_MISSED_CALLS, before),
        (EXPIRE_TOKENS, now),
        (EXPIRE_SESSIONS, now),
        (EXPIRE_RETURNS, now),
        (EXPIRE_DELETED, before),
    ] {
        let left = limit.saturating_sub_unsigned(rows);
        let query = sqlx::query(statement).bind(before.as_millis()).bind(left);
        rows += query.execute(&mut *db).await?.rows_affected();
    }
    Ok(Expired { rows, messages })
}

pub(super) async fn probe_write(db: &mut SqliteConnection) -> Result<(), Failure> {
    sqlx::query(PROBE_WRITE).execute(db).await?;
    Ok(())
}

pub(super) async fn probe_read(db: &mut SqliteConnection) -> Result<(), Failure> {
    sqlx::query(PROBE_READ).fetch_one(db).await?;
    Ok(())
}

fn notification_of(row: &SqliteRow) -> Result<Notification, Failure> {
    let row = Record::new("notification", row);
    Ok(Notification {
        id: row.integer("id")?,
        message: MessageId::from_bytes(row.bytes("message_id")?),
        subscriber: SubscriberId::from_bytes(row.bytes("subscriber_id")?),
        kind: row.text("kind")?,
        created_at: row.time("created_at")?,
    })
}
