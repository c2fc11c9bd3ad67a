//! Statements about who has left, and what is still to be done for him.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::{
    Departure, DepartureCause, Grant, Msisdn, SubscriberId, Timestamp, Withdrawal,
};
use crate::storage::DepartureProgress;
use crate::storage::sqlite::record::{Failure, Record};
use crate::storage::sqlite::{enrolment, registrations, sessions, subscribers, tokens};

pub(super) const HOLDER: &str = "SELECT id, number FROM subscribers WHERE id = ?1";
pub(super) const INSERT: &str = "
    INSERT INTO departures
        (subscriber_id, number, cause, left_at, erase_at, sip_uri, expires_at, sealed, version,
         next_attempt_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, iif(?6 IS NULL AND ?8 IS NULL, NULL, ?4))";
pub(super) const BRING_FORWARD: &str = "
    UPDATE departures SET erase_at = min(erase_at, ?2)
    WHERE subscriber_id = ?1 AND erase_at IS NOT NULL";
pub(super) const OF_SUBSCRIBER: &str =
    "SELECT * FROM departures WHERE subscriber_id = ?1 ORDER BY id DESC LIMIT 1";
pub(super) const OF_NUMBER: &str = "SELECT * FROM departures WHERE number = ?1 ORDER BY id";
pub(super) const DUE: &str = "
    SELECT * FROM departures WHERE next_attempt_at <= ?1 ORDER BY next_attempt_at LIMIT ?2";
pub(super) const TO_ERASE: &str = "
    SELECT id, subscriber_id FROM departures WHERE erase_at <= ?1 ORDER BY erase_at LIMIT ?2";
pub(super) const NOTE: &str = "
    UPDATE departures
    SET sip_uri = iif(?2, NULL, sip_uri), expires_at = iif(?2, NULL, expires_at),
        sealed = iif(?3, NULL, sealed), version = iif(?3, NULL, version),
        next_attempt_at =
            iif((?2 OR sip_uri IS NULL) AND (?3 OR sealed IS NULL), NULL, ?4),
        failures = ?5
    WHERE id = ?1";
/// The registration is another's, or his own again: there is nothing to delete.
pub(super) const SUPERSEDE: &str = "
    UPDATE departures
    SET sip_uri = NULL, expires_at = NULL, next_attempt_at = iif(sealed IS NULL, NULL, next_attempt_at)
    WHERE number = ?1 AND sip_uri = ?2";
/// The same for every registration after a row.
pub(super) const SUPERSEDE_AFTER: &str = "
    UPDATE departures
    SET sip_uri = NULL, expires_at = NULL, next_attempt_at = iif(sealed IS NULL, NULL, next_attempt_at)
    WHERE number IN (SELECT number FROM registrations WHERE seq > ?1) AND sip_uri = ?2";
pub(super) const FORGET_AFTER: &str = "
    DELETE FROM departures
    WHERE number IN (SELECT number FROM registrations WHERE seq > ?1)
      AND erase_at IS NULL AND sip_uri IS NULL AND sealed IS NULL";
pub(super) const REPLACE_GRANT: &str = "
    UPDATE departures SET sealed = ?2, version = version + 1
    WHERE subscriber_id = ?1 AND version = ?3";
pub(super) const KEEP_DATA: &str =
    "UPDATE departures SET erase_at = NULL WHERE subscriber_id = ?1 AND erase_at IS NOT NULL";
/// A departure with nothing left to do.
pub(super) const FORGET_OF_SUBSCRIBER: &str = "
    DELETE FROM departures
    WHERE subscriber_id = ?1 AND erase_at IS NULL AND sip_uri IS NULL AND sealed IS NULL";
pub(super) const FORGET_OF_NUMBER: &str = "
    DELETE FROM departures
    WHERE number = ?1 AND erase_at IS NULL AND sip_uri IS NULL AND sealed IS NULL";

pub(super) async fn depart(
    db: &mut SqliteConnection,
    of: SubscriberId,
    cause: DepartureCause,
    erase_at: Timestamp,
    now: Timestamp,
) -> Result<Option<Departure>, Failure> {
    let row = sqlx::query(HOLDER)
        .bind(of.as_bytes().as_slice())
        .fetch_optional(&mut *db)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Record::new("subscriber", &row);
    if subscribers::has_left(&row.text("number")?) {
        sqlx::query(BRING_FORWARD)
            .bind(of.as_bytes().as_slice())
            .bind(erase_at.as_millis())
            .execute(&mut *db)
            .await?;
    } else {
        let number = row.number("number")?;
        sessions::end_all(db, of).await?;
        tokens::revoke_all(db, of).await?;
        end_number(db, of, &number, cause, Some(erase_at), now).await?;
        enrolment::set_number(db, of, &subscribers::number_of_who_left(of)).await?;
    }
    let departure = sqlx::query(OF_SUBSCRIBER)
        .bind(of.as_bytes().as_slice())
        .fetch_optional(&mut *db)
        .await?;
    let departure = departure.as_ref().map(departure_of).transpose()?;
    match departure {
        Some(departure) if departure.erase_at.is_some_and(|at| at <= now) => {
            erase_one(db, of, now).await?;
            Ok(Some(Departure {
                erase_at: None,
                ..departure
            }))
        }
        departure => Ok(departure),
    }
}

