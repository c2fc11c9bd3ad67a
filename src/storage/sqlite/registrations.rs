//! Statements about what is registered at the mobile core.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::{Msisdn, Registration, RegistrationState, SubscriberId, Timestamp};
use crate::storage::RegistrationChange;
use crate::storage::sqlite::departures;
use crate::storage::sqlite::record::{Failure, Record};

pub(super) const OF: &str = "SELECT * FROM registrations WHERE subscriber_id = ?1";
pub(super) const OF_NUMBER: &str = "
    SELECT registrations.*
    FROM subscribers JOIN registrations ON registrations.subscriber_id = subscribers.id
    WHERE subscribers.number = ?1";
pub(super) const AFTER: &str = "SELECT * FROM registrations WHERE seq > ?1 ORDER BY seq LIMIT ?2";
/// One statement for all changes, which come as an array of arrays: a statement for each would take
/// the writer's thread a round trip for each.
pub(super) const NOTE: &str = "
    UPDATE registrations
    SET state = change.value ->> 1, expires_at = change.value ->> 2,
        next_attempt_at = change.value ->> 3, failures = change.value ->> 4,
        reason = change.value ->> 5, sip_uri = coalesce(change.value ->> 6, registrations.sip_uri)
    FROM json_each(?1) AS change
    WHERE registrations.seq = change.value ->> 0";
pub(super) const LAST: &str = "SELECT coalesce(max(seq), 0) FROM registrations";
pub(super) const WANT_UNREGISTERED: &str = "
    INSERT INTO registrations
        (subscriber_id, number, sip_uri, state, next_attempt_at, wanted_at)
    SELECT id, number, ?1, 'wanted', ?2, ?2 FROM subscribers
    WHERE registered = 0 AND number >= '+' ORDER BY number LIMIT ?3";
pub(super) const MARK_AFTER: &str = "
    UPDATE subscribers SET registered = 1
    WHERE id IN (SELECT subscriber_id FROM registrations WHERE seq > ?1)";
pub(super) const INSERT: &str = "
    INSERT INTO registrations
        (subscriber_id, number, sip_uri, state, expires_at, next_attempt_at, wanted_at)
    VALUES (?1, ?2, ?3, 'wanted', ?4, ?5, ?5) RETURNING *";
pub(super) const TAKE: &str = "DELETE FROM registrations WHERE subscriber_id = ?1 RETURNING *";
pub(super) const MARK: &str = "UPDATE subscribers SET registered = ?2 WHERE id = ?1";

pub(super) async fn of(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
) -> Result<Option<Registration>, Failure> {
    let row = sqlx::query(OF)
        .bind(subscriber.as_bytes().as_slice())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(registration_of).transpose()
}

/// When the wish was made.
pub(super) async fn wanted_since(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
) -> Result<Option<Timestamp>, Failure> {
    let row = sqlx::query(OF)
        .bind(subscriber.as_bytes().as_slice())
        .fetch_optional(db)
        .await?;
    row.map(|row| Record::new("registration", &row).time("wanted_at"))
        .transpose()
}

pub(super) async fn after(
    db: &mut SqliteConnection,
    seq: i64,
    limit: u32,
) -> Result<Vec<Registration>, Failure> {
    let rows = sqlx::query(AFTER)
        .bind(seq)
        .bind(limit)
        .fetch_all(db)
        .await?;
    rows.iter().map(registration_of).collect()
}

pub(super) async fn note(
    db: &mut SqliteConnection,
    changes: &[RegistrationChange],
) -> Result<(), Failure> {
    let changes = changes.iter().map(|change| {
        serde_json::json!([
            change.seq,
            change.state.as_str(),
            change.expires_at.map(Timestamp::as_millis),
            change.next_attempt_at.as_millis(),
            change.failures,
            change.reason,
            change.sip_uri,
        ])
    });
    let changes = serde_json::Value::from_iter(changes).to_string();
    sqlx::query(NOTE).bind(changes).execute(db).await?;
    Ok(())
}

pub(super) async fn register_everyone(
    db: &mut SqliteConnection,
    sip_uri: &str,
    now: Timestamp,
    limit: u32,
) -> Result<u64, Failure> {
    let last: i64 = sqlx::query_scalar(LAST).fetch_one(&mut *db).await?;
    let wanted = sqlx::query(WANT_UNREGISTERED)
        .bind(sip_uri)
        .bind(now.as_millis())
        .bind(limit)
        .execute(&mut *db)
        .await?
        .rows_affected();
    if wanted > 0 {
        sqlx::query(MARK_AFTER).bind(last).execute(&mut *db).await?;
        departures::supersede_after(db, last, sip_uri).await?;
    }
    Ok(wanted)
}

/// Wants a registration of `number`, as a new row in the place of the one before. A deletion of the
/// same that is still to be done is dropped: it would come after.
pub(super) async fn want(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
    number: &Msisdn,
    sip_uri: &str,
    now: Timestamp,
) -> Result<Registration, Failure> {
    let before = take(db, subscriber).await?;
    let same = before.filter(|before| before.number == *number && before.sip_uri == sip_uri);
    departures::supersede(db, number, sip_uri).await?;
    let id = subscriber.as_bytes().as_slice();
    sqlx::query(MARK)
        .bind(id)
        .bind(true)
        .execute(&mut *db)
        .await?;
    let row = sqlx::query(INSERT)
        .bind(id)
        .bind(number.e164())
        .bind(sip_uri)
        .bind(
            same.and_then(|before| before.expires_at)
                .map(Timestamp::as_millis),
        )
        .bind(now.as_millis())
        .fetch_one(db)
        .await?;
    registration_of(&row)
}

/// Wants the registration of a number once more, if it is wanted with this URI.
pub(super) async fn want_again(
    db: &mut SqliteConnection,
    number: &Msisdn,
    sip_uri: &str,
    now: Timestamp,
) -> Result<(), Failure> {
    let row = sqlx::query(OF_NUMBER)
        .bind(number.e164())
        .fetch_optional(&mut *db)
        .await?;
    let registration = row.as_ref().map(registration_of).transpose()?;
    if let Some(of) = registration.filter(|of| of.number == *number && of.sip_uri == sip_uri) {
        want(db, of.subscriber, number, sip_uri, now).await?;
    }
    Ok(())
}

/// Deletes the registration of a subscriber; what it was.
pub(super) async fn take(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
) -> Result<Option<Registration>, Failure> {
    let id = subscriber.as_bytes().as_slice();
    let row = sqlx::query(TAKE).bind(id).fetch_optional(&mut *db).await?;
    let Some(row) = row else { return Ok(None) };
    sqlx::query(MARK).bind(id).bind(false).execute(db).await?;
    registration_of(&row).map(Some)
}

fn registration_of(row: &SqliteRow) -> Result<Registration, Failure> {
    let row = Record::new("registration", row);
    let state = row.text("state")?;
    Ok(Registration {
        seq: row.integer("seq")?,
        subscriber: SubscriberId::from_bytes(row.bytes("subscriber_id")?),
        number: row.number("number")?,
        sip_uri: row.text("sip_uri")?,
        state: RegistrationState::from_name(&state).ok_or_else(|| row.corrupt("state"))?,
        expires_at: row.optional_time("expires_at")?,
        next_attempt_at: row.time("next_attempt_at")?,
        failures: row.integer("failures")?,
        reason: row.optional_text("reason")?,
    })
}
