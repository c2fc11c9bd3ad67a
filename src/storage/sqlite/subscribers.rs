//! Statements about subscribers: who they are, their settings and greeting.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Sqlite};

use crate::domain::{Mailbox, Msisdn, Private, Subscriber, SubscriberId, Timestamp};
use crate::storage::sqlite::mailbox;
use crate::storage::sqlite::outbox;
use crate::storage::sqlite::record::{Failure, Record};
use crate::storage::{Added, NewSubscriber, SettingsChange};

/// Rows of one insert; seven values each must stay below SQLite's 32,766.
const ROWS_PER_INSERT: usize = 500;

pub(super) const MAILBOX: &str = "
    SELECT id, number, language, greeting, max_message_secs, box.messages, box.bytes
    FROM subscribers
    JOIN (
        SELECT count(*) AS messages, coalesce(sum(size_bytes), 0) AS bytes
        FROM messages
        WHERE subscriber_id = (SELECT id FROM subscribers WHERE number = ?1)
    ) AS box
    WHERE number = ?1";
/// The number of one who has left does not begin with a plus and sorts before every number that does.
pub(super) const BY_ID: &str = "SELECT * FROM subscribers WHERE id = ?1 AND number >= '+'";
pub(super) const BY_NUMBER: &str = "SELECT * FROM subscribers WHERE number = ?1";
pub(super) const LIST: &str =
    "SELECT * FROM subscribers WHERE number > ?1 ORDER BY number LIMIT ?2";
pub(super) const REMOVE: &str = "DELETE FROM subscribers WHERE id = ?1 RETURNING greeting";
pub(super) const CHANGE: &str = "
    UPDATE subscribers
    SET time_zone = coalesce(?2, time_zone),
        language = coalesce(?3, language),
        max_message_secs = CASE WHEN ?4 THEN ?5 ELSE max_message_secs END,
        notify = coalesce(?6, notify)
    WHERE id = ?1 AND number >= '+'
    RETURNING *";
pub(super) const GREETING: &str = "SELECT greeting FROM subscribers WHERE id = ?1";
pub(super) const SET_GREETING: &str = "UPDATE subscribers SET greeting = ?2 WHERE id = ?1";

pub(super) async fn mailbox_of_first(
    db: &mut SqliteConnection,
    numbers: &[Msisdn],
) -> Result<Option<Mailbox>, Failure> {
    for number in numbers {
        let row = sqlx::query(MAILBOX)
            .bind(number.e164())
            .fetch_optional(&mut *db)
            .await?;
        if let Some(row) = row {
            return mailbox_of(&row).map(Some);
        }
    }
    Ok(None)
}

pub(super) async fn add(
    db: &mut SqliteConnection,
    subscribers: &[NewSubscriber],
    now: Timestamp,
) -> Result<Added, Failure> {
    let mut added = 0;
    for chunk in subscribers.chunks(ROWS_PER_INSERT) {
        let ids = new_ids(db, chunk.len(), now).await?;
        let mut insert = QueryBuilder::<Sqlite>::new(
            "INSERT INTO subscribers (id, number, name, time_zone, language, created_at) ",
        );
        insert.push_values(ids.iter().zip(chunk), |mut row, (id, new)| {
            row.push_bind(id.as_bytes().as_slice())
                .push_bind(new.number.e164())
                .push_bind(new.name.as_ref().map(|name| name.0.as_str()))
                .push_bind(new.time_zone.as_str())
                .push_bind(new.language.as_str())
                .push_bind(now.as_millis());
        });
        insert.push(" ON CONFLICT (number) DO NOTHING");
        added += insert.build().execute(&mut *db).await?.rows_affected();
    }
    let already_there = subscribers.len() as u64 - added;
    Ok(Added {
        added,
        already_there,
    })
}

/// Ids whose chance comes from SQLite's generator, which the system's seeds.
async fn new_ids(
    db: &mut SqliteConnection,
    count: usize,
    now: Timestamp,
) -> Result<Vec<SubscriberId>, Failure> {
    let bytes = i64::try_from(count * 10).expect("a chunk is small");
    let random: Vec<u8> = sqlx::query_scalar("SELECT randomblob(?1)")
        .bind(bytes)
        .fetch_one(db)
        .await?;
    let (chances, _) = random.as_chunks::<10>();
    Ok(chances
        .iter()
        .map(|&chance| SubscriberId::new(now, chance))
        .collect())
}

