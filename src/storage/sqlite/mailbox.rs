//! Statements about what lies in a box: messages and missed calls.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::{
    AudioFormat, Losses, MediaStage, Message, MessageId, MissedCall, Msisdn, NewMessage,
    RecordingEnd, SetupTimes, StoredAudio, SubscriberId, Timestamp,
};
use crate::storage::blob::Blobs;
use crate::storage::sqlite::outbox;
use crate::storage::sqlite::record::{Failure, Record};
use crate::storage::{Changed, Counts, Deposited, MessageFilter};

/// The id sorts after every other: lists begin after it.
const NEWEST: [u8; 16] = [0xff; 16];

pub(super) const INSERT_MESSAGE: &str = "
    INSERT INTO messages
        (id, subscriber_id, to_number, caller_number, caller_name, reason, received_at,
         duration_ms, size_bytes, sha256, ended_by, format, codec, sample_rate, samples, losses, setup)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17
    WHERE EXISTS (SELECT 1 FROM subscribers WHERE id = ?2)
      AND NOT EXISTS (SELECT 1 FROM deleted_messages WHERE id = ?1)
    ON CONFLICT (id) DO NOTHING";
pub(super) const IS_STORED: &str = "SELECT EXISTS (SELECT 1 FROM messages WHERE id = ?1)";
pub(super) const WAS_DELETED: &str = "SELECT EXISTS (SELECT 1 FROM deleted_messages WHERE id = ?1)";
pub(super) const HAS_SUBSCRIBER: &str = "SELECT EXISTS (SELECT 1 FROM subscribers WHERE id = ?1)";
pub(super) const INSERT_MISSED_CALL: &str = "
    INSERT INTO missed_calls
        (id, subscriber_id, caller_number, caller_name, reason, received_at, cause, failed_stage)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT (id) DO NOTHING";
pub(super) const LIST: &str = "
    SELECT * FROM messages
    WHERE subscriber_id = ?1 AND id < ?2 AND (?3 IS NULL OR read = ?3)
    ORDER BY id DESC LIMIT ?4";
pub(super) const FIND: &str = "SELECT * FROM messages WHERE id = ?1 AND subscriber_id = ?2";
pub(super) const RECORDING_IN_BOX: &str =
    "SELECT id, format FROM messages WHERE id = ?1 AND subscriber_id = ?2";
pub(super) const MARK: &str =
    "UPDATE messages SET read = ?2, version = version + 1 WHERE id = ?1 RETURNING *";
pub(super) const DELETE: &str = "DELETE FROM messages WHERE id = ?1";
pub(super) const BURY: &str =
    "INSERT INTO deleted_messages (id, deleted_at) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING";
pub(super) const RECORDINGS: &str = "SELECT id, format FROM messages WHERE subscriber_id = ?1";
pub(super) const COUNTS: &str = "
    SELECT count(*) AS messages, count(*) FILTER (WHERE read = 0) AS unread,
           coalesce(sum(size_bytes), 0) AS bytes
    FROM messages WHERE subscriber_id = ?1";
pub(super) const MOVE_MESSAGES: &str =
    "UPDATE messages SET subscriber_id = ?2 WHERE subscriber_id = ?1";
pub(super) const MOVE_MISSED_CALLS: &str =
    "UPDATE missed_calls SET subscriber_id = ?2 WHERE subscriber_id = ?1";
pub(super) const MISSED_CALLS: &str = "
    SELECT * FROM missed_calls
    WHERE subscriber_id = ?1 AND id < ?2
    ORDER BY id DESC LIMIT ?3";

/// Inserts the message with its notification; `None` where the subscriber is gone. A recording that
/// is not wanted (its message has been deleted, its subscriber has left) is queued for deletion: the
/// caller made it durable before he asked.
pub(super) async fn deposit(
    db: &mut SqliteConnection,
    message: &NewMessage,
) -> Result<Option<Deposited>, Failure> {
    let id = message.id.as_bytes().as_slice();
    let complete_at = message
        .received_at
        .plus_millis(i64::from(message.audio.duration_ms()));
    if insert_message(db, message).await? {
        outbox::queue_notification(db, message.id, complete_at).await?;
        return Ok(Some(Deposited::Stored));
    }
    if sqlx::query_scalar(IS_STORED)
        .bind(id)
        .fetch_one(&mut *db)
        .await?
    {
        return Ok(Some(Deposited::AlreadyStored));
    }
    let key = Blobs::recording_key(message.id, message.audio.format);
    outbox::queue_blob_deletion(db, &key, complete_at).await?;
    let was_deleted: bool = sqlx::query_scalar(WAS_DELETED)
        .bind(id)
        .fetch_one(db)
        .await?;
    Ok(was_deleted.then_some(Deposited::AlreadyStored))
}

