//! Statements about who signed in: his account, his number, his grant.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::{Account, DepartureCause, Grant, Msisdn, SubscriberId, Timestamp};
use crate::storage::sqlite::departures;
use crate::storage::sqlite::record::{Failure, Record};
use crate::storage::sqlite::{mailbox, registrations, sessions, subscribers, tokens};
use crate::storage::{Enrolled, NewEnrolment, NewSubscriber, SealGrant};

pub(super) const HOLDER_OF_ACCOUNT: &str = "
    SELECT subscribers.id, subscribers.number
    FROM accounts JOIN subscribers ON subscribers.id = accounts.subscriber_id
    WHERE accounts.issuer = ?1 AND accounts.subject = ?2";
pub(super) const HOLDER_OF_NUMBER: &str = "SELECT id FROM subscribers WHERE number = ?1";
pub(super) const HAS_ACCOUNT: &str =
    "SELECT EXISTS (SELECT 1 FROM accounts WHERE subscriber_id = ?1 AND issuer = ?2)";
pub(super) const BIND: &str =
    "INSERT INTO accounts (issuer, subject, subscriber_id) VALUES (?1, ?2, ?3)";
pub(super) const SET_NUMBER: &str = "UPDATE subscribers SET number = ?2 WHERE id = ?1";
pub(super) const GRANT: &str = "
    SELECT subscriber_id, sealed, version FROM grants WHERE subscriber_id = ?1";
/// A version begins with the time, so that none comes back after its row was gone for a while.
pub(super) const STORE_GRANT: &str = "
    INSERT INTO grants (subscriber_id, sealed, version) VALUES (?1, ?2, ?3)
    ON CONFLICT (subscriber_id)
    DO UPDATE SET sealed = excluded.sealed, version = max(version + 1, excluded.version)";
pub(super) const REPLACE_GRANT: &str = "
    UPDATE grants SET sealed = ?2, version = version + 1
    WHERE subscriber_id = ?1 AND version = ?3";
pub(super) const SEAL_ANEW: &str =
    "UPDATE grants SET sealed = ?2 WHERE subscriber_id = ?1 AND version = ?3";
pub(super) const TAKE_GRANT: &str =
    "DELETE FROM grants WHERE subscriber_id = ?1 RETURNING subscriber_id, sealed, version";
/// From one key to the next: there are few keys, and many grants.
pub(super) const KEYS: &str = "
    WITH RECURSIVE key (id) AS (
        SELECT (SELECT min(substr(sealed, 1, 4)) FROM grants)
        UNION ALL
        SELECT (SELECT min(substr(sealed, 1, 4)) FROM grants WHERE substr(sealed, 1, 4) > key.id)
        FROM key WHERE key.id IS NOT NULL
    )
    SELECT id FROM key WHERE id IS NOT NULL";
pub(super) const SEALED_BY: &str = "
    SELECT subscriber_id, sealed, version FROM grants
    WHERE substr(sealed, 1, 4) = ?1 AND subscriber_id > ?2
    ORDER BY subscriber_id LIMIT ?3";

/// Who is known by an account.
struct Holder {
    id: SubscriberId,
    /// `None` for one who has left and is not erased yet.
    number: Option<Msisdn>,
}

pub(super) async fn enrol(
    db: &mut SqliteConnection,
    new: &NewEnrolment,
    seal: SealGrant<'_>,
    now: Timestamp,
) -> Result<Enrolled, Failure> {
    let known = holder_of_account(db, &new.account).await?;
    let (id, is_new) = match known {
        Some(holder) => {
            make_room_for(db, &holder, new, now).await?;
            give_number(db, &holder, new, now).await?;
            (holder.id, false)
        }
        None => bind_number(db, new, now).await?,
    };
    store_grant(db, id, &seal(id), now).await?;
    let number = &new.subscriber.number;
    let registration = match &new.sip_uri {
        Some(sip_uri) => Some(registrations::want(db, id, number, sip_uri, now).await?),
        None => None,
    };
    let subscriber = subscribers::by_id(db, id).await?;
    Ok(Enrolled {
        subscriber: subscriber.ok_or(sqlx::Error::RowNotFound)?,
        is_new,
        registration,
    })
}