pub(super) async fn by_number(
    db: &mut SqliteConnection,
    number: &Msisdn,
) -> Result<Option<Subscriber>, Failure> {
    let row = sqlx::query(BY_NUMBER)
        .bind(number.e164())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(subscriber_of).transpose()
}

pub(super) async fn by_id(
    db: &mut SqliteConnection,
    id: SubscriberId,
) -> Result<Option<Subscriber>, Failure> {
    let row = sqlx::query(BY_ID)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(subscriber_of).transpose()
}

pub(super) async fn list(
    db: &mut SqliteConnection,
    after: Option<&Msisdn>,
    limit: u32,
) -> Result<Vec<Subscriber>, Failure> {
    let after = after.map_or("+", Msisdn::e164);
    let rows = sqlx::query(LIST)
        .bind(after)
        .bind(limit)
        .fetch_all(db)
        .await?;
    rows.iter().map(subscriber_of).collect()
}

pub(super) async fn remove(
    db: &mut SqliteConnection,
    id: SubscriberId,
    now: Timestamp,
) -> Result<bool, Failure> {
    mailbox::queue_all_recordings(db, id, now).await?;
    let greeting: Option<Option<String>> = sqlx::query_scalar(REMOVE)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(&mut *db)
        .await?;
    if let Some(Some(key)) = &greeting {
        outbox::queue_blob_deletion(db, key, now).await?;
    }
    Ok(greeting.is_some())
}

pub(super) async fn change(
    db: &mut SqliteConnection,
    id: SubscriberId,
    change: &SettingsChange,
) -> Result<Option<Subscriber>, Failure> {
    let row = sqlx::query(CHANGE)
        .bind(id.as_bytes().as_slice())
        .bind(change.time_zone.as_deref())
        .bind(change.language.as_deref())
        .bind(change.max_message_secs.is_some())
        .bind(change.max_message_secs.flatten())
        .bind(change.notify)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(subscriber_of).transpose()
}

/// A greeting that nobody has any use for is queued for deletion: the one before, or the new one
/// where its subscriber has left meanwhile.
pub(super) async fn set_greeting(
    db: &mut SqliteConnection,
    id: SubscriberId,
    key: Option<&str>,
    now: Timestamp,
) -> Result<(), Failure> {
    let id = id.as_bytes().as_slice();
    let before: Option<Option<String>> = sqlx::query_scalar(GREETING)
        .bind(id)
        .fetch_optional(&mut *db)
        .await?;
    let unused = match &before {
        Some(before) => before.as_deref().filter(|&before| Some(before) != key),
        None => key,
    };
    if let Some(unused) = unused {
        outbox::queue_blob_deletion(db, unused, now).await?;
    }
    if let (Some(_), Some(key)) = (&before, key) {
        outbox::blob_deleted(db, key).await?;
    }
    sqlx::query(SET_GREETING)
        .bind(id)
        .bind(key)
        .execute(db)
        .await?;
    Ok(())
}

/// What stands in the place of the number of one who has left and is not erased yet: his number is
/// free for another, no lookup by number finds him, and he sorts before everybody.
pub(super) fn number_of_who_left(id: SubscriberId) -> String {
    format!("#{id}")
}

/// Whether that stands there.
pub(super) fn has_left(number: &str) -> bool {
    number.starts_with('#')
}

/// Reads a row of `subscribers`.
pub(super) fn subscriber_of(row: &SqliteRow) -> Result<Subscriber, Failure> {
    let row = Record::new("subscriber", row);
    Ok(Subscriber {
        id: SubscriberId::from_bytes(row.bytes("id")?),
        number: row.number("number")?,
        name: row.optional_text("name")?.map(Private),
        time_zone: row.text("time_zone")?,
        language: row.text("language")?,
        max_message_secs: row.optional_integer("max_message_secs")?,
        notify: row.flag("notify")?,
        greeting: row.optional_text("greeting")?,
        created_at: row.time("created_at")?,
    })
}

fn mailbox_of(row: &SqliteRow) -> Result<Mailbox, Failure> {
    let row = Record::new("subscriber", row);
    Ok(Mailbox {
        subscriber: SubscriberId::from_bytes(row.bytes("id")?),
        number: row.number("number")?,
        language: row.text("language")?,
        greeting: row.optional_text("greeting")?,
        messages: row.integer("messages")?,
        bytes: row.integer("bytes")?,
        max_message_secs: row.optional_integer("max_message_secs")?,
    })
}
