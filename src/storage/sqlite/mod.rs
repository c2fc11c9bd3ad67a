//! [`Storage`] in one SQLite file: one connection that writes, several that read.
//!
//! Everything that writes goes through one transaction of the one writer, so that within the process
//! nobody waits for a lock but in a fair queue. Other processes (the command line beside a running
//! service) are waited for up to five seconds. What is deleted is overwritten, and leaves the
//! write-ahead log with the next sweep. Here stand the transactions; the statements stand in
//! the modules beside this one, each for its tables.

mod departures;
mod deposits;
mod enrolment;
mod mailbox;
mod open;
mod outbox;
mod readers;
mod record;
mod registrations;
mod sessions;
mod subscribers;
mod tokens;
mod writer;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use crate::domain::{
    ApiToken, Departure, DepartureCause, Grant, Mailbox, Message, MessageId, MissedCall, Msisdn,
    NewMessage, Registration, Subscriber, SubscriberId, Timestamp, TokenId,
};
use crate::storage::changes::{ChangeKind, Changes};
use crate::storage::{
    Added, Changed, Counts, DepartureProgress, DepositError, Deposited, Enrolled, MessageFilter,
    NewEnrolment, NewSession, NewSubscriber, NewToken, Notification, RegistrationChange, SealGrant,
    SettingsChange, Storage, StorageError,
};

use deposits::{Deposit, Deposits};
use readers::Readers;
use record::Failure;
use writer::Writer;

pub use crate::storage::sqlite::open::OpenError;

/// How long a call waits for a lock that somebody else holds.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);

/// The database of the service in one SQLite file.
#[derive(Debug)]
pub struct SqliteStorage {
    writer: Writer,
    deposits: Deposits,
    readers: Readers,
    changes: Changes,
}

impl SqliteStorage {
    /// Opens the file that `url` names (`sqlite://path`), creates it with its folder where it is not
    /// there (for this user only), and brings its schema up to date.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        Self::open_waiting(url, LOCK_DEADLINE).await
    }

    /// As [`SqliteStorage::open`], but waits for locks up to `lock_deadline`.
    async fn open_waiting(url: &str, lock_deadline: Duration) -> Result<Self, OpenError> {
        let (options, connection) = open::open(url, lock_deadline).await?;
        let readers = Readers::open(options.clone(), lock_deadline).await;
        let readers = readers.map_err(|source| OpenError::Database {
            path: options.get_filename().to_path_buf(),
            source,
        })?;
        Ok(Self {
            writer: Writer::new(options, connection, lock_deadline),
            deposits: Deposits::default(),
            readers,
            changes: Changes::default(),
        })
    }

    /// Reads with one of the reading connections.
    async fn read<T>(
        &self,
        attempted: &str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, Failure>,
    ) -> Result<T, StorageError> {
        let read = self.readers.read(work).await;
        read.map_err(|failure| failure.while_trying_to(attempted))
    }

    /// Does `work` in one transaction: all of it or nothing.
    async fn write<T>(
        &self,
        attempted: &str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, Failure>,
    ) -> Result<T, StorageError> {
        let result = async {
            let mut transaction = self.writer.begin().await?;
            let done = work(&mut transaction.connection).await?;
            transaction.commit().await?;
            Ok(done)
        };
        result
            .await
            .map_err(|failure: Failure| failure.while_trying_to(attempted))
    }

    /// Deposits together with others; `None` where the subscriber is gone.
    async fn store(
        &self,
        attempted: &str,
        deposit: Deposit,
    ) -> Result<Option<Deposited>, StorageError> {
        let stored = self.deposits.store(&self.writer, deposit).await;
        stored.map_err(|failure| failure.while_trying_to(attempted))
    }
}

#[async_trait]
impl Storage for SqliteStorage {
    async fn mailbox_of_first(&self, numbers: &[Msisdn]) -> Result<Option<Mailbox>, StorageError> {
        self.read("find a mailbox", async |db| {
            subscribers::mailbox_of_first(db, numbers).await
        })
        .await
    }