/// Takes the number from whoever else has it. What lies in the box of one who never signed in goes with
/// the number, as it would have at its first sign-in; another's account departs with all it has.
async fn make_room_for(
    db: &mut SqliteConnection,
    holder: &Holder,
    new: &NewEnrolment,
    now: Timestamp,
) -> Result<(), Failure> {
    let other = holder_of_number(db, &new.subscriber.number).await?;
    let Some(other) = other.filter(|other| *other != holder.id) else {
        return Ok(());
    };
    if has_account(db, other, &new.account.issuer).await? {
        displace(db, other, new, now).await
    } else {
        mailbox::move_all(db, other, holder.id).await?;
        subscribers::remove(db, other, now).await?;
        Ok(())
    }
}

/// Gives the verified number to one who is known: he comes back, or is renumbered, or has it already.
async fn give_number(
    db: &mut SqliteConnection,
    holder: &Holder,
    new: &NewEnrolment,
    now: Timestamp,
) -> Result<(), Failure> {
    let number = &new.subscriber.number;
    match &holder.number {
        Some(same) if same == number => return Ok(()),
        Some(old) => {
            departures::end_number(db, holder.id, old, DepartureCause::Renumbered, None, now)
                .await?;
        }
        None => {
            departures::keep_data(db, holder.id).await?;
            // Made by a request that was under way when he left.
            sessions::end_all(db, holder.id).await?;
            tokens::revoke_all(db, holder.id).await?;
        }
    }
    set_number(db, holder.id, number.e164()).await
}

/// Binds an unknown account to the verified number, and adds its subscriber where there is none.
async fn bind_number(
    db: &mut SqliteConnection,
    new: &NewEnrolment,
    now: Timestamp,
) -> Result<(SubscriberId, bool), Failure> {
    let mut holder = holder_of_number(db, &new.subscriber.number).await?;
    if let Some(former) = holder
        && has_account(db, former, &new.account.issuer).await?
    {
        displace(db, former, new, now).await?;
        holder = None;
    }
    let is_new = holder.is_none();
    let id = match holder {
        Some(id) => id,
        None => add(db, &new.subscriber, now).await?,
    };
    sqlx::query(BIND)
        .bind(new.account.issuer.as_str())
        .bind(new.account.subject.as_str())
        .bind(id.as_bytes().as_slice())
        .execute(db)
        .await?;
    Ok((id, is_new))
}

async fn add(
    db: &mut SqliteConnection,
    new: &NewSubscriber,
    now: Timestamp,
) -> Result<SubscriberId, Failure> {
    subscribers::add(db, std::slice::from_ref(new), now).await?;
    let id = holder_of_number(db, &new.number).await?;
    Ok(id.ok_or(sqlx::Error::RowNotFound)?)
}

async fn displace(
    db: &mut SqliteConnection,
    former: SubscriberId,
    new: &NewEnrolment,
    now: Timestamp,
) -> Result<(), Failure> {
    let cause = DepartureCause::NumberReassigned;
    departures::depart(db, former, cause, new.erase_displaced_at, now).await?;
    Ok(())
}

async fn holder_of_account(
    db: &mut SqliteConnection,
    account: &Account,
) -> Result<Option<Holder>, Failure> {
    let row = sqlx::query(HOLDER_OF_ACCOUNT)
        .bind(account.issuer.as_str())
        .bind(account.subject.as_str())
        .fetch_optional(db)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Record::new("subscriber", &row);
    let has_left = subscribers::has_left(&row.text("number")?);
    Ok(Some(Holder {
        id: SubscriberId::from_bytes(row.bytes("id")?),
        number: match has_left {
            true => None,
            false => Some(row.number("number")?),
        },
    }))
}