async fn insert_message(db: &mut SqliteConnection, new: &NewMessage) -> Result<bool, Failure> {
    let audio = &new.audio;
    let size = i64::try_from(audio.stored_bytes).expect("no file is larger than eight exabytes");
    let samples = i64::try_from(audio.samples).expect("no recording lasts millions of years");
    let losses = (audio.losses.lost_ms > 0).then(|| json_of(&audio.losses));
    let done = sqlx::query(INSERT_MESSAGE)
        .bind(new.id.as_bytes().as_slice())
        .bind(new.subscriber.as_bytes().as_slice())
        .bind(new.to.e164())
        .bind(new.caller.number.as_ref().map(Msisdn::e164))
        .bind(new.caller.name.as_ref().map(|name| name.0.as_str()))
        .bind(new.reason.as_str())
        .bind(new.received_at.as_millis())
        .bind(audio.duration_ms())
        .bind(size)
        .bind(audio.sha256.as_slice())
        .bind(new.ended_by.as_str())
        .bind(audio.format.as_str())
        .bind(audio.codec.as_deref())
        .bind(audio.sample_rate)
        .bind(samples)
        .bind(losses)
        .bind(json_of(&new.setup))
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

fn json_of(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("numbers can be written as JSON")
}

/// False where the subscriber is gone.
pub(super) async fn deposit_missed_call(
    db: &mut SqliteConnection,
    call: &MissedCall,
) -> Result<bool, Failure> {
    let subscriber = call.subscriber.as_bytes().as_slice();
    if !sqlx::query_scalar(HAS_SUBSCRIBER)
        .bind(subscriber)
        .fetch_one(&mut *db)
        .await?
    {
        return Ok(false);
    }
    sqlx::query(INSERT_MISSED_CALL)
        .bind(call.id.as_bytes().as_slice())
        .bind(subscriber)
        .bind(call.caller.number.as_ref().map(Msisdn::e164))
        .bind(call.caller.name.as_ref().map(|name| name.0.as_str()))
        .bind(call.reason.as_str())
        .bind(call.received_at.as_millis())
        .bind(call.cause.as_str())
        .bind(call.failed_stage.map(MediaStage::as_str))
        .execute(db)
        .await?;
    Ok(true)
}

pub(super) async fn messages(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
    filter: MessageFilter,
) -> Result<Vec<Message>, Failure> {
    let after = filter.after.unwrap_or(MessageId::from_bytes(NEWEST));
    let rows = sqlx::query(LIST)
        .bind(subscriber.as_bytes().as_slice())
        .bind(after.as_bytes().as_slice())
        .bind(filter.unread.map(|unread| !unread))
        .bind(filter.limit)
        .fetch_all(db)
        .await?;
    rows.iter().map(message_of).collect()
}

pub(super) async fn message(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
    id: MessageId,
) -> Result<Option<Message>, Failure> {
    let row = sqlx::query(FIND)
        .bind(id.as_bytes().as_slice())
        .bind(subscriber.as_bytes().as_slice())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(message_of).transpose()
}

/// The message as it is then, and whether the mark changed; only then the version grows.
pub(super) async fn mark_read(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
    id: MessageId,
    read: bool,
    if_version: Option<i64>,
) -> Result<(Changed, bool), Failure> {
    let Some(found) = message(db, subscriber, id).await? else {
        return Ok((Changed::NotFound, false));
    };
    if if_version.is_some_and(|version| version != found.version) {
        return Ok((Changed::Conflict, false));
    }
    if found.read == read {
        return Ok((Changed::Done(Box::new(found)), false));
    }
    let row = sqlx::query(MARK)
        .bind(id.as_bytes().as_slice())
        .bind(read)
        .fetch_one(db)
        .await?;
    Ok((Changed::Done(Box::new(message_of(&row)?)), true))
}

pub(super) async fn delete(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
    id: MessageId,
    now: Timestamp,
) -> Result<bool, Failure> {
    let there = sqlx::query(RECORDING_IN_BOX)
        .bind(id.as_bytes().as_slice())
        .bind(subscriber.as_bytes().as_slice())
        .fetch_optional(&mut *db)
        .await?;
    if let Some(row) = &there {
        bury(db, row, now).await?;
    }
    Ok(there.is_some())
}

/// Deletes the message whose id and format `row` holds, queues its recording, and remembers the id, so
/// that it never comes back.
pub(super) async fn bury(
    db: &mut SqliteConnection,
    row: &SqliteRow,
    now: Timestamp,
) -> Result<(), Failure> {
    queue_recording(db, row, now).await?;
    let id = message_id_of(row)?;
    let id = id.as_bytes().as_slice();
    sqlx::query(BURY)
        .bind(id)
        .bind(now.as_millis())
        .execute(&mut *db)
        .await?;
    sqlx::query(DELETE).bind(id).execute(db).await?;
    Ok(())
}

/// Moves everything that lies in the box of one subscriber into that of another.
pub(super) async fn move_all(
    db: &mut SqliteConnection,
    from: SubscriberId,
    to: SubscriberId,
) -> Result<(), Failure> {
    for statement in [MOVE_MESSAGES, MOVE_MISSED_CALLS] {
        sqlx::query(statement)
            .bind(from.as_bytes().as_slice())
            .bind(to.as_bytes().as_slice())
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Queues the recordings of a whole box for deletion.
pub(super) async fn queue_all_recordings(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
    now: Timestamp,
) -> Result<(), Failure> {
    let rows = sqlx::query(RECORDINGS)
        .bind(subscriber.as_bytes().as_slice())
        .fetch_all(&mut *db)
        .await?;
    for row in &rows {
        queue_recording(db, row, now).await?;
    }
    Ok(())
}

pub(super) async fn counts(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
) -> Result<Counts, Failure> {
    let row = sqlx::query(COUNTS)
        .bind(subscriber.as_bytes().as_slice())
        .fetch_one(db)
        .await?;
    let row = Record::new("count", &row);
    Ok(Counts {
        messages: row.integer("messages")?,
        unread: row.integer("unread")?,
        bytes: row.integer("bytes")?,
    })
}

pub(super) async fn missed_calls(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
    after: Option<MessageId>,
    limit: u32,
) -> Result<Vec<MissedCall>, Failure> {
    let after = after.unwrap_or(MessageId::from_bytes(NEWEST));
    let rows = sqlx::query(MISSED_CALLS)
        .bind(subscriber.as_bytes().as_slice())
        .bind(after.as_bytes().as_slice())
        .bind(limit)
        .fetch_all(db)
        .await?;
    rows.iter().map(missed_call_of).collect()
}

/// Reads the column `id` of a row of `messages`.
pub(super) fn message_id_of(row: &SqliteRow) -> Result<MessageId, Failure> {
    Ok(MessageId::from_bytes(
        Record::new("message", row).bytes("id")?,
    ))
}

/// Queues for deletion the recording of the message whose id and format `row` holds. A row gone bad is no
/// reason to keep it.
async fn queue_recording(
    db: &mut SqliteConnection,
    row: &SqliteRow,
    now: Timestamp,
) -> Result<(), Failure> {
    let id = message_id_of(row)?;
    let formats = match format_of(&Record::new("message", row)) {
        Ok(format) => vec![format],
        Err(_) => AudioFormat::ALL.to_vec(),
    };
    for format in formats {
        outbox::queue_blob_deletion(db, &Blobs::recording_key(id, format), now).await?;
    }
    Ok(())
}

fn format_of(row: &Record<'_>) -> Result<AudioFormat, Failure> {
    AudioFormat::from_name(&row.text("format")?).ok_or_else(|| row.corrupt("format"))
}

fn audio_of(row: &Record<'_>) -> Result<StoredAudio, Failure> {
    let stored_bytes: u64 = row.integer("size_bytes")?;
    let samples = row.optional_integer("samples")?;
    Ok(StoredAudio {
        format: format_of(row)?,
        codec: row.optional_text("codec")?,
        sample_rate: row.integer("sample_rate")?,
        samples: samples.unwrap_or_else(|| StoredAudio::samples_of_wav(stored_bytes)),
        stored_bytes,
        sha256: row.bytes("sha256")?,
        losses: row.json::<Losses>("losses")?.unwrap_or_default(),
    })
}

fn message_of(row: &SqliteRow) -> Result<Message, Failure> {
    let id = message_id_of(row)?;
    let row = Record::new("message", row);
    let ended_by = RecordingEnd::from_name(&row.text("ended_by")?);
    Ok(Message {
        facts: NewMessage {
            id,
            subscriber: SubscriberId::from_bytes(row.bytes("subscriber_id")?),
            to: row.number("to_number")?,
            caller: row.caller()?,
            reason: row.reason()?,
            received_at: row.time("received_at")?,
            audio: audio_of(&row)?,
            ended_by: ended_by.ok_or_else(|| row.corrupt("ended_by"))?,
            setup: row.json::<SetupTimes>("setup")?.unwrap_or_default(),
        },
        read: row.flag("read")?,
        version: row.integer("version")?,
    })
}

fn missed_call_of(row: &SqliteRow) -> Result<MissedCall, Failure> {
    let row = Record::new("missed call", row);
    let failed_stage = row.optional_text("failed_stage")?;
    let failed_stage = failed_stage.map(|name| MediaStage::from_name(&name).ok_or(()));
    let failed_stage = failed_stage.transpose();
    Ok(MissedCall {
        id: MessageId::from_bytes(row.bytes("id")?),
        subscriber: SubscriberId::from_bytes(row.bytes("subscriber_id")?),
        caller: row.caller()?,
        reason: row.reason()?,
        received_at: row.time("received_at")?,
        cause: row.text("cause")?,
        failed_stage: failed_stage.map_err(|()| row.corrupt("failed_stage"))?,
    })
}

#[cfg(test)]
mod tests;