/// Moves the registration of a number and the grant into a departure.
pub(super) async fn end_number(
    db: &mut SqliteConnection,
    of: SubscriberId,
    number: &Msisdn,
    cause: DepartureCause,
    erase_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), Failure> {
    let registration = registrations::take(db, of).await?;
    let grant = enrolment::take_grant(db, of).await?;
    if registration.is_none() && grant.is_none() && erase_at.is_none() {
        return Ok(());
    }
    let registration = registration.as_ref();
    let expires_at = registration.and_then(|registration| registration.expires_at);
    sqlx::query(INSERT)
        .bind(of.as_bytes().as_slice())
        .bind(number.e164())
        .bind(cause.as_str())
        .bind(now.as_millis())
        .bind(erase_at.map(Timestamp::as_millis))
        .bind(registration.map(|registration| registration.sip_uri.as_str()))
        .bind(expires_at.map(Timestamp::as_millis))
        .bind(grant.as_ref().map(|grant| grant.sealed.as_slice()))
        .bind(grant.as_ref().map(|grant| grant.version))
        .execute(db)
        .await?;
    Ok(())
}

/// Who was to be erased is not: he has come back.
pub(super) async fn keep_data(db: &mut SqliteConnection, of: SubscriberId) -> Result<(), Failure> {
    for statement in [KEEP_DATA, FORGET_OF_SUBSCRIBER] {
        sqlx::query(statement)
            .bind(of.as_bytes().as_slice())
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Drops the deletion of a registration that is wanted again.
pub(super) async fn supersede(
    db: &mut SqliteConnection,
    number: &Msisdn,
    sip_uri: &str,
) -> Result<(), Failure> {
    sqlx::query(SUPERSEDE)
        .bind(number.e164())
        .bind(sip_uri)
        .execute(&mut *db)
        .await?;
    sqlx::query(FORGET_OF_NUMBER)
        .bind(number.e164())
        .execute(db)
        .await?;
    Ok(())
}

/// The same for every registration after row `seq`.
pub(super) async fn supersede_after(
    db: &mut SqliteConnection,
    seq: i64,
    sip_uri: &str,
) -> Result<(), Failure> {
    sqlx::query(SUPERSEDE_AFTER)
        .bind(seq)
        .bind(sip_uri)
        .execute(&mut *db)
        .await?;
    sqlx::query(FORGET_AFTER).bind(seq).execute(db).await?;
    Ok(())
}

pub(super) async fn of_number(
    db: &mut SqliteConnection,
    number: &Msisdn,
) -> Result<Vec<Departure>, Failure> {
    let rows = sqlx::query(OF_NUMBER)
        .bind(number.e164())
        .fetch_all(db)
        .await?;
    rows.iter().map(departure_of).collect()
}

pub(super) async fn due(
    db: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Departure>, Failure> {
    let rows = sqlx::query(DUE)
        .bind(now.as_millis())
        .bind(limit)
        .fetch_all(db)
        .await?;
    rows.iter().map(departure_of).collect()
}

pub(super) async fn note(
    db: &mut SqliteConnection,
    departure: &Departure,
    progress: &DepartureProgress,
    now: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(NOTE)
        .bind(departure.id)
        .bind(progress.withdrawn)
        .bind(progress.revoked)
        .bind(progress.next_attempt_at.as_millis())
        .bind(progress.failures)
        .execute(&mut *db)
        .await?;
    sqlx::query(FORGET_OF_NUMBER)
        .bind(departure.number.e164())
        .execute(&mut *db)
        .await?;
    match &departure.withdrawal {
        Some(withdrawal) if progress.withdrawn => {
            // The core may have heard of the new wish before the deletion.
            registrations::want_again(db, &departure.number, &withdrawal.sip_uri, now).await
        }
        _ => Ok(()),
    }
}

pub(super) async fn erase(
    db: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<u64, Failure> {
    let rows = sqlx::query(TO_ERASE)
        .bind(now.as_millis())
        .bind(limit)
        .fetch_all(&mut *db)
        .await?;
    for row in &rows {
        let id = Record::new("departure", row).bytes("subscriber_id")?;
        erase_one(db, SubscriberId::from_bytes(id), now).await?;
    }
    Ok(rows.len() as u64)
}

async fn erase_one(
    db: &mut SqliteConnection,
    of: SubscriberId,
    now: Timestamp,
) -> Result<(), Failure> {
    subscribers::remove(db, of, now).await?;
    keep_data(db, of).await
}

fn departure_of(row: &SqliteRow) -> Result<Departure, Failure> {
    let row = Record::new("departure", row);
    let cause = row.text("cause")?;
    let expires_at = row.optional_time("expires_at")?;
    let version: Option<i64> = row.optional_integer("version")?;
    let sealed = row.optional_blob("sealed")?;
    let next_attempt_at = row.optional_time("next_attempt_at")?;
    Ok(Departure {
        id: row.integer("id")?,
        subscriber: SubscriberId::from_bytes(row.bytes("subscriber_id")?),
        number: row.number("number")?,
        cause: DepartureCause::from_name(&cause).ok_or_else(|| row.corrupt("cause"))?,
        left_at: row.time("left_at")?,
        erase_at: row.optional_time("erase_at")?,
        withdrawal: row.optional_text("sip_uri")?.map(|sip_uri| Withdrawal {
            sip_uri,
            expires_at,
        }),
        grant: sealed
            .zip(version)
            .map(|(sealed, version)| Grant { sealed, version }),
        next_attempt_at,
        failures: row.integer("failures")?,
    })
}