async fn holder_of_number(
    db: &mut SqliteConnection,
    number: &Msisdn,
) -> Result<Option<SubscriberId>, Failure> {
    let row = sqlx::query(HOLDER_OF_NUMBER)
        .bind(number.e164())
        .fetch_optional(db)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let id = Record::new("subscriber", &row).bytes("id")?;
    Ok(Some(SubscriberId::from_bytes(id)))
}

async fn has_account(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
    issuer: &str,
) -> Result<bool, Failure> {
    let has = sqlx::query_scalar(HAS_ACCOUNT)
        .bind(subscriber.as_bytes().as_slice())
        .bind(issuer);
    Ok(has.fetch_one(db).await?)
}

/// Sets the number, or what stands in its place for one who has left.
pub(super) async fn set_number(
    db: &mut SqliteConnection,
    subscriber: SubscriberId,
    number: &str,
) -> Result<(), Failure> {
    sqlx::query(SET_NUMBER)
        .bind(subscriber.as_bytes().as_slice())
        .bind(number)
        .execute(db)
        .await?;
    Ok(())
}

async fn store_grant(
    db: &mut SqliteConnection,
    of: SubscriberId,
    sealed: &[u8],
    now: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(STORE_GRANT)
        .bind(of.as_bytes().as_slice())
        .bind(sealed)
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn grant(
    db: &mut SqliteConnection,
    of: SubscriberId,
) -> Result<Option<Grant>, Failure> {
    let row = sqlx::query(GRANT)
        .bind(of.as_bytes().as_slice())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(grant_of).transpose()
}

/// Deletes the grant of a subscriber; what it was.
pub(super) async fn take_grant(
    db: &mut SqliteConnection,
    of: SubscriberId,
) -> Result<Option<Grant>, Failure> {
    let row = sqlx::query(TAKE_GRANT)
        .bind(of.as_bytes().as_slice())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(grant_of).transpose()
}

pub(super) async fn replace_grant(
    db: &mut SqliteConnection,
    of: SubscriberId,
    sealed: &[u8],
    if_version: i64,
) -> Result<bool, Failure> {
    for statement in [REPLACE_GRANT, departures::REPLACE_GRANT] {
        let done = sqlx::query(statement)
            .bind(of.as_bytes().as_slice())
            .bind(sealed)
            .bind(if_version)
            .execute(&mut *db)
            .await?;
        if done.rows_affected() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) async fn keys_of_grants(db: &mut SqliteConnection) -> Result<Vec<[u8; 4]>, Failure> {
    let rows = sqlx::query(KEYS).fetch_all(db).await?;
    let ids = rows.iter().map(|row| Record::new("key", row).bytes("id"));
    ids.collect()
}

pub(super) async fn grants_sealed_by(
    db: &mut SqliteConnection,
    key_id: [u8; 4],
    after: Option<SubscriberId>,
    limit: u32,
) -> Result<Vec<(SubscriberId, Grant)>, Failure> {
    let after = after.map_or(Vec::new(), |after| after.as_bytes().to_vec());
    let rows = sqlx::query(SEALED_BY)
        .bind(key_id.as_slice())
        .bind(after)
        .bind(limit)
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| {
            let id = Record::new("grant", row).bytes("subscriber_id")?;
            Ok((SubscriberId::from_bytes(id), grant_of(row)?))
        })
        .collect()
}

pub(super) async fn store_sealed_anew(
    db: &mut SqliteConnection,
    grants: &[(SubscriberId, Grant)],
) -> Result<u64, Failure> {
    let mut stored = 0;
    for (of, grant) in grants {
        let done = sqlx::query(SEAL_ANEW)
            .bind(of.as_bytes().as_slice())
            .bind(grant.sealed.as_slice())
            .bind(grant.version)
            .execute(&mut *db)
            .await?;
        stored += done.rows_affected();
    }
    Ok(stored)
}

fn grant_of(row: &SqliteRow) -> Result<Grant, Failure> {
    let row = Record::new("grant", row);
    Ok(Grant {
        sealed: row.blob("sealed")?,
        version: row.integer("version")?,
    })
}