    async fn deposit(&self, message: &NewMessage) -> Result<Deposited, DepositError> {
        let attempted = format!("store message {}", message.id);
        let deposited = self
            .store(&attempted, Deposit::Message(message.clone()))
            .await?
            .ok_or(DepositError::NoSubscriber(message.id))?;
        if deposited == Deposited::Stored {
            self.changes
                .tell(message.subscriber, message.id, ChangeKind::Stored);
        }
        Ok(deposited)
    }

    async fn deposit_missed_call(&self, call: &MissedCall) -> Result<(), DepositError> {
        let attempted = format!("store missed call {}", call.id);
        self.store(&attempted, Deposit::MissedCall(call.clone()))
            .await?
            .map(|_| ())
            .ok_or(DepositError::NoSubscriber(call.id))
    }

    async fn add_subscribers(
        &self,
        subscribers: &[NewSubscriber],
        now: Timestamp,
    ) -> Result<Added, StorageError> {
        self.write("add subscribers", async |db| {
            subscribers::add(db, subscribers, now).await
        })
        .await
    }

    async fn subscriber_by_number(
        &self,
        number: &Msisdn,
    ) -> Result<Option<Subscriber>, StorageError> {
        self.read("find a subscriber", async |db| {
            subscribers::by_number(db, number).await
        })
        .await
    }

    async fn subscriber(&self, id: SubscriberId) -> Result<Option<Subscriber>, StorageError> {
        self.read("find a subscriber", async |db| {
            subscribers::by_id(db, id).await
        })
        .await
    }

    async fn subscribers(
        &self,
        after: Option<&Msisdn>,
        limit: u32,
    ) -> Result<Vec<Subscriber>, StorageError> {
        self.read("list subscribers", async |db| {
            subscribers::list(db, after, limit).await
        })
        .await
    }

    async fn remove_subscriber(
        &self,
        id: SubscriberId,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        let removed = self
            .write("remove a subscriber", async |db| {
                subscribers::remove(db, id, now).await
            })
            .await?;
        self.changes.close(id);
        Ok(removed)
    }

    async fn change_settings(
        &self,
        id: SubscriberId,
        change: &SettingsChange,
    ) -> Result<Option<Subscriber>, StorageError> {
        self.write("change settings", async |db| {
            subscribers::change(db, id, change).await
        })
        .await
    }

    async fn set_greeting(
        &self,
        id: SubscriberId,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        self.write("set a greeting", async |db| {
            subscribers::set_greeting(db, id, key, now).await
        })
        .await
    }

    async fn messages(
        &self,
        subscriber: SubscriberId,
        filter: MessageFilter,
    ) -> Result<Vec<Message>, StorageError> {
        self.read("list messages", async |db| {
            mailbox::messages(db, subscriber, filter).await
        })
        .await
    }

    async fn message(
        &self,
        subscriber: SubscriberId,
        id: MessageId,
    ) -> Result<Option<Message>, StorageError> {
        self.read("find a message", async |db| {
            mailbox::message(db, subscriber, id).await
        })
        .await
    }

    async fn mark_read(
        &self,
        subscriber: SubscriberId,
        id: MessageId,
        read: bool,
        if_version: Option<i64>,
    ) -> Result<Changed, StorageError> {
        let attempted = format!("mark message {id}");
        let (changed, is_other) = self
            .write(&attempted, async |db| {
                mailbox::mark_read(db, subscriber, id, read, if_version).await
            })
            .await?;
        if let Changed::Done(message) = &changed
            && is_other
        {
            let kind = ChangeKind::Updated(message.version);
            self.changes.tell(subscriber, id, kind);
        }
        Ok(changed)
    }

    async fn delete_message(
        &self,
        subscriber: SubscriberId,
        id: MessageId,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        let attempted = format!("delete message {id}");
        let deleted = self
            .write(&attempted, async |db| {
                mailbox::delete(db, subscriber, id, now).await
            })
            .await?;
        if deleted {
            self.changes.tell(subscriber, id, ChangeKind::Deleted);
        }
        Ok(deleted)
    }

    fn changes(&self) -> &Changes {
        &self.changes
    }

    async fn counts(&self, subscriber: SubscriberId) -> Result<Counts, StorageError> {
        self.read("count messages", async |db| {
            mailbox::counts(db, subscriber).await
        })
        .await
    }

    async fn missed_calls(
        &self,
        subscriber: SubscriberId,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<Vec<MissedCall>, StorageError> {
        self.read("list missed calls", async |db| {
            mailbox::missed_calls(db, subscriber, after, limit).await
        })
        .await
    }

    async fn add_token(&self, token: &NewToken) -> Result<(), StorageError> {
        self.write("store a token", async |db| tokens::add(db, token).await)
            .await
    }

    async fn tokens(&self, subscriber: SubscriberId) -> Result<Vec<ApiToken>, StorageError> {
        self.read("list tokens", async |db| tokens::of(db, subscriber).await)
            .await
    }

    async fn revoke_token(
        &self,
        id: TokenId,
        of: Option<SubscriberId>,
    ) -> Result<bool, StorageError> {
        self.write("revoke a token", async |db| {
            tokens::revoke(db, id, of).await
        })
        .await
    }

    async fn subscriber_by_token(
        &self,
        hash: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<Subscriber>, StorageError> {
        let holder = self
            .read("find the holder of a token", async |db| {
                tokens::holder(db, hash, now).await
            })
            .await?;
        let Some(holder) = holder else {
            return Ok(None);
        };
        if holder.use_to_be_noted {
            let noted = self
                .write("note the use of a token", async |db| {
                    tokens::note_use(db, hash, now).await
                })
                .await;
            if let Err(error) = noted {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "token used, not noted"
                );
            }
        }
        Ok(Some(holder.subscriber))
    }

    async fn enrol(
        &self,
        enrolment: &NewEnrolment,
        seal: SealGrant<'_>,
        now: Timestamp,
    ) -> Result<Enrolled, StorageError> {
        self.write("enrol a subscriber", async |db| {
            enrolment::enrol(db, enrolment, seal, now).await
        })
        .await
    }

    async fn grant(&self, of: SubscriberId) -> Result<Option<Grant>, StorageError> {
        self.read("find a grant", async |db| enrolment::grant(db, of).await)
            .await
    }

    async fn replace_grant(
        &self,
        of: SubscriberId,
        sealed: &[u8],
        if_version: i64,
    ) -> Result<bool, StorageError> {
        self.write("replace a grant", async |db| {
            enrolment::replace_grant(db, of, sealed, if_version).await
        })
        .await
    }

    async fn keys_of_grants(&self) -> Result<Vec<[u8; 4]>, StorageError> {
        self.read("list the keys of grants", async |db| {
            enrolment::keys_of_grants(db).await
        })
        .await
    }

    async fn grants_sealed_by(
        &self,
        key_id: [u8; 4],
        after: Option<SubscriberId>,
        limit: u32,
    ) -> Result<Vec<(SubscriberId, Grant)>, StorageError> {
        self.read("list grants", async |db| {
            enrolment::grants_sealed_by(db, key_id, after, limit).await
        })
        .await
    }

    async fn store_sealed_anew(
        &self,
        grants: &[(SubscriberId, Grant)],
    ) -> Result<u64, StorageError> {
        self.write("store grants that were sealed anew", async |db| {
            enrolment::store_sealed_anew(db, grants).await
        })
        .await
    }

    async fn registration(&self, of: SubscriberId) -> Result<Option<Registration>, StorageError> {
        self.read("find a registration", async |db| {
            registrations::of(db, of).await
        })
        .await
    }

    async fn wanted_since(&self, of: SubscriberId) -> Result<Option<Timestamp>, StorageError> {
        self.read("find when a registration was wanted", async |db| {
            registrations::wanted_since(db, of).await
        })
        .await
    }

    async fn registrations_after(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<Registration>, StorageError> {
        self.read("list registrations", async |db| {
            registrations::after(db, seq, limit).await
        })
        .await
    }

    async fn note_registrations(&self, changes: &[RegistrationChange]) -> Result<(), StorageError> {
        self.write("note registrations", async |db| {
            registrations::note(db, changes).await
        })
        .await
    }

    async fn register_everyone(
        &self,
        sip_uri: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StorageError> {
        self.write("register subscribers", async |db| {
            registrations::register_everyone(db, sip_uri, now, limit).await
        })
        .await
    }

    async fn add_session(&self, session: &NewSession) -> Result<(), StorageError> {
        self.write("store a session", async |db| {
            sessions::add(db, session).await
        })
        .await
    }

    async fn subscriber_by_session(
        &self,
        hash: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<Subscriber>, StorageError> {
        self.read("check a session", async |db| {
            sessions::holder(db, hash, now).await
        })
        .await
    }

    async fn end_session(&self, hash: &[u8; 32]) -> Result<(), StorageError> {
        self.write("end a session", async |db| sessions::end(db, hash).await)
            .await
    }

    async fn end_sessions(&self, of: SubscriberId) -> Result<(), StorageError> {
        self.write("end sessions", async |db| sessions::end_all(db, of).await)
            .await
    }

    async fn depart(
        &self,
        of: SubscriberId,
        cause: DepartureCause,
        erase_at: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Departure>, StorageError> {
        let departure = self
            .write("let a subscriber go", async |db| {
                departures::depart(db, of, cause, erase_at, now).await
            })
            .await?;
        self.changes.close(of);
        Ok(departure)
    }

    async fn departures_of(&self, number: &Msisdn) -> Result<Vec<Departure>, StorageError> {
        self.read("find departures", async |db| {
            departures::of_number(db, number).await
        })
        .await
    }

    async fn departures_due(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Departure>, StorageError> {
        self.read("list departures", async |db| {
            departures::due(db, now, limit).await
        })
        .await
    }

    async fn note_departure(
        &self,
        departure: &Departure,
        progress: &DepartureProgress,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        self.write("note a departure", async |db| {
            departures::note(db, departure, progress, now).await
        })
        .await
    }

    async fn erase_departed(&self, now: Timestamp, limit: u32) -> Result<u64, StorageError> {
        self.write("erase who has left", async |db| {
            departures::erase(db, now, limit).await
        })
        .await
    }

    async fn add_return(&self, hash: &[u8; 32], ends_at: Timestamp) -> Result<(), StorageError> {
        self.write("await a return", async |db| {
            sessions::add_return(db, hash, ends_at).await
        })
        .await
    }

    async fn take_return(&self, hash: &[u8; 32], now: Timestamp) -> Result<bool, StorageError> {
        self.write("take a return", async |db| {
            sessions::take_return(db, hash, now).await
        })
        .await
    }

    async fn notifications_due(&self, limit: u32) -> Result<Vec<Notification>, StorageError> {
        self.read("list notifications", async |db| {
            outbox::due(db, limit).await
        })
        .await
    }

    async fn notification_done(&self, id: i64) -> Result<(), StorageError> {
        self.write("remove a notification", async |db| {
            outbox::done(db, id).await
        })
        .await
    }

    async fn expire(
        &self,
        before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StorageError> {
        let expired = self
            .write("delete what is too old", async |db| {
                outbox::expire(db, before, now, limit).await
            })
            .await?;
        for (subscriber, message) in expired.messages {
            self.changes.tell(subscriber, message, ChangeKind::Deleted);
        }
        let expired = expired.rows;
        if expired < u64::from(limit)
            && let Err(error) = self.writer.empty_log().await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "write-ahead log not emptied; the next sweep tries again"
            );
        }
        Ok(expired)
    }

    async fn announce_blob(&self, key: &str, due_at: Timestamp) -> Result<(), StorageError> {
        self.write("announce a file", async |db| {
            outbox::queue_blob_deletion(db, key, due_at).await
        })
        .await
    }

    async fn blobs_to_delete(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<String>, StorageError> {
        self.read("list files to delete", async |db| {
            outbox::blobs_to_delete(db, now, limit).await
        })
        .await
    }

    async fn blob_deleted(&self, key: &str) -> Result<(), StorageError> {
        self.write("note a deleted file", async |db| {
            outbox::blob_deleted(db, key).await
        })
        .await
    }

    async fn ping(&self) -> Result<(), StorageError> {
        self.write("write", async |db| outbox::probe_write(db).await)
            .await?;
        self.read("read", async |db| outbox::probe_read(db).await)
            .await
    }

    async fn close(&self) {
        self.readers.close().await;
        if let Err(error) = self.writer.close().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "database not closed cleanly"
            );
        }
    }
}

#[cfg(test)]
mod tests;
